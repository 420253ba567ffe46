"""What recording costs the node, and how fast a recording is replayed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from perception.bench.camera import load_pictures
from perception.bench.camera_run import run_camera
from perception.bench.figures import Figures
from perception.bench.settings import BenchSettings
from perception.config import RecordConfig
from perception.replay.drive import is_recording
from perception.replay.unit import replay_drive
from perception.stopwatch import percentile

ROUNDS = 3


def bench_recording(settings: BenchSettings, figures: Figures, say: Callable[[str], None]) -> None:
    """The node with and without a recorder, in turns: what the recorder adds to latency and CPU."""
    pictures = load_pictures(settings.drive)
    ages: dict[str, list[float]] = {"alone": [], "recording": []}
    cores: dict[str, list[float]] = {"alone": [], "recording": []}
    with tempfile.TemporaryDirectory() as folder:
        config = RecordConfig(folder=folder, least_free_gb=0.5)
        for turn in range(2 * ROUNDS):
            name = ("alone", "recording")[turn % 2]
            say(f"{name}, round {turn // 2 + 1} of {ROUNDS}")
            run = run_camera(settings, pictures, figures, config if turn % 2 else None)
            ages[name] += run.stopwatch.stages()["capture to sent"]
            cores[name].append(run.cpu_s / run.seconds)
            figures.add("recording", f"{name}, round {turn // 2 + 1}", **run.figures())
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.mcap"))
    for name, times in ages.items():
        figures.add_times("recording: capture to sent", name, times)
    added = {f"p{q}_ms": percentile(ages["recording"], q) - percentile(ages["alone"], q) for q in (50, 99)}
    share = 100 * (sum(cores["recording"]) - sum(cores["alone"])) / ROUNDS
    figures.add("recording adds", "to the node", **added, cpu_percent_of_a_core=share)
    figures.add("recording adds", "to the disk", mb_per_s=size / 1e6 / (ROUNDS * settings.seconds))


def bench_replay(settings: BenchSettings, figures: Figures, say: Callable[[str], None]) -> None:
    """A drive of this camera, recorded and replayed exactly, as fast as possible; or the recording that is given."""
    if settings.drive and is_recording(Path(settings.drive)):
        _replay(settings, Path(settings.drive), figures)
        return
    with tempfile.TemporaryDirectory() as folder:
        say(f"recording {settings.seconds:g} s")
        run_camera(settings, load_pictures(settings.drive), figures, RecordConfig(folder=folder, least_free_gb=0.5))
        say("replaying")
        _replay(settings, next(Path(folder).iterdir()), figures)


def _replay(settings: BenchSettings, drive: Path, figures: Figures) -> None:
    done = replay_drive(str(drive), settings.launch())
    figures.add("replay", "exact, as fast as possible", fps=done.frames / done.seconds, frames=done.frames)
    for stage, (p50, p99) in done.stages.items():
        figures.add("replay stages", stage, p50_ms=p50, p99_ms=p99)
