from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.propagation.association import Detections, Known, associate, reidentification
from perception.types import VOID

LOOKS = np.vstack((np.eye(4, dtype=np.float32), np.zeros((1, 4), np.float32)))
NONE = 4  # the look of what has none


def detections(boxes: list, classes: list[int], cells: list[int] | None = None, looks: list[int] | None = None):
    n = len(boxes)
    areas = np.array(cells or [16] * n, np.int64)
    return Detections(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(classes, np.int64), areas, LOOKS[looks or [NONE] * n]
    )


def known(
    boxes: list,
    classes: list[int],
    cells: list[int],
    looks: list[int] | None = None,
    hidden_s: list[float] | None = None,
) -> Known:
    n = len(boxes)
    return Known(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(cells, np.int64),
        LOOKS[looks or [NONE] * n],
        np.array(hidden_s or [0.0] * n),
    )


def common(*rows: list[int]) -> NDArray[np.int64]:
    return np.array(rows, np.int64)


HERE, NEAR, FAR = (0, 0, 16, 16), (10, 0, 26, 16), (100, 40, 116, 56)


def test_a_carried_mask_that_overlaps_is_the_same_thing():
    tracks = known([FAR, FAR], [2, 2], [16, 16])
    assert associate(tracks, detections([HERE, NEAR], [2, 2]), common([0, 12], [12, 0])) == {1: 0, 0: 1}


def test_the_best_sum_wins_over_the_first_come():
    tracks = known([FAR, FAR], [2, 2], [16, 16])
    assert associate(tracks, detections([HERE, NEAR], [2, 2]), common([12, 11], [11, 0])) == {1: 0, 0: 1}


def test_too_little_overlap_is_none():
    assert associate(known([FAR], [2], [16]), detections([HERE], [2]), common([7])) == {}  # 7 / 25 < 0.3
    assert associate(known([FAR], [2], [16]), detections([HERE], [2]), common([8])) == {0: 0}


def test_an_overlap_counts_for_more_where_both_look_alike_and_for_less_where_not():
    for shared, look, owner in ((6, 1, {}), (7, 1, {0: 0}), (8, 2, {}), (9, 2, {0: 0})):
        there = detections([HERE], [2], looks=[1])
        assert associate(known([FAR], [2], [16], looks=[look]), there, common([shared])) == owner


def test_of_two_that_cross_each_keeps_its_look():
    tracks = known([HERE, HERE], [2, 2], [16, 16], looks=[0, 1])
    there = detections([HERE, HERE], [2, 2], looks=[1, 0])
    assert associate(tracks, there, common([11, 10], [10, 11])) == {0: 1, 1: 0}


def test_where_motion_expects_one_its_look_counts_too():
    boxes = [(0, 0, 16, 16), (4, 0, 20, 16)]
    there = detections([(2, 0, 18, 16)], [2], looks=[1])
    assert associate(known(boxes, [2, 2], [0, 0], looks=[0, 1]), there, common([0], [0])) == {0: 1}


def test_another_class_needs_more_overlap_and_no_class_needs_none_more():
    assert associate(known([FAR], [3], [16]), detections([HERE], [2]), common([9])) == {}  # 0.75 * 9 / 23
    assert associate(known([FAR], [3], [16]), detections([HERE], [2]), common([10])) == {0: 0}
    assert associate(known([FAR], [VOID], [16]), detections([HERE], [2]), common([8])) == {0: 0}


def test_what_is_not_carried_is_met_where_its_motion_expects_it():
    tracks = known([NEAR, FAR], [2, 2], [0, 0])
    assert associate(tracks, detections([HERE], [2]), common([0], [0])) == {0: 0}
    assert associate(known([HERE], [3], [0]), detections([HERE], [2]), common([0])) == {}


def test_specks_meet_by_their_widened_boxes():
    tracks = known([(10, 10, 12, 12)], [2], [0])
    assert associate(tracks, detections([(13, 10, 15, 12)], [2]), common([0])) == {0: 0}


def test_what_has_been_hidden_for_long_is_met_by_its_look_only():
    there = detections([HERE], [2], looks=[1])
    assert associate(known([HERE], [2], [0], [1], [1.0]), there, common([0])) == {0: 0}
    assert associate(known([HERE], [2], [0], [2], [1.0]), there, common([0])) == {}
    assert associate(known([HERE], [3], [0], [1], [1.0]), there, common([0])) == {}
    assert associate(known([FAR], [2], [0], [1], [0.5]), there, common([0])) == {}


def test_what_is_hidden_longer_can_have_got_farther():
    box = (40, 0, 56, 16)
    there = detections([HERE], [2], looks=[1])
    assert associate(known([box], [2], [0], [1], [0.1]), there, common([0])) == {}
    assert associate(known([box], [2], [0], [1], [1.5]), there, common([0])) == {0: 0}


def test_of_two_that_look_alike_the_nearer_is_it():
    tracks = known([(30, 0, 46, 16), (20, 0, 36, 16)], [2, 2], [0, 0], [1, 1], [1.0, 1.0])
    assert associate(tracks, detections([HERE], [2], looks=[1]), common([0], [0])) == {0: 1}


def test_a_visible_track_is_not_looked_for_elsewhere():
    likeness = reidentification(known([HERE], [2], [0], [1], [0.0]), detections([HERE], [2], looks=[1]))
    assert likeness.tolist() == [[0.0]]


@pytest.mark.parametrize("side", [6, 40])
def test_another_size_is_another_thing(side: int):
    box = (8 - side / 2, 8 - side / 2, 8 + side / 2, 8 + side / 2)
    assert not reidentification(known([box], [2], [0], [1], [1.0]), detections([HERE], [2], looks=[1])).any()


@given(st.integers(0, 6), st.integers(0, 6), st.randoms(use_true_random=False))
def test_no_track_and_no_detection_is_used_twice(m, n, random):
    def boxes(count: int) -> list:
        corners = [(random.randint(0, 60), random.randint(0, 30)) for _ in range(count)]
        return [(x, y, x + random.randint(1, 40), y + random.randint(1, 30)) for x, y in corners]

    tracks = known(
        boxes(m),
        [random.choice((2, 3, VOID)) for _ in range(m)],
        [random.choice((0, 16)) for _ in range(m)],
        [random.randrange(4) for _ in range(m)],
        [random.choice((0.0, 0.2, 3.0)) for _ in range(m)],
    )
    there = detections(
        boxes(n), [random.choice((2, 3)) for _ in range(n)], looks=[random.randrange(4) for _ in range(n)]
    )
    shared = np.array([[random.randint(0, 16) for _ in range(n)] for _ in range(m)], np.int64).reshape(m, n)
    owner = associate(tracks, there, shared * (tracks.cells > 0)[:, None])
    assert len(set(owner.values())) == len(owner)
    assert all(0 <= j < n and 0 <= i < m for j, i in owner.items())
