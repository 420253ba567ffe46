"""The shortest part of a drive that still fails: it ends with the first frame that differs, and begins as late as it
can."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perception.compare import Comparison, Finding
from perception.drives.cut import Window, cut_recording
from perception.drives.layout import SUFFIX
from perception.drives.recording import Recording, open_recording
from perception.errors import ConfigError, PerceptionError, RecordingError, reason
from perception.fleet.drive_set import Drive, content_hash
from perception.fleet.figures import figures_of
from perception.fleet.judge import Verdict, comparison_of, run_task
from perception.fleet.reference import read_reference, reference_folder, write_reference
from perception.fleet.task import Outcome, Progress, Stages, Task, replay_task
from perception.replay.result import digest_of
from perception.replay.unit import is_recording
from perception.sources.options import split_options

MOST_REPLAYS = 20
FINE_S = 0.2  # how far the beginning may be from the latest that fails [s]
_HALF_S = 0.0005  # so much beside a frame's stamp parts it from its neighbours [s]


@dataclass(frozen=True)
class Shrunk:
    """A part of a drive that fails as the whole one does."""

    drive: Drive  # the part
    references: Path  # folder with its reference
    level: str
    begin_s: float  # in the whole drive [s]
    end_s: float
    finding: str  # of the whole drive, that the part was searched for
    replays: int
    verdict: Verdict  # on the part, tested as anybody would: it differs, or shrinking did not work


def shrink(verdict: Verdict, task: Task, stages: Stages, out: Path, progress: Progress) -> Shrunk:
    """Find the shortest part of a drive that still differs from its reference, and put it into `out`:
    `shrunk-NAME.mcap`, and its part of the reference in `shrunk-reference`. What lies there is replaced.

    The end is known: messages depend on frames before them alone. For the beginning, parts that begin ever earlier
    are replayed until one differs as the whole does, then halfway back; a part begins without memory, or, re-enacted,
    with the state that was recorded. At most MOST_REPLAYS replays.

    Raises:
        PerceptionError: the drive does not differ, or what differs is in no frame of its own.
    """
    search = _Search(verdict, task, stages, out, progress)
    lead_s = search.run()
    part = search.part(lead_s, out)
    references = out / "shrunk-reference"
    _write_reference(search, part, references)
    told = msgspec.structs.replace(task, drive=part, against=str(references), level=search.level)
    again = run_task(told, stages)
    found = (search.begin_s, search.end_s, search.target.text, search.replays)
    return Shrunk(part, references, search.level, *found, again)


@dataclass
class _Search:
    verdict: Verdict
    task: Task
    stages: Stages
    out: Path
    progress: Progress
    replays: int = 0
    origin_ns: int = 0  # stamp from which seconds of the drive count [ns]
    level: str = ""
    target: Finding = field(init=False)
    end_s: float = field(init=False)
    least_s: float = 0.0  # where the drive begins: it may be a span of a longer one [s]
    most_s: float = field(init=False)  # of the longest part [s]
    begin_s: float = 0.0  # of the last part [s]
    recording: Recording | None = None

    def __post_init__(self) -> None:
        outcome, path = self.verdict.outcome, Path(self.task.drive.path)
        if outcome is None or self.verdict.status != "differs" or not self.verdict.reference:
            raise ConfigError(f"{self.task.drive.shown}: {self.verdict.status}: only a drive that differs is shrunk")
        if is_recording(path):
            self.recording = open_recording(path)
            assert self.recording.about is not None
            self.origin_ns = self.recording.begin_ns - self.recording.about.wall_offset_ns
        else:
            self.least_s = split_options(self.task.drive.path, self.task.drive.shown)[1].seconds("from") or 0.0
        level = self.verdict.level or self.task.level
        # a part has a run and numbers of its own, so only what was re-enacted can be the same bytes
        is_bytes = level in ("bytes", "auto") and outcome.mode != "re-enacted"
        self.level = "tight" if is_bytes else level
        self.target = self._first(outcome)
        assert self.target.stamps_ns is not None
        self.end_s = (self.target.stamps_ns[0] - self.origin_ns) / 1e9 + _HALF_S
        self.most_s = self.end_s - self.least_s

    def run(self) -> float:
        """Seconds that the part must have."""
        passes_s, lead_s = 0.0, 2 * _HALF_S
        while not self.fails(lead_s):
            if lead_s >= self.most_s or self.replays >= MOST_REPLAYS:
                return self.most_s  # the way it was found: from the front
            passes_s, lead_s = lead_s, min(max(0.5, 2 * lead_s), self.most_s)
        while lead_s - passes_s > FINE_S and self.replays < MOST_REPLAYS:
            middle_s = (lead_s + passes_s) / 2
            if self.fails(middle_s):
                lead_s = middle_s
            else:
                passes_s = middle_s
        return lead_s

    def fails(self, lead_s: float) -> bool:
        """Whether the part with so many seconds differs as the whole does.

        Raises:
            PerceptionError: not even the longest part can be replayed.
        """
        self.replays += 1
        self.progress(f"shrink {self.task.drive.name}", self.replays, MOST_REPLAYS)
        folder = self.out / "shrinking"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            task = msgspec.structs.replace(self.task, drive=self.part(lead_s, folder), out=str(folder), against="")
            outcome = replay_task(task, self.stages)
            found = comparison_of(outcome, Path(self.verdict.reference), self.level, match="stamp")
        except OSError as error:
            raise RecordingError(f"{error.filename or self.out}: {reason(error)}") from None
        except PerceptionError:
            if lead_s >= self.most_s:  # this is how the whole was replayed
                raise
            return False  # no frame in it; what is wrong with every part is wrong with the longest too
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return any((f.kind, f.subject) == (self.target.kind, self.target.subject) for f in found.findings)

    def part(self, lead_s: float, folder: Path) -> Drive:
        """The part of the drive with so many seconds: cut out of a recording, a span of anything else."""
        self.begin_s = begin_s = max(self.least_s, self.end_s - lead_s)
        if self.recording is None:
            path, shown = (_within(text, begin_s, self.end_s) for text in (self.task.drive.path, self.task.drive.shown))
            return Drive(path, f"shrunk-{self.task.drive.name}", shown)
        path = folder / f"shrunk-{self.task.drive.name}{SUFFIX}"
        window = Window(begin_s, self.end_s, exact=self.task.mode == "exact")
        self.begin_s -= cut_recording(self.recording, window, path, force=True).cut.lead_in_ns / 1e9
        return Drive(str(path.absolute()), path.name.removesuffix(SUFFIX), str(path))

    def _first(self, outcome: Outcome) -> Finding:
        """The finding that begins first; of those that begin together, the most telling."""
        for level in dict.fromkeys((self.level, "tight")):
            found: Comparison = comparison_of(outcome, Path(self.verdict.reference), level)
            placed = [finding for finding in found.findings if finding.stamps_ns and finding.frames]
            if placed:
                self.level = level
                return min(placed, key=lambda finding: finding.stamps_ns or ())
        raise ConfigError(
            f"{self.task.drive.shown}: no frame of its own differs at level {self.level}: nothing to shrink to; "
            "perception compare shows what differs"
        )


def _within(text: str, begin_s: float, end_s: float) -> str:
    """A drive's path with this span instead of its own."""
    path, _, options = text.partition("?")
    kept = [option for option in options.split("&") if option and option.partition("=")[0] not in ("from", "to")]
    return f"{path}?{'&'.join([*kept, f'from={begin_s:.6f}', f'to={end_s:.6f}'])}"


def _write_reference(search: _Search, part: Drive, references: Path) -> None:
    """The reference of a part: the same time of the whole one's."""
    whole = Path(search.verdict.reference)
    reference, result = read_reference(whole.parent), open_recording(whole)
    offset_ns = result.about.wall_offset_ns if result.about else 0
    shift_s = (search.origin_ns + offset_ns - result.begin_ns) / 1e9
    window = Window(max(0.0, search.begin_s + shift_s), search.end_s + shift_s, exact=True)
    work = search.out / "shrinking"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        counts = cut_recording(result, window, work / f"0000{SUFFIX}").counts
        cut = open_recording(work)
        digest, content = digest_of(cut), content_hash(part.path)
        new = msgspec.structs.replace(
            reference,
            drive=Path(part.path).name,
            content=content,
            result=f"{digest[:12]}-{content[:6]}",
            digest=digest,
            messages=sum(count for topic, count in counts.items() if "/wire/" in topic),
            frames=cut.certificate.stepped if cut.certificate else 0,
            figures=figures_of(cut),
        )
        write_reference(reference_folder(references, part.name, content), new, work)
    except OSError as error:
        raise RecordingError(f"{error.filename or references}: {reason(error)}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
