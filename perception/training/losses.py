"""The losses of the default network; inputs are logits (n, c, h, w) and label maps (n, h, w)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.training.datasets import IGNORE


def hardest(per_pixel: Tensor, valid: Tensor, share: float) -> Tensor:
    """Mean of the hardest `share` of the valid pixels (online hard example mining, Shrivastava et al. 2016)."""
    losses = per_pixel[valid]
    if losses.numel() == 0:
        return per_pixel.sum() * 0.0
    k = max(1, int(share * losses.numel()))
    return losses.topk(k, sorted=False).values.mean()


def ohem_cross_entropy(logits: Tensor, target: Tensor, share: float = 1 / 3, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy over the hardest `share` of the labelled pixels."""
    per_pixel = F.cross_entropy(logits, target, weight=weight, ignore_index=IGNORE, reduction="none")
    return hardest(per_pixel, target != IGNORE, share)


def set_cross_entropy(logits: Tensor, target: Tensor, meaning: Tensor, share: float = 1 / 3) -> Tensor:
    """-log of the summed probability of the classes that a label value can be.

    Args:
        target: (n, h, w) label values 0..v-1 or IGNORE.
        meaning: (v, c) bool, which classes each value can be. With the identity this is cross-entropy.
    """
    log_p = F.log_softmax(logits, 1)
    blocked = torch.zeros_like(meaning, dtype=log_p.dtype).masked_fill(~meaning, float("-inf"))
    valid = target != IGNORE
    allowed = blocked[target.clamp(max=len(meaning) - 1)].permute(0, 3, 1, 2)
    per_pixel = -torch.logsumexp(log_p + allowed, 1)
    return hardest(per_pixel, valid, share)


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - mean Dice over the classes present in the batch (Milletari et al. 2016: squared denominators)."""
    valid = (target != IGNORE).unsqueeze(1)
    p = logits.softmax(1) * valid
    truth = torch.zeros_like(p).scatter_(1, target.clamp(max=logits.shape[1] - 1).unsqueeze(1), 1.0) * valid
    axes = (0, 2, 3)
    overlap, size = (p * truth).sum(axes), (p * p).sum(axes) + truth.sum(axes)
    dice = (2 * overlap + smooth) / (size + smooth)
    present = truth.sum(axes) > 0
    return 1 - dice[present].mean() if bool(present.any()) else logits.sum() * 0.0
