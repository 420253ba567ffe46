"""A failing drive, cut down to what fails."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from perception.config import TrackingConfig
from perception.drives.recording import open_recording
from perception.errors import ConfigError, PerceptionError
from perception.fleet.run import Wishes, drives_of, tasks_of
from perception.fleet.shrink import MOST_REPLAYS, Shrunk, shrink
from perception.fleet.task import Stages
from tests.fleet_fakes import PERIOD_NS, held, picture_drive, recording, tiny_launch, wishes

PERIOD_S = PERIOD_NS / 1e9


def shrunk(folder: Path, asked: Wishes, what: str = "drives", tries: Wishes | None = None) -> Shrunk:
    """What is left of the only drive of a set; `tries`: how its parts are replayed, where it is not as the whole."""
    drives = drives_of([str(folder / what)], asked)
    (verdict,) = held(folder, what, **{name: getattr(asked, name) for name in ("launch", "level")}).values()
    with contextlib.closing(Stages()) as stages:
        return shrink(verdict, tasks_of(drives, tries or asked)[0], stages, asked.out, lambda what, done, total: None)


def forgetful(folder: Path) -> Wishes:
    """The same network, and a tracker that has forgotten a thing after two frames."""
    import msgspec

    asked = wishes(folder)
    assert asked.launch is not None
    launch = msgspec.structs.replace(asked.launch, tracking=TrackingConfig(kind="iou", lost_for_s=0.05))
    return wishes(folder, launch=launch, level="tight")


def test_what_fails_in_one_frame_is_cut_to_one_frame(tmp_path: Path):
    recording(tmp_path / "drives" / "tunnel.mcap", 60, hidden=range(40))
    held(tmp_path, accepts=True)
    found = shrunk(tmp_path, wishes(tmp_path, "blind"))
    assert found.begin_s < 40 * PERIOD_S < found.end_s < 41 * PERIOD_S
    assert found.verdict.status == "differs"
    cut = open_recording(tmp_path / "out" / "shrunk-tunnel.mcap")
    assert cut.channels["/front/image"].count == 1


def test_what_needs_the_frames_before_keeps_them(tmp_path: Path):
    recording(tmp_path / "drives" / "tunnel.mcap", 120, hidden=range(80, 84))
    tiny_launch(tmp_path)
    held(tmp_path, accepts=True)
    found = shrunk(tmp_path, forgetful(tmp_path))
    assert "id" in found.finding
    assert found.begin_s <= 79 * PERIOD_S  # the thing has to be seen before it is lost
    assert found.begin_s > 60 * PERIOD_S
    assert found.end_s == pytest.approx(84 * PERIOD_S, abs=0.01)
    assert found.verdict.status == "differs"
    assert found.replays <= MOST_REPLAYS


def test_a_part_of_pictures_is_named_by_its_times(tmp_path: Path):
    picture_drive(tmp_path / "drives" / "walk", frames=20)
    held(tmp_path, accepts=True)
    found = shrunk(tmp_path, wishes(tmp_path, "blind"))
    assert "walk?from=" in found.drive.shown
    assert found.verdict.status == "differs"


def test_a_part_of_a_part_lies_within_it(tmp_path: Path):
    picture_drive(tmp_path / "drives" / "walk", frames=20)
    (tmp_path / "set.txt").write_text("drives/walk?from=0.2&fps=30&to=0.5\n")
    held(tmp_path, "set.txt", accepts=True)
    found = shrunk(tmp_path, wishes(tmp_path, "blind"), "set.txt")
    assert found.drive.shown.endswith("walk?fps=30&from=0.200000&to=0.200500")
    assert found.begin_s == 0.2
    assert found.verdict.status == "differs"


def test_parts_that_can_not_be_replayed_do_not_pass(tmp_path: Path):
    picture_drive(tmp_path / "drives" / "walk", frames=20)
    held(tmp_path, accepts=True)
    with pytest.raises(PerceptionError, match="gone"):
        shrunk(tmp_path, wishes(tmp_path, "blind"), tries=wishes(tmp_path, "gone"))
    assert not list((tmp_path / "out").glob("shr*"))


def test_a_drive_that_is_the_same_is_not_shrunk(tmp_path: Path):
    recording(tmp_path / "drives" / "tunnel.mcap", 6)
    held(tmp_path, accepts=True)
    with pytest.raises(ConfigError, match="only a drive that differs"):
        shrunk(tmp_path, wishes(tmp_path))


def test_nothing_is_left_of_the_search(tmp_path: Path):
    recording(tmp_path / "drives" / "tunnel.mcap", 30, hidden=range(10))
    held(tmp_path, accepts=True)
    shrunk(tmp_path, wishes(tmp_path, "blind"))
    assert not (tmp_path / "out" / "shrinking").exists()
    shutil.rmtree(tmp_path / "out" / "shrunk-reference")
