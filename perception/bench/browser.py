"""A headless Chromium, driven by the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from perception.errors import PerceptionError

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)
_START_S = 30.0
_ANSWER_S = 20.0


def find_browser() -> str | None:
    """The path of a Chromium; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page of it.

    Attributes:
        problems: what the page wrote to its console as an error, exceptions, and what its policy refused.
        requested: the addresses that it asked for.
    """

    def __init__(self, socket: ClientWebSocketResponse, pid: int) -> None:
        self.problems: list[str] = []
        self.requested: list[str] = []
        self.pid = pid
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._n = 0
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Raises PerceptionError where the browser refuses or does not answer."""
        self._n += 1
        answer = self._answers[self._n] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._n, "method": method, "params": parameters})
        try:
            told = await asyncio.wait_for(answer, _ANSWER_S)
        except TimeoutError:
            raise PerceptionError(f"the browser did not answer {method} within {_ANSWER_S:g} s") from None
        if "error" in told:
            raise PerceptionError(f"{method}: {told['error']['message']}")
        return told["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; what it promises, where it is a promise."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise PerceptionError(
                f"{expression}: {told['exceptionDetails'].get('exception', {}).get('description', '')}"
            )
        return told["result"].get("value")

    async def until(self, expression: str, within_s: float = 10.0) -> float:
        """Wait for a JavaScript expression to be true; the seconds that it took. Raises PerceptionError."""
        begin = time.monotonic()
        test = f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"  # it may be loading
        while not await self.evaluate(test):
            if time.monotonic() - begin > within_s:
                raise PerceptionError(f"not within {within_s:g} s: {expression}; the page said: {self.problems[-3:]}")
            await asyncio.sleep(0.02)
        return time.monotonic() - begin

    async def open(self, address: str) -> None:
        await self.call("Page.enable")
        await self.call("Runtime.enable")
        await self.call("Network.enable")
        await self.call("Log.enable")
        await self.call("Page.navigate", url=address)

    async def resize(self, width: int, height: int, scale: float = 1.0, is_phone: bool = False) -> None:
        """The window's size [CSS px]."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, **text)

    async def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    @contextlib.asynccontextmanager
    async def hidden(self) -> AsyncIterator[None]:
        """Another tab is in front; this one sleeps, and wakes at the end."""
        other = await self.call("Target.createTarget", url="about:blank")
        try:
            yield
        finally:
            await self.call("Page.bringToFront")
            await self.call("Target.closeTarget", targetId=other["targetId"])

    async def screenshot(self, path: Path) -> None:
        told = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(told["data"]))

    async def close(self) -> None:
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                return
            told = message.json()
            if answer := self._answers.pop(told.get("id", 0), None):
                if not answer.done():
                    answer.set_result(told)
            else:
                self._note(told.get("method", ""), told.get("params", {}))

    def _note(self, method: str, told: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if told["type"] == "error":
                self.problems.append(str([argument.get("value") for argument in told["args"]]))
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.problems.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requested.append(told["request"]["url"])
            case "Network.webSocketCreated":
                self.requested.append(told["url"])


@contextlib.asynccontextmanager
async def browsing(niceness: int = 0, width: int = 1280, height: int = 860) -> AsyncIterator[Tab]:
    """A browser of its own with one empty page, ended with the block. Raises PerceptionError without a Chromium."""
    path = find_browser()
    if path is None:
        raise PerceptionError("no Chromium on the PATH: install it (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = [path, *_FLAGS, f"--window-size={width},{height}", f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # of the same session, or its niceness would mean nothing: sched(7), autogroup
            preexec_fn=(lambda: os.nice(niceness) and None) if niceness else None,
        )
        try:
            port = await _port(Path(folder) / "DevToolsActivePort", process)
            async with ClientSession() as session:
                address = await _page(session, port)
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    tab = Tab(socket, process.pid)
                    yield tab
                    await tab.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)  # a group of its own: the browser and its children, nobody else
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(5)


async def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        await asyncio.sleep(0.05)
    raise PerceptionError(f"{process.args[0]} does not start: try it with --headless --no-sandbox")  # type: ignore[index]


async def _page(session: ClientSession, port: int) -> str:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            for target in await answer.json():
                if target["type"] == "page":
                    return target["webSocketDebuggerUrl"]
        await asyncio.sleep(0.05)
    raise PerceptionError("the browser opens no page")
