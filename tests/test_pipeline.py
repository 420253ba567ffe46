"""When the network looks, where it does not look at every frame: in a live node, recorded, and in replays."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from perception.build import build_node
from perception.config import Launch, RecordConfig
from perception.errors import ModelError
from perception.pipeline import Pipeline
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.replay.drive import RecordedDrive
from perception.replay.unit import Wishes, replay_drive
from perception.types import Features, Frame, Panoptic, Scene, Validity
from tests.fakes import MASKS, PERIOD_NS, view
from tests.walk import CAR, FEATURES, Walk, noise


@dataclass
class Seeing:
    """A network that sees a car, and fails when told to."""

    fails_at: set[int] = field(default_factory=set)
    looks: int = 0

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        self.looks += 1
        if self.looks in self.fails_at:
            raise ModelError("the inference failed")
        return replace(view(CAR), features=FEATURES)

    def features(self, image: NDArray[np.uint8]) -> Features:
        return FEATURES

    def close(self) -> None:
        """Nothing to release."""


def pipeline(kind: str, model: Seeing, every: int) -> Pipeline:
    iou = IouPropagator(MASKS, LifeCycle())
    return Pipeline(model, iou if kind == "iou" else Walk().propagator, every)  # pyright: ignore[reportArgumentType]


def looked_at(made: Pipeline, frames: list[Frame]) -> tuple[list[int], list[Scene]]:
    """The frames at which the network looked, or tried to, and the scenes of those that did not fail."""
    looked, scenes = [], []
    for i, frame in enumerate(frames):
        with contextlib.suppress(ModelError):
            scenes.append(made.step(frame))
        if made.looked:
            looked.append(i)
    return looked, scenes


def cut_at(first: int, count: int) -> list[Frame]:
    """Frames of a living camera, with a cut before that of number `first`."""
    frames = [noise(i, 1 if i < first else 2) for i in range(count)]
    for frame in frames:
        frame.image[0, 0] = frame.seq
    return frames


@pytest.mark.parametrize("kind", ["iou", "fused"])
def test_the_network_looks_at_once_after_a_cut_and_its_turn_is_counted_from_there(kind: str):
    looked, scenes = looked_at(pipeline(kind, Seeing(), 5), cut_at(7, 20))
    assert looked == [0, 5, 7, 12, 17]
    assert {s.validity for s in scenes} == {Validity.OBSERVED, Validity.PROPAGATED}
    assert all(s.id_map.any() for s in scenes)


@pytest.mark.parametrize("kind", ["iou", "fused"])
@pytest.mark.parametrize("jump_ns", [-4 * PERIOD_NS, 3_000_000_000])
def test_the_network_looks_at_once_after_a_jump_in_time(kind: str, jump_ns: int):
    frames = cut_at(99, 12)
    frames = [replace(f, stamp_ns=f.stamp_ns + (jump_ns if f.seq > 6 else 0)) for f in frames]
    looked, scenes = looked_at(pipeline(kind, Seeing(), 5), frames)
    assert looked == [0, 5, 7]
    assert Validity.FAILED not in {s.validity for s in scenes}


@pytest.mark.parametrize("kind", ["iou", "fused"])
def test_a_look_that_failed_where_nothing_is_known_is_made_up_for_at_the_next_frame(kind: str):
    looked, scenes = looked_at(pipeline(kind, Seeing({1, 2}), 5), cut_at(99, 12))
    assert looked == [0, 1, 2, 7]
    looked, _ = looked_at(pipeline(kind, Seeing({3}), 5), cut_at(7, 20))
    assert looked == [0, 5, 7, 8, 13, 18]
    assert Validity.FAILED not in {s.validity for s in scenes}


@pytest.mark.parametrize("kind", ["iou", "fused"])
def test_while_looks_fail_masks_are_carried(kind: str):
    looked, scenes = looked_at(pipeline(kind, Seeing({2, 3, 4}), 3), cut_at(99, 20))
    assert looked == [0, 3, 6, 9, 12, 15, 18]
    assert len(scenes) == 20 - 3
    assert {s.validity for s in scenes} == {Validity.OBSERVED, Validity.PROPAGATED}


@pytest.mark.parametrize("kind", ["iou", "fused"])
def test_flicker_does_not_make_the_network_look_at_every_frame(kind: str):
    frames = [replace(noise(i, 1 + i % 2), seq=i) for i in range(20)]
    looked, scenes = looked_at(pipeline(kind, Seeing(), 5), frames)
    assert looked == [0, 1, 6, 11, 16]
    assert len({t.track_id for s in scenes for t in s.tracks}) == 2  # of the car, before the first jump and after


def test_without_cuts_the_network_looks_at_every_nth_frame():
    assert looked_at(pipeline("fused", Seeing(), 3), cut_at(99, 10))[0] == [0, 3, 6, 9]
    assert looked_at(pipeline("fused", Seeing(), 1), cut_at(4, 10))[0] == [*range(10)]


def test_where_it_does_not_look_after_a_cut_the_reason_is_true():
    walk = Walk()
    walk.step(view(CAR), frame=noise(0, 1))
    scene = walk.step(None, frame=noise(1, 2))
    assert (scene.validity, scene.reason) == (
        Validity.FAILED, "the network has not looked at any frame of this scene yet"
    )  # fmt: skip


@pytest.fixture
def cut_launch(launch: Launch, tmp_path: Path) -> Launch:
    """A drive of twenty pictures with a cut at the eighth, of which the network looks at every fourth; recorded."""
    folder = tmp_path / "cut"
    folder.mkdir()
    for frame in cut_at(7, 20):
        cv2.imwrite(str(folder / f"{frame.seq:03d}.png"), frame.image)
    return msgspec.structs.replace(
        launch,
        source=msgspec.structs.replace(launch.source, url=str(folder)),
        model=msgspec.structs.replace(launch.model, network_every=4),
        record=RecordConfig(folder=str(tmp_path / "drives"), exact=True, least_free_gb=0),
    )


def looks_in(recording: Path) -> list[int]:
    return [i for i, d in enumerate(RecordedDrive(recording).decisions_between(0, 1 << 62)) if d.network]


def test_a_drive_its_recording_and_all_replays_agree_about_the_looks(
    cut_launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("perception.sinks.recorder.STATE_EVERY_NS", 150_000_000)
    node = build_node(cut_launch)
    node.run()
    node.close()
    recording = next((tmp_path / "drives").iterdir())
    expected = [0, 4, 7, 11, 15, 19]
    assert looks_in(recording) == expected
    again = replay_drive(str(recording), wishes=Wishes("re-enacted"))
    assert again.sameness
    assert again.sameness.is_same
    for name, drive, launch in (("exact", str(recording), None), ("source", cut_launch.source.url, cut_launch)):
        first = replay_drive(drive, launch, tmp_path / name)
        assert looks_in(tmp_path / name) == expected
        assert replay_drive(drive, launch).digest == first.digest
    half_s = 0.5  # from a kept state
    replay_drive(str(recording), None, tmp_path / "late", Wishes(begin_s=half_s))
    late = [d.frame_seq for d in RecordedDrive(tmp_path / "late").decisions_between(0, 1 << 62) if d.network]
    assert late == [seq for seq in expected if seq >= min(late)]
