from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.models.grouping import MOST, group_things


def canvas() -> np.ndarray:
    return np.zeros((360, 640), np.uint8)


def test_two_separate_regions_of_a_thing_are_two_segments():
    labels = canvas()
    labels[10:30, 10:30] = 2
    labels[10:50, 100:120] = 2
    seen = group_things(labels, [2], [0, 0, 40])
    assert [s.area_px for s in seen.segments] == [800, 400]  # the largest first
    assert seen.segments[0].box_xyxy == (100, 10, 120, 50)
    assert (seen.id_map == 1).sum() == 800


def test_stuff_never_becomes_a_segment():
    labels = canvas()
    labels[100:200] = 1
    assert group_things(labels, [2], [0, 0, 40]).segments == ()


def test_touching_things_of_different_classes_stay_apart():
    labels = canvas()
    labels[0:20, 0:20] = 2
    labels[0:20, 20:40] = 3
    assert {s.class_id for s in group_things(labels, [2, 3], [0, 0, 40, 40]).segments} == {2, 3}


def test_segments_below_the_least_area_are_noise():
    labels = canvas()
    labels[0:6, 0:6] = 2
    assert group_things(labels, [2], [0, 0, 40]).segments == ()


def test_least_area_is_scaled_to_the_map():
    labels = np.zeros((180, 320), np.uint8)  # a quarter of the reference area
    labels[0:4, 0:4] = 2
    assert len(group_things(labels, [2], [0, 0, 40]).segments) == 1


def test_score_is_the_mean_confidence_at_its_own_resolution():
    labels = canvas()
    labels[0:40, 0:40] = 2
    confidence = np.full((90, 160), 51, np.uint8)
    assert group_things(labels, [2], [0, 0, 1], confidence).segments[0].score == 0.2


def test_more_things_than_the_limit_keep_the_largest():
    labels = canvas()
    for i in range(300):
        y, x = divmod(i, 30)
        labels[y * 30 : y * 30 + 5, x * 20 : x * 20 + (10 if i == 299 else 5)] = 2
    seen = group_things(labels, [2], [0, 0, 1])
    assert len(seen.segments) == MOST
    assert seen.segments[0].area_px == 50


def test_a_map_of_noise_has_the_things_that_are_large_enough():
    labels = np.where(np.random.default_rng(0).random((1024, 2048)) < 0.05, 2, 0).astype(np.uint8)
    labels[100:200, 100:300] = 2
    seen = group_things(labels, [2], [0, 0, 40])
    assert len(seen.segments) == 1
    assert seen.segments[0].area_px >= 100 * 200


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 80), st.integers(1, 20)), max_size=12))
def test_id_map_and_segments_agree(boxes: list[tuple[int, int, int]]):
    labels = np.zeros((60, 90), np.uint8)
    for y, x, size in boxes:
        labels[y : y + size, x : x + size] = 1
    seen = group_things(labels, [1], [0, 0])
    assert seen.id_map.max(initial=0) == len(seen.segments)
    assert ((seen.id_map > 0) == (labels == 1)).all()
    for k, segment in enumerate(seen.segments, start=1):
        x0, y0, x1, y1 = segment.box_xyxy
        assert (seen.id_map[y0:y1, x0:x1] == k).sum() == (seen.id_map == k).sum() == segment.area_px
