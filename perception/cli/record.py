"""record, save: keep what the node saw, decided and said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perception.cli import app
from perception.config import Launch, RecordConfig, read_launch
from perception.errors import ConfigError, RecordingError
from perception.strict_toml import check
from perception.wire import CONTROL_ENDPOINT

if TYPE_CHECKING:
    from perception.node import Node

INCOMPLETE = 3
"""Exit code of a recording that lacks something."""
EXAMPLES = """
Examples:

    perception record camera:0                          record the camera with its masks into drives/front-TIME/

    perception record launch/robot.toml --frames png    as a launch file says, lossless

    perception record camera:0 --exact                  the network sees them as recorded: equal replays

    perception record camera:0 --ring 30                keep 30 s; trouble, SIGUSR1 or `perception save` saves

Then: perception drive info drives/front-TIME, perception replay drives/front-TIME --mode re-enacted
"""


@app.command(epilog=EXAMPLES)
def record(
    what: Annotated[str, typer.Argument(help="A launch file, or a source such as camera:0 or rtsp://...")],
    folder: Annotated[Path | None, typer.Option("--out", "-o", help="Where each recording makes its folder.")] = None,
    frames: Annotated[
        Literal["jpeg", "png", "raw", "none"] | None,
        typer.Option(help="Of the pictures; none: masks and decisions alone."),
    ] = None,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Of the JPEGs.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="The network sees the pictures as recorded.")] = False,
    ring: Annotated[float | None, typer.Option(min=1, help="Keep so many seconds, save them on a trigger.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so long.")] = None,
) -> None:
    """Run the node and record the drive: frames, masks, tracks, events, health, and every decision.

    Ctrl-C ends it, and the recording is finished. Exit code 0: all of it was kept. 3: something was lost, and
    perception drive info says what; or no frame came.
    """
    from perception.cli.play import play

    wishes = {"folder": str(folder) if folder else None, "frames": frames, "quality": quality}
    wishes |= {"exact": exact or None, "ring_s": ring}
    launch = with_recording(_launch_of(what), wishes)
    if launch.recording:
        require_place(Path(launch.recording.folder))
    node = play(launch, seconds=seconds)
    _require_frame(node)
    if node.logbook and node.logbook.recorder.has_lost:
        raise typer.Exit(INCOMPLETE)


class NothingRecorded(RecordingError):
    """No frame came that could be recorded."""

    exit_code = INCOMPLETE


def _require_frame(node: Node) -> None:
    """Raises NothingRecorded where a node that ended had no good frame, and removes what it recorded of that."""
    status = node.source.status()
    if status.captured > status.broken:
        return
    if node.logbook and not status.captured:  # of broken frames it holds what was wrong with them
        shutil.rmtree(node.logbook.recorder.folder, ignore_errors=True)
    raise NothingRecorded(f"no frame came: {status.reason}")


def require_place(folder: Path) -> None:
    """Make the folder that recordings go to. A node goes on without its recording, but here that is what is asked for.

    Raises:
        ConfigError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: {_why(error)}: name a folder for recordings with --out") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder}: it can't be written: name a folder for recordings with --out")


def _why(error: OSError) -> str:
    return "it is no folder" if isinstance(error, FileExistsError) else (error.strerror or str(error)).lower()


def _launch_of(what: str) -> Launch:
    if what.endswith(".toml"):
        return read_launch(Path(what))
    return check({"version": 1, "source": {"url": what}}, Launch, what)


def with_recording(launch: Launch, wishes: dict[str, Any]) -> Launch:
    """The launch file with these settings of its recording changed; None leaves one as it is.

    Raises:
        ConfigError: a setting that can't be.
    """
    import msgspec

    base = msgspec.to_builtins(launch.recording or RecordConfig())
    changed = base | {key: value for key, value in wishes.items() if value is not None}
    return msgspec.structs.replace(launch, record=check(changed, RecordConfig, "--record"))


@app.command()
def save(
    reason: Annotated[str, typer.Argument(help="Why: a word or two, which names the folder.")] = "by hand",
    endpoint: Annotated[str, typer.Option("--endpoint", "-e", help="The node's control endpoint.")] = CONTROL_ENDPOINT,
    server_key: Annotated[Path | None, typer.Option(help="The node's .public key file, where it is encrypted.")] = None,
    key: Annotated[Path | None, typer.Option(help="Our own .secret key file, where it is encrypted.")] = None,
) -> None:
    """Save what a running node's recording ring holds of the last seconds, and the next ones."""
    from perception.client import Control

    if not reason.strip():
        raise ConfigError("the reason is empty: give a word, or leave it out")
    Control(endpoint, server_key, key).save(reason)
    print("saving")
