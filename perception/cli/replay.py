"""replay: a recorded drive, played to subscribers, or gone through again as fast as possible."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from perception.cli import app
from perception.cli.engine_help import ENGINE_HELP
from perception.cli.play import Driving, play
from perception.config import Launch, SourceConfig, read_launch
from perception.errors import ConfigError
from perception.strict_toml import check

AGAIN, WHAT_IF = "Gone through again, without sockets", "With --mode what-if"
EXAMPLES = """
Examples:

    perception replay drive.mp4 --speed 0.5 --from 10     to subscribers, at half its pace

    perception replay drive.mp4 --view                    in a browser, with pause, step and scrubber

    perception replay drives/front-TIME -o result         every frame, as fast as possible: the same each time

    perception replay drives/front-TIME --mode re-enacted        as decided on the road: the same bytes?

    perception replay drives/front-TIME --mode what-if --slower 2 -o slow       on a machine that needs twice as long
"""


@app.command(epilog=EXAMPLES)
def replay(
    drive: Annotated[
        str,
        typer.Argument(
            help="A video, a folder of pictures, an MCAP recording, a ROS 2 or ROS 1 bag (DRIVE?topic=/cam/image_raw),"
            " or nothing: a rendered drive."
        ),
    ] = "",
    launch: Annotated[Path | None, typer.Option(help="Take everything but the source from this launch file.")] = None,
    endpoint: Annotated[list[str] | None, typer.Option("--endpoint", "-e", help="Where the masks go.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", help="Which masks: road, lane, pedestrian, ...")
    ] = None,
    model: Annotated[str, typer.Option(help="A shipped model's name or an .onnx file with its card.")] = "",
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = "",
    network_every: Annotated[int | None, typer.Option(min=1, help="The network looks at every n-th frame.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as possible instead of at the drive's pace.")] = False,
    speed: Annotated[float, typer.Option(min=0.1, max=10, help="Times as fast as it was recorded.")] = 1.0,
    begin: Annotated[float, typer.Option("--from", min=0, help="Begin so many seconds into the drive.")] = 0.0,
    end: Annotated[float | None, typer.Option("--to", min=0, help="End before so many seconds.")] = None,
    step: Annotated[
        bool,
        typer.Option("--step", help="Hold each frame: Enter or space the next one, p play on or pause, q quit."),
    ] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Begin anew at the end, until Ctrl-C.")] = False,
    view: Annotated[
        bool, typer.Option("--view", help="Also show it in a browser: pause, step, scrub; stays at the drive's end.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Write overlay pictures into this folder.")] = None,
    every: Annotated[int, typer.Option(min=1, help="With --save: every n-th frame.")] = 10,
    mode: Annotated[
        str | None,
        typer.Option(help="exact (every frame), re-enacted (as decided on the road), what-if.", rich_help_panel=AGAIN),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the result.", rich_help_panel=AGAIN)] = None,
    slower: Annotated[
        float, typer.Option(min=0.01, help="A machine that needs so many times as long.", rich_help_panel=WHAT_IF)
    ] = 1.0,
    network_ms: Annotated[
        float | None, typer.Option(min=0.01, help="A frame takes so long, not as recorded.", rich_help_panel=WHAT_IF)
    ] = None,
    carry_ms: Annotated[
        float | None, typer.Option(min=0.01, help="One that the network skips so long.", rich_help_panel=WHAT_IF)
    ] = None,
    camera_every: Annotated[
        int, typer.Option(min=1, help="The camera gives every n-th frame only.", rich_help_panel=WHAT_IF)
    ] = 1,
) -> None:
    """Play a recorded drive through the node: every frame, in order, same masks every time."""
    if end == 0:
        raise ConfigError(f"--to 0 is not after --from {begin:g}")
    choices = {"path": model, "engine": engine, "network_every": network_every}
    what_if = {"--slower": slower != 1, "--network-ms": network_ms, "--carry-ms": carry_ms}
    what_if["--camera-every"] = camera_every != 1
    if mode or out:
        live = {"--endpoint": endpoint, "--fast": fast, "--speed": speed != 1, "--step": step, "--loop": loop}
        live |= {"--view": view}
        _refuse(live | {"--save": save}, "is for subscribers: leave it out, or --mode and --out")
        from perception.cli.offline import Wished, replay_offline

        wished = Wished(mode or "exact", begin, end, network_every, slower, network_ms, carry_ms, camera_every)
        if wished.is_what_if:
            del choices["network_every"]  # what is asked, not how it was recorded
        with tempfile.TemporaryDirectory() as folder:
            replay_offline(drive, _offline_launch(drive, launch, topic, choices, Path(folder)), out, wished)
        return
    _refuse(what_if, "asks what if: say --mode what-if too")
    driving = _stepping() if step else None
    if fast and speed != 1:
        raise ConfigError(f"--fast and --speed {speed:g}: as fast as possible has no speed: leave one out")
    source = SourceConfig(url=drive, realtime=not fast, loop=loop, speed=speed, begin_s=begin, end_s=end)
    changed = msgspec.structs.replace(read_launch(launch) if launch else Launch(version=1), source=source)
    if endpoint:
        changed = msgspec.structs.replace(
            changed, publish=msgspec.structs.replace(changed.publish, endpoints=tuple(endpoint))
        )
    play(with_choices(changed, topic, choices), save, every, driving, view=view)


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Raises ConfigError for the first of these that was given; an option that does nothing would be taken for done."""
    if given := next((name for name, value in options.items() if value), None):
        raise ConfigError(f"{given} {why}")


def _offline_launch(
    drive: str, launch: Path | None, topics: list[str] | None, choices: dict[str, object], folder: Path
) -> Launch:
    """How to go through a drive: as the launch file says, else as it was recorded, with these choices."""
    if launch:
        return with_choices(read_launch(launch), topics, choices)
    from perception.replay.drive import RecordedDrive, is_recording

    base = RecordedDrive(Path(drive)).launch(folder) if is_recording(Path(drive)) else Launch(version=1)
    return with_choices(base, topics, choices)


def with_choices(launch: Launch, topics: list[str] | None, choices: dict[str, object]) -> Launch:
    """With the choices that were made; they go through the same checks as a launch file."""
    chosen = {key: value for key, value in choices.items() if value}
    changed = msgspec.to_builtins(launch)
    changed["model"] = msgspec.to_builtins(launch.model) | chosen
    if topics:
        changed["topics"] = topics
    return check(changed, Launch, "options")


def _stepping() -> Driving:
    from perception.cli.stepping import require_terminal, stepping  # where there are no POSIX terminals: only if asked

    require_terminal()
    return stepping
