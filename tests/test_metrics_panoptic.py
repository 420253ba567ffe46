"""Panoptic quality and mask AP: published values, hand-computed cases and brute force."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.evaluation.instance_ap import InstanceAP
from perception.evaluation.panoptic_quality import PanopticQuality
from perception.evaluation.segments import (
    SegmentMap,
    from_packed,
    from_panoptic_ids,
    predicted_segments,
    small_as_crowd,
    true_segments,
)

METRICS = Path(__file__).parents[2] / "shared" / "data" / "metrics"
DEEPLAB2 = METRICS / "deeplab2" / "evaluation" / "testdata"
PANOPTICAPI = METRICS / "panopticapi" / "sample_data"
needs_deeplab2 = pytest.mark.skipif(not DEEPLAB2.is_dir(), reason="DeepLab2's evaluation test images are not here")
needs_panopticapi = pytest.mark.skipif(not PANOPTICAPI.is_dir(), reason="panopticapi's sample data is not here")

# DeepLab2's colours of classes, and the class of each grey value in its three true instance maps.
COLOURS = ((0, 0, 0), (0, 0, 255), (255, 0, 0), (0, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 0))
TEAM = {0: 0, 47: 1, 97: 1, 133: 1, 150: 1, 174: 1, 198: 2, 215: 1, 244: 1, 255: 1}
BIRD = {92: 5, 176: 3, 255: 4}
CAT = {0: 0, 255: 6}


def grey(name: str) -> NDArray[np.int64]:
    return np.asarray(cv2.imread(str(DEEPLAB2 / name), cv2.IMREAD_GRAYSCALE)).astype(np.int64)


def published(name: str, truth: str, classes: dict[int, int], divisor: int) -> tuple[SegmentMap, SegmentMap]:
    """True and predicted segments of one of DeepLab2's test images; class 0 is ignored."""
    instances = grey(truth)
    lut = np.zeros(256, np.int64)
    lut[list(classes)] = list(classes.values())
    rgb = np.asarray(cv2.imread(str(DEEPLAB2 / f"{name}_pred_class.png")))[..., ::-1]
    predicted = np.zeros(rgb.shape[:2], np.int64)
    for class_id, colour in enumerate(COLOURS):
        predicted[(rgb == colour).all(-1)] = class_id
    packed = lut[instances] * divisor + instances, predicted * divisor + grey(f"{name}_pred_instance.png")
    return from_packed(packed[0], divisor, 0), from_packed(packed[1], divisor, 0)


def summary(quality: PanopticQuality) -> list[float]:
    """PQ, SQ, RQ, then TP, FN, FP as means over the classes that occur: the form of the published figures."""
    occurs = quality.tp + quality.fp + quality.fn > 0
    return [*quality.mean()[:3], *(float(x[occurs].mean()) for x in (quality.tp, quality.fn, quality.fp))]


@needs_deeplab2
def test_team_gives_the_published_quality():
    quality = PanopticQuality(range(3))
    quality.add(*published("team", "team_gt_instance.png", TEAM, 1000))
    assert summary(quality) == pytest.approx([0.62156287, 0.64664987, 0.96666667, 4, 0.5, 0], abs=1e-7)


@needs_deeplab2
def test_bird_cat_and_team_give_the_published_quality():
    quality = PanopticQuality(range(7))
    quality.add(*published("bird", "bird_gt.png", BIRD, 256))
    quality.add(*published("cat", "cat_gt.png", CAT, 256))
    quality.add(*published("team", "team_gt_instance.png", TEAM, 256))
    assert summary(quality) == pytest.approx([0.76855503, 0.77691737, 0.98888889, 2, 1 / 6, 0], abs=1e-7)
    by_class = [0.7024361, 0.5406897, 0.7453532, 0.8576779, 0.9910688, 0.7741046]
    assert quality.by_class()[0, 1:] == pytest.approx(by_class, abs=1e-7)


def test_an_ignored_class_with_instances_gives_the_published_quality():
    truth = np.array([[0, 9, 9], [1, 2, 2], [1, 9, 9]]) * 256 + np.array([[0, 2, 2], [1, 0, 0], [1, 0, 0]])
    predicted = np.array([[0, 0, 9], [1, 1, 1], [1, 9, 9]]) * 256 + np.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]])
    quality = PanopticQuality(range(3))
    quality.add(from_packed(truth, 256, 9), from_packed(predicted, 256, 9))
    assert summary(quality) == pytest.approx([2 / 9, 1 / 3, 2 / 9, 1 / 3, 2 / 3, 2 / 3])


@needs_panopticapi
def test_panopticapis_samples_match_themselves_but_for_their_crowd():
    listed = json.loads((PANOPTICAPI / "panoptic_examples.json").read_text())["annotations"]
    quality = PanopticQuality({s["category_id"] for a in listed for s in a["segments_info"]})
    crowds = 0
    for annotation in listed:
        bgr = cv2.imread(str(PANOPTICAPI / "panoptic_examples" / annotation["file_name"]))
        ids = np.asarray(bgr).astype(np.int64) @ [65536, 256, 1]
        segments = {s["id"]: (s["category_id"], bool(s["iscrowd"])) for s in annotation["segments_info"]}
        crowds += sum(crowd for _, crowd in segments.values())
        truth = from_panoptic_ids(ids, segments)
        assert np.bincount(truth.ids.ravel())[1:].tolist() == [
            s["area"] for s in sorted(annotation["segments_info"], key=lambda s: s["id"])
        ]
        quality.add(truth, truth)
    assert crowds > 0
    assert quality.mean()[:3] == pytest.approx((1, 1, 1))
    assert quality.tp.sum() == sum(len(a["segments_info"]) for a in listed) - crowds


def maps(truth: list[list[int]], predicted: list[list[int]]) -> tuple[SegmentMap, SegmentMap]:
    """Segments by packed labels class * 10 + instance; 0 is void."""
    return from_packed(np.array(truth), 10, 0), from_packed(np.array(predicted), 10, 0)


def quality_of(truth: SegmentMap, predicted: SegmentMap, classes: int = 4) -> PanopticQuality:
    quality = PanopticQuality(range(classes))
    quality.add(truth, predicted)
    return quality


def counts(quality: PanopticQuality, class_id: int) -> tuple[int, int, int]:
    return int(quality.tp[class_id]), int(quality.fp[class_id]), int(quality.fn[class_id])


def test_quality_by_hand():
    truth, predicted = maps([[11, 11, 11, 11, 12, 20]], [[11, 11, 11, 12, 12, 20]])
    quality = quality_of(truth, predicted)
    # IoU of 11 is 3/4; of 12 it is 1/2, which is not above one half.
    assert counts(quality, 1) == (1, 1, 1)
    assert quality.by_class()[:, 1] == pytest.approx([3 / 8, 3 / 4, 1 / 2])
    assert quality.by_class()[:, 2] == pytest.approx([1, 1, 1])
    assert quality.mean().pq == pytest.approx((3 / 8 + 1) / 2)
    assert quality.mean({1}).pq == pytest.approx(3 / 8)


def test_predicted_pixels_on_void_do_not_lower_the_iou():
    truth, predicted = maps([[11, 11, 0, 0]], [[11, 11, 11, 11]])
    assert quality_of(truth, predicted).mean()[:3] == (1, 1, 1)


def test_a_segment_mostly_on_void_is_no_false_positive_and_one_half_on_it_is():
    truth, predicted = maps([[0, 0, 20, 0, 20]], [[11, 11, 11, 12, 12]])
    assert counts(quality_of(truth, predicted), 1) == (0, 1, 0)


def test_a_crowd_forgives_its_class_only_and_is_never_missed():
    truth = from_panoptic_ids(np.array([[1, 1, 1, 2, 2]]), {1: (1, True), 2: (3, True)})
    _, predicted = maps([[0]], [[11, 12, 12, 21, 21]])
    quality = quality_of(truth, predicted)
    assert counts(quality, 1) == (0, 0, 0)
    assert counts(quality, 2) == (0, 1, 0)


def test_two_crowds_of_a_class_forgive_together():
    truth = from_panoptic_ids(np.array([[1, 2, 3, 3]]), {1: (1, True), 2: (1, True), 3: (2, False)})
    _, predicted = maps([[0]], [[11, 11, 11, 20]])
    assert counts(quality_of(truth, predicted), 1) == (0, 0, 0)


def test_a_class_that_never_occurs_is_not_averaged():
    truth, predicted = maps([[11]], [[11]])
    assert quality_of(truth, predicted).mean() == (1, 1, 1, 1)
    assert np.isnan(PanopticQuality(range(3)).mean().pq)


def brute_force(truth: SegmentMap, predicted: SegmentMap, class_id: int) -> tuple[float, int, int, int]:
    """Sum of IoU, TP, FP and FN by sets of pixels."""

    def pixels(m: SegmentMap, k: int) -> set[int]:
        return set(np.flatnonzero(m.ids.ravel() == k).tolist())

    void = pixels(truth, 0)
    mine = [k for k in range(1, len(truth) + 1) if truth.class_ids[k - 1] == class_id]
    crowd = set().union(*(pixels(truth, k) for k in mine if truth.is_crowd[k - 1]))
    true = [pixels(truth, k) for k in mine if not truth.is_crowd[k - 1]]
    found = [pixels(predicted, k + 1) for k in np.flatnonzero(predicted.class_ids == class_id).tolist()]
    pairs = [(len(t & p) / len(t | (p - void)), i, j) for i, t in enumerate(true) for j, p in enumerate(found)]
    hits = [(iou, i, j) for iou, i, j in pairs if iou > 0.5]
    unmatched = [p for j, p in enumerate(found) if j not in {h[2] for h in hits}]
    fp = sum(len(p & (void | crowd)) <= 0.5 * len(p) for p in unmatched)
    return sum(h[0] for h in hits), len(hits), fp, len(true) - len(hits)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_quality_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    truth_ids = rng.integers(0, 5, (3, 4)).repeat(2, 0).repeat(2, 1)
    present = [k for k in np.unique(truth_ids).tolist() if k]
    truth = from_panoptic_ids(truth_ids, {k: (int(rng.integers(3)), bool(rng.random() < 0.3)) for k in present})
    changed = np.where(rng.random(truth_ids.shape) < 0.3, rng.integers(0, 5, truth_ids.shape), truth_ids)
    predicted = from_packed(np.where(changed > 0, changed % 3 * 10 + changed, 0), 10, 0)
    quality = quality_of(truth, predicted, classes=3)
    for c in range(3):
        iou, *rest = brute_force(truth, predicted, c)
        assert counts(quality, c) == tuple(rest)
        assert quality.iou[c] == pytest.approx(iou)


def test_ids_that_are_not_listed_are_refused():
    with pytest.raises(ConfigError, match="segment 7 is in the map but not listed"):
        from_panoptic_ids(np.array([[7, 0]]), {})
    with pytest.raises(ConfigError, match="segment 9 is listed but has no pixel"):
        from_panoptic_ids(np.array([[7, 0]]), {7: (1, False), 9: (1, False)})


def test_thing_pixels_without_a_number_are_a_crowd():
    labels = np.array([[0, 1, 1, 1, 255]], np.uint8)
    found = true_segments(labels, np.array([[4, 0, 65535, 4, 4]], np.uint16), {1})
    assert found.ids.tolist() == [[1, 2, 2, 3, 0]]
    assert found.class_ids.tolist() == [0, 1, 1]
    assert found.is_crowd.tolist() == [False, True, False]


def test_one_instance_number_on_two_classes_is_two_segments():
    found = true_segments(np.array([[1, 2]], np.uint8), np.array([[4, 4]], np.uint16), {1, 2})
    assert found.class_ids.tolist() == [1, 2]
    assert found.track_ids is not None
    assert len(set(found.track_ids.tolist()) - {0}) == 2


def test_things_that_a_merge_brings_into_one_class_stay_apart():
    labels, numbers = np.array([[0, 1, 1, 2, 2, 3, 255]], np.uint8), np.array([[5, 4, 0, 4, 0, 4, 4]], np.uint16)
    target = np.full(256, 255, np.uint8)
    target[:4] = 0, 1, 1, 0  # class 2 is scored as 1, and 3 as 0, which is stuff
    found = true_segments(labels, numbers, {1}, target)
    assert found.ids.tolist() == [[1, 3, 2, 4, 2, 1, 0]]
    assert found.class_ids.tolist() == [0, 1, 1, 1]
    assert found.is_crowd.tolist() == [False, True, False, False]
    assert found.track_ids is not None
    assert len(set(found.track_ids.tolist())) == 3  # none, and one for each thing


def test_small_instances_become_crowds_and_stuff_does_not():
    found = true_segments(np.array([[0, 1, 1, 1]], np.uint8), np.array([[0, 1, 2, 2]], np.uint16), {1})
    assert small_as_crowd(found, {1}, 2).is_crowd.tolist() == [False, True, False]


def test_predicted_thing_pixels_without_an_instance_are_no_segment():
    labels = np.array([[0, 1, 1, 0, 255]], np.uint8)
    found = predicted_segments(labels, np.array([[0, 3, 0, 3, 0]], np.uint16), {3: (1, 0.5)}, {1})
    assert found.ids.tolist() == [[1, 2, 0, 2, 0]]
    assert (found.class_ids.tolist(), found.scores.tolist()) == ([0, 1], [1.0, 0.5])


UNDEFINED = -1.0


def ap_of(truth: SegmentMap, predicted: SegmentMap, *classes: int) -> InstanceAP:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    ap = InstanceAP(classes)
    ap.add(truth, predicted)
    return ap


def scored(segments: SegmentMap, scores: list[float]) -> SegmentMap:
    return replace(segments, scores=np.array(scores))


def test_mask_ap_of_nothing_is_the_published_twelve_zeros():
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    assert InstanceAP([1]).coco_stats().tolist() == [0] * 12


def test_mask_ap_of_one_thing_with_iou_08_is_the_published():
    truth, predicted = maps([[80, 80, 0], [80, 80, 80]], [[80, 80, 0], [80, 80, 0]])
    expected = [0.7, 1, 1, 0.7, UNDEFINED, UNDEFINED, 0.7, 0.7, 0.7, 0.7, UNDEFINED, UNDEFINED]
    assert ap_of(truth, scored(predicted, [0.8]), 8).coco_stats() == pytest.approx(expected)


@needs_deeplab2
def test_mask_ap_of_team_is_the_published():
    ap = ap_of(*published("team", "team_gt_instance.png", TEAM, 256), 1, 2)
    expected = [0.2549, 0.9356, 0.1215, UNDEFINED, 0.2399, 0.501, 0.0812, 0.2688, 0.2688, UNDEFINED, 0.2583, 0.5]
    assert ap.coco_stats() == pytest.approx(expected, abs=5.1e-5)  # one figure is a tie between two roundings


# Two classes, the second of three predictions wrong; DeepLab2's 4x4 example.
FOUR_TRUE = [[11, 11, 22, 22], [11, 11, 22, 22], [0, 0, 23, 23], [0, 0, 23, 23]]
FOUR_FOUND = [[11, 11, 12, 12], [11, 11, 12, 12], [0, 0, 23, 23], [0, 0, 23, 23]]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.4, 0.9, 0.8], [*[0.5025] * 4, -1, -1, 0.25, 0.75, 0.75, 0.75, -1, -1]),
        ([0.9, 0.4, 0.8], [*[0.75248] * 4, -1, -1, 0.75, 0.75, 0.75, 0.75, -1, -1]),
    ],
    ids=["bad scores", "good scores"],
)
def test_mask_ap_with_scores_is_the_published(scores, expected):
    truth, predicted = maps(FOUR_TRUE, FOUR_FOUND)
    assert ap_of(truth, scored(predicted, scores), 1, 2).coco_stats() == pytest.approx(expected, abs=5e-5)


def test_mask_ap_with_a_crowd_is_the_published():
    truth, predicted = maps(FOUR_TRUE, FOUR_FOUND)
    crowd = replace(truth, is_crowd=truth.class_ids * 10 + np.array([1, 2, 3]) == 22)
    expected = [1, 1, 1, 1, -1, -1, 1, 1, 1, 1, -1, -1]
    assert ap_of(crowd, predicted, 1, 2).coco_stats() == pytest.approx(expected)


def test_a_detection_on_void_is_not_wrong():
    truth, predicted = maps([[11, 11, 0, 0]], [[11, 11, 12, 12]])
    assert ap_of(truth, scored(predicted, [0.5, 0.9]), 1).by_class()[1] == pytest.approx((1, 1))


def test_mask_ap_by_class_leaves_out_what_the_truth_lacks():
    truth, predicted = maps([[11, 11, 30]], [[11, 11, 21]])
    by_class = ap_of(truth, predicted, 1, 2).by_class()
    assert by_class[1] == pytest.approx((1, 1))
    assert np.isnan(by_class[2]).all()


def test_equal_scores_count_in_reading_order_whatever_their_numbers():
    truth, predicted = maps([[11, 11, 30, 30]], [[19, 19, 12, 12]])
    swapped, _ = maps([[12, 12, 19, 19]], [[0]])
    assert ap_of(truth, predicted, 1).by_class() == ap_of(truth, swapped, 1).by_class()
    assert ap_of(truth, predicted, 1).by_class()[1] == pytest.approx((1, 1))
