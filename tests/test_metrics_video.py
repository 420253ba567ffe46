"""Metrics of clips: published values, hand-computed cases, brute force, and TrackEval as the oracle."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.evaluation.clear_mot import ClearMot
from perception.evaluation.extra import load_extra
from perception.evaluation.hota import ALPHAS, Hota
from perception.evaluation.identity import Identity
from perception.evaluation.overlap import Overlap, track_ids
from perception.evaluation.panoptic_quality import PanopticQuality
from perception.evaluation.quality_calibration import QualityCalibration
from perception.evaluation.region_contour import RegionContour, contour_f, jaccard, summarised, tolerance_px
from perception.evaluation.reidentification import Reidentification
from perception.evaluation.segmentation_tracking import SegmentationTracking
from perception.evaluation.segments import SegmentMap, from_packed, small_as_crowd
from perception.evaluation.stored import StoredTrack
from perception.evaluation.tracking import TrackingFrame, numbered, tracking_frame
from perception.evaluation.video_panoptic import VideoPanoptic
from perception.types import TrackState

DATA = Path(__file__).parents[2] / "shared" / "data"
STQ_EXAMPLE = DATA / "metrics" / "deeplab2" / "stq_complex_example.json"
KITTI_MOTS = DATA / "kitti_mots" / "0012.txt"
DIVISOR, VOID = 1000, 255
THING, SKY, TREE = 0, 1, 2


def packed(row: str) -> NDArray[np.int64]:
    """One row of pixels: a digit is that thing, S sky, T tree, . void."""
    value = {"S": SKY * DIVISOR, "T": TREE * DIVISOR, ".": VOID * DIVISOR}
    return np.array([[value.get(c, THING * DIVISOR + int(c) if c.isdigit() else -1) for c in row]], np.int64)


def segments(maps: NDArray[np.int64], things: tuple[int, ...] = (THING,), is_truth: bool = True) -> SegmentMap:
    """Things with number 0 are crowds in a truth, and as good as any other in a prediction."""
    found = from_packed(maps, DIVISOR, VOID)
    crowd = np.isin(found.class_ids, things) & (track_ids(found) == 0) & is_truth
    return SegmentMap(found.ids, found.class_ids, crowd, found.scores, found.track_ids)


def overlap(truth: str, predicted: str) -> Overlap:
    return Overlap(segments(packed(truth)), segments(packed(predicted), is_truth=False))


def add(stq: SegmentationTracking, truth: NDArray[np.int64], predicted: NDArray[np.int64], sequence: str = "a") -> None:
    things = tuple(stq.things.tolist())
    stq.add(sequence, Overlap(segments(truth, things), segments(predicted, things, is_truth=False)))
    stq.add_labels((truth // DIVISOR).astype(np.uint8), (predicted // DIVISOR).astype(np.uint8))


def stq_of(truth: str, predicted: str, classes: int = 2) -> tuple[float, float, float]:
    stq = SegmentationTracking(classes, {THING})
    add(stq, packed(truth), packed(predicted))
    return stq.quality()


@pytest.mark.skipif(not STQ_EXAMPLE.is_file(), reason="DeepLab2's STQ example is not here")
def test_stq_of_the_published_example():
    example = json.loads(STQ_EXAMPLE.read_text())
    arrays = {name: np.array(values, np.int64) for name, values in example["arrays"].items()}
    stq = SegmentationTracking(example["n_classes"], example["things_list"])
    for k in (1, 2, 3):
        truth, predicted = (
            arrays[f"{side}_semantic_{k}"] * DIVISOR + arrays[f"{side}_instance_{k}"]
            for side in ("ground_truth", "prediction")
        )
        add(stq, truth, predicted)
    expected = example["expected"]
    assert stq.quality() == pytest.approx((expected["STQ"], expected["AQ"], expected["IoU"]), abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "predicted", "expected"),
    [
        ("11111", "11111", (1, 1, 1)),
        ("11111", "11222", (0.72111026, 0.52, 1)),
        ("11111", "12222", (0.82462113, 0.68, 1)),
        ("11111", "12345", (0.447213596, 0.2, 1)),
        ("11111", "12122", (0.72111026, 0.52, 1)),
        ("11111", "S1111", (0.50596443, 0.64, 0.4)),
        ("011111", "111111", (1, 1, 1)),
        ("011111", "222211", (0.72111026, 0.52, 1)),
        ("011111", "22S111", (0.40824829, 0.4, 5 / 12)),
        ("S1111", "11111", (0.56568542, 0.8, 0.4)),
        ("S1111", "22211", (0.42426407, 0.45, 0.4)),
        ("S1111", "22S11", (0.3, 0.3, 0.3)),
    ],
)
def test_stq_of_the_published_rows(truth, predicted, expected):
    assert stq_of(truth, predicted) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("truth", "predicted", "classes", "expected"),
    [
        ("11SS", "1.SS", 2, (0.353553, 0.25, 0.5)),  # a predicted void is one more class of IoU 0
        ("11.S", "111S", 2, (0.816497, 0.666667, 1)),  # predicted pixels on void count in the predicted tube
        ("11SS", "11ST", 3, (0.707107, 1, 0.5)),  # so is a class that only the prediction has
        ("SSSS", "SSSS", 2, (0, 0, 1)),  # no things: AQ is 0
        ("1111", "0000", 2, (1, 1, 1)),  # 0 is an id like others in a prediction
    ],
)
def test_stq_at_its_edges(truth, predicted, classes, expected):
    assert stq_of(truth, predicted, classes) == pytest.approx(expected, abs=1e-6)


def test_stq_pools_tubes_and_pixels_over_clips_whose_ids_have_nothing_in_common():
    stq = SegmentationTracking(2, {THING})
    add(stq, packed("11111"), packed("11111"), "a")
    add(stq, packed("111112"), packed("123451"), "b")
    assert stq.aq() == pytest.approx((1 + (1 / 6 + 4 / 5) / 5 + 1 / 2) / 3)
    assert stq.sq() == 1


def test_stq_of_a_class_counts_its_own_tubes_only():
    stq = SegmentationTracking(3, {THING, TREE})
    add(stq, np.array([[1, 1, 2001, 2001]]), np.array([[1, 1, 2001, 2002]]))
    assert stq.of_class(THING) == (1, 1, 1)
    assert stq.of_class(TREE).aq == 0.5
    assert math.isnan(stq.of_class(SKY).stq)


maps = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


def random_clip(rng: np.random.Generator, frames: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    values = np.array([0, 1, 2, 3, 1000, 2001, 2002, 255000])
    return [(rng.choice(values, (3, 4)), rng.choice(values, (3, 4))) for _ in range(frames)]


@given(maps)
@settings(max_examples=40, deadline=None)
def test_aq_is_what_masks_of_every_pair_of_tubes_give(rng):
    clip = random_clip(rng, 3)
    stq = SegmentationTracking(3, {THING, TREE})
    for truth, predicted in clip:
        add(stq, truth, predicted)
    truth, predicted = (np.stack(side) for side in zip(*clip, strict=True))
    is_crowd = truth == 0
    total, tubes = 0.0, [g for g in (1, 2, 3, 2001, 2002) if (truth == g).any()]
    for g in tubes:
        for p in (0, 1, 2, 3, 2001, 2002):
            both = ((truth == g) & (predicted == p)).sum()
            union = ((truth == g) | ((predicted == p) & ~is_crowd)).sum()
            total += both / (truth == g).sum() * both / max(1, union)
    assert stq.aq() == pytest.approx(total / len(tubes) if tubes else 0)


@given(maps)
@settings(max_examples=40, deadline=None)
def test_vpq_of_a_window_is_the_pq_of_its_frames_side_by_side(rng):
    clip = random_clip(rng, 3)
    vpq, pq = VideoPanoptic(range(3), (3,)), PanopticQuality(range(3))
    for i, (truth, predicted) in enumerate(clip):
        vpq.add(Overlap(segments(truth), segments(predicted, is_truth=False)), follows=i > 0)
    wide = [np.concatenate(side, 1) for side in zip(*clip, strict=True)]
    pq.add(segments(wide[0]), segments(wide[1], is_truth=False))
    assert vpq.by_window[3].by_class() == pytest.approx(pq.by_class(), nan_ok=True)


def test_vpq_of_one_frame_is_pq_and_longer_windows_see_a_switched_id():
    vpq = VideoPanoptic({THING, SKY}, (1, 2, 4))
    for i, predicted in enumerate(("11SS", "11SS", "22SS")):
        vpq.add(overlap("11SS", predicted), follows=i > 0)
    assert vpq.by_window[1].mean().pq == 1
    two = vpq.by_window[2]
    # frames 1-2 match; in frames 2-3 the tube is halved: IoU 1/2 is no match, and each half is one false positive
    assert (two.tp.tolist(), two.fp.tolist(), two.fn.tolist()) == ([1, 2], [2, 0], [1, 0])
    assert math.isnan(vpq.by_window[4].mean().pq)
    assert vpq.mean() == pytest.approx((1 + (1 / 2.5 + 1) / 2) / 2)


def small_frames(*rows: tuple[str, str], least_area: int) -> list[Overlap]:
    pairs = [(segments(packed(truth)), segments(packed(predicted), is_truth=False)) for truth, predicted in rows]
    return [Overlap(small_as_crowd(truth, {THING}, least_area), predicted) for truth, predicted in pairs]


def test_frames_in_which_a_thing_is_small_are_neither_missed_nor_wrong_in_vpq():
    """The tube of a thing that comes into the picture slice by slice, predicted as it is."""
    vpq = VideoPanoptic({THING, SKY}, (3,))
    for i, frame in enumerate(small_frames(("1SSSS", "7SSSS"), ("11SSS", "77SSS"), ("1111S", "7777S"), least_area=3)):
        vpq.add(frame, follows=i > 0)
    assert vpq.by_window[3].mean() == (1, 1, 1, 2)


def test_what_is_wrong_of_other_things_that_are_small_is_wrong_in_vpq():
    """Of 7 px of a tube 4 are right, one is on its own thing where that is small, one on another that is small."""
    vpq = VideoPanoptic({THING}, (2,))
    for i, frame in enumerate(small_frames(("11112S", "77777S"), ("1222SS", "7722SS"), least_area=2)):
        vpq.add(frame, follows=i > 0)
    two = vpq.by_window[2]
    assert two.iou.tolist() == [pytest.approx(4 / 6 + 2 / 3)]


def test_vpq_windows_do_not_reach_into_the_next_clip():
    vpq = VideoPanoptic({THING}, (2,))
    for follows in (False, True, False):
        vpq.add(overlap("11S", "11S"), follows)
    assert vpq.by_window[2].tp.tolist() == [1]


def dense(
    true_present: list[list[int]], predicted_present: list[list[int]], similarity: NDArray[np.float64]
) -> list[TrackingFrame]:
    """From presence by id and frame, and similarity (frames, true, predicted)."""
    out = []
    for t, pair in enumerate(zip(np.array(true_present).T, np.array(predicted_present).T, strict=True)):
        true, predicted = map(np.flatnonzero, pair)
        out.append(TrackingFrame(true, predicted, similarity[t][np.ix_(true, predicted)]))
    return out


def similar(frames: int, true: int, predicted: int, pairs: dict[tuple[int, int], list[float]]) -> NDArray[np.float64]:
    out = np.zeros((frames, true, predicted))
    for (i, j), values in pairs.items():
        out[:, i, j] = values
    return out


TWO_TRUE, TWO_PREDICTED = [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
CROSSED = {(0, 1): [0, 0, 0, 1.0, 1], (1, 0): [1.0, 1, 0, 0, 0]}
CONFUSED = {**CROSSED, (0, 0): [0, 0, 1.0, 0, 0], (1, 1): [0, 1.0, 0, 0, 0]}
SPLIT = {
    (0, 0): [1.0, 1, 0, 0, 0],
    (0, 3): [0, 0, 0, 1.0, 1],
    (1, 1): [0, 0, 1.0, 1, 0],
    (1, 2): [0, 0, 0, 0, 1.0],
    (1, 4): [1.0, 1, 0, 0, 0],
}
SPLIT_PREDICTED = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]
GRADED = {(0, 0): [0.9, 0.6, 0.3, 0.9], (1, 1): [0.8, 0.8, 0.2, 0.55], (0, 1): [0, 0, 0.7, 0], (1, 0): [0, 0, 0.65, 0]}
NO_CONFUSION = dense(TWO_TRUE, TWO_PREDICTED, similar(5, 2, 2, CROSSED))
WITH_CONFUSION = dense(TWO_TRUE, TWO_PREDICTED, similar(5, 2, 2, CONFUSED))
SPLIT_TRACKS = dense([[1, 1, 0, 1, 1], [1] * 5], SPLIT_PREDICTED, similar(5, 2, 5, SPLIT))
GRADED_IDS = dense([[1] * 4] * 2, [[1] * 4] * 2, similar(4, 2, 2, GRADED))


def scored(*clips: list[TrackingFrame]) -> tuple[Hota, Identity, ClearMot]:
    metrics = Hota(), Identity(), ClearMot()
    for metric in metrics:
        for clip in clips:
            metric.add(clip)
    return metrics


@pytest.mark.parametrize(
    ("clip", "hota", "deta", "assa", "idf1", "mota", "switches"),
    [
        (NO_CONFUSION, 0.316228, 0.307692, 0.325, 0.470588, -0.125, 0),
        (WITH_CONFUSION, 0.344601, 0.416667, 0.285, 0.470588, 0, 1),
        (SPLIT_TRACKS, 0.561384, 0.818182, 0.385185, 0.4, 0.444444, 3),
        (GRADED_IDS, 0.570992, 0.559429, 0.586867, 0.75, 0.5, 4),
    ],
    ids=["no confusion", "with confusion", "split tracks", "graded"],
)
def test_tracking_metrics_give_the_published_values(clip, hota, deta, assa, idf1, mota, switches):
    h, identity, clear = scored(clip)
    found = (h.hota(), h.detection().mean(), h.association().mean(), identity.f1(), clear.mota(), clear.switches)
    assert found == pytest.approx((hota, deta, assa, idf1, mota, switches), abs=1e-6)


def test_graded_similarities_give_the_published_location_and_precision():
    h, _, clear = scored(GRADED_IDS)
    assert h.location().mean() == pytest.approx(0.77381, abs=1e-5)
    assert (h.by_alpha()[0], h.by_alpha()[ALPHAS.searchsorted(0.5)]) == pytest.approx((1, 0.6))
    assert clear.motp() == pytest.approx(0.7375)


def test_split_tracks_are_fragmented_once():
    assert scored(SPLIT_TRACKS)[2].fragments == 1


def test_clips_are_pooled_by_counts():
    h, identity, clear = scored(WITH_CONFUSION, GRADED_IDS)
    assert identity.f1() == pytest.approx((4 + 6) / (8.5 + 8))
    assert (clear.tp, clear.switches) == (13, 5)
    assert h.tp[0] == scored(WITH_CONFUSION)[0].tp[0] + scored(GRADED_IDS)[0].tp[0]


def test_nothing_tracked_and_nothing_to_track_give_zeros():
    empty = [TrackingFrame(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 0)))]
    h, identity, clear = scored(empty, [])
    assert (h.hota(), identity.f1(), clear.mota(), clear.motp()) == (0, 0, 0, 0)


def oracle(clip: list[TrackingFrame]) -> tuple[list[float], list[int]]:
    """TrackEval's IDF1, IDP, IDR, MOTA, MOTP, HOTA, DetA, AssA, LocA; then IDSW, Frag, TP, FP, FN."""
    metrics = pytest.importorskip(
        "trackeval.metrics", reason="the oracle is not installed: pip install --no-deps trackeval tabulate"
    )
    true, predicted, places = numbered(clip)
    data = {
        "num_timesteps": len(clip),
        "num_gt_ids": true,
        "num_tracker_ids": predicted,
        "num_gt_dets": sum(len(f.true_ids) for f in places),
        "num_tracker_dets": sum(len(f.predicted_ids) for f in places),
        "gt_ids": [f.true_ids for f in places],
        "tracker_ids": [f.predicted_ids for f in places],
        "similarity_scores": [f.similarity for f in places],
    }
    h = metrics.HOTA().eval_sequence(data)
    c = metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data)
    i = metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(data)
    shares = [i["IDF1"], i["IDP"], i["IDR"], c["MOTA"], c["MOTP"]]
    counts = [int(c[key]) for key in ("IDSW", "Frag", "CLR_TP", "CLR_FP", "CLR_FN")]
    return [*shares, *(float(h[key].mean()) for key in ("HOTA", "DetA", "AssA", "LocA"))], counts


def ours(clip: list[TrackingFrame]) -> tuple[list[float], list[int]]:
    h, i, c = scored(clip)
    alphas = (h.by_alpha(), h.detection(), h.association(), h.location())
    shares = [i.f1(), i.precision(), i.recall(), c.mota(), c.motp(), *(float(a.mean()) for a in alphas)]
    return shares, [c.switches, c.fragments, c.tp, c.fp, c.fn]


def long_tracks() -> list[TrackingFrame]:
    """Six true things and eight predicted ones that come and go by a fixed rule, over 40 frames."""
    t, i, j = np.ogrid[:40, :6, :8]
    similarity = ((7 * t * (i + 1) + 13 * i * j + 5 * t // (j + 1)) % 100) / 100.0 * ((i + j + t // 9) % 3 == 0)
    true = [[int((k + f // 3) % 5 > 0) for f in range(40)] for k in range(6)]
    predicted = [[int((2 * k + f) % 4 > 0) for f in range(40)] for k in range(8)]
    return dense(true, predicted, similarity)


def random_tracks(seed: int) -> list[TrackingFrame]:
    rng = np.random.default_rng(seed)
    frames, true, predicted = rng.integers((2, 1, 1), (12, 6, 7))
    shown, found = ((rng.random((n, frames)) < 0.7).tolist() for n in (true, predicted))
    similarity = rng.random((frames, true, predicted)) ** 2 * (rng.random((frames, true, predicted)) < 0.6)
    return dense(shown, found, similarity)


def test_tracking_metrics_agree_with_trackeval_on_random_tracks():
    for clip in map(random_tracks, range(60)):
        if sum(len(f.true_ids) for f in clip) and sum(len(f.predicted_ids) for f in clip):  # else it has own rules
            shares, counts = oracle(clip)
            assert ours(clip)[0] == pytest.approx(shares)
            assert ours(clip)[1] == counts


def test_tracking_metrics_give_what_trackeval_gave_for_long_tracks():
    shares, counts = ours(long_tracks())
    expected = [0.180974, 0.1625, 0.204188, -0.418848, 0.781261, 0.153375, 0.362160, 0.065476, 0.777383]
    assert shares == pytest.approx(expected, abs=1e-6)
    assert counts == [78, 49, 119, 121, 72]


def kitti_clip() -> list[tuple[SegmentMap, SegmentMap]]:
    """Cars of KITTI-MOTS, and a poor tracker made of them: masks shifted, some missed, ids that change on the way."""
    mask_api = load_extra("pycocotools.mask", "reading run lengths")
    frames: dict[int, list[tuple[int, int, NDArray[np.bool_]]]] = {}
    for line in KITTI_MOTS.read_text().splitlines():
        frame, thing, class_id, h, w, counts = line.split()
        mask = np.asarray(mask_api.decode({"size": [int(h), int(w)], "counts": counts.encode()}), bool)
        frames.setdefault(int(frame), []).append((int(thing), int(class_id), mask[::3, ::3]))
    rng = np.random.default_rng(3)
    out = []
    for frame, labels in sorted(frames.items()):
        truth = np.full(labels[0][2].shape, 3000, np.int64)  # class 3: nothing that is scored
        predicted = truth.copy()
        for thing, class_id, mask in labels:
            truth[mask] = VOID * DIVISOR if class_id == 10 else class_id * DIVISOR + thing % DIVISOR + 1
            if rng.random() < 0.85:
                shift = rng.integers(-2, 3, 2)
                changed = thing % DIVISOR + 1 + 100 * (frame // 20)
                predicted[np.roll(mask, shift, (0, 1))] = min(class_id, 2) * DIVISOR + changed
        out.append((segments(truth, (1, 2)), segments(predicted, (1, 2))))
    return out


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pycocotools still speaks numpy 1's __array__
@pytest.mark.skipif(not KITTI_MOTS.is_file(), reason="KITTI-MOTS' ground truth is not here")
def test_tracking_metrics_agree_with_trackeval_on_kitti_mots():
    pairs = kitti_clip()
    for class_id in (1, 2):
        clip = [tracking_frame(Overlap(*pair), class_id) for pair in pairs]
        shares, counts = oracle(clip) if sum(len(f.true_ids) for f in clip) else ours(clip)
        assert ours(clip)[0] == pytest.approx(shares)
        assert ours(clip)[1] == counts
    cars = ours([tracking_frame(Overlap(*pair), 1) for pair in pairs])
    assert cars[0][0] < 0.8
    assert cars[1][0] > 3


def test_predictions_that_lie_on_ignored_pixels_are_left_out():
    frame = tracking_frame(overlap("111...00SS", "1114445566"), THING)
    assert frame.true_ids.tolist() == [1]
    assert frame.predicted_ids.tolist() == [1, 6]  # 4 lies on void, 5 on a crowd, 6 on sky
    assert frame.similarity.tolist() == [[1, 0]]


def test_small_true_things_are_neither_missed_nor_wrong():
    truth, predicted = segments(packed("1111122SSS")), segments(packed("1111133SSS"), is_truth=False)
    frame = tracking_frame(Overlap(small_as_crowd(truth, {THING}, 3), predicted), THING)
    assert (frame.true_ids.tolist(), frame.predicted_ids.tolist()) == ([1], [1])


def shifted_square(dx: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    a, b = np.zeros((2, 480, 854), bool)
    a[100:300, 200:500] = b[100:300, 200 + dx : 500 + dx] = True
    return a, b


@pytest.mark.parametrize(
    ("dx", "j", "f"),
    [
        (0, 1, 1),
        (4, 0.973684, 1),
        (7, 0.954397, 1),
        (8, 0.948052, 1),
        (9, 0.941748, 0.616),
        (12, 0.923077, 0.610),
        (20, 0.875, 0.594),
    ],
)
def test_j_and_f_of_a_shifted_square(dx, j, f):
    a, b = shifted_square(dx)
    assert jaccard(a, b) == pytest.approx(j, abs=1e-6)
    assert contour_f(a, b, tolerance_px(a.shape)) == pytest.approx(f, abs=6e-4)


def test_the_tolerance_is_a_share_of_the_diagonal():
    assert [tolerance_px(shape) for shape in ((480, 854), (288, 512), (64, 64))] == [8, 5, 1]


def test_j_and_f_of_empty_masks():
    empty, full = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    full[2:5, 2:5] = True
    assert (jaccard(empty, empty), contour_f(empty, empty, 1)) == (1, 1)
    assert (jaccard(empty, full), contour_f(empty, full, 1)) == (0, 0)
    assert (jaccard(full, empty), contour_f(full, empty, 1)) == (0, 0)


def test_statistics_over_frames_are_davis_own():
    assert summarised([k / 10 for k in range(9, -1, -1)]) == pytest.approx((0.45, 0.4, 0.7))
    assert summarised([1.0] * 200 + [0.0] * 200).decay == 1  # more frames than a byte can count


def blob(track: int, at: int, size: tuple[int, int] = (40, 60)) -> NDArray[np.int64]:
    out = np.full(size, SKY * DIVISOR, np.int64)
    out[10:20, at : at + 12] = track
    return out


def frame_of(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> Overlap:
    return Overlap(segments(truth), segments(predicted, is_truth=False))


def test_j_and_f_follow_the_track_of_the_first_frame_and_leave_out_first_and_last():
    jf = RegionContour()
    for k, predicted in enumerate((7, 7, 7, 8, 9)):
        jf.add("a", frame_of(blob(1, 5 + k), blob(predicted, 5 + k)))
    for k in range(3):
        jf.add("b", frame_of(blob(4, 5), blob(1, 5 + 6 * (k == 1))))
    found = jf.statistics()
    assert jf.j["a", 1] == [1, 1, 0, 0]
    assert found["a", 1][0].mean == pytest.approx(2 / 3)
    assert found["b", 4][0].mean == pytest.approx(6 / 18)


@given(maps)
@settings(max_examples=25, deadline=None)
def test_j_and_f_of_cut_out_masks_are_those_of_whole_ones(rng):
    at = rng.integers(0, 48, 4)
    jf = RegionContour()
    jf.add("a", frame_of(blob(1, 3), blob(2, 3)))
    jf.add("a", frame_of(blob(1, int(at[0])), blob(2, int(at[1]))))
    a, b = blob(1, int(at[0])) == 1, blob(2, int(at[1])) == 2
    assert (jf.j["a", 1][0], jf.f["a", 1][0]) == (jaccard(a, b), contour_f(a, b, tolerance_px(a.shape)))


def reidentified(truth: str, predicted: str, hidden: str | None = None, fps: float = 10.0) -> list[list[int]]:
    """One pixel by frame: a digit is that track, S none; `hidden` has x where the truth knows thing 1 to be hidden."""
    counts = Reidentification(fps)
    for k, pair in enumerate(zip(truth, predicted, strict=True)):
        counts.add(overlap(*pair), None if hidden is None else {1} & ({1} if hidden[k] == "x" else set()))
    counts.end_clip()
    return [counts.kept.tolist(), counts.new.tolist(), counts.unseen.tolist()]


NONE = [0, 0, 0, 0]


def test_an_id_is_kept_new_or_not_found():
    assert reidentified("111SSS111", "222SSS222") == [[0, 1, 0, 0], NONE, NONE]
    assert reidentified("111SSS111", "222SSS233") == [[0, 1, 0, 0], NONE, NONE]
    assert reidentified("111SSS111", "222SSSS33") == [NONE, [0, 1, 0, 0], NONE]
    assert reidentified("111SSS111", "SSSSSS333") == [NONE, NONE, [0, 1, 0, 0]]
    assert reidentified("111SSS111", "222SSSSSS") == [NONE, NONE, [0, 1, 0, 0]]


def test_gaps_are_counted_by_how_long_they_are():
    for length, place in ((2, 0), (3, 1), (10, 2), (15, 3)):
        kept = reidentified("1" + "S" * length + "1", "2" + "S" * length + "2")[0]
        assert kept == [int(k == place) for k in range(4)]
    assert reidentified("1" + "S" * 25 + "1", "2" + "S" * 25 + "2") == [NONE, NONE, NONE]


def test_what_left_the_picture_was_not_hidden():
    assert reidentified("1SSS1", "2SSS2", ".xxx.") == [[0, 1, 0, 0], NONE, NONE]
    assert reidentified("1SSS1", "2SSS2", ".xx..") == [NONE, NONE, NONE]


def test_a_thing_of_few_pixels_is_as_good_as_hidden_but_must_be_gone_once():
    for middle, expected in (("1SSSS", 0), ("SSSSS", 1)):
        counts = Reidentification(10.0, least_area=2)
        for row in ("11111", middle, "11111"):
            counts.add(overlap(row, row.replace("1", "2")), None)
        counts.end_clip()
        assert counts.kept.sum() == expected


def test_clips_share_no_gaps():
    counts = Reidentification(10.0)
    for row in ("1S1", "1S1"):
        for pixel in row[:2]:
            counts.add(overlap(pixel, pixel), None)
        counts.end_clip()
    assert counts.kept.sum() + counts.new.sum() + counts.unseen.sum() == 0


def published(track_id: int, quality: float, observed: bool = True) -> dict[int, StoredTrack]:
    return {track_id: StoredTrack(track_id, TrackState.CONFIRMED, observed, quality)}


def test_calibration_compares_quality_with_true_iou():
    calibration = QualityCalibration({THING})
    calibration.add(overlap("1111SS", "2222SS"), published(2, 0.95))
    calibration.add(overlap("1111SS", "22SSSS"), published(2, 0.75, observed=False))
    calibration.add(overlap("1111SS", "SSSS22"), published(2, 0.72, observed=False))
    calibration.end_clip()
    seven, nine = calibration.by_quality()
    assert (seven.masks, seven.predicted, seven.true) == pytest.approx((2, 0.735, 0.25))
    assert (nine.low, nine.masks, nine.true) == pytest.approx((0.9, 1, 1))
    assert calibration.expected_error() == pytest.approx((2 * (0.735 - 0.25) + 0.05) / 3)
    assert [(row.low, row.masks, row.true) for row in calibration.by_age()] == [(0, 1, 1), (1, 1, 0.5), (2, 1, 0)]


def test_calibration_leaves_out_what_can_not_be_judged():
    calibration = QualityCalibration({THING})
    calibration.add(overlap("0000SS..", "2222SSSS"), published(2, 0.9))
    assert calibration.by_quality() == []
    assert math.isnan(calibration.expected_error())


def test_ages_go_on_over_frames_without_the_mask_and_begin_anew_in_a_clip():
    calibration = QualityCalibration({THING})
    for row, observed in (("1S", True), ("SS", False), ("SS", False), ("1S", False)):
        calibration.add(overlap("1S", row), published(1, 1.0, observed))
    calibration.end_clip()
    calibration.add(overlap("1S", "1S"), published(1, 1.0, observed=False))
    assert [(row.low, row.masks) for row in calibration.by_age()] == [(0, 2), (3, 1)]


def test_reliability_by_age_covers_every_age():
    calibration = QualityCalibration({THING})
    for k in range(30):
        calibration.add(overlap("1S", "1S"), published(1, 1.0, observed=k == 0))
    rows = calibration.by_age()
    assert sum(row.masks for row in rows) == 30
    assert all(a.high == b.low for a, b in pairwise(rows))
    assert rows[-1].high == math.inf
