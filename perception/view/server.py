"""The server of the live view: one page, one WebSocket, and nothing from anywhere else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from perception.client import Control
from perception.view.asked import MOST_BYTES
from perception.view.board import Board
from perception.view.guard import PROTOCOL, Guard, link, listen, make_guard
from perception.view.session import Session

PAGE = Path(__file__).with_name("page.html")
UNKNOWN_TOKEN = 4401
"""Code with which a WebSocket without the right token is closed."""
_MOST_PAGES = 16
_BOARD, _GUARD = web.AppKey("board", Board), web.AppKey("guard", Guard)
_OPEN: web.AppKey[set[web.WebSocketResponse]] = web.AppKey("open", set)


@dataclass(frozen=True, slots=True)
class ViewSettings:
    """What a view shows, and to whom.

    Args:
        endpoints: of the nodes.
        host, port: where the page is; None: port 8600 or the next that is free.
        token: that a page must have; "" with a host beyond this machine: a new one.
        control: the node's control socket; "" for none.
        server_key, client_key: for encrypted endpoints.
        niceness: added to the process's, so that the node comes first.
        beside: end when stdin is closed, by whoever started it, however that ended.
    """

    endpoints: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int | None = None
    token: str = ""
    control: str = ""
    server_key: Path | None = None
    client_key: Path | None = None
    niceness: int = 10
    beside: bool = False


def run_view(settings: ViewSettings, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `say` is told the link to open.

    Raises:
        EndpointError: an endpoint, key or token that can't be, or an address that is taken.
    """
    guard = make_guard(settings.host, settings.token)
    with contextlib.closing(listen(settings.host, settings.port)) as opened:
        with contextlib.suppress(OSError):
            os.nice(settings.niceness)
        asyncio.run(_serve(settings, opened, guard, say))


async def _serve(settings: ViewSettings, opened: socket.socket, guard: Guard, say: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    keys = (settings.server_key, settings.client_key)
    board = Board(loop, Control(settings.control, *keys) if settings.control else None)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    if settings.beside:
        loop.add_reader(sys.stdin.fileno(), lambda: stopped.set() if not os.read(sys.stdin.fileno(), 64) else None)
    runner = web.AppRunner(make_app(board, guard), access_log=None, handle_signals=False, shutdown_timeout=1.0)
    try:
        board.follow(settings.endpoints, server_key=keys[0], client_key=keys[1])
        await runner.setup()
        await web.SockSite(runner, opened).start()
        say(link(opened, guard.token))
        playing = asyncio.create_task(board.watch_playing())
        await stopped.wait()
        playing.cancel()
    finally:
        board.close()
        await runner.cleanup()


def make_app(board: Board, guard: Guard) -> web.Application:
    app = web.Application(middlewares=[_guarded])
    app[_BOARD], app[_GUARD], app[_OPEN] = board, guard, set()
    app.add_routes([web.get("/", _page), web.get("/ws", _talk)])
    app.on_shutdown.append(_close_pages)
    return app


@web.middleware
async def _guarded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    refusal = request.app[_GUARD].refusal(request.headers.get("Host", ""), request.headers.get("Origin", ""))
    return web.Response(status=403, text=refusal + "\n") if refusal else await handler(request)


async def _page(request: web.Request) -> web.Response:
    """The page holds nothing of the node's, so it needs no token; its WebSocket does."""
    text = PAGE.read_text()
    return web.Response(text=text, content_type="text/html", headers=headers_of(text))


async def _talk(request: web.Request) -> web.StreamResponse:
    board = request.app[_BOARD]
    if len(board.lookers) >= _MOST_PAGES:
        return web.Response(status=503, text=f"{_MOST_PAGES} pages are open already: close one\n")
    socket = web.WebSocketResponse(protocols=(PROTOCOL,), heartbeat=20, max_msg_size=MOST_BYTES, compress=False)
    await socket.prepare(request)
    if not request.app[_GUARD].knows(request.headers.get("Sec-WebSocket-Protocol", "")):
        await socket.close(code=UNKNOWN_TOKEN)
        return socket
    session = Session(board, socket)
    request.app[_OPEN].add(socket)
    try:
        await session.run()
    finally:
        request.app[_OPEN].discard(socket)
    return socket


async def _close_pages(app: web.Application) -> None:
    for page in list(app[_OPEN]):
        await page.close(code=1001)


def headers_of(page: str) -> dict[str, str]:
    """What a browser is to let this page do: its own script and style, its own WebSocket, and nothing else.

    Content Security Policy Level 3, https://www.w3.org/TR/CSP3/, with hashes of the inline blocks.
    """
    script, style = (_hash_of(page, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


def _hash_of(page: str, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digest = hashlib.sha256(found[1].encode()).digest() if found else b""
    return f"'sha256-{base64.b64encode(digest).decode()}'"
