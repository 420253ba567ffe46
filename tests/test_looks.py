from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.looks import Looks
from perception.types import Features

H, W = 8, 16  # cells of 1/4


def features(fine4: np.ndarray, fine8: np.ndarray | None = None) -> Features:
    coarse = np.zeros((1, H // 4, W // 4), np.float32)
    fine8 = np.zeros((1, H // 2, W // 2), np.float32) if fine8 is None else fine8
    return Features(coarse, coarse, fine8, fine4.astype(np.float32))


def halves() -> np.ndarray:
    """(2, H, W): the first channel is 1 on the left, the second on the right."""
    left = np.zeros((H, W))
    left[:, : W // 2] = 1
    return np.stack([left, 1 - left])


def test_a_look_is_the_mean_over_the_things_cells():
    cells = np.zeros((H, W), np.int64)
    cells[:, 2:4], cells[:, 12:14], cells[0, 7:9] = 1, 2, 3
    looks = Looks(features(halves())).of(cells, 4)
    assert looks.shape == (4, 3)
    np.testing.assert_allclose(looks[0], [0.5**0.5, -(0.5**0.5), 0], atol=1e-6)
    np.testing.assert_allclose(looks[1], -looks[0], atol=1e-6)
    assert not looks[2].any()  # half of each is what the picture is on average
    assert not looks[3].any()  # a thing without a cell looks like nothing


def test_a_picture_of_one_look_has_none():
    looks = Looks(features(np.ones((2, H, W)))).of(np.ones((H, W), np.int64), 1)
    assert not looks.any()


def test_no_thing_has_no_look():
    assert Looks(features(halves())).of(np.zeros((H, W), np.int64), 0).shape == (0, 3)


def test_the_coarse_features_count_half():
    spots = np.zeros((1, H // 2, W // 2), np.float32)
    spots[0, :, : W // 4] = 1
    look = Looks(features(halves()[:1], spots)).of((halves()[0] > 0).astype(np.int64), 1)[0]
    assert look[1] == pytest.approx(look[0] / 2)


def test_every_cell_is_likest_to_its_own_look():
    looks = Looks(features(halves()))
    look = looks.of((halves()[0] > 0).astype(np.int64), 1)[0]
    likeness = looks.like(look)
    assert likeness.shape == (H, W)
    np.testing.assert_allclose(likeness[:, : W // 2], 1, atol=1e-6)
    np.testing.assert_allclose(likeness[:, W // 2 :], -1, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([(H, W), (2 * H, 2 * W), (H // 2, W // 2)]))
def test_looks_are_those_of_a_thing_at_a_time(seed, count, grid):
    """Against the plain definition, on grids finer and coarser than the features'."""
    rng = np.random.default_rng(seed)
    fine4, fine8 = rng.normal(size=(3, H, W)), rng.normal(size=(2, H // 2, W // 2)).astype(np.float32)
    cells = rng.integers(0, count + 1, grid)
    looks = Looks(features(fine4, fine8)).of(cells, count)
    for k in range(1, count + 1):
        parts = []
        for plane, weight in ((fine4.astype(np.float32), 1.0), (fine8, 0.5)):
            _, h, w = plane.shape
            z = (plane - plane.mean((1, 2), keepdims=True)) / plane.std((1, 2), keepdims=True)
            y, x = np.nonzero(cells == k)
            values = weight * z[:, y * h // grid[0], x * w // grid[1]]
            parts.append(values.mean(1) if values.shape[1] else np.zeros(len(z)))
        expected = np.concatenate(parts)
        expected /= max(1e-6, float(np.linalg.norm(expected)))
        np.testing.assert_allclose(looks[k - 1], expected, atol=1e-4)
