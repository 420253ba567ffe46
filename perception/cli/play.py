"""run, replay, watch: what moves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from perception.cli import app
from perception.config import Launch, SourceConfig, read_launch
from perception.errors import ConfigError
from perception.protocols import Sink

Endpoint = Annotated[str, typer.Option("--endpoint", "-e", help="Where the masks go, or come from.")]
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5601"


@app.command()
def run(
    launch_file: Annotated[Path, typer.Argument(help="A TOML file; see launch/ for examples.", show_default=False)],
    save: Annotated[Path | None, typer.Option(help="Also write overlay pictures into this folder.")] = None,
) -> None:
    """Run the node live, as a launch file describes it, until Ctrl-C."""
    _play(read_launch(launch_file), save, every=30)


@app.command()
def replay(
    drive: Annotated[
        str, typer.Argument(help="A video file, a folder of pictures, or nothing: a rendered drive.")
    ] = "",
    launch: Annotated[Path | None, typer.Option(help="Take everything but the source from this launch file.")] = None,
    endpoint: Annotated[list[str] | None, typer.Option("--endpoint", "-e", help="Where the masks go.")] = None,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", help="Which masks: road, lane, pedestrian, ...")
    ] = None,
    model: Annotated[str, typer.Option(help="A shipped model's name or an .onnx file with its card.")] = "",
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "",
    network_every: Annotated[int | None, typer.Option(min=1, help="The network looks at every n-th frame.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as possible instead of at the drive's pace.")] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Begin anew at the end, until Ctrl-C.")] = False,
    save: Annotated[Path | None, typer.Option(help="Write overlay pictures into this folder.")] = None,
    every: Annotated[int, typer.Option(min=1, help="With --save: every n-th frame.")] = 10,
) -> None:
    """Play a recorded drive through the node: every frame, in order, same masks every time."""
    base = read_launch(launch) if launch else Launch(version=1)
    replace = msgspec.structs.replace
    source = SourceConfig(url=drive, realtime=not fast, loop=loop)
    changed = replace(base, source=source)
    if endpoint:
        changed = replace(changed, publish=replace(base.publish, endpoints=tuple(endpoint)))
    if topic:
        changed = replace(changed, topics=tuple(topic))
    choices: dict[str, object] = {"path": model, "engine": engine, "network_every": network_every}
    chosen = {key: value for key, value in choices.items() if value}
    changed = replace(changed, model=replace(base.model, **chosen))
    _play(_checked(changed), save, every)


def _checked(launch: Launch) -> Launch:
    """Options go through the same checks as a launch file."""
    try:
        return msgspec.convert(msgspec.to_builtins(launch), Launch)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace(" - at `$", " - at `")) from None


def _play(launch: Launch, save: Path | None, every: int) -> None:
    from perception.display import Display
    from perception.runner import run_launch

    display = Display(launch)
    sinks = [_pictures(save, every, launch)] if save else []
    summary, node = run_launch(launch, sinks, display.opened, display.scene)
    display.ended(summary, node, save)


def _pictures(folder: Path, every: int, launch: Launch) -> Sink:
    from perception.models.card import find
    from perception.sinks.pictures import PictureSink

    return PictureSink(folder, every, find(launch.model.path).card.class_table())


@app.command()
def watch(
    topics: Annotated[list[str], typer.Argument(help="Topics such as front/road front/pedestrian.")],
    endpoint: Endpoint = DEFAULT_ENDPOINT,
    save: Annotated[Path | None, typer.Option(help="Write one overlay picture a second into this folder.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Stop after so long.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Stop after so many messages.")] = None,
    server_key: Annotated[
        Path | None, typer.Option(help="The node's .public key file, for an encrypted endpoint.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Our own .secret key file, for an encrypted endpoint.")] = None,
) -> None:
    """Subscribe to masks and print, every second, rate, age, gaps, validity and tracks."""
    from perception.watch import watch as run_watch

    run_watch(endpoint, topics, save_dir=save, seconds=seconds, count=count, server_key=server_key, client_key=key)
