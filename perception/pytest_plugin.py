"""pytest: each recorded drive of a folder is a test, and fixtures to assert more about one.

    [tool.pytest.ini_options]
    perception_drives = "tests/drives"      # its references are in tests/drives/reference

Without this setting or `--drives FOLDER` nothing is collected, and nothing but this file imported.
"""

from __future__ import annotations

import contextlib
import difflib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perception.compare import Comparison
    from perception.config import Launch
    from perception.fleet.drive_set import Drive
    from perception.fleet.judge import Verdict
    from perception.fleet.task import Outcome, Stages, Task

REFERENCE = "reference"
"""Folder of the references beside the drives."""
CHOICES = {
    "perception_mode": ("exact", "re-enacted", "what-if"),
    "perception_level": ("auto", "bytes", "tight", "statistical"),
}
"""What these settings may be, the default first; repeated here since nothing else may be imported."""
_PICTURES = 20
_MARK = "drive: replays a recorded drive and holds the masks against a reference"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("perception", "recorded drives as tests")
    group.addoption("--drives", metavar="FOLDER", help="Test each recorded drive in this folder against its reference.")
    group.addoption("--accept-drives", action="store_true", help="Make what the drives give now their references.")
    parser.addini("perception_drives", "folder of recorded drives that are tests; --drives goes before it", default="")
    parser.addini("perception_launch", "launch file for the drives; else as each was recorded", default="")
    for name, what in (("perception_mode", "how drives are replayed"), ("perception_level", "how alike")):
        parser.addini(name, f"{what}: {', '.join(CHOICES[name])}", default=CHOICES[name][0])


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)
    _check_choices(config)
    asked = config.getoption("--drives")
    if not asked:
        return
    folder = config.invocation_params.dir / asked
    if not folder.is_dir():
        raise pytest.UsageError(f"--drives {asked}: no such folder")
    args = [(config.invocation_params.dir / arg.partition("::")[0]).resolve() for arg in config.args]
    if not any(folder.resolve().is_relative_to(arg) for arg in args):
        config.args.append(str(folder))


def _check_choices(config: pytest.Config) -> None:
    for name, known in CHOICES.items():
        told = config.getini(name)
        if told not in known:
            near = difflib.get_close_matches(told, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise pytest.UsageError(f"{name}: {told!r} is not one of {', '.join(known)}{hint}")


def pytest_unconfigure(config: pytest.Config) -> None:
    if player := config.stash.get(_PLAYER, None):
        player.close()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    folder = drives_folder(config)
    return True if folder and collection_path == folder / REFERENCE else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return DriveFile.from_parent(parent, path=file_path) if _is_wanted(file_path, parent.config) else None


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return DriveFolder.from_parent(parent, path=path) if _is_wanted(path, parent.config) else None


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    player = config.stash.get(_PLAYER, None)
    for verdict in player.accepted if player else ():
        terminalreporter.write_line(f"{verdict.status}: {verdict.drive.name}: {verdict.text}")
        for line in verdict.findings:
            terminalreporter.write_line(f"  {line}")


def drives_folder(config: pytest.Config) -> Path | None:
    """The folder whose drives are tests; None without one."""
    if asked := config.getoption("--drives"):
        return (config.invocation_params.dir / asked).resolve()
    setting = config.getini("perception_drives")
    return (config.rootpath / setting).resolve() if setting else None


def _is_wanted(path: Path, config: pytest.Config) -> bool:
    folder = drives_folder(config)
    if folder is None or folder == path or not path.is_relative_to(folder):
        return False
    from perception.fleet.drive_set import is_drive

    return is_drive(path)


class DriveFile(pytest.File):
    """A recorded drive in one file."""

    def collect(self) -> Iterator[pytest.Item]:
        yield DriveItem.from_parent(self, name=self.path.stem)


class DriveFolder(pytest.Directory):
    """A recorded drive that is a folder."""

    def collect(self) -> Iterator[pytest.Item]:
        yield DriveItem.from_parent(self, name=self.path.name)


class DriveFailed(Exception):
    """What differs, in lines for people."""


class DriveItem(pytest.Item):
    """One drive against its reference."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        self.add_marker("drive")

    def runtest(self) -> None:
        from perception.fleet.drive_set import drive_at

        player = _player(self.config)
        verdict = player.verdict(drive_at(self.path))
        if verdict.status not in ("same", "accepted", "unchanged"):
            raise DriveFailed("\n".join(player.lines(verdict)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, DriveFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"drive {self.name}"


class Player:
    """Replays drives in this process, with the model kept loaded between them."""

    def __init__(self, config: pytest.Config) -> None:
        from perception.fleet.task import Stages

        self._config = config
        self._out = Path(tempfile.mkdtemp(prefix="perception-drives-"))
        self._stages: Stages = Stages()
        self.accepted: list[Verdict] = []

    def task(self, drive: Drive, launch: Launch | None = None, **more: Any) -> Task:
        """How to replay, as the settings say it."""
        from perception.config import read_launch
        from perception.fleet.task import Task

        setting = self._config.getini("perception_launch")
        if launch is None and setting:
            launch = read_launch(self._config.rootpath / setting)
        told: dict[str, Any] = {"mode": self._config.getini("perception_mode")}
        told |= {"level": self._config.getini("perception_level")} | more
        return Task(drive, str(self._out), launch, **told)

    def references(self, drive: Drive) -> Path:
        """Beside the drives of the folder; of another drive, beside it."""
        folder = drives_folder(self._config)
        is_inside = folder and Path(drive.path).resolve().is_relative_to(folder)
        return (folder if folder and is_inside else Path(drive.path).parent) / REFERENCE

    def verdict(self, drive: Drive) -> Verdict:
        """The drive against its reference, or made its reference."""
        from perception.fleet.judge import run_task
        from perception.fleet.run import accepted

        references = self.references(drive)
        if not self._config.getoption("--accept-drives"):
            return run_task(self.task(drive, against=str(references)), self._stages)
        verdict = accepted(run_task(self.task(drive, accepts=True), self._stages), references)
        self.accepted.append(verdict)
        return verdict

    def replay(self, task: Task) -> Outcome:
        from perception.fleet.task import replay_task

        return replay_task(task, self._stages)

    def lines(self, verdict: Verdict) -> Iterator[str]:
        """The verdict for a person who reads the test's output."""
        yield f"{verdict.status}: {verdict.text}".replace("--accept", "--accept-drives")
        yield from (f"  {finding}" for finding in verdict.findings)
        is_compared = verdict.status == "differs" and verdict.findings
        if is_compared and (page := self._page(verdict)):
            yield f"the page with plots and the worst frames: {page}"

    def close(self) -> None:
        self._stages.close()
        shutil.rmtree(self._out, ignore_errors=True)

    def _page(self, verdict: Verdict) -> Path | None:
        from perception.compare import write_html
        from perception.errors import PerceptionError
        from perception.fleet.judge import comparison_of

        assert verdict.outcome is not None
        cache = getattr(self._config, "cache", None)
        folder = cache.mkdir("perception-drives") if cache else Path(tempfile.mkdtemp(prefix="perception-page-"))
        page = folder / f"{verdict.drive.name}.html"
        with contextlib.suppress(PerceptionError, OSError):
            write_html(page, [comparison_of(verdict.outcome, Path(verdict.reference), verdict.level, _PICTURES)])
            return page
        return None


_PLAYER = pytest.StashKey[Player]()


def _player(config: pytest.Config) -> Player:
    if _PLAYER not in config.stash:
        config.stash[_PLAYER] = Player(config)
    return config.stash[_PLAYER]


@pytest.fixture
def replay_drive_result(request: pytest.FixtureRequest) -> Callable[..., Outcome]:
    """Replays a drive: `replay_drive_result("tunnel.mcap", mode="re-enacted").digest`. A path, or a name in the folder
    of drives; further arguments as perception.fleet.task.Task has them: launch, model, engine, mode. The masks are the
    recording in `.folder`. Raises PerceptionError where it can't be replayed."""
    player = _player(request.config)

    def replayed(drive: str | Path, **more: Any) -> Outcome:
        return player.replay(player.task(_found(drive, request.config), **more))

    return replayed


@pytest.fixture
def drive_comparison(request: pytest.FixtureRequest) -> Callable[..., Comparison]:
    """Replays a drive and compares it with its reference, or with the recording `against`:
    `drive_comparison("tunnel.mcap").findings`. Raises PerceptionError where either can't be had."""
    player = _player(request.config)

    def compared(drive: str | Path, against: Path | None = None, level: str = "auto", **more: Any) -> Comparison:
        from perception.fleet.judge import comparison_of
        from perception.fleet.reference import read_reference, reference_folder

        found = _found(drive, request.config)
        outcome = player.replay(player.task(found, **more))
        if against is None:
            folder = reference_folder(player.references(found), found.name, outcome.content)
            against = folder / read_reference(folder).result
        return comparison_of(outcome, Path(against), level)

    return compared


def _found(drive: str | Path, config: pytest.Config) -> Drive:
    from perception.fleet.drive_set import drive_at

    folder, path = drives_folder(config), Path(drive)
    return drive_at(folder / path if folder and not path.exists() else path)
