"""test: drives replayed and held against their references."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from perception.cli import app
from perception.cli.engine_help import ENGINE_HELP
from perception.cli.progress import lines_of, progress_bar
from perception.errors import ConfigError, PerceptionError

if TYPE_CHECKING:
    from perception.fleet.drive_set import Drive
    from perception.fleet.judge import Verdict
    from perception.fleet.run import Wishes
    from perception.fleet.shrink import Shrunk

_LISTED = 8
_COLOURS = {"same": "green", "unchanged": "green", "accepted": "cyan", "replayed": "green"}
EXAMPLES = """
Examples:

    perception test drives/ --against drives/reference --accept      the first time: this is how it should be

    perception test drives/ --against drives/reference --html report.html   after a change: exit code 1 where it shows

    perception test drives.txt --against reference --jobs 8 --out results      many: may be stopped and run again

    perception test drives/ --against drives/reference --shrink --out found      the shortest part that still fails

    perception test drives/ --against reference --on ray://head:10001 --out /shared/results      on a cluster
"""


@app.command("test", epilog=EXAMPLES)
def drive_test(
    drives: Annotated[
        list[str],
        typer.Argument(
            help="Recordings, videos, folders of them, patterns, or a .txt file with one a line.", show_default=False
        ),
    ],
    against: Annotated[Path, typer.Option(help="Folder of the references.", show_default=False)],
    accept: Annotated[
        bool, typer.Option("--accept", help="Make these results the references; say what changes.")
    ] = False,
    mode: Annotated[str, typer.Option(help="exact: every frame. re-enacted: as decided then. what-if.")] = "exact",
    level: Annotated[str, typer.Option(help="How alike: auto, bytes, tight or statistical.")] = "auto",
    launch: Annotated[Path | None, typer.Option(help="A launch file; else each drive's own, or the default.")] = None,
    model: Annotated[str, typer.Option(help="Another model: a shipped one's name or an .onnx file.")] = "",
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keep results here; those that are there are not made again.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, max=1024, help="Processes at once.")] = 1,
    on: Annotated[str, typer.Option(help="ray: a Ray cluster on this machine. ray://HOST:PORT: that one.")] = "",
    shard: Annotated[str, typer.Option(help="i/n: the i-th of n parts of the drives, for jobs that share them.")] = "",
    shrink: Annotated[bool, typer.Option("--shrink", help="Cut each drive that differs to its shortest part.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write one page with plots and the worst frames.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all that is known of each drive.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, a test case for each drive.")] = None,
) -> None:
    """Replay recorded drives and hold what comes out against references: a drive as a test.

    A reference is a folder with a readable reference.toml and the messages; only --accept writes it.

    Exit code 0: all the same. 1: a drive differs, or has no reference. 2: a wrong option or file. 3: a drive could not
    be replayed; the others were.
    """
    from perception.config import read_launch
    from perception.fleet.drive_set import parse_shard
    from perception.fleet.run import Wishes, drives_of

    _check(accept, shrink, out, (html, json_file, junit))
    wishes = Wishes(
        out=out or Path(),
        against=against,
        launch=read_launch(launch) if launch else None,
        model=model,
        engine=engine,
        mode=mode,
        level=level,
        accepts=accept,
        jobs=jobs,
        on=on,
        shard=parse_shard(shard) if shard else (1, 1),
    )
    found = drives_of(drives, wishes)
    with _results(out) as (folder, keep):
        wishes = replace(wishes, out=folder)
        verdicts = _tested(found, wishes, keep)
        _write_reports(verdicts, level, html, json_file, junit)
        if shrink:
            _shrink_all(verdicts, wishes, launch)
        raise typer.Exit(_summed(verdicts, keep, folder if not out else None))


def _check(accepts: bool, shrinks: bool, out: Path | None, written: Sequence[Path | None]) -> None:
    """Raise ConfigError for options that mean nothing together, and files that have no folder."""
    if shrinks and accepts:
        raise ConfigError("--shrink looks for what differs, --accept makes it right: give one of them")
    if shrinks and out is None:
        raise ConfigError("--shrink: give --out, a folder for what it finds")
    for file in filter(None, written):
        if not file.resolve().parent.is_dir():
            raise ConfigError(f"{file}: its folder is not there; make it first")
        if file.is_dir():
            raise ConfigError(f"{file}: would overwrite a folder; give another name")


@contextlib.contextmanager
def _results(out: Path | None) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The folder of results, and what keeps one that nobody asked for."""
    if out:
        yield out, lambda: None
        return
    folder, kept = Path(tempfile.mkdtemp(prefix="perception-test-")), [False]
    try:
        yield folder, lambda: kept.__setitem__(0, True)
    finally:
        if not kept[0]:
            shutil.rmtree(folder, ignore_errors=True)


def _tested(drives: Sequence[Drive], wishes: Wishes, keep: Callable[[], None]) -> list[Verdict]:
    """One verdict a drive, told as they come; Ctrl-C says how to go on."""
    from perception.fleet.run import verdicts_on

    verdicts: list[Verdict] = []
    console = Console()
    try:
        with progress_bar() as bar:
            task = bar.add_task("drives", total=len(drives))
            frames = bar.add_task("frames", total=None, visible=False)

            def progress(what: str, done: int, total: int) -> None:
                bar.update(frames, description=what, completed=done, total=total or None, visible=True)

            with contextlib.closing(verdicts_on(drives, wishes, progress)) as told:
                for verdict in told:
                    verdicts.append(verdict)
                    bar.update(task, advance=1)
                    for line in _lines(verdict):
                        console.print(line, soft_wrap=True, highlight=False)
    except KeyboardInterrupt:
        keep()
        again = shlex.join(["perception", *_without_out(sys.argv[1:]), "--out", str(wishes.out)])
        print(
            f"stopped: {len(verdicts)} of {len(drives)} drives are done and kept; go on with: {again}", file=sys.stderr
        )
        raise typer.Exit(130) from None
    return sorted(verdicts, key=lambda verdict: (verdict.drive.name, verdict.drive.path))


def _without_out(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skips = False
    for word in words:
        if skips or word.startswith("--out="):
            skips = False
        elif word in ("--out", "-o"):
            skips = True
        else:
            kept.append(word)
    return kept


def _lines(verdict: Verdict) -> Iterator[str]:
    colour = _COLOURS.get(verdict.status, "red")
    name, frames = _plain(verdict.drive.shown), f", {verdict.outcome.frames} frames" if verdict.outcome else ""
    yield f"[{colour}]{verdict.status}[/] [bold]{name}[/]{frames}: {_plain(verdict.text)}"
    for finding in verdict.findings[:_LISTED]:
        yield f"  {_plain(finding)}"
    if len(verdict.findings) > _LISTED:
        yield f"  and {len(verdict.findings) - _LISTED} more"


def _plain(text: str) -> str:
    from perception.compare.plain import one_line

    return escape(one_line(text))


def _write_reports(
    verdicts: Sequence[Verdict], level: str, html: Path | None, json_file: Path | None, junit: Path | None
) -> None:
    from perception.fleet.report import write_json, write_junit, write_page

    if json_file:
        write_json(json_file, verdicts)
    if junit:
        write_junit(junit, verdicts)
    if html:
        with progress_bar() as bar:
            for line in write_page(html, verdicts, level, lines_of(bar)):
                print(line, file=sys.stderr)


def _shrink_all(verdicts: Sequence[Verdict], wishes: Wishes, launch: Path | None) -> None:
    """Cut each drive that differs to what fails, and say how to see it again."""
    from perception.fleet.run import tasks_of
    from perception.fleet.shrink import shrink
    from perception.fleet.task import Stages

    failing = [verdict for verdict in verdicts if verdict.status == "differs"]
    tasks = tasks_of([verdict.drive for verdict in failing], wishes)
    with progress_bar() as bar, contextlib.closing(Stages()) as stages:
        lines = lines_of(bar)
        for verdict, task in zip(failing, tasks, strict=True):
            try:
                found = shrink(verdict, task, stages, wishes.out, lines)
            except PerceptionError as error:
                print(f"{verdict.drive.shown}: not shrunk: {error}")
                continue
            replays = f"{found.replays} replays" if found.replays > 1 else "1 replay"
            print(f"{verdict.drive.shown}: shrunk to {found.begin_s:.3f}-{found.end_s:.3f} s by {replays}")
            print(f"  {found.finding}")
            if found.verdict.status == "differs":
                print(f"  see it again: {_command(found, wishes, launch)}")
            else:
                print(f"  this part alone is {found.verdict.status}: what differs needs more: {found.drive.shown}")


def _command(found: Shrunk, wishes: Wishes, launch: Path | None) -> str:
    words = ["perception", "test", found.drive.shown, "--against", str(found.references)]
    options = {"--level": found.level, "--mode": wishes.mode, "--launch": launch and str(launch)}
    options |= {"--model": wishes.model, "--engine": wishes.engine}
    return shlex.join([*words, *(word for name, value in options.items() if value for word in (name, value))])


def _summed(verdicts: Sequence[Verdict], keep: Callable[[], None], folder: Path | None) -> int:
    """The last lines, and the exit code. `folder`: results that are kept only where something differs."""
    from perception.compare.plain import one_line
    from perception.fleet.report import counts
    from perception.fleet.run import exit_code

    failed = [verdict for verdict in verdicts if verdict.status == "failed"]
    for verdict in failed:
        print(one_line(f"failed: {verdict.drive.shown}: {verdict.text}"), file=sys.stderr)
    print(", ".join(f"{count} {status}" for status, count in counts(verdicts).items()) or "no drive in this shard")
    if folder and any(verdict.status in ("differs", "no reference") for verdict in verdicts):
        keep()
        print(f"results are kept in {folder}: give --out {folder} to look again or to --accept", file=sys.stderr)
    return exit_code(verdicts)
