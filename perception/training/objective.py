"""The loss of a batch: semantic on exact and on coarse pixels, an auxiliary one, instances, and a teacher's word."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from perception.errors import ConfigError
from perception.strict_toml import likely
from perception.training.batches import Batch
from perception.training.config import LossConfig, TeacherConfig
from perception.training.label_set import IGNORE
from perception.training.losses import LOSSES, as_exact, centre_loss, offset_loss, set_cross_entropy
from perception.training.networks.prediction import Prediction

AUXILIARY_STRIDE = 8


class Objective:
    """Parts of the loss by name, each already weighted, so that their sum is what is minimised.

    Args:
        meaning: (codes, classes) bool of `label_set.Codes`.
    """

    def __init__(self, config: LossConfig, meaning: Tensor, teacher: TeacherConfig | None = None) -> None:
        unknown = next((name for name in config.semantic if name not in LOSSES), None)
        if unknown is not None:
            raise ConfigError(f"loss.semantic: {unknown!r} is not one of {', '.join(LOSSES)}{likely(unknown, LOSSES)}")
        self.config, self.meaning, self.teacher = config, meaning, teacher

    def __call__(self, prediction: Prediction, batch: Batch, taught: Tensor | None = None) -> dict[str, Tensor]:
        """Scalars by name; a part that the network, the batch or the configuration lacks is left out.

        Args:
            prediction: of the network in training, at whatever strides it has.
            taught: (m, classes, h', w') the teacher's logits for the images of `batch.is_taught`.
        """
        parts: dict[str, Tensor] = {}
        logits = self._as_used(prediction.semantic, batch) if self._wants_logits else prediction.semantic
        if self._wants_logits:
            stride = self.config.stride
            weight = None if batch.weight is None else _every(batch.weight, stride)
            parts = self._semantic(logits, _every(batch.codes, stride), weight)
        if prediction.auxiliary is not None and self.config.auxiliary:
            small = self._exact(_every(batch.codes, AUXILIARY_STRIDE))
            loss = LOSSES["ohem"](_resized(prediction.auxiliary, small.shape[-2:]), small)
            parts["auxiliary"] = self.config.auxiliary * loss
        if taught is not None and self.teacher is not None:
            learning = logits if batch.is_taught is None else logits[batch.is_taught]
            loss = distillation_loss(learning, self._as_used(taught, batch), self.teacher.temperature)
            parts["distillation"] = self.teacher.weight * loss
        return parts | self._instances(prediction, batch)

    @property
    def _wants_logits(self) -> bool:
        """False where instances alone are learnt."""
        return bool(any(self.config.semantic.values()) or self.config.coarse or self.teacher)

    def _as_used(self, logits: Tensor, batch: Batch) -> Tensor:
        """Logits enlarged to the images, as validation and export do it, at each stride-th pixel.

        To compare the cells of a grid of 2 px with every second pixel would be wrong by half a pixel, which costs a
        lane marking of three pixels several points.
        """
        size = batch.codes.shape[-2:]
        if self.config.stride == 2 and (2 * logits.shape[-2], 2 * logits.shape[-1]) == tuple(size):
            return _every_second_of_doubled(logits.float())
        return _every(_resized(logits, size), self.config.stride).contiguous()

    def _exact(self, codes: Tensor) -> Tensor:
        """Class indices of exact pixels, IGNORE elsewhere."""
        return torch.where(codes < self.meaning.shape[1], codes, IGNORE)

    def _semantic(self, logits: Tensor, codes: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
        exact = self._exact(codes)
        parts = {}
        has_exact = (exact != IGNORE).flatten(1).any(1)
        for name, factor in self.config.semantic.items():
            if factor and bool(has_exact.any()):
                loss = self._loss(name, None if weight is None else weight[has_exact])
                parts[name] = factor * loss(logits[has_exact], exact[has_exact])
            elif factor:
                parts[name] = logits.sum() * 0.0
        is_coarse = (codes >= self.meaning.shape[1]) & (codes != IGNORE)
        if self.config.coarse and bool(is_coarse.any()):
            share = is_coarse.sum() / (codes != IGNORE).sum()
            has_coarse = is_coarse.flatten(1).any(1)
            target = torch.where(is_coarse, codes, IGNORE)[has_coarse]
            loss = set_cross_entropy(logits[has_coarse], target, self.meaning)
            parts["coarse"] = self.config.coarse * share * loss
        return parts

    def _loss(self, name: str, weight: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        options: dict[str, object] = {"share": self.config.hardest_share} if name == "ohem" else {}
        if weight is not None and name in ("ohem", "ce"):
            options["pixel_weight"] = weight
        return partial(LOSSES[name], **options)

    def _instances(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        parts = {}
        if prediction.centre is not None and batch.centre is not None and batch.is_known is not None:
            loss = centre_loss(prediction.centre.float(), batch.centre, batch.is_known)
            parts["centre"] = self.config.centre * loss
        if prediction.offset is not None and batch.offset is not None and batch.is_thing is not None:
            loss = offset_loss(prediction.offset.float(), batch.offset, batch.is_thing)
            parts["offset"] = self.config.offset * loss
        return parts


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of the probabilities softened by T, mean over pixels (Hinton et al. 2015, section 2).

    Both logits (n, classes, h, w).
    """
    p = F.log_softmax(as_exact(teacher) / temperature, 1)
    q = F.log_softmax(as_exact(student) / temperature, 1)
    return temperature**2 * (p.exp() * (p - q)).sum(1).mean()


def _every(x: Tensor, stride: int) -> Tensor:
    """Each stride-th pixel of (..., h, w), from the middle of the first cell on."""
    return x[..., stride // 2 :: stride, stride // 2 :: stride]


def _every_second_of_doubled(x: Tensor) -> Tensor:
    """`_every(_resized(x, twice its size), 2)` without the pixels in between: those lie at cell + 1/4."""
    for axis in (-2, -1):
        length = x.shape[axis]
        following = torch.cat((x.narrow(axis, 1, length - 1), x.narrow(axis, length - 1, 1)), axis)
        x = torch.lerp(x, following, 0.25)
    return x.contiguous()


def _resized(logits: Tensor, size: torch.Size) -> Tensor:
    logits = logits.float()
    if logits.shape[-2:] == size:
        return logits.contiguous()
    return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False).contiguous()
