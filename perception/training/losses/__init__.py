"""Every loss of training; `LOSSES` are those of class maps by the names that a training configuration uses."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from perception.training.losses.distance import boundary_loss, hausdorff_loss
from perception.training.losses.instances import (
    border_weights,
    centre_loss,
    offset_loss,
    small_instance_weights,
)
from perception.training.losses.overlap import dice_cross_entropy, dice_loss
from perception.training.losses.pixelwise import (
    as_exact,
    cross_entropy,
    focal_loss,
    hardest,
    ohem_cross_entropy,
    set_cross_entropy,
)

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, c, h, w), label map (n, h, w) int64 -> scalar

LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "ohem": ohem_cross_entropy,
    "dice": dice_loss,
    "dice+ce": dice_cross_entropy,
    "focal": focal_loss,
    "boundary": boundary_loss,
    "hausdorff": hausdorff_loss,
}

__all__ = [
    "LOSSES",
    "Loss",
    "as_exact",
    "border_weights",
    "boundary_loss",
    "centre_loss",
    "cross_entropy",
    "dice_cross_entropy",
    "dice_loss",
    "focal_loss",
    "hardest",
    "hausdorff_loss",
    "offset_loss",
    "ohem_cross_entropy",
    "set_cross_entropy",
    "small_instance_weights",
]
