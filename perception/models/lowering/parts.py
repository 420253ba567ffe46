"""All graphs of a model in one precision: what is compiled, and whose bytes a cache's key is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from perception.engines.plan import Precision, carrying_precision
from perception.models.card import ModelFiles
from perception.models.lowering.frame import lower, lower_encoder, lower_propagator
from perception.models.lowering.precision import in_precision

Part = Literal["network", "encoder", "propagator"]
CARRIES = ("Conv",)  # the propagator's likeness of keys, sums and softmax decide, and stay in float32


def lowered(
    files: ModelFiles,
    camera: tuple[int, int],
    precision: Precision,
    frames: Sequence[NDArray[np.uint8]] = (),
    parts: Sequence[Part] = ("network", "encoder", "propagator"),
) -> dict[Part, bytes]:
    """The graphs that a card names, ready for `PlanCompiler.compile`; the same input gives the same bytes.

    What the node serves, `perception build` builds and `tests.gpu.measure` measures.

    Args:
        files: the model.
        camera: width and height of its frames [px].
        precision: of the network and the encoder; the propagator's is `carrying_precision`.
        frames: (h, w, 3) RGB of the camera's size, that int8 and fp8 are calibrated on.
        parts: those wanted; one that the card does not name is left out.

    Raises:
        ModelError: a shape is open, a graph is not what the card says, or int8 and fp8 have no frames.
    """
    graphs: dict[Part, bytes] = {}
    if "network" in parts:
        graphs["network"] = _bytes(in_precision(lower(files, camera), precision, frames))
    if "encoder" in parts and files.encoder:
        graphs["encoder"] = _bytes(in_precision(lower_encoder(files, camera), precision, frames))
    if "propagator" in parts and files.propagator:
        carried = in_precision(lower_propagator(files), carrying_precision(precision), starts=CARRIES)
        graphs["propagator"] = _bytes(carried)
    return graphs


def _bytes(model: onnx.ModelProto) -> bytes:
    return model.SerializeToString(deterministic=True)
