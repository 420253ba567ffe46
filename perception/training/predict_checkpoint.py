"""A checkpoint as a model to evaluate, before any export: several sizes and mirrored, averaged."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
from perception.training.checkpoint import load_network
from perception.training.networks.prediction import Prediction
from perception.types import Panoptic

CELL = 4  # [px] labels are made of whole ones, and so of the cells that things are grouped on

Size = tuple[int, int]  # width, height [px]


class CheckpointModel:
    """A network of PyTorch that is called as the node's models are.

    Class probabilities, enlarged to the picture's size, are averaged over all input sizes and, where asked, their
    mirror images; centre heat and offsets likewise, on the grid of the picture's cells.

    Args:
        network: in evaluation mode.
        classes: names, in the order of the network's channels.
        things: those that are countable.
        sizes: what the picture is scaled to.
        flip: also look at the mirror image.
    """

    def __init__(
        self, network: nn.Module, classes: Sequence[str], things: Sequence[str], sizes: Sequence[Size], flip: bool
    ) -> None:
        self._network, self._sizes, self._flips = network, tuple(sizes), (False, True) if flip else (False,)
        self._things = [i for i, name in enumerate(classes) if name in things]
        self._min_areas = [MIN_AREA.get(name, ModelClass(name).min_area) for name in classes]

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB -> what is in it, at (h, w) rounded to whole cells. Raises ModelError for an unfit size."""
        shape = (round(image.shape[0] / CELL) * CELL or CELL, round(image.shape[1] / CELL) * CELL or CELL)
        views = [self._view(image, size, flip, shape) for size in self._sizes for flip in self._flips]
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
        self, image: NDArray[np.uint8], size: Size, flip: bool, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """One look at the picture: probabilities (classes, h, w) and, on cells, (3, h/t, w/t): heat, dy, dx [px]."""
        x = _tensor(image, size)
        seen: Prediction = self._network(x.flip(-1) if flip else x)
        semantic = seen.semantic.flip(-1) if flip else seen.semantic
        probability = _scaled(semantic, shape).softmax(1)[0]
        if seen.centre is None or seen.offset is None:
            return probability, None
        stretch = torch.tensor([1.0, shape[0] / size[1], (-1 if flip else 1) * shape[1] / size[0]])
        field = torch.cat((seen.centre, seen.offset), 1)
        cell = size[0] // field.shape[-1]
        field = _scaled(field.flip(-1) if flip else field, (shape[0] // cell, shape[1] // cell))
        return probability, field[0] * stretch[:, None, None]


def checkpoint_predictor(path: Path, sizes: str, flip: bool) -> Predictor:
    """The averaged network of a checkpoint. `sizes` is one or more of WIDTHxHEIGHT, with commas between.

    Raises:
        ConfigError: `sizes` is not of that form.
        ModelError: the file is no whole checkpoint, or its network does not take a size.
    """
    chosen = parse_sizes(sizes)
    network, about = load_network(path)
    model = CheckpointModel(network, about.classes, about.things, chosen, flip)
    for size in chosen:
        try:
            with torch.inference_mode():
                network(torch.zeros(1, 3, size[1], size[0]))
        except ModelError as error:
            raise ModelError(f"--size {size[0]}x{size[1]}: {error}") from None
    name = f"{path.name} step {about.step} at {sizes}{' and mirrored' if flip else ''}"
    return Predictor(About(about.classes, about.things, name, "pytorch"), model)


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
