"""run, watch: what moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perception.cli import app
from perception.config import Launch, read_launch
from perception.protocols import Sink
from perception.wire import MASKS_ENDPOINT

if TYPE_CHECKING:
    from perception.node import Node

Endpoint = Annotated[str, typer.Option("--endpoint", "-e", help="Where the masks go, or come from.")]
Driving = Callable[["Node"], AbstractContextManager[None]]


@app.command()
def run(
    launch_file: Annotated[Path, typer.Argument(help="A TOML file; see launch/ for examples.", show_default=False)],
    save: Annotated[Path | None, typer.Option(help="Also write overlay pictures into this folder.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Record it, as `perception record` does.")] = False,
    view: Annotated[bool, typer.Option("--view", help="Also show it in a browser, as `perception view` does.")] = False,
) -> None:
    """Run the node live, as a launch file describes it, until Ctrl-C."""
    launch = read_launch(launch_file)
    play(msgspec.structs.replace(launch, record=launch.record or record), save, view=view)


def play(
    launch: Launch,
    save: Path | None = None,
    every: int = 30,
    driving: Driving | None = None,
    seconds: float | None = None,
    view: bool = False,
) -> Node:
    """Run a node to its end, or for so long; `driving` is entered once it is built, and left however it ends."""
    from perception.cli.view import require_viewable, viewing
    from perception.display import Display
    from perception.runner import run_launch

    if view:
        require_viewable(launch)
    display = Display(launch)
    sinks = [_pictures(save, every, launch)] if save else []
    with ExitStack() as stack:

        def opened(node: Node) -> None:
            display.opened(node)
            for entered in (driving, viewing if view else None):
                if entered:
                    stack.enter_context(entered(node))
            if seconds:
                timer = threading.Timer(seconds, node.stop, (f"{seconds:g} s are over",))
                timer.daemon = True
                timer.start()
                stack.callback(timer.cancel)

        summary, node = run_launch(launch, sinks, opened, display.scene)
    display.ended(summary, node, save)
    return node


def _pictures(folder: Path, every: int, launch: Launch) -> Sink:
    from perception.models.card import find
    from perception.sinks.pictures import PictureSink

    return PictureSink(folder, every, find(launch.model.path).card.class_table())


@app.command()
def watch(
    topics: Annotated[list[str], typer.Argument(help="Topics such as front/road front/pedestrian.")],
    endpoint: Endpoint = MASKS_ENDPOINT,
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
