"""A camera's bytes to what a network wants to see, as `models.graph` prepares them with OpenCV."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.models.card import Card
from perception.models.graph import shrinks_much
from perception.models.lowering.arrays import FLOAT, Tensor


def prepared(frame: Tensor, camera: tuple[int, int], card: Card, takes_bytes: bool) -> Tensor:
    """uint8 (1, h, w, 3) RGB frame -> float32 in the card's layout, colour and scaling.

    Args:
        frame: the graph's input.
        camera: its width and height [px].
        card: the network's.
        takes_bytes: the network scales by itself: it gets whole numbers 0..255.
    """
    wanted = card.input
    pixels = _scaled(frame.cast(FLOAT).transpose(0, 3, 1, 2), camera, (wanted.width, wanted.height))
    if wanted.colour == "BGR":
        pixels = _gathered(pixels, np.array([2, 1, 0]), 1)
    if not takes_bytes:
        mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in (wanted.mean, wanted.std))
        pixels = (pixels * wanted.scale - mean) / std
    return pixels if wanted.layout == "NCHW" else pixels.transpose(0, 2, 3, 1)


def _scaled(pixels: Tensor, camera: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(1, 3, h, w) 0..255 -> whole numbers at `size`: `models.graph.scaled`, hardly ever a level off."""
    if camera == size:
        return pixels
    writer, is_half = pixels.writer, camera == (2 * size[0], 2 * size[1])
    if is_half:  # OpenCV takes means there, too
        return pixels.cell_mean(2).rounded()
    if shrinks_much(camera, size):
        rows, columns = (writer.constant(area_weights(n, m)) for n, m in zip(camera[::-1], size[::-1], strict=True))
        across = writer.op("MatMul", pixels, writer.op("Transpose", columns, perm=[1, 0]))
        return writer.op("Round", writer.op("MatMul", rows, across))
    return _bilinear(pixels, camera, size)


def _bilinear(pixels: Tensor, camera: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """OpenCV's INTER_LINEAR for bytes, with its fixed-point roundings: weights of 11 bits, two bits of each product.

    A Resize would differ by a level in every eighth pixel, always upwards. Every number is exact in float32 but the
    products with `down`, and those are off only where they are a whole number anyway.
    """
    left, right, across = taps(camera[0], size[0])
    upper, lower, down = taps(camera[1], size[1])
    parts = []
    for at, weight in ((upper, down[0]), (lower, down[1])):
        row = _gathered(pixels, at, 2)
        mixed = _gathered(row, left, 3) * across[0] + _gathered(row, right, 3) * across[1]
        parts.append(((mixed * (1 / 16)).floor() * (weight[:, None] * np.float32(2**-16))).floor())
    return ((parts[0] + parts[1] + 2.0) * 0.25).floor()


def _gathered(pixels: Tensor, at: NDArray[np.int64], axis: int) -> Tensor:
    return pixels.writer.op("Gather", pixels, pixels.writer.constant(at), axis=axis)


def taps(length: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """(wanted,) the two pixels that each new one is mixed of, and (2, wanted) their weights of 2048 in all."""
    place = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
    first = np.floor(place)
    share = (place - first).astype(np.float32)
    weights = np.rint(np.stack((1 - share, share)) * np.float32(2048)).astype(np.float32)
    one, other = (at.clip(0, length - 1).astype(np.int64) for at in (first, first + 1))
    return one, other, weights


def area_weights(length: int, cells: int) -> NDArray[np.float32]:
    """(cells, length) share of each pixel in each cell's mean, as OpenCV's INTER_AREA has it when it shrinks."""
    edges = np.arange(cells + 1) * (length / cells)
    pixel = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (overlap.clip(0) * (cells / length)).astype(np.float32)
