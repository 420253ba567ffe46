"""The unit of replaying: one drive and one configuration give one result, wherever and whenever it is run."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perception.config import Launch
from perception.drives.ending import warn_unclosed
from perception.errors import RecordingError, SnapshotError, SnapshotVersionError
from perception.health import stage_rows
from perception.replay import what_if
from perception.replay.drive import RecordedDrive, is_recording
from perception.replay.follow import Follower
from perception.replay.keeping import Keeping, require_place
from perception.replay.performance import Mode, Performance, Wishes, of_recording, of_source
from perception.replay.result import Digest, Sameness
from perception.replay.stage import Stage

__all__ = ["Mode", "Progress", "Replayed", "Wishes", "replay_drive"]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Told the frames done, and of how many; 0 where nobody knows."""


@dataclass(frozen=True)
class Replayed:
    """What a replay gave."""

    digest: str  # SHA-256 over its messages
    messages: int
    frames: int  # stepped
    seconds: float  # that it took, loading apart
    begin_s: float  # in the drive, of the first frame [s]
    engine: str
    stages: dict[str, tuple[float, float]]  # p50 and p99 [ms]
    sameness: Sameness | None = None  # with the messages that were recorded, where they should be the same
    said: str = ""  # of what-if: what was decided
    is_exact: bool = True  # the network saw then what it saw now


def replay_drive(
    drive: str,
    launch: Launch | None = None,
    out: Path | None = None,
    wishes: Wishes | None = None,
    stage: Stage | None = None,
    progress: Progress = lambda done, total: None,
) -> Replayed:
    """Replay a drive; the same drive, configuration and wishes on the same kind of machine give the same digest.

    A recording that lacks its end is replayed as far as it goes, with a warning.

    Args:
        drive: a recording of ours, or anything recorded that a source can be.
        launch: how; None takes the configuration that the drive was recorded with, or the default.
        out: folder of the result, which must not be there yet; None keeps nothing but the digest.
        stage: with the launch configuration's model loaded; None loads it.

    Raises:
        PerceptionError: in one line.
    """
    wishes = wishes or Wishes()
    if out:
        require_place(out)
    recorded = RecordedDrive(Path(drive)) if is_recording(Path(drive)) else None
    if recorded:
        warn_unclosed(recorded.recording)
    with contextlib.ExitStack() as stack:
        if launch is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            launch = recorded.launch(folder) if recorded else Launch(version=1)
        if stage is None:
            stage = stack.enter_context(contextlib.closing(Stage(launch)))
        performance = of_recording(recorded, stage, wishes) if recorded else of_source(drive, stage, wishes, stack)
        return _perform(performance, stage, out, progress)


def _begun(follower: Follower, performance: Performance, engine: str) -> Performance:
    """The performance, its state taken up; from the drive's start where that can't be and only saves the way there.

    Raises:
        RecordingError: the state can't be taken up and has to be.
    """
    if performance.state is None:
        return performance
    try:
        follower.begin_after(performance.state)
    except SnapshotError as error:
        if performance.is_first_state and isinstance(error, SnapshotVersionError):
            return performance
        if performance.from_start is None or performance.about.mode == "re-enacted":
            advice = _way_out(performance, error)
            raise RecordingError(f"the drive can't be taken up on {engine}: {error}; or replay it {advice}") from None
        log.warning("begins at the drive's start, %.1f s before the kept state: %s", performance.begin_s, error)
        return performance.from_start()
    return performance


def _way_out(performance: Performance, error: SnapshotError) -> str:
    """How a drive can be replayed whose state can't be taken up."""
    if not isinstance(error, SnapshotVersionError) or performance.from_start is None:
        return "exactly"
    return "from its start, or exactly" if performance.from_start().is_first_state else "exactly"


def _perform(performance: Performance, stage: Stage, out: Path | None, progress: Progress) -> Replayed:
    pipelines, encoder = stage.pipelines(), stage.encoder(performance.identity)
    with contextlib.ExitStack() as stack:
        stack.callback(pipelines[0].propagator.close)
        follower = Follower(pipelines, encoder, stage.answers())
        performance = _begun(follower, performance, stage.engine)
        keeping = stack.enter_context(contextlib.closing(Keeping(out, performance.about))) if out else None
        plan, outlook = performance.plan, pipelines[0].propagator.outlook()
        plan = performance.turns.over(plan, outlook) if performance.turns else plan
        begin, digest, frames = time.perf_counter(), Digest(), 0
        for followed in follower.follow(plan):
            frames += 1
            digest.add(followed.messages)
            if performance.sameness:
                performance.sameness.note(followed.messages)
            if keeping:
                keeping.note(followed, follower)
            progress(frames, performance.total)
        if not frames:
            raise RecordingError(f"{performance.about.source or 'the drive'}: no frame in this part: give another one")
        if keeping:
            keeping.finish(performance.walk.left_out if performance.walk else ())
        seconds = time.perf_counter() - begin
    stages = {name: (row.p50_ms, row.p99_ms) for name, row in stage_rows(stage.stopwatch).items()}
    engine = stage.engine
    is_asked = performance.walk and performance.about.mode == "what-if"
    said = what_if.summary(performance.walk.made) if performance.walk and is_asked else ""
    told = (performance.begin_s, engine, stages, performance.sameness, said, performance.about.is_exact)
    return Replayed(digest.hex(), digest.count, frames, seconds, *told)
