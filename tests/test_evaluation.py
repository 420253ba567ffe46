from __future__ import annotations

import numpy as np
import pytest

from perception.errors import ConfigError
from perception.evaluation.command import merge_classes
from perception.evaluation.segmentation import Confusion


def counted(truth: list[int], predicted: list[int], classes: int = 3) -> Confusion:
    confusion = Confusion(classes)
    confusion.add(np.array([truth], np.uint8), np.array([predicted], np.uint8))
    return confusion


def test_iou_by_hand():
    confusion = counted([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0])
    assert confusion.iou() == pytest.approx([1 / 3, 2 / 3, 1 / 2])
    assert confusion.mean_iou() == pytest.approx(0.5)
    assert confusion.pixel_accuracy() == pytest.approx(4 / 6)


def test_ignored_truth_counts_nowhere():
    assert counted([0, 255, 1], [0, 2, 1]).mean_iou() == 1.0


def test_a_predicted_void_on_a_labelled_pixel_is_a_miss():
    assert counted([0, 0, 1, 1], [0, 255, 1, 1]).iou()[:2] == pytest.approx([0.5, 1.0])


def test_a_class_in_neither_is_left_out_of_the_mean():
    assert np.isnan(counted([0, 1], [0, 1]).iou()[2])


def test_one_matrix_over_the_set_is_not_the_mean_of_images():
    confusion = counted([0, 0, 0, 1], [0, 0, 0, 0])
    confusion.add(np.array([[1, 1]], np.uint8), np.array([[1, 1]], np.uint8))
    assert confusion.iou()[:2] == pytest.approx([3 / 4, 2 / 3])


def test_merging_classes_equals_relabelling_before_counting():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (50, 50)).astype(np.uint8)
    predicted = rng.choice([0, 1, 2, 3, 255], (50, 50)).astype(np.uint8)
    fine = Confusion(4)
    fine.add(truth, predicted)
    merged, names = merge_classes(fine, ("sky", "road", "car", "lane"), ["lane=road"])
    lut = np.arange(256, dtype=np.uint8)
    lut[3] = 1
    coarse = Confusion(3)
    coarse.add(lut[truth], lut[predicted])
    assert names == ("sky", "road", "car")
    assert (merged.counts == coarse.counts).all()


def test_merging_an_unknown_class_names_the_known_ones():
    with pytest.raises(ConfigError, match="sky, road"):
        merge_classes(Confusion(2), ("sky", "road"), ["lane=road"])
