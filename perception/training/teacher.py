"""What a student is taught: the class probabilities of trained networks, their mean where there are several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ConfigError, ModelError
from perception.training.checkpoint import load_network, shipped_or
from perception.training.config import TeacherConfig
from perception.training.validation import seen_size


class Teacher(nn.Module):
    """Trained networks, frozen, as one: an ensemble is a better teacher than the best of it (Hinton et al. 2015).

    Args:
        networks: of the same classes, in evaluation mode.
        mirrored: each also looks at the mirror image.
        scales: each looks at the picture in all of these sizes, as multiples of its own.
    """

    def __init__(self, networks: Sequence[nn.Module], mirrored: bool, scales: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.mirrored = mirrored
        self.scales = tuple(scales)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, classes, h', w'): the logits, of several looks the log of their mean probability."""
        turns = product(self.networks, self.scales)
        looks = [look for network, scale in turns for look in self._looks(network, images, scale)]
        if len(looks) == 1:
            return looks[0]
        finest = max(look.shape[-2:] for look in looks)
        resized = (F.interpolate(x.float(), finest, mode="bilinear", align_corners=False) for x in looks)
        return torch.stack([x.softmax(1) for x in resized]).mean(0).clamp_min(1e-7).log()

    def _looks(self, network: nn.Module, images: Tensor, scale: float) -> Iterator[Tensor]:
        """The logits of one network at one scale, and with `mirrored` those of the mirror image, turned back."""
        if scale != 1:
            height, width = seen_size(network, tuple(round(scale * side) for side in images.shape[-2:]))
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False, antialias=scale < 1)
        yield network(images).semantic
        if self.mirrored:
            yield network(images.flip(-1)).semantic.flip(-1)


def open_teacher(config: TeacherConfig, base: Path, classes: tuple[str, ...]) -> Teacher:
    """The averaged networks of the checkpoints; raises ModelError where one is no checkpoint or knows other classes.

    Args:
        base: where relative paths start.
    """
    networks = [_opened(shipped_or(Path(name), base), classes) for name in _names(config)]
    teacher = Teacher(networks, config.mirrored, config.scales)
    return teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@torch.no_grad()
def require_taught(teacher: Teacher, config: TeacherConfig, size: tuple[int, int]) -> None:
    """Raise ConfigError naming the first of the teachers that does not take pictures of `size`, (h, w)."""
    for name, network in zip(_names(config), teacher.networks, strict=True):
        try:
            network(torch.zeros(1, 3, *size, device=next(network.parameters()).device))
        except ModelError as error:
            raise ConfigError(f"crop: {list(size)}: the teacher {name}: {error}") from None


def _names(config: TeacherConfig) -> tuple[str, ...]:
    return (config.checkpoint,) if isinstance(config.checkpoint, str) else config.checkpoint


def _opened(path: Path, classes: tuple[str, ...]) -> nn.Module:
    network, about = load_network(path)
    if about.classes != classes:
        raise ModelError(f"{path}: the teacher knows other classes: {', '.join(about.classes)}")
    return network
