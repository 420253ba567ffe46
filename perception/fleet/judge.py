"""A result against its reference: the same, or what is not, in lines for people."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import msgspec

from perception.compare import Comparison, Options, compare
from perception.compare.tolerance import fitting_level
from perception.errors import ConfigError, PerceptionError, RecordingError
from perception.fleet.drive_set import REFERENCE_FILE, Drive
from perception.fleet.reference import Reference, of_other_content, read_reference, reference_folder
from perception.fleet.task import Outcome, Progress, Stages, Task, replay_task
from perception.replay.unit import is_recording

log = logging.getLogger(__name__)

Status = Literal["same", "differs", "no reference", "failed", "replayed", "accepted", "unchanged"]
MOST_FINDINGS = 100


class Verdict(msgspec.Struct, frozen=True):
    """What is said of one drive."""

    drive: Drive
    status: Status
    text: str = ""  # one line: why
    findings: tuple[str, ...] = ()  # one line each, the most telling first
    level: str = ""  # at which the two were held against each other
    reference: str = ""  # the result that it was held against
    outcome: Outcome | None = None


def run_task(task: Task, stages: Stages, progress: Progress = lambda what, done, total: None) -> Verdict:
    """Replay a drive and judge it. Whatever is wrong with the drive is in the verdict, and nothing is raised."""
    try:
        outcome = replay_task(task, stages, progress)
        return judge(outcome, task) if task.against else Verdict(task.drive, "replayed", outcome=outcome)
    except PerceptionError as error:
        return Verdict(task.drive, "failed", str(error))
    except Exception as error:  # a bug of ours in one drive is no reason to lose the others
        log.exception("%s", task.drive.shown)
        return Verdict(task.drive, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


def judge(outcome: Outcome, task: Task) -> Verdict:
    """Hold a result against the reference of its drive.

    Raises:
        PerceptionError: the reference is damaged.
    """
    references, drive = Path(task.against), outcome.drive
    folder = reference_folder(references, drive.name, outcome.content)
    if not (folder / REFERENCE_FILE).exists():
        return Verdict(drive, "no reference", _missing(references, outcome), outcome=outcome)
    reference = read_reference(folder)
    result = folder / reference.result
    if not result.is_dir():
        raise ConfigError(f"{folder / REFERENCE_FILE}: names {result.name}, which is not there: --accept anew")
    if reference.mode != outcome.mode:
        text = f"the reference was replayed {reference.mode}: test with --mode {reference.mode}, or --accept anew"
        return Verdict(drive, "differs", text, reference=str(result), outcome=outcome)
    if reference.digest == outcome.digest and reference.mode != "what-if":
        return Verdict(drive, "same", "equal bytes", (), "bytes", str(result), outcome)
    others = _others(reference, outcome)
    if task.level == "bytes" and others:
        text = f"the reference is of {others}: its bytes can't be equal: --level auto, or --accept anew"
        return Verdict(drive, "differs", text, (), "bytes", str(result), outcome)
    found = comparison_of(outcome, result, task.level)
    if found.digests[0] != reference.digest:
        raise RecordingError(f"{result}: not the messages that {REFERENCE_FILE} beside it names: --accept anew")
    return _verdict(found, outcome, others, result)


def comparison_of(
    outcome: Outcome, reference: Path, level: str = "auto", pictures: int = 0, match: str = "auto"
) -> Comparison:
    """The whole comparison of a result with its reference.

    Args:
        pictures: most frames that are drawn, on the drive's images where it is a recording.
        match: how frames find each other: auto, stamp or frame.

    Raises:
        PerceptionError: the two can't be compared.
    """
    drive = Path(outcome.drive.path)
    frames = drive if pictures and is_recording(drive) else None
    options = Options(level, match=match, pictures=pictures, frames=frames)
    return compare(reference, Path(outcome.folder), options)


def _verdict(found: Comparison, outcome: Outcome, others: str, result: Path) -> Verdict:
    level = found.tolerance.level
    why = f"the reference is of {others}" if others else fitting_level(*found.about)[1]
    told = f"{level}: {why}; {found.frames} frames compared"
    if found.is_same:
        return Verdict(outcome.drive, "same", told, (), level, str(result), outcome)
    lines = [finding.text for finding in found.findings]
    if len(lines) > MOST_FINDINGS:
        lines = [*lines[:MOST_FINDINGS], f"and {len(lines) - MOST_FINDINGS} more"]
    return Verdict(outcome.drive, "differs", told, tuple(lines), level, str(result), outcome)


def _others(reference: Reference, outcome: Outcome) -> str:
    """What made the reference, as far as it is another thing; "" where nothing is."""
    told = []
    if reference.model_id != outcome.model_id:
        told.append(f"model {reference.model} ({reference.model_id}), this is {outcome.model} ({outcome.model_id})")
    if reference.engine != outcome.engine:
        told.append(f"{reference.engine}, this is {outcome.engine}")
    for name in sorted(reference.versions.keys() & outcome.versions.keys()):
        if reference.versions[name] != outcome.versions[name]:
            told.append(f"{name} {reference.versions[name]}, this is {outcome.versions[name]}")
    if reference.cpu != outcome.cpu:
        told.append(f"{reference.cpu}, this is {outcome.cpu}")
    return "; ".join(told)


def _missing(references: Path, outcome: Outcome) -> str:
    text = f"no reference in {references}: look at the result, then run it again with --accept"
    if others := of_other_content(references, outcome.drive.name, outcome.content):
        text += f" ({others[0].name} is of another content: was the drive cut or recorded anew?)"
    return text
