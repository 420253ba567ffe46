"""Checkpoints as a model to evaluate, before any export: several, at several sizes and mirrored, averaged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ConfigError, ModelError
from perception.evaluation.predict import Predictor
from perception.evaluation.stored import About
from perception.models.card import Grouping, ModelClass
from perception.models.graph import scaled
from perception.models.grouping import group_things
from perception.models.panoptic import group_by_centres
from perception.training.card_file import MIN_AREA
from perception.training.checkpoint import load_network, shipped_or
from perception.training.networks.config import INSTANCE_STRIDE
from perception.training.networks.prediction import Prediction
from perception.types import Panoptic

CELL = 4  # [px] labels are made of whole ones, and so of the cells that things are grouped on

Size = tuple[int, int]  # width, height [px]


class CheckpointModel:
    """Networks of PyTorch that are called as the node's models are.

    Class probabilities, enlarged to the picture's size, are averaged over all networks, input sizes and, where asked,
    their mirror images; centre heat and offsets likewise, on the grid of the picture's cells.

    Args:
        networks: in evaluation mode; centres and offsets, if any, all at one stride.
        classes: names, in the order of the networks' channels.
        things: those that are countable.
        sizes: what the picture is scaled to.
        flip: also look at the mirror image.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        classes: Sequence[str],
        things: Sequence[str],
        sizes: Sequence[Size],
        flip: bool,
    ) -> None:
        self._looks = tuple(product(networks, sizes, (False, True) if flip else (False,)))
        self._things = [i for i, name in enumerate(classes) if name in things]
        self._min_areas = [MIN_AREA.get(name, ModelClass(name).min_area) for name in classes]

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB -> what is in it, at (h, w) rounded to whole cells. Raises ModelError for an unfit size."""
        shape = (round(image.shape[0] / CELL) * CELL or CELL, round(image.shape[1] / CELL) * CELL or CELL)
        views = [self._view(image, *look, shape) for look in self._looks]
        probability = torch.stack([v[0] for v in views]).mean(0)
        confidence, labels = (t.numpy() for t in probability.max(0))
        labels = labels.astype(np.uint8)
        fields = [v[1] for v in views if v[1] is not None]
        if not fields:
            return group_things(labels, self._things, self._min_areas, confidence)
        field = torch.stack(fields).mean(0).numpy()
        heat, offset = field[0].copy(), field[1:].copy()
        unit = shape[1] / heat.shape[1]
        return group_by_centres(labels, heat, offset, unit, self._things, self._min_areas, Grouping(), confidence)

    def close(self) -> None:
        """Nothing is held open."""

    def _view(
        self, image: NDArray[np.uint8], network: nn.Module, size: Size, flip: bool, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """One look at the picture: probabilities (classes, h, w) and, on cells, (3, h/t, w/t): heat, dy, dx [px]."""
        x = _tensor(image, size)
        seen: Prediction = network(x.flip(-1) if flip else x)
        semantic = seen.semantic.flip(-1) if flip else seen.semantic
        probability = _scaled(semantic, shape).softmax(1)[0]
        if seen.centre is None or seen.offset is None:
            return probability, None
        stretch = torch.tensor([1.0, shape[0] / size[1], (-1 if flip else 1) * shape[1] / size[0]])
        field = torch.cat((seen.centre, seen.offset), 1)
        cell = size[0] // field.shape[-1]
        field = _scaled(field.flip(-1) if flip else field, (shape[0] // cell, shape[1] // cell))
        return probability, field[0] * stretch[:, None, None]


def checkpoint_predictor(paths: Sequence[Path], sizes: str, flip: bool) -> Predictor:
    """The averaged networks of checkpoints, which are files or shipped ones by name.

    Args:
        sizes: one or more of WIDTHxHEIGHT, with commas between.

    Raises:
        ConfigError: `sizes` is not of that form.
        ModelError: a file is no whole checkpoint, its network does not take a size, or two do not go together.
    """
    chosen = parse_sizes(sizes)
    paths = [shipped_or(path) for path in paths]
    opened = [load_network(path) for path in paths]
    first = opened[0][1]
    for path, (network, about) in zip(paths, opened, strict=True):
        if (about.classes, about.things) != (first.classes, first.things):
            raise ModelError(f"{path}: its classes are not those of {paths[0]}: the two have no mean")
        if INSTANCE_STRIDE.get(about.network.kind) != INSTANCE_STRIDE.get(first.network.kind):
            raise ModelError(f"{path}: its centres and offsets are not on the grid of {paths[0]}: the two have no mean")
        _require_sizes(network, chosen)
    names = " + ".join(f"{path.name} step {about.step}" for path, (_, about) in zip(paths, opened, strict=True))
    model = CheckpointModel([network for network, _ in opened], first.classes, first.things, chosen, flip)
    name = f"{names} at {sizes}{' and mirrored' if flip else ''}"
    return Predictor(About(first.classes, first.things, name, "pytorch"), model)


def _require_sizes(network: nn.Module, sizes: Sequence[Size]) -> None:
    for width, height in sizes:
        try:
            with torch.inference_mode():
                network(torch.zeros(1, 3, height, width))
        except ModelError as error:
            raise ModelError(f"--size {width}x{height}: {error}") from None


def parse_sizes(text: str) -> tuple[Size, ...]:
    """(width, height) of each of '640x352,768x432'; raises ConfigError for anything else."""
    parts = [re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\s*", part) for part in text.split(",")]
    sizes = tuple((int(m[1]), int(m[2])) for m in parts if m)
    if len(sizes) != len(parts) or any(not 16 <= side <= 8192 for size in sizes for side in size):
        raise ConfigError(f"--size {text!r}: write WIDTHxHEIGHT, such as 640x352, several with commas; 16 to 8192 px")
    return sizes


def _tensor(image: NDArray[np.uint8], size: Size) -> Tensor:
    """(1, 3, h, w) in [-1, 1], scaled as the node scales its camera's pictures."""
    pixels = np.ascontiguousarray(scaled(image, *size))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(127.5).sub(1)


def _scaled(maps: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(maps.float(), shape, mode="bilinear", align_corners=False)
