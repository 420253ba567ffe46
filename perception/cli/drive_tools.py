"""drive frames, video, convert, redact: take recorded drives to where other people and tools can see them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.drive import drive
from perception.cli.progress import lines_of, progress_bar

if TYPE_CHECKING:
    from perception.conversion.outputs import Progress

Drive = Annotated[Path, typer.Argument(metavar="DRIVE", help="A recording: a folder of segments or an .mcap file.")]
From = Annotated[float, typer.Option("--from", metavar="S", min=0, help="Begin so many seconds after its first frame.")]
To = Annotated[float | None, typer.Option("--to", metavar="S", min=0, help="End so many seconds after it.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there under the name of the result.")]


@drive.command()
def frames(
    path: Drive,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="A new folder.")],
    begin: From = 0.0,
    end: To = None,
    every: Annotated[int, typer.Option(min=1, help="Only every n-th frame.")] = 1,
    form: Annotated[str, typer.Option("--format", help="jpg or png; as recorded where it is not given.")] = "",
    masks: Annotated[bool, typer.Option("--masks", help="Also masks/TOPIC/SEQ.png and tracks.jsonl.")] = False,
    force: Force = False,
) -> None:
    """Write the camera's pictures into a folder, the recorded bytes as they are.

    [bold]perception drive frames drives/front-2026-11-23 -o pictures[/bold]

    They are named by frame number; stamps.csv has the time of each, so that the folder can be replayed again:
    [bold]perception replay pictures[/bold]. With --masks: 0 and 255 for a class or a group; class indices, whose names
    are in classes.json; or 16 bit positions, whose tracks are in ids.jsonl.
    """
    from perception.conversion.pictures import PictureWishes, write_pictures
    from perception.drives.ending import warn_unclosed
    from perception.drives.recording import open_recording

    warn_unclosed(open_recording(path))
    wishes = PictureWishes(begin, end, every, form, masks)
    with _bar() as progress:
        done = write_pictures(path, out, wishes, force=force, progress=progress)
    more = "".join(f", {count} masks of {topic}" for topic, count in sorted(done.masks.items()))
    broken = f", {done.left_out} left out that can't be decoded" if done.left_out else ""
    print(f"{out}: {done.frames} pictures{more}{broken}")


@drive.command()
def convert(
    given: Annotated[str, typer.Argument(metavar="IN", help="A recording of ours, or any video, folder or bag.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Its suffix says what it becomes.")],
    form: Annotated[str, typer.Option("--to", help="mcap, video, pictures or ros2, if the suffix does not say.")] = "",
    camera: Annotated[str, typer.Option(help="Name of the camera in a new recording.")] = "front",
    images: Annotated[str, typer.Option("--images", help="jpeg, png or raw in a new recording.")] = "",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of JPEGs that are made anew.")] = 95,
    force: Force = False,
) -> None:
    """Make a recording of a video, a folder of pictures or a bag; or one of these of a recording.

    [bold]perception drive convert dashcam.mp4 -o dashcam.mcap[/bold]
    [bold]perception drive convert 'bag?topic=/cam/image_raw' -o drives/bag[/bold]
    [bold]perception drive convert drives/front-2026-11-23 -o bag --to ros2[/bold]

    A new recording has every frame with its exact stamp; JPEGs and PNGs of a folder or a bag keep their very bytes. It
    holds no masks yet: [bold]perception replay dashcam.mcap --mode exact --out result[/bold] makes them.
    """
    from perception.conversion.convert import ConvertWishes, convert

    wishes = ConvertWishes(form, camera, images, quality)
    with _bar() as progress:
        said = convert(given, out, wishes, force=force, progress=progress)
    print(f"{out}: {said}")


@drive.command()
def redact(
    path: Drive,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="A new folder, or an .mcap file.")],
    classes: Annotated[list[str] | None, typer.Option("--class", help="Cover this class; may be repeated.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Cover all of each thing, not only head or plate.")] = False,
    cells: Annotated[int, typer.Option("--blur", min=1, max=12, help="Colours left along a region; 1: one.")] = 6,
    hold: Annotated[int, typer.Option(min=0, help="Cover a region in so many frames before and after too.")] = 5,
    also: Annotated[Path | None, typer.Option(metavar="JSON", help="Further boxes: see below.")] = None,
    tracks: Annotated[Path | None, typer.Option(metavar="RESULT", help="Take the tracks from here.")] = None,
    force: Force = False,
) -> None:
    """Copy a drive with the faces of people and the number plates of vehicles made unrecognisable.

    [bold]perception drive redact drives/front-2026-11-23 -o shareable[/bold]

    [bold]Detection is not perfect: look at the result before you give it away[/bold] (perception drive video). What no
    track shows is not covered: people behind glass, on posters, far away, or missed for longer than --hold.

    Of people the upper third of the box is covered, of vehicles the lower part, of other classes and of small things
    all. Covered means a few flat squares, not a blur that could be undone. Tracks count that were carried or are hidden
    too. Images that nothing looked at, or that can't be decoded, are left out. Masks stay, and so do people's outlines
    in them. Redacted drives replay, but no longer to the same bytes.

    --also is a JSON list of {"box": \\[x0, y0, x1, y1]} in image pixels: of all frames, or with "frame": 12, or with
    "from": 12, "to": 40.
    """
    from perception.conversion.redaction import redact
    from perception.conversion.regions import RegionWishes

    wishes = RegionWishes(tuple(classes or ()), whole, hold, cells)
    with _bar() as progress:
        done = redact(path, out, wishes, also=also, tracks=tracks, force=force, progress=progress)
    seen = ", ".join(f"{name} {count}" for name, count in sorted(done.boxes.items())) or "none"
    print(f"{out}: {done.frames} images, boxes: {seen}")
    print(f"{done.uncovered} images with nothing to cover")
    if done.surfaces:
        print(f"not covered, as the model does not tell one from another: {', '.join(done.surfaces)}")
    for reason, count in done.left_out.items():
        print(f"{count} images left out: {reason}")
    for name, count in sorted(done.channels_left_out.items()):
        print(f"{count} messages of {name} left out: they may show what the images did")
    print("Detection is not perfect: look at the result before you give it away.", file=sys.stderr)


@contextmanager
def _bar() -> Iterator[Progress]:
    with progress_bar() as bar:
        yield lines_of(bar)
