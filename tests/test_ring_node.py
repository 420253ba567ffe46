"""A node that keeps only its last seconds, and what makes it save them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from perception.build import build_node
from perception.client import Control
from perception.config import Launch, RecordConfig
from perception.display import recording
from perception.drives.recording import open_recording
from perception.errors import PromptError
from perception.replay.unit import Wishes, replay_drive
from perception.switches import SwitchWatch
from perception.types import TrackEvent, TrackState
from tests.published import eventually, frame, scene
from tests.recorded_run import live_launch, reach
from tests.test_node import running


@pytest.fixture
def ring(tmp_path) -> RecordConfig:
    (tmp_path / "socket").mkdir(mode=0o700)
    return RecordConfig(folder=str(tmp_path / "drives"), exact=True, ring_s=1.0, after_s=0.2, least_free_gb=0)


def test_the_display_says_what_saves_the_ring(ring):
    told = recording(Path("here"), Launch(version=1, record=ring))
    assert told == (
        "keeping the last 1 s in memory; what saves them into here: trouble, a suspected id switch, SIGUSR1, "
        "perception save"
    )


def saved(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "drives").glob("*/trigger-*") if any(path.glob("*.mcap")))


def test_a_control_request_saves_the_ring_and_it_can_be_re_enacted(tmp_path, ring):
    launch = live_launch(tmp_path, ring)
    node = build_node(launch)
    with running(node):
        reach(node, 40)
        Control(launch.control.endpoint or "").save("near miss")
        reach(node, node.pulse.frames + 60)
    [recording] = saved(tmp_path)
    assert "near-miss" in recording.name
    done = replay_drive(str(recording), wishes=Wishes("re-enacted"))
    assert done.sameness is not None
    assert (done.sameness.different, done.sameness.not_recorded) == (0, 0)
    assert done.sameness.same > 0


def test_without_a_ring_there_is_nothing_to_save(tmp_path, ring):
    launch = live_launch(tmp_path, msgspec.structs.replace(ring, ring_s=0.0))
    node = build_node(launch)
    with running(node):
        reach(node, 5)
        with pytest.raises(PromptError, match="set ring_s"):
            Control(launch.control.endpoint or "").save()


def test_a_signal_saves_the_ring(tmp_path, ring):
    launch = live_launch(tmp_path, ring)
    file = tmp_path / "launch.toml"
    file.write_text(
        f'version = 1\ntopics = ["road"]\n[source]\nurl = "{launch.source.url}"\n'
        f'[model]\npath = "{launch.model.path}"\nengine = "onnxruntime"\nthreads = 1\n[tracking]\nkind = "iou"\n'
        f'[publish]\nendpoints = ["{launch.publish.endpoints[0]}"]\n[control]\nendpoint = ""\n'
        f'[record]\nfolder = "{ring.folder}"\nring_s = 1.0\nafter_s = 0.2\nleast_free_gb = 0\n'
    )
    command = [sys.executable, "-m", "perception.cli", "run", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "frame 0" in line or line.startswith("frame "):
                break
        process.send_signal(signal.SIGUSR1)
        try:
            assert eventually(lambda: saved(tmp_path), 15)
        finally:
            process.terminate()
            process.communicate(timeout=15)
    assert "signal" in saved(tmp_path)[0].name


def test_a_worse_health_saves_the_ring(tmp_path, ring):
    launch = live_launch(tmp_path, ring)
    node = build_node(launch)
    with running(node):
        reach(node, 20)
        camera = [child.pid for child in psutil.Process().children() if "camera.py" in " ".join(child.cmdline())]
        for pid in camera:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert eventually(lambda: saved(tmp_path), 10)
        finally:
            for pid in camera:
                with contextlib.suppress(ProcessLookupError):  # the node opens its camera anew
                    os.kill(pid, signal.SIGCONT)
    assert "no-input" in saved(tmp_path)[0].name
    with contextlib.closing(open_recording(saved(tmp_path)[0])) as recording:
        assert recording.channels["/front/image"].count


def shown(watch: SwitchWatch, at_ns: int, track_id: int, state: TrackState, first_ns: int) -> None:
    """One frame with one track, at the same place as ever."""
    base = scene(1, stamp_ns=at_ns)
    told = next(t for t in base.tracks if (base.id_map == base.tracks.index(t) + 1).any())
    track = dataclasses.replace(told, track_id=track_id, state=state, first_ns=first_ns)
    events = (TrackEvent(track_id, track.class_id, state, "", at_ns),)
    place = base.tracks.index(told) + 1
    id_map = (base.id_map == place).astype(base.id_map.dtype)
    watch.send(frame(), dataclasses.replace(base, stamp_ns=at_ns, tracks=(track,), id_map=id_map, events=events))


def test_a_new_track_where_one_vanished_is_a_suspected_switch():
    said: list[str] = []
    watch = SwitchWatch(said.append)
    shown(watch, 0, 7, TrackState.CONFIRMED, 0)
    shown(watch, 100_000_000, 9, TrackState.TENTATIVE, 100_000_000)
    assert said == []
    shown(watch, 200_000_000, 9, TrackState.CONFIRMED, 100_000_000)
    assert said == ["id switch 7 to 9"]


def test_a_new_track_long_after_is_no_switch():
    said: list[str] = []
    watch = SwitchWatch(said.append)
    shown(watch, 0, 7, TrackState.CONFIRMED, 0)
    shown(watch, 3_000_000_000, 9, TrackState.CONFIRMED, 3_000_000_000)
    assert said == []
