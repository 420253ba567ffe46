"""A set of drives from its arguments to its verdicts."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec

from perception.compare import tolerance
from perception.config import Launch
from perception.errors import ConfigError, PerceptionError, reason
from perception.fleet.cluster import LOCAL, on_ray
from perception.fleet.drive_set import Drive, find_drives
from perception.fleet.judge import Verdict
from perception.fleet.local import in_pool, in_process
from perception.fleet.reference import accept, require_writable
from perception.fleet.task import Progress, Task, clear_partial
from perception.machine import cores
from perception.replay.unit import Mode

LEVELS = ("auto", *tolerance.LEVELS)


@dataclass(frozen=True)
class Wishes:
    """How a set of drives is tested.

    Args:
        out: folder of the results.
        against: folder of the references; None: replay only.
        jobs: processes; 1 is this one. On Ray: actors, 0 for as many as there is room for.
        on: "" here, "ray" for a Ray cluster on this machine, ray://host:port for one that runs.
        shard: (i, n): the i-th of n parts of the set, from 1 on.
    """

    out: Path
    against: Path | None = None
    launch: Launch | None = None
    model: str = ""
    engine: str = ""
    mode: str = "exact"
    level: str = "auto"
    accepts: bool = False
    jobs: int = 1
    on: str = ""
    shard: tuple[int, int] = (1, 1)


def drives_of(texts: Sequence[str], wishes: Wishes) -> list[Drive]:
    """The drives of the set, of this shard only. Raises ConfigError where there is none in any shard."""
    leave_out = [folder for folder in (wishes.against, wishes.out) if folder]
    place, count = wishes.shard
    return find_drives(texts, leave_out)[place - 1 :: count]


def tasks_of(drives: Sequence[Drive], wishes: Wishes) -> list[Task]:
    """One a drive. Raises ConfigError for a mode or a level that there is not."""
    mode = _mode(wishes.mode)
    if wishes.level not in LEVELS:
        raise ConfigError(f"--level {wishes.level}: one of {', '.join(LEVELS)}")
    against = str(wishes.against.absolute()) if wishes.against and not wishes.accepts else ""
    launch = _absolute(wishes.launch) if wishes.launch else None
    told = (str(wishes.out.absolute()), launch, _placed(wishes.model), wishes.engine)
    return [Task(drive, *told, mode, threads_of(wishes), against, wishes.level, wishes.accepts) for drive in drives]


def threads_of(wishes: Wishes) -> int:
    """Of each worker's engine, where the launch configuration says nothing; 0: all cores. The messages are the same
    bytes with any number."""
    if wishes.on:
        return 1
    return max(1, cores() // wishes.jobs) if wishes.jobs > 1 else 0


def verdicts_on(drives: Sequence[Drive], wishes: Wishes, progress: Progress) -> Generator[Verdict]:
    """Replay drives and judge or accept each, in the order in which they are done. Closing it ends the work; what is
    done is kept in `wishes.out`.

    Raises:
        ConfigError: an option is none, or a folder can't be written; before any drive is replayed.
    """
    tasks = tasks_of(drives, wishes)
    if wishes.on and wishes.on != LOCAL and not wishes.on.startswith("ray://"):
        raise ConfigError(f"--on {wishes.on}: ray, or ray://host:port")
    if wishes.accepts and wishes.against:
        require_writable(wishes.against)
    try:
        wishes.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{wishes.out}: results can't be written there: {reason(error)}") from None
    clear_partial(wishes.out)
    if not tasks:
        return
    if wishes.on:
        verdicts = on_ray(tasks, wishes.on, wishes.jobs if wishes.jobs > 1 else 0, threads_of(wishes) or 1, progress)
    elif wishes.jobs > 1:
        verdicts = in_pool(tasks, wishes.jobs, progress)
    else:
        verdicts = in_process(tasks, progress)
    try:
        with contextlib.closing(verdicts):
            for verdict in verdicts:
                yield accepted(verdict, wishes.against) if wishes.accepts and wishes.against else verdict
    finally:
        clear_partial(wishes.out)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """0 all the same, 1 some differ or have no reference, 3 a drive failed."""
    found = {verdict.status for verdict in verdicts}
    return 3 if "failed" in found else 1 if found & {"differs", "no reference"} else 0


def accepted(verdict: Verdict, references: Path) -> Verdict:
    """Make the result of a drive that was replayed its reference; one that failed stays so."""
    if verdict.outcome is None:
        return verdict
    try:
        done = accept(verdict.outcome, references)
    except PerceptionError as error:
        return Verdict(verdict.drive, "failed", str(error), outcome=verdict.outcome)
    told = "a new reference" if done.is_new else "a new reference instead of the old one"
    status, text = ("accepted", told) if done.is_new or done.lines else ("unchanged", "as it was")
    return Verdict(verdict.drive, status, text, done.lines, outcome=verdict.outcome)


def _absolute(launch: Launch) -> Launch:
    """A launch configuration that means the same in another folder, where a worker may be."""
    model = msgspec.structs.replace(launch.model, path=_placed(launch.model.path))
    calibration = str(Path(launch.calibration).absolute()) if launch.calibration else ""
    return msgspec.structs.replace(launch, model=model, calibration=calibration)


def _placed(model: str) -> str:
    return str(Path(model).absolute()) if model.endswith(".onnx") else model


def _mode(text: str) -> Mode:
    for mode in get_args(Mode):
        if mode == text:
            return mode
    raise ConfigError(f"--mode {text}: one of {', '.join(get_args(Mode))}")
