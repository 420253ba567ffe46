"""foxglove: what a node says, live in Foxglove's app."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from perception.cli import app
from perception.errors import ConfigError
from perception.wire import MASKS_ENDPOINT

EXAMPLES = """
Examples:

    perception foxglove                                   then open ws://127.0.0.1:8765 in Foxglove or Lichtblick

    ssh -L 8765:127.0.0.1:8765 robot perception foxglove  a robot's, in the app on your laptop
"""


@app.command(epilog=EXAMPLES)
def foxglove(
    endpoint: Annotated[str, typer.Argument(help="Where the masks come from.")] = MASKS_ENDPOINT,
    host: Annotated[str, typer.Option(help="Address to listen on; the protocol has no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any.")] = 8765,
    server_key: Annotated[
        Path | None, typer.Option(help="The node's .public key file, for an encrypted endpoint.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Our own .secret key file, for an encrypted endpoint.")] = None,
) -> None:
    """Serve camera, masks, boxes and health to Foxglove's app, live; a process of its own that never slows the node."""
    if importlib.util.find_spec("foxglove") is None:
        raise ConfigError("the bridge needs foxglove-sdk: pip install 'perception-node[foxglove]'")
    from perception.view.bridge import Bridge
    from perception.view.guard import is_loopback

    stop = threading.Event()
    with contextlib.closing(Bridge(endpoint, host, port, server_key, key)) as bridge:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        _say(f"open ws://{host}:{bridge.port} in Foxglove: Open connection, Foxglove WebSocket")
        if not is_loopback(host):
            _say("whoever reaches this address sees the camera: the protocol has no password and is not encrypted")
        bridge.run(stop, lambda problem: _say(f"perception: {problem}"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
