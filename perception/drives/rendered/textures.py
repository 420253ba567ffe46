"""Procedural surfaces: periodic noise and what is made of it. Everything is a function of a numpy Generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# OpenCV's type stubs know no dtypes, so these aliases carry them in words.
Image = NDArray[Any]  # uint8
Field = NDArray[Any]  # float32
Colour = tuple[float, float, float]


def noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> Field:
    """(h, w) smooth noise of unit variance with cells[0] x cells[1] bumps, periodic along both axes."""
    cy, cx = max(2, cells[0]), max(2, cells[1])
    grid = rng.standard_normal((cy, cx)).astype(np.float32)
    grid = np.pad(grid, 2, mode="wrap")
    h, w = shape
    padded = (round(h * (cy + 4) / cy), round(w * (cx + 4) / cx))
    big = cv2.resize(grid, (padded[1], padded[0]), interpolation=cv2.INTER_CUBIC)
    top, left = round(2 * h / cy), round(2 * w / cx)
    return big[top : top + h, left : left + w] * 1.3


def grain(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    """(h, w) white noise of unit variance; tiled from one block because fresh normals are dear."""
    block = rng.standard_normal((min(512, shape[0]), min(512, shape[1]))).astype(np.float32)
    reps = (-(-shape[0] // block.shape[0]), -(-shape[1] // block.shape[1]))
    return np.tile(block, reps)[: shape[0], : shape[1]]


def paint(base: Colour, *layers: Field) -> Image:
    """(h, w, 3) of one colour, brightened by the sum of the layers [grey levels]."""
    total = np.zeros(layers[0].shape, np.float32)
    for layer in layers:
        total += layer
    scale = np.asarray(base, np.float32) / max(1.0, float(np.mean(base)))
    return np.clip(np.asarray(base, np.float32) + total[..., None] * scale, 0, 255).astype(np.uint8)


def numbers(colour: Sequence[float]) -> Field:
    """(3,) the colour as numbers to calculate with."""
    return np.array(colour, np.float32)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made brighter or darker by a factor, within range."""
    r, g, b = (min(255.0, max(0.0, channel * factor)) for channel in colour)
    return r, g, b


def jitter(rng: np.random.Generator, colour: Colour, spread: float, tint: float = 0.4) -> Colour:
    """A colour near the given one: brightness varies by `spread` grey levels, each channel by `tint` of that."""
    common = rng.normal(0.0, spread)
    r, g, b = (min(252.0, max(4.0, channel + common + rng.normal(0.0, spread * tint))) for channel in colour)
    return r, g, b


def pyramid(image: Image) -> tuple[Image, ...]:
    """The image and its halves down to about 8 pixels, each from the one before."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 16:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)
