"""drive info, check, recover, cut: look after recorded drives."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from perception.cli import app
from perception.cli.progress import lines_of, progress_bar
from perception.errors import PerceptionError

DAMAGED = 3
"""Exit code of what is damaged or not complete; 2 says that it is no recording."""
_GAPS, _DAMAGES = 5, 5  # shown one by one
_WIDE = 240  # columns in a pipe or a file, where nothing needs to be folded

drive = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Look into recorded drives, check them, save damaged ones, cut parts out.",
    epilog="A recording is a folder of segments (0000.mcap, 0001.mcap, ...) or one .mcap file, of any MCAP writer.",
)
app.add_typer(drive, name="drive")

Source = Annotated[Path, typer.Argument(help="A folder of segments, an .mcap file, or an .mcap.active file.")]
Force = Annotated[bool, typer.Option("--force", help="Replace OUT where it is there.")]


@drive.command()
def info(
    path: Source,
    quick: Annotated[bool, typer.Option("--quick", help="Only what the indexes say: no byte counts, no gaps.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON on stdout.")] = False,
) -> None:
    """Say what a recording holds: when and with what it was made, its topics, what was dropped, and what is missing.

    [bold]perception drive info drives/front-2026-11-23[/bold]

    Expected and written are the certificate's: what the node wanted to keep, and what it kept. Damage is skipped and
    listed; the exit code is 0 all the same, `perception drive check` is the judge.
    """
    from perception.drives.recording import open_recording
    from perception.drives.summary import json_of, summarise

    recording = open_recording(path, lenient=True)
    with progress_bar() as bar:
        found = summarise(recording, quick=quick, progress=lines_of(bar))
    if json:
        print(json_of(found))
        return
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE)
    for table in (_facts(found), _topics(found)):
        console.print(table, markup=False, highlight=False)


@drive.command()
def check(
    paths: Annotated[list[Path], typer.Argument(help="Recordings: folders or .mcap files; a bad one stops nothing.")],
) -> None:
    """Read everything and say whether it is whole: checksums, order, numbers, every message, the certificate.

    Exit code 0: all are whole. 3: one is damaged or not complete. 2: one is no recording.
    """
    from perception.drives.check import check_recording

    code = 0
    with progress_bar() as bar:
        progress = lines_of(bar)
        for path in paths:
            try:
                checked = check_recording(path, progress)
            except PerceptionError as error:
                print(f"perception: {error}", file=sys.stderr)
                code = 2
                continue
            print(f"{path}: {'not whole' if checked.faults else 'whole'}, {checked.messages} messages")
            for line in checked.faults:
                print(f"  {line}")
            for line in checked.notes:
                print(f"  note: {line}")
            code = code or (DAMAGED if checked.faults else 0)
    raise typer.Exit(code)


@drive.command()
def recover(
    path: Source,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New .mcap file, or folder for a folder.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the damaged files of the recording.")] = False,
    force: Force = False,
) -> None:
    """Save what can be read of a damaged recording, or of one that a crash left open, into a finished one.

    [bold]perception drive recover drives/front-2026-11-23 --in-place[/bold]
    [bold]perception drive recover damaged.mcap -o saved.mcap[/bold]

    Behind a damaged place it goes on with the next chunk whose checksum fits. The original stays as it is; with
    --in-place it is replaced, and stays as NAME.damaged where it held more than could be saved. The new file says that
    it was recovered and what is missing. Exit code 0: nothing was lost. 3: something was.
    """
    from perception.drives.recover import recover as save
    from perception.drives.recover import recover_in_place

    if (out is None) == (not in_place):
        raise PerceptionError("say where it goes: -o OUT for a copy, or --in-place, and not both")
    with progress_bar() as bar:
        progress = lines_of(bar)
        result = recover_in_place(path, progress) if out is None else save(path, out, force=force, progress=progress)
    print(f"{result.path}: {result.kept.total()} messages, {counted(len(result.files), 'file')} written anew")
    for topic, count in sorted(result.lost.items()):
        print(f"  lost: {count} of {topic}")
    if result.lost_bytes:
        print(f"  lost: {result.lost_bytes} bytes that can't be read")
    for damage in result.damage[:_DAMAGES]:
        print(f"  {damage}")
    for original in result.originals:
        print(f"  the original is {original}")
    raise typer.Exit(0 if result.is_lossless else DAMAGED)


@drive.command()
def cut(
    path: Source,
    out: Annotated[Path, typer.Option("--out", "-o", help="The new .mcap file.")],
    begin: Annotated[float, typer.Option("--from", min=0, help="Seconds after the recording's first message.")] = 0.0,
    end: Annotated[float | None, typer.Option("--to", min=0, help="Seconds likewise; the end without it.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Only this topic; may be given again.")] = None,
    exact_range: Annotated[bool, typer.Option("--exact-range", help="Nothing before --from, though no state.")] = False,
    force: Force = False,
) -> None:
    """Copy a part of a recording into a recording of its own.

    [bold]perception drive cut drives/front --from 2400 --to 2430 -o tests/drives/tunnel.mcap[/bold]

    The node's memory is kept in the recording every 5 s. The cut begins with the last one before --from and holds the
    frames since: `perception replay` of the cut gives the same bytes for these frames as of the whole drive. So it may
    begin up to 5 s earlier than asked; the command says by how much. --exact-range leaves that lead-in out: a replay
    then begins with an empty memory, and other ids.
    """
    from perception.drives.cut import Window, cut_recording
    from perception.drives.ending import warn_unclosed
    from perception.drives.recording import open_recording

    recording = open_recording(path)
    warn_unclosed(recording)
    with progress_bar() as bar:
        window = Window(begin, end, topic or None, exact_range)
        result = cut_recording(recording, window, out, force=force, progress=lines_of(bar))
    seconds = (result.cut.to_ns - result.cut.from_ns) / 1e9
    print(f"{result.path}: {sum(result.counts.values())} messages, {seconds:.3f} s")
    if result.has_state:
        lead_s = result.cut.lead_in_ns / 1e9
        seq = result.cut.frame_seq
        when = f"after frame {seq}" if seq >= 0 else "before its first frame"
        lead = f"and {lead_s:.3f} s before: " if lead_s else ""
        print(f"  {lead}it begins with the node's state {when}")
    else:
        print("  without the node's state: a replay begins with an empty memory")


def _facts(found: Any) -> Table:
    """What is said once: a name and a text each."""
    from perception.drives.summary import RecordingSummary

    assert isinstance(found, RecordingSummary)
    table = Table(show_header=False, box=None, pad_edge=False)
    when = datetime.fromtimestamp(found.begin_ns / 1e9, UTC)
    is_dated = found.begin_ns > 10**18
    table.add_row("recording", f"{found.path} ({counted(found.segments, 'file')}, {found.bytes / 1e6:.1f} MB)")
    table.add_row("when", f"{when:%Y-%m-%d %H:%M:%S} UTC" if is_dated else "on the drive's own clock")
    table.add_row("length", f"{found.seconds:.3f} s{'' if found.is_finished else ', not finished'}")
    for name, text in (*_origin(found), *_state_of_it(found)):
        if text:
            table.add_row(name, text)
    return table


def _origin(found: Any) -> list[tuple[str, str]]:
    about = found.about
    if about is None:
        return [("written by", "another program")]
    machine = about.machine
    return [
        ("camera", about.camera),
        ("source", about.source),
        ("model", f"{about.model} ({about.model_id})" if about.model_id else about.model),
        ("engine", about.engine),
        ("machine", f"{machine.host}, {machine.cpu}, {machine.cores} cores" if machine.host else ""),
        ("mode", about.mode + (f", of drive {about.drive}" if about.drive else "")),
        (
            "images",
            about.frames + (", the network saw these very pixels" if about.is_exact and about.frames != "none" else ""),
        ),
    ]


def _state_of_it(found: Any) -> list[tuple[str, str]]:
    """Completeness, frames, events and what is wrong."""
    rows: list[tuple[str, str]] = []
    if found.is_complete is not None:
        word = "complete" if found.is_complete else "not complete"
        lost = ", ".join(f"{count} {reason}" for reason, count in found.lost.items())
        rows.append(("certificate", f"{word}; ended: {found.why_ended}{'; lost: ' + lost if lost else ''}"))
    elif found.about:
        rows.append(("certificate", "none: it was not closed in order"))
    if frames := found.frames:
        whats = ", ".join(f"{getattr(frames, what)} {what}" for what in ("stepped", "failed", "dropped", "broken"))
        rows.append(("frames", f"{frames.captured} captured every {frames.period_ms:.1f} ms: {whats}"))
        rows += [("", f"{count} {reason}") for reason, count in frames.reasons.items()]
        engines = ", ".join(f"{engine or 'an engine'} {count}" for engine, count in frames.engines.items())
        rows.append(("network", f"looked at {frames.network_share:.0%} of them; served by: {engines}"))
        longest = sorted(frames.gaps, key=lambda gap: -gap.seconds)[:_GAPS]
        told = ", ".join(f"{gap.seconds:.3f} s at {gap.at_s:.3f} s" for gap in longest)
        rows.append(("gaps", f"{len(frames.gaps)}, the longest: {told}" if frames.gaps else "none"))
    rows.append(("events", ", ".join(f"{count} {state}" for state, count in found.events.items())))
    if found.about:
        rows.append(("states", f"{found.states}, control calls {found.control_calls}"))
    if found.cut:
        rows.append(("cut", f"of {found.cut.recording}, {found.cut.lead_in_ns / 1e9:.3f} s of lead-in"))
    if found.recovered:
        rows.append(("recovered", f"of {found.recovered.original}, {found.recovered.lost_bytes} bytes were lost"))
    rows += [("damage", line) for line in found.damage[:_DAMAGES]]
    if len(found.damage) > _DAMAGES:
        rows.append(("", f"and {len(found.damage) - _DAMAGES} more"))
    return rows


def counted(count: int, what: str) -> str:
    """ "1 file", "2 files"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _topics(found: Any) -> Table:
    table = Table(box=None, pad_edge=False)
    numbers = {"messages", "Hz", "MB", "expected", "written"}
    for name in ("topic", "schema", "messages", "Hz", "MB", "expected", "written"):
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for c in found.channels:
        size = "" if c.bytes is None else f"{c.bytes / 1e6:.2f}"
        expected, written = ("" if n is None else str(n) for n in (c.expected, c.written))
        form = c.schema or c.encoding
        table.add_row(c.topic, form, str(c.messages), f"{c.rate_hz:.2f}", size, expected, written)
    return table
