"""log.csv, TensorBoard's events and the curves, on a disk that is full now and then too."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from perception.evaluation.segmentation import Confusion
from perception.opencv import cv2
from perception.training.records import Records, score_columns
from tests.training_fakes import no_file_beyond

CLASSES = ("road", "car")


def confusion(classes: int = 2) -> Confusion:
    found = Confusion(classes)
    labels = np.arange(classes, dtype=np.uint8)[None]
    found.add(labels, labels)
    return found


def recorded(run: Path, first: int, last: int, classes: tuple[str, ...] = CLASSES) -> Records:
    """A row for each of the steps first..last."""
    records = Records(run, classes, ["ce"], first - 1, 4)
    for step in range(first, last + 1):
        row(records, step)
    return records


def row(records: Records, step: int, score: Confusion | None = None) -> None:
    records.add(step, {"loss": 1.0 / step, "ce": 1.0, "learning_rate": 0.1})
    records.write(score)


def steps_of(run: Path) -> list[int]:
    return [int(r["step"]) for r in csv.DictReader((run / "log.csv").read_text().splitlines())]


def events_of(run: Path, tag: str = "training/loss") -> list[int]:
    """As TensorBoard itself reads them."""
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return [event.step for event in found.Scalars(tag)]


def test_a_resumed_run_has_each_step_once(tmp_path):
    recorded(tmp_path, 1, 5)
    recorded(tmp_path, 4, 6)
    assert steps_of(tmp_path) == events_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_disk_that_is_full_for_a_while_costs_nothing_but_two_warnings(tmp_path, caplog):
    records = recorded(tmp_path, 1, 2)
    with no_file_beyond((tmp_path / "log.csv").stat().st_size + 10):  # the next row is cut off
        for step in (3, 4):
            row(records, step)
    assert [r.message.split(": ", 1)[1][:40] for r in caplog.records] == [
        "can't be written: file too large; its ro",
        "TensorBoard's events can't be written: f",
    ]
    row(records, 5)
    assert steps_of(tmp_path) == events_of(tmp_path) == [1, 2, 3, 4, 5]


def test_a_disk_that_is_full_at_the_start_leaves_what_is_there(tmp_path, caplog):
    recorded(tmp_path, 1, 3)
    with no_file_beyond(0):
        records = recorded(tmp_path, 4, 5)
    assert steps_of(tmp_path) == [1, 2, 3]
    assert len(caplog.records) == 2
    row(records, 6)
    assert steps_of(tmp_path) == events_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_curves_are_whole_or_those_before(tmp_path, caplog):
    records = recorded(tmp_path, 1, 2)
    row(records, 3, confusion())
    before = (tmp_path / "curves.png").read_bytes()
    assert cv2.imread(str(tmp_path / "curves.png")) is not None
    with no_file_beyond(len(before) // 2):
        row(records, 4, confusion())
    assert "curves.png: can't be written: file too large" in caplog.text
    assert (tmp_path / "curves.png").read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    assert steps_of(tmp_path) == events_of(tmp_path) == [1, 2, 3, 4]


def test_a_row_that_is_not_of_numbers_is_left_out(tmp_path):
    recorded(tmp_path, 1, 2)
    with (tmp_path / "log.csv").open("a") as f:
        f.write("3,0.75,0.1.2" + "," * 13 + "\n4,0.5")
    records = recorded(tmp_path, 5, 5)
    row(records, 6, confusion())
    assert steps_of(tmp_path) == [1, 2, 5, 6]


def test_a_class_called_like_a_column_has_one_of_its_own(tmp_path):
    classes = ("step", "loss", "centre", "miou", "a $b$ c$", "iou/loss")
    records = recorded(tmp_path, 1, 1, classes)
    row(records, 2, confusion(len(classes)))
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert (rows[1]["step"], rows[1]["loss"], rows[1]["iou/step"], rows[1]["iou/loss"]) == ("2", "0.5", "1.0", "1.0")
    assert events_of(tmp_path, "validation/iou/step") == [2]
    assert (tmp_path / "curves.png").exists()
    assert score_columns(classes, ["step", "loss"])[-1] == "iou/iou/loss"
    assert score_columns(CLASSES, ["step", "loss"]) == CLASSES
