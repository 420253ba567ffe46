"""The thread behind a subscription: receives everything, counts what goes wrong, keeps what is to be handed over."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, fields

import zmq

from perception.client.age import Clocks, Received
from perception.clock import boot_id
from perception.errors import WireError
from perception.wire import Health, Kind, Message, VersionMismatch, decode

EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
FAILURES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
_MOST_TOPICS = 256  # that a wildcard subscription keeps
_POLL_MS = 50  # how long close() may take


@dataclass(slots=True)
class Counters:
    """What a subscription has met so far, over all its topics."""

    received: int = 0  # good messages, health included
    gaps: int = 0  # messages that never came: jumps in a topic's seq
    skipped: int = 0  # messages that came and were never handed over: replaced, or the queue was full
    duplicates: int = 0  # seen already: the last value that is sent again when somebody joins
    restarts: int = 0  # the publisher's run changed
    bad: int = 0  # not messages
    version_mismatch: int = 0  # messages of another major version


class Reader:
    """The thread behind a subscription. What it shares is guarded by `changed`."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket: zmq.Socket[bytes],
        monitor: zmq.Socket[bytes],
        asked: tuple[str, ...],
        queue_size: int,
    ) -> None:
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.waiting: deque[str | Received] = deque()  # topics in the order of their turn, or all messages
        self.counters = Counters()
        self.clocks = Clocks(boot_id())
        self.connection = "connecting"
        self.mismatch: VersionMismatch | None = None  # while the newest message is one
        self.last_ns: int | None = None  # when the last good message came, on CLOCK_MONOTONIC
        self.error: Exception | None = None
        self._context, self._socket, self._monitor = context, socket, monitor
        self._asked = asked
        self._queue_size = queue_size  # 0: only the newest of each topic
        self._newest: dict[str, Received] = {}
        self._carry: dict[str, tuple[int, int, bool]] = {}  # missed, skipped, restarted of what was not handed over
        self._places: dict[str, tuple[str, int]] = {}  # run and seq of the last message, by topic
        self._runs: dict[str, str] = {}  # by camera
        self._thread = threading.Thread(target=self._run, name="subscription", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        if threading.current_thread() is not self._thread:  # the garbage collector may call this from anywhere
            self._thread.join()
        with self.changed:
            self.changed.notify_all()

    def hand_over(self) -> Received:
        """The message whose turn it is; called with `changed` held."""
        turn = self.waiting.popleft()
        return self._newest.pop(turn) if isinstance(turn, str) else turn

    def _run(self) -> None:
        try:
            import numpy  # noqa: F401 (here, so that the first mask() does not wait for it)
            import zstandard  # noqa: F401

            while not self.stopping.is_set():
                self._socket.poll(_POLL_MS)
                self._watch_connection()
                while (data := _take(self._socket)) is not None and not self.stopping.is_set():
                    self._note(b"".join(data))
        except Exception as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()
        finally:
            # one socket left open would make term() wait for ever; destroy() closes them all
            self._context.destroy(0)

    def _watch_connection(self) -> None:
        while (told := _take(self._monitor)) is not None:
            event = int.from_bytes(told[0][:2], sys.byteorder)
            if event & FAILURES:
                self.connection = "refused"
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connection = "connected"
            elif self.connection == "connected":
                self.connection = "connecting"

    def _note(self, data: bytes) -> None:
        try:
            message = decode(data)
            health = message.health() if message.kind is Kind.HEALTH else None
        except VersionMismatch as error:
            with self.changed:
                self.mismatch = error
                self.counters.version_mismatch += 1
            return
        except WireError:
            with self.changed:
                self.counters.bad += 1
            return
        with self.changed:
            self.mismatch, self.last_ns = None, time.monotonic_ns()
            self._accept(message, health)

    def _accept(self, message: Message, health: Health | None) -> None:
        topic, run, counters = message.topic, message.header.run, self.counters
        before_run, before_seq = self._places.get(topic, ("", 0))
        if run == before_run and message.seq <= before_seq:
            counters.duplicates += 1
            return
        if not before_run and len(self._places) >= _MOST_TOPICS:
            counters.bad += 1
            return
        missed = message.seq - before_seq - 1 if run == before_run else 0
        self._places[topic] = (run, message.seq)
        camera = topic.partition("/")[0]
        counters.restarts += self._runs.get(camera, run) != run
        self._runs[camera] = run
        counters.received += 1
        counters.gaps += missed
        if health is not None:
            self.clocks.health = health
        if f"{topic}\0".startswith(self._asked):
            self._keep(message, missed, bool(before_run) and run != before_run)

    def _keep(self, message: Message, missed: int, restarted: bool) -> None:
        topic = message.topic
        old = self._newest.get(topic)
        if old is not None:
            before = (old.missed, old.skipped + 1, old.restarted)
        else:
            before = self._carry.pop(topic, (0, 0, False))
        history = (before[0] + missed, before[1], before[2] or restarted)
        self.counters.skipped += old is not None
        if self._queue_size and len(self.waiting) >= self._queue_size:
            self.counters.skipped += 1
            self._carry[topic] = (history[0], history[1] + 1, history[2])
            return
        parts = {field.name: getattr(message, field.name) for field in fields(Message)}
        received = Received(**parts, clocks=self.clocks, missed=history[0], skipped=history[1], restarted=history[2])
        if self._queue_size:
            self.waiting.append(received)
        else:
            self._newest[topic] = received
            if old is None:
                self.waiting.append(topic)
        self.changed.notify()


def _take(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.ZMQError:
        return None
