"""compare: what two recordings of one drive say, held against each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perception.cli import app
from perception.cli.progress import lines_of, progress_bar
from perception.errors import ConfigError

if TYPE_CHECKING:
    from perception.compare import Comparison

PICTURES = 20
"""Frames that the HTML page shows."""
_LISTED = 40


@app.command()
def compare(
    reference: Annotated[
        Path, typer.Argument(help="A: a drive, or a replay's result, that is right.", show_default=False)
    ],
    candidate: Annotated[Path, typer.Argument(help="B: another of the same drive.", show_default=False)],
    level: Annotated[str, typer.Option(help="How alike: auto, bytes, tight or statistical.")] = "auto",
    tolerance: Annotated[Path | None, typer.Option(help="TOML file with thresholds of your own.")] = None,
    latency_ms: Annotated[float | None, typer.Option(min=0, help="B may be later, at p50 and p99. Else 10.")] = None,
    match: Annotated[str, typer.Option(help="Match frames by stamp or frame (its number); else auto.")] = "auto",
    frames: Annotated[Path | None, typer.Option(help="The drive, for images where A and B have none.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page with plots and the worst frames.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures and findings.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, a test case for each check.")] = None,
) -> None:
    """Compare two recordings of one drive, frame by frame: masks, things, ids, validity, latency, bytes.

    What is compared are the messages that were published. With `--level auto`, runs of one engine and version have to
    be the same bytes; of one engine and processor nearly the same masks; others the same within statistics.

    Exit code 0: the same within the tolerance. 1: different. 2: a wrong option, or a file that is not there. 3: not to
    be compared: no recording, a damaged one, or one of something else.
    """
    from perception.compare import Options, write_html, write_json, write_junit
    from perception.compare import compare as held_against

    check_paths([reference, candidate, *([frames] if frames else [])], [html, json_file, junit])
    options = Options(level, tolerance, latency_ms, match, PICTURES if html else 0, frames)
    with progress_bar() as bar:
        comparison = held_against(reference, candidate, options, lines_of(bar))
    if html:
        write_html(html, [comparison])
    if json_file:
        write_json(json_file, comparison)
    if junit:
        write_junit(junit, [comparison])
    show(comparison)
    raise typer.Exit(0 if comparison.is_same else 1)


def check_paths(read: list[Path], written: list[Path | None]) -> None:
    """Raise ConfigError for recordings that are not there, and for files that have no folder or are an input."""
    for path in read:
        if not path.exists():
            raise ConfigError(f"{path}: no such recording: give an .mcap file or a folder of them")
    for file in filter(None, written):
        if not file.resolve().parent.is_dir():
            raise ConfigError(f"{file}: its folder is not there; make it first")
        if file.is_dir() or any(file.resolve() == path.resolve() for path in read):
            raise ConfigError(f"{file}: would overwrite a folder or a recording; give another name")


def show(comparison: Comparison) -> None:
    """The tables, the findings and the verdict, on stdout."""
    console = Console()
    for table in tables(comparison):
        console.print(table)
    for line in verdict(comparison):
        console.print(line, soft_wrap=True, highlight=False)


def tables(c: Comparison) -> Iterator[Table]:
    from perception.compare.page_tables import counts, ms, share, times

    if c.classes:
        table = Table("topic", "class", "IoU", "mean", "least", "in frame", "F 1 px", "F 2 px", "F 4 px", box=None)
        for r in c.classes:
            figures = (share(r.pooled_iou), share(r.mean_iou), share(r.least_iou), str(r.least_frame))
            borders = (share(r.boundary_f[t]) for t in (1, 2, 4))
            table.add_row(_plain(r.topic), _plain(r.name), *figures, *borders)
        yield table
    table = Table("", "A", "B", box=None)
    for row in counts(c):
        table.add_row(*(_plain(str(cell)) for cell in row))
    yield table
    if c.latency:
        table = Table("latency p50 / p90 / p99 [ms]", "A", "B", "shift of p50", "of p99", box=None)
        for r in c.latency:
            shifts = (ms(r.b[0] - r.a[0]), ms(r.b[2] - r.a[2]))
            name = r.stage if r.source == "decisions" else f"  {r.stage} (health)"
            table.add_row(_plain(name), times(r.a), times(r.b), *shifts)
        yield table


def verdict(c: Comparison) -> Iterator[str]:
    """Lines of rich markup: how it was judged, each finding, and the verdict last."""
    by = "capture stamps" if c.matching.by == "stamp" else "frame numbers"
    yield f"{c.frames} frames matched by {by}: {_plain(c.matching.why)}"
    yield f"judged at level [bold]{c.tolerance.level}[/]: {_plain(c.why)}"
    for kind, why in sorted({(check.kind, check.skipped) for check in c.checks if check.skipped}):
        yield f"[dim]not judged: {_plain(kind)}, {_plain(why)}[/]"
    for note in c.notes:
        yield f"[yellow]{_plain(note)}[/]"
    for finding in c.findings[:_LISTED]:
        yield f"[red]x[/] {_plain(finding.text)}"
    if len(c.findings) > _LISTED:
        yield f"and {len(c.findings) - _LISTED} more findings: --json and --html have them"
    equal = "equal digests" if c.digests[0] == c.digests[1] else "other digests"
    yield "[bold green]same[/]" + f" ({equal})" if c.is_same else f"[bold red]different[/]: {len(c.findings)} findings"


def _plain(text: str) -> str:
    from perception.compare.plain import one_line

    return escape(one_line(text))
