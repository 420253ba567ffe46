"""The unit of a set: one drive and one configuration give one result, whose folder is named after all that decides it.

Idempotent: a result that is there already is not made again, and one that is there is whole.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from perception.build import Checked, calibration_hash, check_launch, tracking_kind
from perception.config import Launch, PublishConfig
from perception.drives.ending import require_closed
from perception.drives.recording import open_recording
from perception.engines import ACCELERATED, chosen
from perception.errors import RecordingError, reason
from perception.fleet.drive_set import Drive, content_hash, place_of
from perception.fleet.figures import Figures, figures_of
from perception.machine import versions
from perception.replay.drive import RecordedDrive
from perception.replay.stage import Stage
from perception.replay.unit import Mode, Replayed, Wishes, is_recording, replay_drive
from perception.sources.recorded import kind_of
from perception.strict_toml import check

OUTCOME = "outcome.json"
_PARTIAL = ".partial-"
Progress = Callable[[str, int, int], None]
"""Told what is done: a drive's name, frames done, of how many (0: not known)."""


class Task(msgspec.Struct, frozen=True):
    """What a worker is to do."""

    drive: Drive
    out: str  # folder of all results, absolute
    launch: Launch | None = None  # None: as it was recorded; of other drives, the default
    model: str = ""  # instead of the launch configuration's
    engine: str = ""
    mode: Mode = "exact"
    threads: int = 0  # of the engine, where the launch configuration names no number
    against: str = ""  # folder of references, absolute; "": judge nothing
    level: str = "auto"
    accepts: bool = False  # the result becomes a reference: the drive must be whole


class Outcome(msgspec.Struct, frozen=True):
    """What came of replaying a drive."""

    drive: Drive
    content: str  # SHA-256 of the drive
    key: str  # over all that decides the result
    folder: str  # of the result, a recording without images
    digest: str  # over its messages
    messages: int
    frames: int
    seconds: float
    mode: Mode
    model: str
    model_id: str
    engine: str
    cpu: str
    versions: dict[str, str]
    figures: Figures


class Stages:
    """Keeps the model of the last task loaded, one in a process."""

    def __init__(self) -> None:
        self._stage: Stage | None = None
        self._launch: Launch | None = None

    def of(self, launch: Launch) -> Stage:
        """The stage of a launch configuration. Raises PerceptionError where it can't be set up."""
        if self._stage is None or self._launch != launch:
            self.close()
            self._stage, self._launch = Stage(launch), launch
        return self._stage

    def close(self) -> None:
        if self._stage:
            self._stage.close()
        self._stage = self._launch = None


def replay_task(task: Task, stages: Stages, progress: Progress = lambda what, done, total: None) -> Outcome:
    """The result of a task: the one that is there, or else a new one.

    Raises:
        PerceptionError: the drive can't be replayed, or the result not be kept, in one line; or it lacks its end, and
            the result should become a reference.
    """
    if task.accepts and (place := place_of(task.drive)) and kind_of(place) == "mcap":
        require_closed(open_recording(place))
    content = content_hash(task.drive.path)
    launch = launch_of(task)
    checked = check_launch(launch)
    key = key_of(content, launch, checked, task.mode)
    folder = Path(task.out) / f"{task.drive.name}-{content[:8]}-{key[:8]}"
    if (folder / OUTCOME).exists():
        return _kept(folder, task.drive)
    partial = folder.with_name(f"{folder.name}{_PARTIAL}{platform.node()}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        name = task.drive.name
        replayed = replay_drive(
            task.drive.path,
            launch,
            partial,
            Wishes(task.mode),
            stages.of(launch),
            lambda done, total: progress(name, done, total),
        )
        outcome = _outcome(task, (content, key), partial, folder, replayed)
        (partial / OUTCOME).write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
        if not folder.exists():  # else another worker had the same drive under another name
            partial.rename(folder)
    except OSError as error:
        raise RecordingError(f"{error.filename or folder}: {reason(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return outcome


def launch_of(task: Task) -> Launch:
    """How the drive is replayed: what the task says, over the given launch configuration or the recorded one.

    Raises:
        PerceptionError: the recording can't be read, or an option is none.
    """
    launch = task.launch or _recorded(task) or Launch(version=1)
    wished: dict[str, object] = {"path": task.model, "engine": task.engine}
    wished |= {"threads": 0 if launch.model.threads else task.threads}
    model = msgspec.structs.replace(launch.model, **{name: value for name, value in wished.items() if value})
    plain = Launch(
        version=1,
        camera=launch.camera,
        calibration=launch.calibration,
        topics=launch.topics,
        groups=launch.groups,
        model=model,
        tracking=launch.tracking,
        publish=PublishConfig(encoding=launch.publish.encoding),  # nothing is bound: keys need not be there
    )
    return check(msgspec.to_builtins(plain), Launch, task.drive.shown)


def key_of(content: str, launch: Launch, checked: Checked, mode: Mode) -> str:
    """SHA-256, hexadecimal, over the drive and all that decides what is said about it: the number of threads does not,
    nor do the places of files."""
    engine = launch.model.engine
    engine = f"{engine}-{launch.model.precision}" if engine in ACCELERATED else chosen(engine)
    model = (checked.files.identity, engine, launch.model.network_every)
    tracking = (launch.tracking, tracking_kind(launch, checked.files))
    said = (launch.camera, launch.topics, launch.groups, launch.publish.encoding, calibration_hash(checked))
    text = msgspec.json.encode(
        (content, mode, *model, *tracking, *said, versions(), _code_hash()), order="deterministic"
    )
    return hashlib.sha256(text).hexdigest()


def clear_partial(out: Path) -> None:
    """Remove what workers of this machine that are gone have left in a folder of results."""
    for path in out.glob(f"*{_PARTIAL}{platform.node()}-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


@functools.cache
def _code_hash() -> str:
    """Over this package's Python files: who changes one and replays again wants new results."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _recorded(task: Task) -> Launch | None:
    """The launch configuration in a recording of ours, with its calibration written to where it can be read."""
    path = Path(task.drive.path)
    if not is_recording(path):
        return None
    return RecordedDrive(path).launch(Path(task.out) / "calibration")


def _outcome(task: Task, names: tuple[str, str], result: Path, folder: Path, replayed: Replayed) -> Outcome:
    """Raises RecordingError where the result lacks something: its disk was full."""
    recording = open_recording(result)
    about, certificate = recording.about, recording.certificate
    if about is None or certificate is None or not certificate.is_complete:
        raise RecordingError(f"{folder}: its result is not complete on the disk: make space, or give another --out")
    return Outcome(
        drive=task.drive,
        content=names[0],
        key=names[1],
        folder=str(folder),
        digest=replayed.digest,
        messages=replayed.messages,
        frames=replayed.frames,
        seconds=round(replayed.seconds, 3),
        mode=task.mode,
        model=about.model,
        model_id=about.model_id,
        engine=about.engine,
        cpu=about.machine.cpu,
        versions=about.machine.versions,
        figures=figures_of(recording),
    )


def _kept(folder: Path, drive: Drive) -> Outcome:
    try:
        outcome = msgspec.json.decode((folder / OUTCOME).read_bytes(), type=Outcome)
        return msgspec.structs.replace(outcome, drive=drive, folder=str(folder))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordingError(f"{folder}: its {OUTCOME} can't be read: remove the folder: {error}") from None
