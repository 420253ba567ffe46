from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perception.propagation.motion import BoxMotion, box_iou

SECOND_NS = 1_000_000_000
places = st.floats(-200, 200)
speeds = st.floats(-300, 300)  # [px/s]
sizes = st.floats(4, 200)
gaps = st.lists(st.integers(20_000_000, 200_000_000), min_size=12, max_size=20)


def box(cx: float, cy: float, w: float, h: float) -> tuple[float, float, float, float]:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def followed(cx: float, cy: float, vx: float, vy: float, w: float, h: float, steps: list[int]) -> BoxMotion:
    motion = BoxMotion(box(cx, cy, w, h), 0)
    now = 0
    for step in steps:
        now += step
        motion.see(box(cx + vx * now / 1e9, cy + vy * now / 1e9, w, h), now)
    return motion


@given(places, places, speeds, speeds, sizes, sizes, gaps)
def test_constant_velocity_is_predicted_by_time_and_not_by_frames(cx, cy, vx, vy, w, h, steps):
    now = sum(steps)
    then = now + 50_000_000
    found = followed(cx, cy, vx, vy, w, h, steps).at(then)
    believed_s = now / 1e9 + 1 - np.exp(-0.05)  # a velocity fades with FADING_S
    slack = 0.05 * (abs(vx) + abs(vy)) + 1e-3
    assert np.abs(np.subtract(found, box(cx + vx * believed_s, cy + vy * believed_s, w, h))).max() <= slack


@given(places, places, sizes, sizes, gaps, st.integers(0, 10 * SECOND_NS))
def test_what_stands_still_stays(cx, cy, w, h, steps, after):
    found = followed(cx, cy, 0, 0, w, h, steps).at(sum(steps) + after)
    np.testing.assert_allclose(found, box(cx, cy, w, h), rtol=1e-6, atol=1e-6)


@example(26.0, [20_000_000] * 10 + [200_000_000, 20_000_000], 3_200_476_702)  # a gap, then a short step
@given(speeds, gaps, st.integers(SECOND_NS, 100 * SECOND_NS))
def test_a_velocity_is_not_believed_for_ever(vx, steps, after):
    motion = followed(0, 0, vx, 0, 20, 20, steps)
    now = sum(steps)
    start, end = (sum(motion.at(t)[::2]) / 2 for t in (now, now + after))
    assert abs(end - start) <= 1.101 * abs(vx) + 1e-5


@given(st.lists(st.tuples(places, places, sizes, sizes, st.integers(0, SECOND_NS)), min_size=1, max_size=12))
def test_any_sightings_give_a_finite_box_that_is_not_empty(sightings):
    motion, now = BoxMotion((0, 0, 10, 10), 0), 0
    for cx, cy, w, h, step in sightings:
        now += step
        motion.see(box(cx, cy, w, h), now)
        for then in (now, now + 5 * SECOND_NS):
            x0, y0, x1, y1 = motion.at(then)
            assert np.isfinite([x0, y0, x1, y1]).all()
            assert x0 < x1 < x0 + 2000
            assert y0 < y1 < y0 + 2000


def test_a_size_that_grows_is_expected_to_grow_on_but_not_without_bound():
    motion = BoxMotion(box(0, 0, 20, 10), 0)
    for i in range(1, 10):
        motion.see(box(0, 0, 20 * 1.1**i, 10 * 1.1**i), i * 100_000_000)
    x0, _, x1, _ = motion.at(1_000_000_000)
    assert x1 - x0 == pytest.approx(20 * 1.1**10, rel=0.05)
    x0, _, x1, _ = motion.at(100 * SECOND_NS)
    assert x1 - x0 <= 20 * 1.1**9 * np.exp(0.7) * 1.01


def test_two_sightings_at_one_time_leave_the_newer():
    motion = BoxMotion((0, 0, 10, 10), 0)
    motion.see((4, 0, 14, 10), 0)
    assert motion.at(0) == pytest.approx((4, 0, 14, 10))


boxes = st.tuples(places, places, sizes, sizes).map(lambda t: box(*t))


@given(st.lists(boxes, min_size=1, max_size=5), st.lists(boxes, min_size=1, max_size=5))
def test_box_iou_is_that_of_each_pair(a, b):
    iou = box_iou(np.array(a), np.array(b))
    assert iou.shape == (len(a), len(b))
    assert ((iou >= 0) & (iou <= 1 + 1e-9)).all()
    np.testing.assert_allclose(box_iou(np.array(b), np.array(a)), iou.T)
    np.testing.assert_allclose(np.diag(box_iou(np.array(a), np.array(a))), 1)


def test_box_iou_of_halves_and_of_nothing():
    iou = box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [2, 0, 4, 2]]))
    np.testing.assert_allclose(iou, [[1 / 3, 0]])
    assert box_iou(np.zeros((0, 4)), np.zeros((2, 4))).shape == (0, 2)
