"""Clips of several classes of things: numbers that are each class's own, merged classes, given truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from perception.cli.evaluate import clip_launch
from perception.evaluation.classes import scored_classes
from perception.evaluation.clips import open_clips
from perception.evaluation.command_clips import ClipWishes, evaluate_clips
from perception.evaluation.predict_clips import Stepping, step_clips
from perception.evaluation.stored import About, read_prediction, write_about, write_picture, write_tracks
from perception.types import Features, Panoptic, Track, TrackState
from tests.fakes import MASKS, FakeCarrier, view
from tests.walk import FEATURES, Walk

NAMES, SKY, POLE, CAR, PERSON = ("sky", "pole", "car", "person"), 0, 1, 2, 3
THINGS = ("car", "person")
CLASSES = scored_classes(NAMES, THINGS)
WIDTH, HEIGHT = MASKS
SIZE = (HEIGHT, WIDTH)
FRAMES, HIDDEN = 12, range(4, 7)


def numbered_frame(i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Class map and instances of frame i: car 1, and person 1, who is behind something in the frames HIDDEN."""
    labels, instances = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint16)
    labels[:8, 30:34] = POLE
    labels[10:20, 4 + i : 14 + i], instances[10:20, 4 + i : 14 + i] = CAR, 1
    if i not in HIDDEN:
        labels[10:26, 40:48], instances[10:26, 40:48] = PERSON, 1
    return labels, instances


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """One clip whose instance numbers are each class's own, as those of Cityscapes and KITTI-STEP."""
    root = tmp_path / "clips"
    for i in range(FRAMES):
        labels, instances = numbered_frame(i)
        planes = (("images", np.dstack([labels * 60] * 3)), ("labels", labels), ("instances", instances))
        for folder, picture in planes:
            write_picture(root / folder / "a" / f"{i:03d}.png", picture)
    return root


@pytest.fixture
def perfect(tmp_path: Path) -> Path:
    """Predictions of these clips that are their truth; car and person have the ids 11 and 22."""
    kept = tmp_path / "kept"
    for i in range(FRAMES):
        labels, instances = numbered_frame(i)
        tracks = [Track(k, c, TrackState.CONFIRMED, 1.0, (0, 0, 1, 1), 0, 0) for k, c in ((11, CAR), (22, PERSON))]
        id_map = np.where(labels == PERSON, 2 * instances, instances).astype(np.uint16)
        write_tracks(kept, f"a/{i:03d}", labels, id_map, tracks, MASKS)
    write_about(kept, About(NAMES, THINGS, "made", "none", "memory", given=True))
    return kept


def scored(clips: Path, kept: Path, *merge: str) -> dict:
    return evaluate_clips(clips, None, kept, ClipWishes(clip_launch("iou"), merge), lambda *_: None)


@pytest.mark.parametrize("merge", [(), ("person=car",), ("person=car", "pole=sky")])
def test_a_perfect_prediction_of_things_numbered_by_class_scores_one(clips, perfect, merge):
    result = scored(clips, perfect, *merge)
    assert (result["j_and_f"]["objects"], result["j_and_f"]["j_and_f"]) == (2, 1)
    assert result["ids"] == {"true": 2, "predicted": 2}
    assert (result["stq"]["stq"], result["vpq"]["all"]) == (1, 1)
    tracking = result["tracking"]
    assert (tracking["idf1"], tracking["hota"], tracking["idsw"]) == (1, 1, 0)
    fates = result["reidentification"]["all"]
    assert (fates["kept"], fates["new"], fates["unseen"]) == (1, 0, 0)


SHARES = {"idf1", "idp", "idr", "mota", "motp", "hota", "deta", "assa", "loca"}


def test_a_class_in_neither_truth_nor_prediction_has_no_tracking_figures(clips, perfect):
    for i in range(FRAMES):  # nobody walks there, and nobody is seen
        for folder in (clips, perfect):
            blank(folder, f"a/{i:03d}", PERSON)
    result = scored(clips, perfect)
    person, car = (result["tracking"]["by_class"][name] for name in ("person", "car"))
    assert {key for key in SHARES if person[key] is None} == SHARES
    assert (person["tp"], person["fp"], person["fn"]) == (0, 0, 0)
    assert (car["idf1"], car["hota"], result["tracking"]["idf1"]) == (1, 1, 1)


@pytest.mark.parametrize(("emptied", "none"), [("truth", {"idr", "mota", "motp", "loca"}), ("found", {"motp", "loca"})])
def test_a_class_in_only_one_of_them_scores_zero(clips, perfect, emptied, none):
    for i in range(FRAMES):
        blank(clips if emptied == "truth" else perfect, f"a/{i:03d}", PERSON)
    person = scored(clips, perfect)["tracking"]["by_class"]["person"]
    assert {key for key in SHARES if person[key] is None} == none
    assert {key for key in SHARES - none if person[key]} == set()


def blank(folder: Path, name: str, class_id: int) -> None:
    """Take every thing of a class out of one frame of a truth, or of a prediction."""
    planes = {part: folder / part / f"{name}.png" for part in ("labels", "instances")}
    labels, instances = (np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)) for path in planes.values())
    instances[labels == class_id] = 0
    labels[labels == class_id] = SKY
    write_picture(planes["labels"], labels)
    write_picture(planes["instances"], instances)
    listed = folder / "segments" / f"{name}.json"
    if listed.is_file():
        listed.write_text(json.dumps([row for row in json.loads(listed.read_text()) if row["class_id"] != class_id]))


def test_masks_that_only_overlap_a_little_have_a_location(clips, perfect):
    """LocA counts pairs from IoU 0.05 on, so it is there where nothing reaches the 0.5 that MOTP asks for."""
    for i in range(FRAMES):
        path = perfect / "instances" / "a" / f"{i:03d}.png"
        instances = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        instances[13:] = 0
        write_picture(path, instances)
    tracking = scored(clips, perfect)["tracking"]
    assert (tracking["tp"], tracking["motp"]) == (0, None)
    alphas = np.arange(0.05, 0.99, 0.05)
    assert tracking["by_class"]["car"]["loca"] == round(float(np.where(alphas <= 0.3, 0.3, 1).mean()), 4)


class Blind:
    """A network that sees nothing, and gives features."""

    mask_size: tuple[int, int] = MASKS

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        return replace(view(), features=FEATURES)

    def features(self, image: NDArray[np.uint8]) -> Features:
        return FEATURES

    def close(self) -> None:
        """Nothing is held open."""


def step_given(data: Path, kept: Path, slots: int = 32) -> None:
    """Step through clips whose first frame is given, with a fused propagator of so many slots."""
    found = open_clips(data, CLASSES, None)
    propagator = Walk(FakeCarrier(slots)).propagator
    step_clips(Blind(), propagator, found, Stepping(clip_launch("memory", 100), given=True), kept, lambda *_: None)
    write_about(kept, About(NAMES, THINGS, "made", "none", "memory", 100, True))


def test_given_things_that_can_not_be_prompted_are_sightings(clips, tmp_path):
    labels, instances = numbered_frame(0)
    labels[50:52, 100:103], instances[50:52, 100:103] = PERSON, 2  # 6 px: too small to be prompted
    write_picture(clips / "labels" / "a" / "000.png", labels)
    write_picture(clips / "instances" / "a" / "000.png", instances)
    for slots in (32, 2, 1):  # and fewer slots than things
        step_given(clips, tmp_path / str(slots), slots)
        first = read_prediction(tmp_path / str(slots), "a/000", len(NAMES))
        assert sorted(c for c, _ in first.segments.values()) == [CAR, PERSON, PERSON]
        assert scored(clips, tmp_path / str(slots))["j_and_f"]["objects"] == 3


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences of five pictures of 4:3 with objects that stand still; in `b` the third is of 4 px."""
    root = tmp_path / "davis"
    for sequence in ("a", "b"):
        for i in range(5):
            objects = np.zeros((48, 64), np.uint8)
            objects[6:24, 8:24], objects[24:42, 40:56] = 1, 2
            if sequence == "b":
                objects[44:46, 4:6] = 3
            write_picture(root / "Annotations" / sequence / f"{i:05d}.png", objects)
            write_picture(root / "JPEGImages" / sequence / f"{i:05d}.jpg", objects)
    return root


def test_masks_of_pictures_of_any_ratio_are_prompts(davis, tmp_path):
    step_given(davis, tmp_path / "kept")
    assert scored(davis, tmp_path / "kept")["j_and_f"]["by_clip"]["a"]["j_and_f"] > 0.99


def test_objects_that_can_not_be_prompted_count_as_never_found(davis, tmp_path, caplog):
    step_given(davis, tmp_path / "kept")
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("clip b: the object at 4,44,6,46 can't be followed and counts as never found: ")
    assert len(read_prediction(tmp_path / "kept", "b/00000", len(NAMES)).segments) == 2
    by_clip = scored(davis, tmp_path / "kept")["j_and_f"]["by_clip"]
    assert by_clip["b"]["objects"] == 3
    assert by_clip["b"]["j"] == pytest.approx(2 / 3, abs=0.005)


def test_objects_beyond_the_slots_count_as_never_found(davis, tmp_path, caplog):
    step_given(davis, tmp_path / "kept", slots=1)
    assert [record.getMessage()[:6] for record in caplog.records] == ["clip a", "clip b"]
    assert "the objects at 40,24,56,42 and 4,44,6,46 can't be followed and count" in caplog.records[1].getMessage()
    by_clip = scored(davis, tmp_path / "kept")["j_and_f"]["by_clip"]
    assert [by_clip[clip]["j"] for clip in "ab"] == pytest.approx([1 / 2, 1 / 3], abs=0.005)
