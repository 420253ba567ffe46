"""view: what a node says, live in a browser."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from perception.cli import app
from perception.errors import ConfigError

DEFAULT_ENDPOINT, DEFAULT_CONTROL = "tcp://127.0.0.1:5601", "tcp://127.0.0.1:5602"
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
        list[str] | None, typer.Argument(help=f"Where the masks come from; {DEFAULT_ENDPOINT} by default.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address of the page; beyond this machine it asks for a token.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Of the page; 8600 or the next free one by default; 0: any.")
    ] = None,
    token: Annotated[
        str, typer.Option(envvar="PERCEPTION_VIEW_TOKEN", help="Ask pages for this one, instead of a new one each time.")
    ] = "",
    control: Annotated[
        str | None, typer.Option(help="The node's control socket, for prompts and to pause a drive; '' for none.")
    ] = None,
    server_key: Annotated[Path | None, typer.Option(help="The node's .public key file, for an encrypted endpoint.")] = None,
    key: Annotated[Path | None, typer.Option(help="Our own .secret key file, for an encrypted endpoint.")] = None,
    nice: Annotated[int, typer.Option(min=0, max=19, help="How far to step back behind the node.")] = 10,
) -> None:
    """Show camera, masks, ids, events and health in a browser, live; a process of its own that never slows the node."""
    require_aiohttp()
    from perception.view.server import ViewSettings, run_view

    endpoints = tuple(dict.fromkeys(endpoint or [DEFAULT_ENDPOINT]))
    settings = ViewSettings(
        endpoints, host, port, token, control_of(endpoints) if control is None else control, server_key, key, nice
    )
    run_view(settings, lambda link: print(f"open {link}", file=sys.stderr, flush=True))


def require_aiohttp() -> None:
    """Raises ConfigError, with what to do, where aiohttp is not installed."""
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigError("the view needs aiohttp: pip install 'perception-node[view]'")


def control_of(endpoints: tuple[str, ...]) -> str:
    """Where a node that publishes here has its control socket if its launch file says nothing; "" where it can't be known.

    A wrong guess would send prompts to another node, so only the defaults are guessed.
    """
    if endpoints == (DEFAULT_ENDPOINT,):
        return DEFAULT_CONTROL
    return f"{endpoints[0]}.control" if len(endpoints) == 1 and endpoints[0].startswith("ipc://") else ""
