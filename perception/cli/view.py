"""view: what a node says, live in a browser."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli import app
from perception.errors import ConfigError
from perception.wire import CONTROL_ENDPOINT, MASKS_ENDPOINT

if TYPE_CHECKING:
    from perception.config import Launch
    from perception.node import Node

_LEAVE_S = 3.0

EXAMPLES = """
Examples:

    perception view                                       the node on this machine, at http://127.0.0.1:8600

    perception view tcp://127.0.0.1:5601 ipc:///run/perception/rear      two nodes, with a chooser

    ssh -L 8600:127.0.0.1:8600 robot perception view      a robot's, on your laptop, encrypted: open http://127.0.0.1:8600

    perception view --host 0.0.0.0                        to the whole network, with a token in the link; not encrypted

    perception replay drive.mp4 --view                    a drive with its view beside it: pause, step, scrub
"""


@app.command(epilog=EXAMPLES)
def view(
    endpoint: Annotated[
        list[str] | None, typer.Argument(help=f"Where the masks come from; {MASKS_ENDPOINT} by default.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address of the page; beyond this machine it asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the page; 8600 or the next free one by default; 0: any.")
    ] = None,
    token: Annotated[
        str,
        typer.Option(envvar="PERCEPTION_VIEW_TOKEN", help="Ask pages for this one, instead of a new one each time."),
    ] = "",
    control: Annotated[
        str | None, typer.Option(help="The node's control socket, for prompts and to pause a drive; '' for none.")
    ] = None,
    server_key: Annotated[
        Path | None, typer.Option(help="The node's .public key file, for an encrypted endpoint.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Our own .secret key file, for an encrypted endpoint.")] = None,
    beside: Annotated[bool, typer.Option("--beside", hidden=True, help="End when stdin is closed.")] = False,
    nice: Annotated[int, typer.Option(min=0, max=19, help="How far to step back behind the node.")] = 10,
) -> None:
    """Show camera, masks, ids, events and health in a browser, live; a process of its own that never slows the node."""
    require_aiohttp()
    from perception.view.server import ViewSettings, run_view

    endpoints = tuple(dict.fromkeys(endpoint or [MASKS_ENDPOINT]))
    control = control_of(endpoints) if control is None else control
    settings = ViewSettings(endpoints, host, port, token, control, server_key, key, nice, beside)
    run_view(settings, lambda link: print(f"open {link}", file=sys.stderr, flush=True))


def require_aiohttp() -> None:
    """Raises ConfigError, with what to do, where aiohttp is not installed."""
    try:
        importlib.import_module("aiohttp")
    except ImportError:
        raise ConfigError("the view needs aiohttp: pip install 'perception-node[view]'") from None


def control_of(endpoints: tuple[str, ...]) -> str:
    """The control socket of a node that publishes here, if its launch file says nothing of it; "": can't be known.

    A wrong guess would send prompts to another node, so only the defaults are guessed.
    """
    if endpoints == (MASKS_ENDPOINT,):
        return CONTROL_ENDPOINT
    return f"{endpoints[0]}.control" if len(endpoints) == 1 and endpoints[0].startswith("ipc://") else ""


def require_viewable(launch: Launch) -> None:
    """Raises ConfigError where a node of this launch file can have no view beside it."""
    require_aiohttp()
    if curve := launch.publish.curve:
        raise ConfigError(
            f"--view: this node is encrypted, and a view needs keys of its own that are in {curve.clients}: "
            "perception view ENDPOINT --server-key PUBLIC --key SECRET"
        )


@contextmanager
def viewing(node: Node) -> Iterator[None]:
    """A view of this node in a process of its own, which prints its link and ends with the block.

    A drive that is played then waits at its end to be moved, until Ctrl-C.
    """
    from perception.sources.replay import ReplaySource

    if isinstance(node.source, ReplaySource) and node.control and node.control.answers.player:
        node.source.holds = True
    control = node.control.endpoint if node.control else ""
    words = [
        sys.executable,
        "-m",
        "perception.cli",
        "view",
        node.publisher.endpoints[0],
        "--beside",
        "--control",
        control,
    ]
    # A group of its own: Ctrl-C goes to the node, which ends the view when it has said its last word. Not a session of
    # its own: Linux shares the processor among sessions first (sched(7), autogroup), whatever the niceness.
    process = subprocess.Popen(words, stdin=subprocess.PIPE, process_group=0)  # closed however we end
    try:
        yield
    finally:
        process.terminate()
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
