"""How things look: the encoder's first features, as means over a mask. Nothing in it is trained.

What an encoder makes of 1/4 and 1/8 of a picture is colour and texture, on cells that are smaller than a person. Its
deeper features are trained to make two people look alike: by them one in three is taken for another a second later, by
these one in seven (docs/propagation.md). `models.lowering.looks` is the same as a graph.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perception.types import Features

COARSE = np.float32(0.5)  # weight of the features at 1/8 beside those at 1/4
LEAST_SPREAD = np.float32(1e-4)  # of a channel that is the same all over the picture


class Looks:
    """How everything in one picture looks. Each channel is centred over the picture and scaled by its spread.

    Args:
        features: of the picture; not touched before they are needed, since they may lie on an accelerator.
    """

    def __init__(self, features: Features) -> None:
        self._features = features

    @property
    def stays(self) -> bool:
        """The features are the host's own copy, not an accelerator's, which writes the next frame's over them."""
        return isinstance(self._features.fine4, np.ndarray) and isinstance(self._features.fine8, np.ndarray)

    @property
    def depth(self) -> int:
        """Length of a look."""
        return self._features.fine4.shape[0] + self._features.fine8.shape[0]

    def of(self, cells: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        """(count, depth) the looks of the things 1..count of an id map, of unit length; 0 for a thing without a cell.

        Args:
            cells: (h, w) 0 = none, on any grid over the whole picture.
        """
        at = np.flatnonzero(cells)
        ids = cells.ravel()[at]
        order = np.argsort(ids, kind="stable")
        at, (found, first, areas) = at[order], np.unique(ids[order], return_index=True, return_counts=True)
        looks = np.zeros((count, self.depth), np.float32)
        if len(found):
            sums = np.concatenate(
                [np.add.reduceat(plane[:, _place(at, cells.shape, grid)], first, axis=1) for plane, grid in self._flat]
            )
            looks[found - 1] = (sums / areas).T
            looks[found - 1] = (looks[found - 1] - self._mean) * self._scale
        return _unit(looks, axis=1)

    def like(self, look: NDArray[np.float32]) -> NDArray[np.float32]:
        """(h/4, w/4) cosine of every cell's own look with one of unit length."""
        size = self._features.fine4.shape[1:]
        at = np.arange(size[0] * size[1])
        cells = np.concatenate([plane[:, _place(at, size, grid)] for plane, grid in self._flat])
        cells = (cells - self._mean[:, None]) * self._scale[:, None]
        return (look @ _unit(cells, axis=0)).reshape(size)

    @cached_property
    def _flat(self) -> list[tuple[NDArray[np.float32], tuple[int, ...]]]:
        planes = [np.asarray(plane, np.float32) for plane in (self._features.fine4, self._features.fine8)]
        return [(plane.reshape(len(plane), -1), plane.shape[1:]) for plane in planes]

    @cached_property
    def _mean(self) -> NDArray[np.float32]:
        return np.concatenate([np.einsum("cn->c", plane) / plane.shape[1] for plane, _ in self._flat])

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        squares = np.concatenate([_mean_square(plane) for plane, _ in self._flat])
        spread = np.sqrt(np.maximum(squares - self._mean**2, 0))  # numpy's std takes six times as long
        weights = np.ones(self.depth, np.float32)
        weights[self._features.fine4.shape[0] :] = COARSE
        return np.asarray(weights / np.maximum(spread, LEAST_SPREAD), np.float32)


def _mean_square(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """(c, n) -> (c,), in quarters: BLAS would share out longer products among threads, and sum them as it shares."""
    parts = plane.reshape(len(plane), 4, -1)  # every mask is whole cells of 16 px
    return np.matmul(parts[:, :, None], parts[..., None]).sum((1, 2, 3)) / plane.shape[1]


def _place(at: NDArray[np.int64], shape: tuple[int, ...], grid: tuple[int, ...]) -> NDArray[np.int64]:
    """Flat places on `shape` as those on a `grid` over the same picture."""
    y, x = np.divmod(at, shape[1])
    return y * grid[0] // shape[0] * grid[1] + x * grid[1] // shape[1]


def _unit(x: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    return x / np.maximum(np.linalg.norm(x, axis=axis, keepdims=True), 1e-6)
