"""The talk with one page: the newest frame when it has painted one, a status five times a second, what it asks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from perception.errors import PerceptionError, WireError
from perception.view.asked import Heard, Look, Painted, Play, Prompt, Remove, asked
from perception.view.board import Board, age_s
from perception.view.frames import SeenFrame

IN_FLIGHT = 2
"""Frames that a page has not acknowledged: a slow browser gets fewer frames, and never old ones."""
_STATUS_S = 0.2
_MOST_WRONG = 20  # messages that make no sense, after which a page is left
_LONGEST_ERROR = 400  # characters


class Session:
    """One open page."""

    def __init__(self, board: Board, socket: web.WebSocketResponse) -> None:
        self.camera, self.wants_frames = "", False
        self._board, self._socket = board, socket
        self._news = asyncio.Event()
        self._unpainted: set[int] = set()
        self._unheard: set[int] = set()
        self._n = 0
        self._sent: tuple[SeenFrame, int] | None = None  # the last frame, and how many messages it had then
        self._told_events, self._told_camera, self._due = 0, None, 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        self._news.set()

    async def run(self) -> None:
        """Until the page is closed."""
        self._board.lookers.add(self)
        writer = asyncio.create_task(self._write())
        try:
            await self._read()
        finally:
            self._board.lookers.discard(self)
            self._board.note_looks()
            for task in (writer, *self._tasks):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await task

    async def _read(self) -> None:
        wrong = 0
        async for message in self._socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            try:
                self._take(asked(message.data))
            except WireError as error:
                await self._say({"kind": "reply", "what": "", "text": str(error)[:_LONGEST_ERROR], "track_id": None})
                wrong += 1
                if wrong > _MOST_WRONG:
                    return

    def _take(self, told: object) -> None:
        match told:
            case Painted():
                self._unpainted.discard(told.n)
            case Heard():
                self._unheard.discard(told.n)
            case Look():
                if told.camera != self.camera or (told.frames and not self.wants_frames):
                    self._sent = None  # the page may have forgotten it
                self.camera, self.wants_frames, self._due = told.camera, told.frames, 0.0
                self._board.note_looks()
            case Play() | Prompt() | Remove() if len(self._tasks) < 4:
                task = asyncio.create_task(self._do(told))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self.wake()

    async def _do(self, told: Play | Prompt | Remove) -> None:
        """Ask the node, and tell the page what came of it."""
        words, track_id, board = "", None, self._board
        try:
            match told:
                case Play():
                    row = await board.ask("play", pause=told.pause, step=told.step, seek_s=told.seek_s)
                    board.play = msgspec.to_builtins(row)
                case Prompt():
                    got = await board.ask("prompt", points=told.points, box=told.box)
                    words, track_id = f"Track {got.track_id} is followed from frame {got.frame_seq} on", got.track_id
                case Remove():
                    await board.ask("remove", track_id=told.track_id)
                    words = f"Track {told.track_id} is followed no more"
        except PerceptionError as error:
            words = str(error)
        self._due = 0.0
        self.wake()
        await self._say({"kind": "reply", "what": type(told).__name__, "text": words, "track_id": track_id})

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionError):
            while not self._socket.closed:
                self._news.clear()
                await self._send_status()
                await self._send_frame()
                left_s = max(0.01, self._due - time.monotonic()) if len(self._unheard) < IN_FLIGHT else 1.0
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), left_s)

    async def _send_status(self) -> None:
        now = time.monotonic()
        if now < self._due or len(self._unheard) >= IN_FLIGHT:
            return
        self._due = now + _STATUS_S
        self._n += 1
        name, camera = self._board.chosen(self.camera)
        if camera is not self._told_camera:  # its events from the beginning
            self._told_camera, self._told_events = camera, 0
            self._board.note_looks()
        status = self._board.status(name, self._told_events)
        self._told_events = max((event["n"] for event in status["events"]), default=self._told_events)
        self._unheard.add(self._n)
        await self._say(status | {"n": self._n})

    async def _send_frame(self) -> None:
        _, camera = self._board.chosen(self.camera)
        if not self.wants_frames or camera is None or len(self._unpainted) >= IN_FLIGHT:
            return
        frame = camera.frame
        if frame is None or self._sent == (frame, len(frame.messages)):
            return
        packet = self._board.packet(camera)
        if packet is None:
            return
        self._n += 1
        self._sent = (frame, packet.message_count)
        self._unpainted.add(self._n)
        await self._socket.send_bytes(packet.encode(self._n, age_s(packet, camera)))

    async def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):  # the page was closed meanwhile
            await self._socket.send_str(msgspec.json.encode(message).decode())
