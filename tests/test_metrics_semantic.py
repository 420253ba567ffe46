"""IoU, Dice, boundary F and flicker: hand-computed cases and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.evaluation.boundary import BoundaryF
from perception.evaluation.flicker import Flicker, follows
from perception.evaluation.segmentation import IGNORE, Confusion, image_dice


def row(*labels: int) -> NDArray[np.uint8]:
    return np.array([labels], np.uint8)


def counted(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int = 3) -> Confusion:
    confusion = Confusion(classes)
    confusion.add(truth, predicted)
    return confusion


def test_iou_by_hand():
    confusion = counted(row(0, 0, 1, 1, 2, 2), row(0, 1, 1, 1, 2, 0))
    assert confusion.iou() == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert confusion.mean_iou() == pytest.approx(0.5)
    assert confusion.pixel_accuracy() == pytest.approx(4 / 6)


def test_dice_by_hand():
    assert counted(row(0, 0, 1, 1, 2, 2), row(0, 1, 1, 1, 2, 0)).dice() == pytest.approx([1 / 2, 4 / 5, 2 / 3])


def test_dice_is_two_iou_over_one_plus_iou():
    rng = np.random.default_rng(1)
    confusion = counted(*rng.integers(0, 3, (2, 9, 9)).astype(np.uint8))
    iou = confusion.iou()
    assert confusion.dice() == pytest.approx(2 * iou / (1 + iou))


def test_dice_of_one_image_is_one_where_both_are_empty_and_zero_where_one_is():
    assert image_dice(row(0, 0), row(0, 2), 4) == pytest.approx([2 / 3, 1, 0, 1])


def test_dice_over_a_set_leaves_out_a_class_in_neither():
    assert np.isnan(counted(row(0, 1), row(0, 1)).dice()[2])


def test_ignored_truth_counts_nowhere():
    confusion = counted(row(0, IGNORE, 1), row(0, 2, 1))
    assert confusion.mean_iou() == 1.0
    assert np.nanmean(confusion.dice()) == 1.0


def test_a_predicted_void_on_a_labelled_pixel_is_a_miss():
    assert counted(row(0, 0, 1, 1), row(0, IGNORE, 1, 1)).iou()[:2] == pytest.approx([0.5, 1.0])


def test_a_class_in_neither_is_left_out_of_the_mean():
    assert np.isnan(counted(row(0, 1), row(0, 1)).iou()[2])


def test_one_matrix_over_the_set_is_not_the_mean_of_images():
    confusion = counted(row(0, 0, 0, 1), row(0, 0, 0, 0))
    confusion.add(row(1, 1), row(1, 1))
    assert confusion.iou()[:2] == pytest.approx([3 / 4, 2 / 3])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_iou_and_dice_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.choice([0, 1, 2, IGNORE], (2, 6, 7)).astype(np.uint8)
    confusion = counted(truth, predicted)
    for c in range(3):
        t, p = (truth == c), (predicted == c) & (truth != IGNORE)
        assert confusion.iou()[c] == pytest.approx((t & p).sum() / (t | p).sum())
        assert confusion.dice()[c] == pytest.approx(2 * (t & p).sum() / (t.sum() + p.sum()))


def boundary_f(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int = 2) -> NDArray[np.float64]:
    boundary = BoundaryF(classes)
    boundary.add(truth, predicted)
    return boundary.f()


def square(shift: int) -> NDArray[np.uint8]:
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 15 + shift : 45 + shift] = 1
    return labels


def test_equal_maps_have_boundary_f_one():
    assert (boundary_f(square(0), square(0)) == 1).all()


@pytest.mark.parametrize(("shift", "at"), [(1, 0), (2, 1), (4, 2)])
def test_a_shift_within_the_tolerance_costs_nothing_and_beyond_it_does(shift, at):
    f = boundary_f(square(0), square(shift))[:, 1]
    assert (f[at:] == 1).all()
    assert (f[:at] < 1).all()


def test_boundary_f_of_a_bar_by_hand():
    truth, predicted = np.zeros((2, 1, 20), np.uint8)
    truth[0, 5:10], predicted[0, 5:13] = 1, 1
    # Ends at 5 and 9 in the truth, at 5 and 12 in the prediction: one of two meets at 1 and 2 px, both at 4 px.
    assert boundary_f(truth, predicted)[:, 1] == pytest.approx([0.5, 0.5, 1])


def test_a_class_on_one_side_only_has_boundary_f_zero_and_in_neither_nan():
    f = boundary_f(square(0), np.zeros((40, 60), np.uint8), classes=3)
    assert (f[:, :2] == 0).all()
    assert np.isnan(f[:, 2]).all()


def test_the_border_of_the_image_and_of_the_ignored_is_no_boundary():
    truth = row(0, 0, 0, IGNORE, 1, 1)
    boundary = BoundaryF(2)
    boundary.add(truth, truth)
    assert boundary.counted[1].tolist() == [0, 0]


def test_boundary_pixels_next_to_the_ignored_are_not_counted():
    truth = np.zeros((9, 9), np.uint8)
    truth[:, 5:] = 1
    truth[:3] = IGNORE
    predicted = truth.copy()
    predicted[:3] = 0
    predicted[3, 4] = 1  # wrong, and so is what was predicted on the ignored rows
    boundary = BoundaryF(2)
    boundary.add(truth, predicted)
    assert boundary.counted[1].tolist() == [5, 5]
    assert (boundary.f() == 1).all()


def test_boundary_counts_are_pooled_over_the_set():
    boundary = BoundaryF(2)
    boundary.add(square(0), square(0))
    boundary.add(square(0), np.zeros((40, 60), np.uint8))
    assert boundary.f()[0, 1] == pytest.approx(2 * 1 * 0.5 / 1.5)


def brute_boundary_f(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], c: int, tolerance: float) -> float:
    """The docstring's words, pixel by pixel."""
    h, w = truth.shape

    def around(y: int, x: int, eight: bool) -> list[tuple[int, int]]:
        steps = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a or b) and (eight or not (a and b))]
        return [(y + a, x + b) for a, b in steps if 0 <= y + a < h and 0 <= x + b < w]

    def boundary(m: NDArray[np.uint8], unknown: int) -> set[tuple[int, int]]:
        pixels = zip(*np.nonzero(m == c), strict=True)
        return {
            (int(y), int(x)) for y, x in pixels if any(m[q] not in (c, unknown) for q in around(int(y), int(x), False))
        }

    def countable(p: tuple[int, int]) -> bool:
        return all(truth[q] != IGNORE for q in [p, *around(*p, True)])

    t, p = boundary(truth, IGNORE), boundary(predicted, -1)

    def share(of: set[tuple[int, int]], to: set[tuple[int, int]]) -> tuple[int, int]:
        mine = [q for q in of if countable(q)]
        return sum(any(np.hypot(a - y, b - x) <= tolerance for a, b in to) for y, x in mine), len(mine)

    (hit_p, n_p), (hit_t, n_t) = share(p, t), share(t, p)
    if not n_p + n_t:
        return float("nan")
    precision, recall = hit_p / max(1, n_p), hit_t / max(1, n_t)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_boundary_f_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, 1, 1, 2, IGNORE], (2, 3, 4)).astype(np.uint8)
    truth, predicted = (np.repeat(np.repeat(m, 4, 0), 4, 1)[:11, :13] for m in coarse)
    f = boundary_f(truth, predicted, classes=3)
    for c in range(3):
        expected = [brute_boundary_f(truth, predicted, c, t) for t in (1, 2, 4)]
        assert f[:, c] == pytest.approx(expected, nan_ok=True)


def test_flicker_by_hand():
    flicker = Flicker(2)
    flicker.add(row(0, 0, 0, 1, IGNORE), row(0, 0, 1, 1, 0), follows=False)
    flicker.add(row(0, 0, 0, 0, IGNORE), row(0, 1, 1, 0, 1), follows=True)
    # Steady are the first three; the second changes, the third is wrong in both and stays.
    assert flicker.overall() == pytest.approx(1 / 3)
    assert flicker.by_class() == pytest.approx([1 / 3, np.nan], nan_ok=True)


def test_flicker_by_class_follows_the_truth():
    flicker = Flicker(2)
    flicker.add(row(0, 0, 1, 1), row(0, 0, 1, 1), follows=False)
    flicker.add(row(0, 0, 1, 1), row(0, 0, 1, 0), follows=True)
    assert flicker.by_class() == pytest.approx([0, 0.5])
    assert flicker.overall() == pytest.approx(0.25)


def test_flicker_does_not_compare_across_clips():
    flicker = Flicker(2)
    flicker.add(row(0, 0), row(0, 0), follows=False)
    flicker.add(row(0, 0), row(1, 1), follows=False)
    assert flicker.pairs == 0
    assert np.isnan(flicker.overall())


def test_flicker_equals_brute_force():
    rng = np.random.default_rng(3)
    truth = rng.choice([0, 1, IGNORE], (4, 5, 6), p=[0.5, 0.4, 0.1]).astype(np.uint8)
    predicted = rng.choice([0, 1, IGNORE], truth.shape).astype(np.uint8)
    flicker = Flicker(2)
    for i in range(4):
        flicker.add(truth[i], predicted[i], follows=i > 0)
    pairs = [(i, y, x) for i in range(3) for y in range(5) for x in range(6)]
    steady = [p for p in pairs if truth[p] == truth[p[0] + 1, p[1], p[2]] != IGNORE]
    changed = [p for p in steady if predicted[p] != predicted[p[0] + 1, p[1], p[2]]]
    assert flicker.overall() == pytest.approx(len(changed) / len(steady))


def test_frames_follow_by_the_usual_step_of_their_numbers():
    assert follows(["a_02", "a_04", "a_06", "a_10", "a_12", "b_14", "b_16"]) == [
        *(False, True, True, False, True),
        *(False, True),
    ]


def test_frames_without_numbers_follow_in_order():
    assert follows(["one", "three", "two"]) == [False, True, True]


def test_frames_follow_only_forwards():
    assert follows(["a/10", "a/9", "a/8"]) == [False] * 3
    assert follows(["a/9", "a/10", "a/10"]) == [False, True, False]
    assert follows(["a/frame", "a/frame1", "a/frame2"]) == [False, False, True]


def test_a_single_frame_follows_nothing():
    assert follows(["only"]) == [False]
