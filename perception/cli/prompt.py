"""prompt: point at something, and the running node follows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception.cli import app
from perception.errors import PromptError
from perception.wire import CONTROL_ENDPOINT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from perception.client import Control

MASK_HELP = (
    "A picture of the whole frame: the thing in white on black, cut out (the rest transparent), "
    "or in any value but 0 where nothing is brighter than half."
)
EXAMPLES = """
Examples, all in pixels of the camera's image:

    perception prompt --box 600,380,680,450               follow what this box is around: x0,y0,x1,y1

    perception prompt --point 640,400 --class car         follow what is under the point, and call it a car

    perception prompt --mask ladder.png                   follow the white part of a picture of the whole frame

    perception prompt --list                              what is followed now, and under which id

    perception prompt --relabel 17 pedestrian             from now on, track 17 is a pedestrian

    perception prompt --remove 17                         follow it no more

A box is surest; a point is enough for what the network sees as one thing. See it with: perception watch front/prompted
"""


@app.command(epilog=EXAMPLES)
def prompt(
    point: Annotated[list[str] | None, typer.Option(help="X,Y on the thing; may be given several times.")] = None,
    box: Annotated[str | None, typer.Option(help="X0,Y0,X1,Y1 around the thing.")] = None,
    mask: Annotated[Path | None, typer.Option(help=MASK_HELP)] = None,
    class_name: Annotated[str, typer.Option("--class", help="A class of the model; none: any object.")] = "",
    remove: Annotated[int | None, typer.Option(help="End the track of this id.")] = None,
    relabel: Annotated[tuple[int, str] | None, typer.Option(help="ID CLASS: give a track another class.")] = None,
    show: Annotated[bool, typer.Option("--list", help="List the tracks that live.")] = False,
    endpoint: Annotated[str, typer.Option("--endpoint", "-e", help="The node's control endpoint.")] = CONTROL_ENDPOINT,
    server_key: Annotated[
        Path | None, typer.Option(help="The node's .public key file, for an encrypted endpoint.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Our own .secret key file, for an encrypted endpoint.")] = None,
) -> None:
    """Point at something in the newest frame, and the running node follows it: any object, of a class or of none."""
    from perception.client import Control

    _check_one_wish(point=point, box=box, mask=mask, remove=remove, relabel=relabel, list=show or None)
    control = Control(endpoint, server_key, key)
    if show:
        _list(control)
    elif remove is not None:
        control.remove(remove)
        print(f"track {remove} is followed no more")
        print("it comes back under a new id where the network still sees it: perception prompt --list")
    elif relabel is not None:
        control.relabel(*relabel)
        print(f"track {relabel[0]} is of class {relabel[1]} now")
    else:
        points = [_numbers(text, "point", "X,Y") for text in point or ()]
        corners = _numbers(box, "box", "X0,Y0,X1,Y1") if box is not None else None
        _prompt(control, class_name, points=points, box=corners, mask=_read_mask(mask) if mask else None)


def _check_one_wish(**wishes: object) -> None:
    given = [f"--{name}" for name, value in wishes.items() if value is not None]
    if len(given) != 1:
        every = ", ".join(f"--{name}" for name in wishes)
        raise PromptError(f"{' and '.join(given) or 'nothing asked'}: give one of {every}; see prompt --help")


def _numbers(text: str, name: str, form: str) -> Any:
    """As many numbers as `form` has parts."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != form.count(",") + 1:
        raise PromptError(f"--{name} {text!r}: write {form} in pixels of the camera's image")
    return found


def _read_mask(path: Path) -> NDArray[np.bool_]:
    """(h, w) of the thing: what is opaque where a part is not, else what is white, else what is not 0.

    Raises:
        SourceError: not a picture that can be read.
    """
    import numpy as np

    from perception.images import load_image
    from perception.opencv import cv2

    colours = load_image(path)  # what is no picture, or a giant one, is refused here
    stored = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    half = np.iinfo(stored.dtype).max // 2
    if stored.ndim == 3 and stored.shape[2] == 4:
        alpha = stored[..., 3] > half
        if alpha.any() and not alpha.all():  # none is opaque in a BMP whose fourth byte is not used
            return alpha
    values = colours.max(axis=2)
    if stored.dtype == np.uint16:  # `colours` has their upper bytes
        values = stored if stored.ndim == 2 else stored[..., :3].max(axis=2)
    is_index = values.max() <= half  # black, and numbers of things: no mask has only dark white in it
    return values > (0 if is_index else half)


def _prompt(control: Control, class_name: str, **what: Any) -> None:
    got = control.prompt(**what, class_name=class_name)
    corners = ",".join(map(str, got.box))
    print(f"track {got.track_id} ({class_name or 'object'}), box {corners}, from frame {got.frame_seq} on")
    print(f"see it: perception watch {got.camera}/prompted      end it: perception prompt --remove {got.track_id}")


def _list(control: Control) -> None:
    rows = control.tracks()
    if not rows:
        print("no tracks")
    for row in rows:
        corners = ",".join(map(str, row.box))
        mark = "  prompted" if row.prompted else ""
        print(f"{row.id:6}  {row.class_name:16}  {row.state:10}  {corners:24}  quality {row.quality:.2f}{mark}")
