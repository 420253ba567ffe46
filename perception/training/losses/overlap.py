"""Losses of overlap: a class counts the same however few pixels it has."""

from __future__ import annotations

import torch
from torch import Tensor

from perception.training.label_set import IGNORE
from perception.training.losses.pixelwise import as_exact, cross_entropy


def one_hot(target: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """(n, c, h, w) 1 at the true class, 0 elsewhere and on IGNORE pixels."""
    valid = target != IGNORE
    truth = torch.zeros(target.shape[0], classes, *target.shape[1:], dtype=dtype, device=target.device)
    return truth.scatter_(1, target.masked_fill(~valid, 0).unsqueeze(1), valid.unsqueeze(1).to(dtype))


def dice_loss(logits: Tensor, target: Tensor, epsilon: float = 1e-6) -> Tensor:
    """1 - mean over classes of 2 sum(p g) / (sum(p^2) + sum(g^2) + epsilon), the sums over the whole batch.

    Squared denominators as in V-Net (Milletari et al. 2016, section 3). Only classes that the batch has are in the
    mean: for the others the formula is the constant 0, without a gradient.
    """
    logits, valid = as_exact(logits), (target != IGNORE).unsqueeze(1)
    p = logits.softmax(1) * valid
    truth = one_hot(target, logits.shape[1], p.dtype)
    axes = (0, 2, 3)
    count = truth.sum(axes)  # g is 0 or 1, so this is sum(g^2) too
    dice = 2 * (p * truth).sum(axes) / ((p * p).sum(axes) + count + epsilon)
    present = count > 0
    return 1 - dice[present].mean() if bool(present.any()) else logits.sum() * 0.0


def dice_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Dice and cross-entropy in equal parts, the usual choice (nnU-Net, Isensee et al. 2021)."""
    return dice_loss(logits, target) + cross_entropy(logits, target)
