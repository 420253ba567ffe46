"""Losses that are a mean over pixels: cross-entropy and what changes which pixels count, and how much.

Everywhere: logits (n, c, h, w) float, target (n, h, w) int64 with class indices or IGNORE, result a scalar of the
logits' dtype, in float32 for half precision. IGNORE pixels take no part; where none is left the loss is 0 and so is its
gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.training.label_set import IGNORE


def as_exact(x: Tensor) -> Tensor:
    """At least float32: in float16 a sum over 65504 pixels is infinite, in bfloat16 one over 256 stands still."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def cross_entropy(
    logits: Tensor, target: Tensor, class_weight: Tensor | None = None, pixel_weight: Tensor | None = None
) -> Tensor:
    """Weighted mean of -log p(true class); the weights divide as well, so their scale does not matter.

    Args:
        class_weight: (c,) a weight for each class.
        pixel_weight: (n, h, w) a weight for each pixel, such as `border_weights` (U-Net, Ronneberger et al. 2015,
            equation 1).
    """
    logits, valid = as_exact(logits), target != IGNORE
    weight = valid.to(logits.dtype)
    if class_weight is not None:
        weight = weight * class_weight.to(logits)[target.masked_fill(~valid, 0)]
    if pixel_weight is not None:
        weight = weight * pixel_weight.to(logits)
    per_pixel = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    return (per_pixel * weight).sum() / weight.sum().clamp_min(torch.finfo(logits.dtype).tiny)


def hardest(per_pixel: Tensor, valid: Tensor, share: float) -> Tensor:
    """Mean of the hardest `share` of the valid pixels (online hard example mining, Shrivastava et al. 2016)."""
    losses = per_pixel[valid]
    if losses.numel() == 0:
        return per_pixel.sum() * 0.0
    k = max(1, int(share * losses.numel()))
    return losses.topk(k, sorted=False).values.mean()


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    share: float = 1 / 3,
    class_weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the hardest `share` of the labelled pixels, weighted before they are chosen.

    Panoptic-DeepLab (Cheng et al. 2020, section 3.2) has share 0.2 and `small_instance_weights` as `pixel_weight`.
    """
    logits = as_exact(logits)
    weight = None if class_weight is None else class_weight.to(logits)
    per_pixel = F.cross_entropy(logits, target, weight=weight, ignore_index=IGNORE, reduction="none")
    if pixel_weight is not None:
        per_pixel = per_pixel * pixel_weight.to(logits)
    return hardest(per_pixel, target != IGNORE, share)


def set_cross_entropy(logits: Tensor, target: Tensor, meaning: Tensor, share: float = 1 / 3) -> Tensor:
    """-log of the summed probability of the classes that a label value can be, over the hardest `share`.

    Args:
        target: (n, h, w) label values 0..v-1 or IGNORE.
        meaning: (v, c) bool, which classes each value can be. With the identity this is cross-entropy.
    """
    log_p = F.log_softmax(as_exact(logits), 1)
    blocked = torch.zeros_like(meaning, dtype=log_p.dtype).masked_fill(~meaning, float("-inf"))
    valid = target != IGNORE
    allowed = blocked[target.masked_fill(~valid, 0)].permute(0, 3, 1, 2)
    per_pixel = -torch.logsumexp(log_p + allowed, 1)
    return hardest(per_pixel, valid, share)


def focal_loss(logits: Tensor, target: Tensor, gamma: float = 2.0, class_weight: Tensor | None = None) -> Tensor:
    """Mean of -(1 - p)^gamma log p of the true class (Lin et al. 2017, equations 4 and 5, for softmax).

    Args:
        gamma: 0 is cross-entropy; the higher, the less the pixels count that are right already.
        class_weight: (c,) the paper's alpha; unlike in `cross_entropy` it does not divide.
    """
    logits, valid = as_exact(logits), target != IGNORE
    index = target.masked_fill(~valid, 0)
    log_p = F.log_softmax(logits, 1).gather(1, index.unsqueeze(1)).squeeze(1)
    # 1 - p rounds to 0 at sure pixels, where a power below 1 has no gradient.
    rest = (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)
    per_pixel = -(rest**gamma) * log_p
    if class_weight is not None:
        per_pixel = per_pixel * class_weight.to(logits)[index]
    return (per_pixel * valid).sum() / valid.sum().clamp_min(1)
