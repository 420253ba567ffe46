from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.training.targets import UNKNOWN, PanopticTargets, centres_of_mass, panoptic_targets

Map = NDArray[np.uint16]


def picture(*things: tuple[int, slice, slice], size: tuple[int, int] = (60, 80)) -> Map:
    """Rectangles on stuff, later ones in front."""
    instances = np.zeros(size, np.uint16)
    for number, rows, columns in things:
        instances[rows, columns] = number
    return instances


STREET = picture(
    (1, slice(5, 25), slice(4, 31)),
    (7, slice(20, 40), slice(25, 40)),  # hides a corner of the first
    (300, slice(50, 60), slice(70, 80)),
    (UNKNOWN, slice(40, 52), slice(0, 20)),
)


def slow_targets(instances: Map, stride: int, sigma: float) -> PanopticTargets:
    """The definition cell by cell, in float64."""
    h, w = (side // stride for side in instances.shape)
    centre, offset = np.zeros((1, h, w)), np.zeros((2, h, w))
    is_thing, is_known = np.zeros((1, h, w)), np.ones((1, h, w))
    means = {int(n): np.argwhere(instances == n).mean(0) for n in np.unique(instances) if n not in (0, UNKNOWN)}
    for row, column in np.ndindex(h, w):
        place = np.array([row, column]) * stride + (stride - 1) / 2
        number = int(instances[row * stride + stride // 2, column * stride + stride // 2])
        for mean in means.values():
            if np.abs(place - mean).max() <= 3 * sigma + 1:
                heat = np.exp(-((place - mean) ** 2).sum() / (2 * sigma**2))
                centre[0, row, column] = max(centre[0, row, column], heat)
        if number in means:
            offset[:, row, column] = means[number] - place
            is_thing[0, row, column] = 1
        is_known[0, row, column] = number != UNKNOWN
    return PanopticTargets(*(x.astype(np.float32) for x in (centre, offset, is_thing, is_known)))


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("sigma", [8.0, 3.0])
def test_targets_are_the_definition_cell_by_cell(stride, sigma):
    found, expected = panoptic_targets(STREET, stride, sigma), slow_targets(STREET, stride, sigma)
    for name, a, b in zip(PanopticTargets._fields, found, expected, strict=True):
        assert a.dtype == np.float32
        assert a.shape == b.shape, name
        assert np.allclose(a, b, atol=1e-4), name


def test_a_gaussian_of_sigma_8_is_51_pixels_wide():
    heat = panoptic_targets(picture((1, slice(50, 51), slice(60, 61)), size=(101, 121))).centre[0]
    rows, columns = np.nonzero(heat)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 75, 35, 85)
    assert heat[50, 60] == 1.0
    assert heat[50, 68] == pytest.approx(np.exp(-0.5))


def test_overlapping_gaussians_do_not_add_up():
    both = picture((1, slice(20, 21), slice(20, 21)), (2, slice(20, 21), slice(30, 31)))
    one, two = (panoptic_targets(np.where(both == n, both, 0)).centre for n in (1, 2))
    assert np.array_equal(panoptic_targets(both).centre, np.maximum(one, two))


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_small_things_count_as_much_as_the_balance_says(balance):
    scene = picture((1, slice(0, 4), slice(0, 4)), (2, slice(20, 21), slice(20, 24)))
    said = panoptic_targets(scene, balance=balance).is_thing[0]
    assert np.allclose(said[scene == 1], 16**-balance)
    assert np.allclose(said[scene == 2], 4**-balance)
    assert not said[scene == 0].any()


def test_the_centre_is_that_of_the_visible_pixels():
    ring = picture((1, slice(10, 31), slice(10, 31)), (UNKNOWN, slice(15, 26), slice(15, 31)))
    y, x = centres_of_mass(ring)[1]
    assert y == 20
    assert x == pytest.approx(np.argwhere(ring == 1)[:, 1].mean())


def test_things_of_unknown_extent_teach_nothing():
    crowd = picture((UNKNOWN, slice(10, 30), slice(10, 30)))
    targets = panoptic_targets(crowd)
    assert not targets.centre.any()
    assert not targets.is_thing.any()
    assert np.array_equal(targets.is_known[0] == 0, crowd == UNKNOWN)


def test_a_known_thing_before_a_crowd_keeps_its_targets():
    scene = picture((UNKNOWN, slice(10, 40), slice(10, 40)), (5, slice(20, 23), slice(20, 23)))
    targets = panoptic_targets(scene)
    assert targets.centre[0, 21, 21] == 1.0
    assert targets.is_thing.sum() == targets.is_known[0, 20:23, 20:23].sum() == 9
    assert targets.offset[:, 20, 22].tolist() == [1, -1]


def test_stuff_alone_is_known_to_have_no_centre():
    targets = panoptic_targets(picture(), 4)
    assert targets.centre.shape == (1, 15, 20)
    assert not any(plane.any() for plane in targets[:3])
    assert targets.is_known.all()


@pytest.mark.parametrize("stride", [1, 2])
def test_where_nothing_is_labelled_no_centre_is_not_known_either(stride):
    is_labelled = np.ones(STREET.shape, bool)
    is_labelled[:, 40:] = False
    whole, found = panoptic_targets(STREET, stride), panoptic_targets(STREET, stride, is_labelled=is_labelled)
    middle = 40 // stride
    assert np.array_equal(found.is_known[..., :middle], whole.is_known[..., :middle])
    assert not found.is_known[..., middle:].any()
    assert all(np.array_equal(a[..., :middle], b[..., :middle]) for a, b in zip(found[:3], whole[:3], strict=True))


def test_rows_that_fill_no_cell_are_left_out():
    assert panoptic_targets(picture(size=(10, 15)), 4).offset.shape == (2, 2, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 30), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20)),
        max_size=6,
    ),
    st.sampled_from([1, 2, 4]),
)
def test_every_offset_points_to_the_centre_of_its_instance(rectangles, stride):
    scene = picture(*((n, slice(y, y + h), slice(x, x + w)) for n, y, x, h, w in rectangles), size=(32, 44))
    targets, means = panoptic_targets(scene, stride), centres_of_mass(scene)
    cells = scene[stride // 2 :: stride, stride // 2 :: stride]
    assert np.array_equal(targets.is_thing[0] > 0, cells > 0)
    for row, column in np.argwhere(cells > 0):
        place = np.array([row, column]) * stride + (stride - 1) / 2
        assert np.allclose(place + targets.offset[:, row, column], means[int(cells[row, column])], atol=1e-3)
    assert not targets.offset[:, cells == 0].any()
    assert targets.centre.max(initial=0) <= 1


@pytest.mark.parametrize("stride", [1, 2])
def test_where_nothing_is_labelled_no_offset_is_learnt(stride):
    is_labelled = np.ones(STREET.shape, bool)
    is_labelled[:, 30:] = False  # through the second thing, beyond the first
    whole, found = (panoptic_targets(STREET, stride, balance=1, is_labelled=x) for x in (None, is_labelled))
    middle = 30 // stride
    assert not found.is_thing[..., middle:].any()
    assert np.array_equal(found.is_thing[..., :middle] > 0, whole.is_thing[..., :middle] > 0)
    assert np.array_equal(found.centre, whole.centre)
    second = found.is_thing[0] * (STREET[stride // 2 :: stride, stride // 2 :: stride] == 7)
    assert second.sum() == pytest.approx(1)  # what is left of it counts as a whole thing does
