"""What every network of this package returns, so that losses, validation and export need not know which it is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EncoderFeatures(NamedTuple):
    """What the encoder makes of n images of h x w pixels: what a propagator tells things apart by."""

    keys: Tensor  # (n, d, h/16, w/16) in which the same thing looks alike in two frames
    context: Tensor  # (n, c, h/16, w/16) what the decoders start from: rather what it is than which one
    fine8: Tensor  # (n, c, h/8, w/8)
    fine4: Tensor  # (n, c, h/4, w/4)


class Prediction(NamedTuple):
    """Raw outputs for n images of h x w pixels; None where a network has no such head."""

    semantic: Tensor  # (n, classes, h/s, w/s) logits; s is the network's own
    centre: Tensor | None = None  # (n, 1, h/t, w/t) heat, 1 at an instance's centre of mass; t: config.INSTANCE_STRIDE
    offset: Tensor | None = None  # (n, 2, h/t, w/t) (dy, dx) from a cell's centre to its instance's [input px]
    features: EncoderFeatures | None = None
    auxiliary: Tensor | None = None  # (n, classes, h/u, w/u) logits of an earlier layer; only while training
