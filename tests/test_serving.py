"""Which engine serves: built, held against the reference, taken, left and tried again. No GPU was used: two CPU engines
play the roles, the plans of `tests.plan_fakes` that of TensorRT's; files, child processes and sockets are real."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from perception.build import build_node, build_pipeline, check_launch, open_model
from perception.build.serving import Ways, build_serving
from perception.client import subscribe
from perception.config import Launch, ModelConfig, PublishConfig, RecordConfig, SourceConfig, TrackingConfig
from perception.engines.building import build, key_of
from perception.engines.cache import PlanCache
from perception.engines.child_build import Cancelled
from perception.errors import DeviceError, ModelError
from perception.pipeline import Pipeline
from perception.replay.stage import Stage
from perception.serving.backoff import Backoff
from perception.serving.rungs import Patience
from perception.serving.serving import Serving
from perception.serving.worker import Worker
from perception.stopwatch import Stopwatch
from perception.types import Frame, Scene
from perception.wire import EngineRow, Health
from tests.plan_fakes import HeaderCompiler
from tests.recorded_run import people_camera
from tests.test_node import healths, running, until
from tests.test_panoptic import CARD, ENCODER, tiny_panoptic

DEADLINE_S = 60.0
PLAN = "tensorrt-fp16"  # the name of the rung; its compiler is a test's
WAYS = Ways(
    HeaderCompiler,
    niceness=0,
    check_every=3,
    patience=Patience(least_s=0.5, times=20.0, first_s=20.0),
    backoff_s=(0.05, 0.2),
    must_be_faster=False,
    rungs=("tensorrt",),
)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("PLAN_FAULTS", str(folder))
    yield folder
    for name in ("run", "compile", "open"):  # what hangs goes on
        (folder / name).write_text("")


def launch_of(folder: Path, network_every: int = 1, **more) -> Launch:
    model = ModelConfig(str(tiny_panoptic(folder, CARD + ENCODER)), "auto", 1, network_every)
    return Launch(
        version=1,
        topics=("road",),
        model=msgspec.structs.replace(model, precision="fp16", cache=str(folder / "plans")),
        tracking=TrackingConfig(kind="affinity", continue_for_s=0.0),
        **more,
    )


class Drive:
    """Frames through a pipeline that is served, as a node's loop takes them."""

    def __init__(self, launch: Launch, ways: Ways = WAYS) -> None:
        checked = check_launch(launch)
        model = open_model(checked.files, "onnxruntime", 1)
        self.pipeline: Pipeline = build_pipeline(model, checked, Stopwatch())
        serving = build_serving(checked, self.pipeline, ways)
        assert serving
        self.serving: Serving = serving
        self.scenes: list[tuple[str, Scene]] = []  # and which engine served
        self._seq = itertools.count()
        serving.begin()

    def step(self) -> Scene:
        seq = next(self._seq)
        image = np.full((32, 64, 3), (0, 200, 0), np.uint8)
        image[8:24, 4 + seq % 8 : 20 + seq % 8] = (0, 0, 220)
        self.serving.settle()
        scene = self.serving.mark(self.pipeline.step(Frame(seq, seq * 33_333_333, "front", image)))
        self.scenes.append((self.serving.engine, scene))
        return scene

    def step_until(self, condition, deadline_s: float = DEADLINE_S) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, self.row()
            self.step()
            time.sleep(0.002)

    def row(self) -> EngineRow:
        """Of the plan's rung."""
        return next(row for row in self.serving.rows() if row.name == PLAN)

    def serves_plan(self) -> bool:
        return self.serving.engine == PLAN

    def close(self) -> None:
        self.serving.close()
        self.pipeline.close()


def prebuilt(folder: Path) -> None:
    """Its plan is in the cache, as after an earlier run."""
    graph, cache = tiny_panoptic(folder, CARD + ENCODER), PlanCache(folder / "plans")
    key = key_of(HeaderCompiler(), graph, "fp16", {"frame": [64, 32]})
    build(HeaderCompiler(), cache, key, graph, lambda what, done, of: None)


@pytest.fixture
def served(tmp_path: Path, faults: Path) -> Iterator[Drive]:
    """The plan serves."""
    prebuilt(tmp_path)
    with closing(Drive(launch_of(tmp_path))) as drive:
        drive.step_until(drive.serves_plan)
        yield drive


@pytest.fixture
def drive(tmp_path: Path, faults: Path) -> Iterator[Drive]:
    with closing(Drive(launch_of(tmp_path))) as drive:
        yield drive


def compiles(faults: Path) -> int:
    log = faults / "log"
    return log.read_text().count("compile") if log.exists() else 0


def entries(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "plans" / "plans").iterdir() if path.is_dir()]


def observed_by(drive: Drive, engine: str) -> list[int]:
    return [s.frame_seq for name, s in drive.scenes if name == engine and s.validity == "observed"]


# The good way


def test_a_built_engine_takes_over_between_two_frames(drive: Drive) -> None:
    first = drive.step()
    assert (drive.serving.engine, first.validity) == ("onnxruntime", "observed")
    drive.step_until(drive.serves_plan)
    for _ in range(5):
        drive.step()
    assert [s.frame_seq for _, s in drive.scenes] == list(range(len(drive.scenes)))
    assert {s.validity for _, s in drive.scenes} == {"observed"}
    assert {t.track_id for _, s in drive.scenes for t in s.tracks} == {t.track_id for t in first.tracks}
    assert drive.row().state == "serving"


def test_the_build_is_told_of_while_the_bottom_serves(drive: Drive, faults: Path) -> None:
    (faults / "compile").write_text("slow")
    drive.step_until(lambda: drive.row().done == 5)
    row = drive.row()
    assert (row.state, row.what, row.of) == ("building", "network: tactics", 10)
    assert drive.serving.reason == f"{PLAN} is building"
    assert drive.step().validity == "observed"
    (faults / "compile").write_text("")
    drive.step_until(drive.serves_plan)


def test_a_second_start_takes_the_plan_from_the_cache(tmp_path: Path, faults: Path) -> None:
    for _ in range(2):
        with closing(Drive(launch_of(tmp_path))) as drive:
            drive.step_until(drive.serves_plan)
    assert compiles(faults) == 1


def test_a_report_lies_beside_the_plan(served: Drive, tmp_path: Path) -> None:
    (entry,) = entries(tmp_path)
    told = json.loads((entry / "conformance.json").read_text())
    assert (told["passed"], told["reference"], told["frames"]) == (True, "onnxruntime", 6)
    assert "agrees with onnxruntime" in (entry / "conformance.txt").read_text()


def test_the_frames_that_the_network_skips_are_served_too(tmp_path: Path, faults: Path) -> None:
    with closing(Drive(launch_of(tmp_path, network_every=2))) as drive:
        drive.step_until(drive.serves_plan)
        scenes = [drive.step() for _ in range(4)]
    assert compiles(faults) == 2  # the network and its encoder
    assert {s.validity for s in scenes} == {"observed", "propagated"}


def test_there_is_no_ladder_and_no_thread_without_a_choice(tmp_path: Path) -> None:
    launch = launch_of(tmp_path)
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine="onnxruntime"))
    checked = check_launch(launch)
    pipeline = build_pipeline(open_model(checked.files, "onnxruntime", 1), checked, Stopwatch())
    model, threads = pipeline.model, threading.active_count()
    with closing(pipeline):
        assert build_serving(checked, pipeline) is None
        assert pipeline.model is model
        assert threading.active_count() == threads


# What goes wrong before it serves


def test_an_engine_that_sees_otherwise_is_refused_and_never_serves(drive: Drive, faults: Path, tmp_path: Path) -> None:
    (faults / "compile").write_text("wrong")
    drive.step_until(lambda: drive.row().state == "refused")
    for _ in range(5):
        drive.step()
    assert {name for name, _ in drive.scenes} == {"onnxruntime"}
    assert "labels are equal" in drive.row().reason
    (entry,) = entries(tmp_path)
    assert "REFUSED" in (entry / "conformance.txt").read_text()
    assert json.loads((entry / "conformance.json").read_text())["passed"] is False


def test_an_engine_whose_encoder_alone_sees_otherwise_is_refused(tmp_path: Path, faults: Path) -> None:
    (faults / "run").write_text("encoder")
    with closing(Drive(launch_of(tmp_path, network_every=2))) as drive:
        drive.step_until(lambda: drive.row().state == "refused")
        assert "cosine of encoder's keys" in drive.row().reason
        assert {name for name, _ in drive.scenes} == {"onnxruntime"}


@pytest.mark.parametrize("how", ["fail", "crash"])
def test_a_build_that_fails_three_times_is_left(drive: Drive, faults: Path, how: str, tmp_path: Path) -> None:
    (faults / "compile").write_text(how)
    drive.step_until(lambda: drive.row().state == "refused")
    assert compiles(faults) == 3
    assert "tried 3 times" in drive.row().reason
    assert entries(tmp_path) == []
    assert drive.step().validity == "observed"


def test_builds_on_a_full_gpu_are_tried_until_it_has_room(drive: Drive, faults: Path) -> None:
    (faults / "compile").write_text("gpu")
    drive.step_until(lambda: compiles(faults) > 3)
    assert drive.row().state in ("failed", "building", "opening")
    (faults / "compile").write_text("")
    drive.step_until(drive.serves_plan)


def test_a_spoilt_plan_is_built_anew_at_the_next_start(tmp_path: Path, faults: Path) -> None:
    prebuilt(tmp_path)
    (entry,) = entries(tmp_path)
    (entry / "plan").write_bytes(b"PLAN1\nsomething else")
    with closing(Drive(launch_of(tmp_path))) as drive:
        drive.step_until(drive.serves_plan)
    assert compiles(faults) == 2


def test_a_plan_of_another_device_is_not_this_ones(tmp_path: Path, faults: Path) -> None:
    for device in ("NVIDIA T4", "NVIDIA H200"):
        (faults / "target").write_text(device)
        with closing(Drive(launch_of(tmp_path))) as drive:
            drive.step_until(drive.serves_plan)
    assert compiles(faults) == 2
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("how", ["oom", "broken"])
def test_an_engine_that_cant_be_loaded_is_tried_again(drive: Drive, faults: Path, how: str) -> None:
    (faults / "open").write_text(how)
    drive.step_until(lambda: drive.row().state == "failed")
    assert drive.step().validity == "observed"
    (faults / "open").write_text("")
    drive.step_until(drive.serves_plan)


def test_a_cache_that_cant_be_written_is_one_line_and_the_bottom_serves(tmp_path: Path, faults: Path) -> None:
    (tmp_path / "plans").write_text("a file")
    with closing(Drive(launch_of(tmp_path))) as drive:
        drive.step_until(lambda: drive.row().state == "refused")
        assert "file exists; free it, or name another folder in model.cache" in drive.row().reason
        assert drive.step().validity == "observed"


def test_a_plan_that_ends_processes_is_not_loaded_again(tmp_path: Path, faults: Path) -> None:
    prebuilt(tmp_path)
    (faults / "open").write_text("crash")
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.test_serving import Drive, launch_of\n"
        "drive = Drive(launch_of(Path(sys.argv[1])))\nwhile True:\n    drive.step()\n    time.sleep(0.01)\n"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code, str(tmp_path)]) == -9
    (faults / "open").write_text("")
    (left,) = (tmp_path / "plans" / "plans").glob("*.trial-*")
    for i in range(2):  # as if two more had died
        left.with_name(f"{left.name}{i}").write_text("")
    with closing(Drive(launch_of(tmp_path))) as drive:
        drive.step_until(lambda: drive.row().state == "refused")
        assert "3 processes" in drive.row().reason
        assert "perception build --again" in drive.row().reason


def test_processes_that_died_are_forgiven_once_their_plan_has_served_for_a_while(tmp_path: Path, faults: Path) -> None:
    prebuilt(tmp_path)
    (entry,) = entries(tmp_path)
    for i in range(2):  # as two that lost their power
        entry.with_name(f"{entry.name}.trial-{i}").write_text("")
    with closing(Drive(launch_of(tmp_path))) as drive:
        drive.step_until(drive.serves_plan)
        drive.step_until(lambda: not [*entry.parent.glob("*.trial-*")])
        assert len(observed_by(drive, PLAN)) > 50


def test_an_error_of_any_kind_is_told_and_the_engine_tried_again(tmp_path: Path, faults: Path) -> None:
    (faults / "target").write_text("bug")
    with closing(Drive(launch_of(tmp_path), dataclasses.replace(WAYS, backoff_s=(2.0, 2.0)))) as drive:
        drive.step_until(lambda: drive.row().state == "failed")
        assert "RuntimeError: in the bindings; tried again in 2 s" in drive.row().reason
        (faults / "target").write_text("")
        drive.step_until(drive.serves_plan)


def patient(build_s: float) -> Ways:
    return dataclasses.replace(WAYS, patience=dataclasses.replace(WAYS.patience or Patience(), build_s=build_s))


def test_a_build_that_says_nothing_for_too_long_is_ended_and_tried_again(tmp_path: Path, faults: Path) -> None:
    (faults / "compile").write_text("slow")
    with closing(Drive(launch_of(tmp_path), patient(3.0))) as drive:
        drive.step_until(lambda: drive.row().state == "failed")
        assert "its build was ended, for it said nothing for 3 s" in drive.row().reason
        (faults / "compile").write_text("")
        drive.step_until(drive.serves_plan)


def test_but_not_for_ever(tmp_path: Path, faults: Path) -> None:
    (faults / "compile").write_text("slow")
    with closing(Drive(launch_of(tmp_path), patient(1.0))) as drive:
        drive.step_until(lambda: drive.row().state == "refused")
        assert "it said nothing for 1 s; tried 3 times" in drive.row().reason


def test_a_build_that_cant_say_how_far_it_is_may_take_its_time(tmp_path: Path, faults: Path) -> None:
    (faults / "compile").write_text("silent")
    with closing(Drive(launch_of(tmp_path))) as drive:
        drive.step_until(lambda: drive.row().what == "network: compiling")
        asked: list[float] = []  # whether its time is over, ten times a second

        def weeks_later() -> float:
            asked.append(time.monotonic() + 1e6)
            return asked[-1]

        drive.serving.promoter.clock = weeks_later
        drive.step_until(lambda: len(asked) > 10)
        assert drive.row().state == "building"
        (faults / "compile").write_text("")
        drive.step_until(drive.serves_plan)
    assert compiles(faults) == 1


def test_an_engine_asked_for_by_name_that_does_not_come_is_missed(tmp_path: Path, faults: Path) -> None:
    (faults / "target").write_text("none")
    launch = launch_of(tmp_path)
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine="tensorrt"))
    with closing(Drive(launch)) as drive:
        drive.step_until(lambda: bool(drive.serving.fallen))
        assert drive.step().validity == "degraded"
        assert "no accelerator: plug one in" in drive.step().reason
        (faults / "target").write_text("CPU")
        drive.step_until(lambda: drive.serves_plan() or drive.row().state == "refused")
        if drive.serves_plan():  # it was there before the third try
            assert drive.step().validity == "observed"


# What goes wrong while it serves


@pytest.mark.parametrize(
    ("how", "reason"),
    [("oom", "out of memory"), ("lost", "device lost"), ("hang", "no answer within"), ("bug", "ZeroDivisionError")],
)
def test_a_frame_whose_engine_fails_is_answered_by_the_bottom(
    served: Drive, faults: Path, how: str, reason: str
) -> None:
    for _ in range(10):
        served.step()
    ids = {t.track_id for t in served.step().tracks}
    (faults / "run").write_text(how)
    scene = served.step()
    assert scene.frame_seq == len(served.scenes) - 1
    assert (scene.validity, served.serving.engine) == ("degraded", "onnxruntime")
    assert reason in scene.reason
    assert {t.track_id for t in scene.tracks} == ids
    assert served.step().validity == "degraded"
    (faults / "run").write_text("")
    served.step_until(served.serves_plan)
    scene = served.step()
    assert (scene.validity, served.row().demotions) == ("observed", 1)
    assert {t.track_id for t in scene.tracks} == ids
    assert [s.frame_seq for _, s in served.scenes] == list(range(len(served.scenes)))


def test_an_engine_that_keeps_failing_is_tried_ever_more_rarely(
    served: Drive, faults: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (faults / "run").write_text("lost")

    def waits() -> list[str]:
        told = (record.getMessage() for record in caplog.records)
        return [text.partition("again in ")[2] for text in told if "device lost; tried again in" in text]

    served.step_until(lambda: len(waits()) >= 4)
    assert waits()[:4] == ["0.05 s", "0.1 s", "0.2 s", "0.2 s"]
    assert {s.validity for _, s in served.scenes[-10:]} == {"degraded"}


def test_an_engine_that_drifts_is_left_within_a_few_checks(served: Drive, faults: Path) -> None:
    (faults / "run").write_text("wrong")
    served.step_until(lambda: served.row().demotions > 0)
    assert "drifts from the reference" in served.serving.fallen
    refused_at = len(served.scenes)
    for _ in range(5):
        assert served.step().validity == "degraded"
    served.step_until(lambda: served.row().state == "refused")  # the gate finds it, too
    assert not [seq for seq in observed_by(served, PLAN) if seq >= refused_at]
    assert served.step().validity == "degraded"


def test_frames_that_the_network_skips_are_checked_too(tmp_path: Path, faults: Path) -> None:
    with closing(Drive(launch_of(tmp_path, network_every=2))) as drive:
        drive.step_until(drive.serves_plan)
        (faults / "run").write_text("encoder")
        drive.step_until(lambda: drive.row().demotions > 0)
        assert "drifts from the reference: cosine of encoder's keys" in drive.serving.fallen


def test_an_engine_that_is_slower_than_the_bottom_is_left(tmp_path: Path, faults: Path) -> None:
    ways = dataclasses.replace(WAYS, backoff_s=(0.05, 100.0), must_be_faster=True)
    prebuilt(tmp_path)
    with closing(Drive(launch_of(tmp_path), ways)) as drive:
        (faults / "run").write_text("slow")
        drive.step_until(lambda: drive.row().state == "failed")
        assert "slow: " in drive.row().reason
        assert {name for name, _ in drive.scenes} == {"onnxruntime"}
        assert drive.step().validity == "observed"


def test_an_engine_that_becomes_slow_is_left(tmp_path: Path, faults: Path) -> None:
    ways = dataclasses.replace(WAYS, check_every=1000, backoff_s=(0.05, 100.0), must_be_faster=True)
    prebuilt(tmp_path)
    with closing(Drive(launch_of(tmp_path), ways)) as drive:
        drive.step_until(drive.serves_plan)
        (faults / "run").write_text("slow")
        drive.step_until(lambda: drive.row().demotions > 0)
        # a stall of the machine may have ended it first; then it is tried again, and found to be slow
        drive.step_until(lambda: drive.row().state == "failed" and "slow: " in drive.row().reason)
        assert drive.step().validity == "observed"
        assert drive.serving.fallen == ""


def test_an_engine_that_fails_and_is_slow_then_is_not_missed(tmp_path: Path, faults: Path) -> None:
    ways = dataclasses.replace(WAYS, check_every=1000, backoff_s=(0.05, 0.05), must_be_faster=True)
    prebuilt(tmp_path)
    with closing(Drive(launch_of(tmp_path), ways)) as drive:
        drive.step_until(drive.serves_plan)
        (faults / "run").write_text("lost")
        assert drive.step().validity == "degraded"
        (faults / "run").write_text("slow")
        # at once: it is soon tried again, and then nothing is said against it until it is known to be slow
        drive.step_until(lambda: drive.step().validity == "observed" and "slow: " in drive.row().reason)
        assert not drive.serves_plan()


def test_closing_in_the_middle_of_a_build_ends_it(tmp_path: Path, faults: Path) -> None:
    (faults / "compile").write_text("slow")
    drive = Drive(launch_of(tmp_path))
    drive.step_until(lambda: drive.row().done == 5)
    began = time.monotonic()
    drive.close()
    assert time.monotonic() - began < 20
    pid = (faults / "log").read_text().split()[1]
    assert not Path(f"/proc/{pid}").exists()
    assert entries(tmp_path) == []


def test_an_engine_that_is_just_being_opened_is_not_blamed_for_the_end(
    tmp_path: Path, faults: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perception.serving.promoter._CLOSE_S", 0.1)
    prebuilt(tmp_path)
    (faults / "open").write_text("hang")
    drive = Drive(launch_of(tmp_path))
    drive.step_until(lambda: bool([*(tmp_path / "plans" / "plans").glob("*.trial-*")]))
    drive.close()
    assert not [*(tmp_path / "plans" / "plans").glob("*.trial-*")]


# In a node


def camera_launch(folder: Path, **more) -> Launch:
    (folder / "camera.py").write_text(people_camera(0.033, walks=True))
    return launch_of(
        folder,
        source=SourceConfig(url=f"exec:{sys.executable} {folder}/camera.py"),
        publish=PublishConfig(endpoints=(f"ipc://{folder}/socket/front",)),
        **more,
    )


def test_a_node_swaps_without_losing_a_frame_and_health_tells(tmp_path: Path, faults: Path) -> None:
    node = build_node(camera_launch(tmp_path), ways=WAYS)
    endpoint, seqs, told = node.publisher.endpoints[0], list[int](), list[Health]()

    def listen() -> None:
        with subscribe(endpoint, "front/road", latest=False, timeout_s=DEADLINE_S) as messages:
            for message in messages:
                seqs.append(message.seq)
                if len(told) and told[-1].engine == PLAN and len(seqs) > 50:
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    with running(node):
        told += healths(endpoint, lambda h: h.engine == PLAN, DEADLINE_S)
        listener.join(DEADLINE_S)
    status = node.source.status()
    assert status.captured - status.dropped - node.pulse.frames in (0, 1)  # one may have been taken when it stopped
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))  # of messages: what was stepped was sent
    assert told[0].engine in ("openvino-bf16", "openvino-f32", "onnxruntime")
    assert {"building", "serving"} & {row.state for h in told for row in h.engines if row.name == PLAN}
    assert told[-1].engines[0].name == PLAN
    assert told[-1].engine_reason


def test_a_node_says_degraded_while_its_engine_is_lost(tmp_path: Path, faults: Path) -> None:
    prebuilt(tmp_path)
    node = build_node(camera_launch(tmp_path), ways=WAYS)
    endpoint = node.publisher.endpoints[0]
    with running(node):
        healths(endpoint, lambda h: h.engine == PLAN, DEADLINE_S)
        (faults / "run").write_text("lost")
        lost = healths(endpoint, lambda h: h.state == "degraded", DEADLINE_S)[-1]
        with subscribe(endpoint, "front/road", timeout_s=DEADLINE_S) as messages:
            validities = [next(iter(messages)).header.validity for _ in range(3)]
        (faults / "run").write_text("")
        healths(endpoint, lambda h: h.engine == PLAN and h.state == "running", DEADLINE_S)
    assert "device lost" in lost.reason
    assert "degraded" in validities


def test_a_recording_says_which_engine_served_each_frame(tmp_path: Path, faults: Path) -> None:
    from perception.replay.drive import RecordedDrive

    prebuilt(tmp_path)
    launch = camera_launch(tmp_path, record=RecordConfig(folder=str(tmp_path / "drives")))
    node = build_node(launch, ways=WAYS)
    with running(node):
        healths(node.publisher.endpoints[0], lambda h: h.engine == PLAN and h.rate_hz > 0, DEADLINE_S)
        frames = node.pulse.frames
        until(lambda: node.pulse.frames > frames + 5)
    (folder,) = (tmp_path / "drives").iterdir()
    drive = RecordedDrive(folder)
    with closing(drive.recording):
        made = [d for d in drive.decisions_between(drive.first_ns, drive.last_ns + 1) if d.what == "stepped"]
    engines = [key for key, _ in itertools.groupby(d.engine for d in made)]
    assert len(engines) == 2
    assert engines[1] == PLAN


def test_a_recording_that_is_to_be_repeated_keeps_one_engine(tmp_path: Path, faults: Path) -> None:
    launch = camera_launch(tmp_path, record=RecordConfig(folder=str(tmp_path / "drives"), exact=True))
    node = build_node(launch, ways=WAYS)
    with closing(node):
        assert node.serving is None


# A drive keeps one engine


def drive_launch(folder: Path, pictures: Path, engine: str = "tensorrt") -> Launch:
    launch = launch_of(
        folder,
        source=SourceConfig(url=str(pictures), realtime=False),
        publish=PublishConfig(endpoints=(f"ipc://{folder}/socket/front",)),
    )
    return msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine=engine))


def test_a_drive_is_seen_by_the_engine_that_is_named(tmp_path: Path, faults: Path, picture_drive: Path) -> None:
    prebuilt(tmp_path)
    node = build_node(drive_launch(tmp_path, picture_drive), ways=WAYS)
    with closing(node):
        assert node.serving
        assert (node.serving.engine, node.serving.rows()[0].state) == (PLAN, "serving")
        node.run()
    assert node.pulse.frames == 20


def test_a_drive_whose_engine_is_not_built_says_how_to(tmp_path: Path, faults: Path, picture_drive: Path) -> None:
    with pytest.raises(ModelError, match=r"tensorrt-fp16 is not built .* frames of 64x32; run perception build"):
        build_node(drive_launch(tmp_path, picture_drive), ways=WAYS)
    assert compiles(faults) == 0


def test_a_drive_whose_engine_is_lost_does_not_go_on_with_another(
    tmp_path: Path, faults: Path, picture_drive: Path
) -> None:
    prebuilt(tmp_path)
    node = build_node(drive_launch(tmp_path, picture_drive), ways=WAYS)
    (faults / "run").write_text("lost")
    with closing(node):
        assert node.run().failed == 20


def test_auto_leaves_a_drive_to_the_cpu(tmp_path: Path, faults: Path, picture_drive: Path) -> None:
    with closing(build_node(drive_launch(tmp_path, picture_drive, "auto"), ways=WAYS)) as node:
        assert node.serving is None


def test_replays_of_a_drive_are_pinned_too(tmp_path: Path, faults: Path) -> None:
    prebuilt(tmp_path)
    launch = msgspec.structs.replace(launch_of(tmp_path))
    stage = Stage(msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine="tensorrt")), WAYS)
    with closing(stage):
        assert stage.engine == PLAN
        for _ in range(2):  # drives, which share it
            (pipeline,) = stage.pipelines()
            image = np.zeros((32, 64, 3), np.uint8)
            scenes = [pipeline.step(Frame(i, i * 33_333_333, "front", image)) for i in range(3)]
            assert {scene.validity for scene in scenes} == {"observed"}
            pipeline.propagator.close()
    assert (faults / "log").read_text().count("open") == 1


# The parts


def test_a_wait_doubles_up_to_its_most_and_is_forgotten_after_good_service() -> None:
    backoff = Backoff(1.0, 5.0, 60.0)
    assert [backoff.failed(0.0) for _ in range(4)] == [1.0, 2.0, 4.0, 5.0]
    assert backoff.left_s(2.0) == 3.0
    backoff.served(10.0)
    assert backoff.failed(20.0) == 5.0
    backoff.served(20.0)
    assert backoff.failed(81.0) == 1.0


def test_a_call_that_hangs_is_left_behind_and_ends_later() -> None:
    worker, go = Worker("test"), threading.Event()
    with pytest.raises(DeviceError, match="no answer"):
        worker(lambda: go.wait(DEADLINE_S), 0.01)
    assert worker.is_busy
    assert not worker.offer(lambda: None)
    go.set()
    until(lambda: not worker.is_busy)
    assert worker(lambda: 7) == 7
    with pytest.raises(ModelError, match="as it is"):
        worker(_raising)
    with pytest.raises(Cancelled):
        worker(_ending)
    assert worker.close()


def _ending() -> None:
    raise Cancelled


def _raising() -> None:
    raise ModelError("as it is")
