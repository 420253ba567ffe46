"""video, picture: what a drive looks like with its masks, for READMEs, reports and bug tickets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli import app
from perception.cli.drive import drive
from perception.cli.progress import lines_of, progress_bar

if TYPE_CHECKING:
    from perception.config import Launch

Drive = Annotated[
    str,
    typer.Argument(
        metavar="DRIVE", help="A recording, or any video, folder of pictures or bag: then the masks are made now."
    ),
]
Scale = Annotated[float, typer.Option(help="Of the camera's size.")]
Topics = Annotated[list[str] | None, typer.Option("--topic", "-t", help="Only this mask topic; may be repeated.")]
Plain = Annotated[bool, typer.Option("--plain", help="The camera's image alone.")]
Images = Annotated[Path | None, typer.Option("--frames", metavar="DRIVE", help="Take the images from here.")]
Model = Annotated[str, typer.Option(help="Make the masks now, by this shipped model or .onnx file.")]
Engine = Annotated[str, typer.Option(help="auto, onnxruntime or openvino, where masks are made now.")]
_AFTER_S = 0.1  # a frame at a time is one that was captured before it
Force = Annotated[bool, typer.Option("--force", help="Replace what is there under the name of the result.")]


@app.command()
@drive.command()
def video(
    path: Drive,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="VIDEO", help="An .mp4, .mkv or .mov.")],
    begin: Annotated[
        float, typer.Option("--from", metavar="S", min=0, help="Begin so many seconds after its first frame.")
    ] = 0.0,
    end: Annotated[float | None, typer.Option("--to", metavar="S", min=0, help="End so many seconds after it.")] = None,
    speed: Annotated[float, typer.Option(help="Times as fast as it was driven.")] = 1.0,
    scale: Scale = 1.0,
    topic: Topics = None,
    plain: Plain = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="Show also frames that the node did not take.")] = False,
    images: Images = None,
    model: Model = "",
    engine: Engine = "",
    force: Force = False,
) -> None:
    """Write a video with the masks over the camera's image: classes in colour, things with id, class and score.

    [bold]perception video drives/front-2026-11-23 -o drive.mp4 --from 12 --to 20[/bold]
    [bold]perception video dashcam.mp4 -o masks.mp4 --scale 0.5[/bold]
    [bold]perception video result -o result.mp4 --frames drives/front-2026-11-23[/bold]

    Every frame is shown from its stamp to the next one's, exactly. Outlines are unbroken where the network saw a thing
    in this frame, broken where it was carried there. The strip below says when and which frame, and shows the whole
    drive: green observed, blue propagated, orange degraded, dark red failed, grey nothing said, red ticks dropped.
    """
    from perception.conversion.video import VideoWishes, check_out, check_wishes, write_video
    from perception.replay.shown import Wanted, shown

    check_out(out, force)
    wishes = VideoWishes(begin, end, speed, scale, tuple(topic or ()), plain, dropped, images)
    check_wishes(wishes)
    wanted = Wanted(begin, end, _launch(topic, model, engine), bool(model or engine), plain)
    with progress_bar() as bar, shown(path, wanted, lines_of(bar)) as drive:
        part = (max(0.0, begin - drive.begin_s), None if end is None else end - drive.begin_s)
        wishes = replace(wishes, begin_s=part[0], end_s=part[1], frames=images or drive.frames)
        done = write_video(drive.path, out, wishes, force=force, progress=lines_of(bar))
    lacks = [f"{done.dropped} dropped ones only marked"] if done.dropped else []
    lacks += [f"{done.without_image} without an image"] if done.without_image else []
    lacks += [f"{done.without_masks} without masks"] if done.without_masks and not plain else []
    print(f"{out}: {', '.join([f'{done.frames} frames of {done.width}x{done.height} by {done.codec}', *lacks])}")


@app.command()
def picture(
    path: Drive,
    at: Annotated[float, typer.Option("--at", metavar="S", min=0, help="So many seconds after its first frame.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="PICTURE", help="A .jpg or .png; NAME-SECONDS.png by default.")
    ] = None,
    scale: Scale = 1.0,
    topic: Topics = None,
    plain: Plain = False,
    strip: Annotated[bool, typer.Option(help="The strip below, which says when and which frame.")] = True,
    images: Images = None,
    model: Model = "",
    engine: Engine = "",
    force: Force = False,
) -> None:
    """Write one frame of a drive as a picture, with its masks, ids and a strip that says when and which frame it is.

    [bold]perception picture drives/front-2026-11-23 --at 12.3[/bold]
    [bold]perception picture dashcam.mp4 --at 4 -o ticket.jpg --topic road --topic pedestrian[/bold]
    """
    from perception.conversion.canvas import check_scale
    from perception.conversion.picture import PictureWish, check_out, write_picture
    from perception.replay.shown import Wanted, shown

    out = out or Path(f"{Path(path.partition('?')[0]).stem or 'drive'}-{at:g}.png")
    check_out(out, force)
    check_scale(scale)
    wanted = Wanted(at, at + _AFTER_S, _launch(topic, model, engine), bool(model or engine), plain)
    with progress_bar() as bar, shown(path, wanted, lines_of(bar)) as drive:
        wish = PictureWish(
            at - drive.begin_s, scale, tuple(topic or ()), plain, strip, images or drive.frames, drive.begin_s
        )
        made = write_picture(drive.path, out, wish, force=force)
    print(f"{out}: frame {made.seq} at {made.at_s:.3f} s, {made.width}x{made.height}")


def _launch(topics: list[str] | None, model: str, engine: str) -> Launch:
    """How masks are made where there are none. Raises ConfigError for what can't be."""
    from perception.cli.replay import with_choices
    from perception.config import Launch
    from perception.replay.shown import EVERYTHING

    return with_choices(Launch(version=1, topics=EVERYTHING), topics, {"path": model, "engine": engine})
