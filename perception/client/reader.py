"""The thread behind a subscription: receives everything, counts what goes wrong, keeps what is to be handed over."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, fields

import zmq

from perception.client.age import Clocks, Received
from perception.client.connection import FAILURES, Link, event_of, take
from perception.clock import boot_id
from perception.errors import WireError
from perception.wire import EventRow, Health, Kind, Message, VersionMismatch, decode

_MOST_TOPICS = 256  # that a wildcard subscription keeps
_POLL_MS = 50  # how long close() may take
_MOST_EVENTS = 10_000  # that wait for a program that does not take them
_AGAIN_S = (0.5, 2.0)  # from a lost connection to our own next try: at first, and after many


@dataclass(slots=True)
class Counters:
    """What a subscription has met so far, over all its topics."""

    received: int = 0  # good messages, health included
    gaps: int = 0  # messages that never came: jumps in a topic's seq
    skipped: int = 0  # messages that came and were never handed over: replaced, or the queue was full
    duplicates: int = 0  # seen already: the last value that is sent again when somebody joins
    restarts: int = 0  # the publisher's run changed, or its drive is played again
    bad: int = 0  # not messages
    version_mismatch: int = 0  # messages of another major version


@dataclass(frozen=True, slots=True)
class _History:
    """What happened on a topic since its last message was handed over."""

    missed: int = 0
    skipped: int = 0
    restarted: bool = False
    new_events: tuple[EventRow, ...] = ()
    lost_events: int = 0

    def then(self, later: _History) -> _History:
        events = self.new_events + later.new_events
        return _History(
            self.missed + later.missed,
            self.skipped + later.skipped,
            self.restarted or later.restarted,
            events[-_MOST_EVENTS:],
            self.lost_events + later.lost_events + max(0, len(events) - _MOST_EVENTS),
        )


class Reader:
    """The thread behind a subscription. What it shares is guarded by `changed`."""

    def __init__(self, link: Link, asked: tuple[str, ...], queue_size: int) -> None:
        self.pid = os.getpid()  # a forked child has no such thread
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.waiting: deque[str | Received] = deque()  # topics in the order of their turn, or all messages
        self.counters = Counters()
        self.clocks = Clocks(boot_id())
        self.connection = "connecting"
        self.mismatch: VersionMismatch | None = None  # while the newest message is one
        self.last_ns: int | None = None  # when the last good message came, on CLOCK_MONOTONIC
        self.error: Exception | None = None
        self._link = link
        self._again_at_s: float | None = None  # when to connect anew [s, monotonic]; None: no need
        self._again_s = _AGAIN_S[0]
        self._asked = asked
        self._queue_size = queue_size  # 0: only the newest of each topic
        self._newest: dict[str, Received] = {}
        self._histories: dict[str, _History] = {}  # by topic
        self._lives: dict[str, tuple[str, int]] = {}  # by camera: its run, and how often that began again
        self._places: dict[str, tuple[tuple[str, int], int]] = {}  # life and seq of the last message, by topic
        self._last_events: dict[str, int] = {}  # seq of the last event told, by topic
        self._thread = threading.Thread(target=self._run, name="subscription", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if os.getpid() != self.pid:  # what is forked is the parent's, and its lock may be held for ever
            return
        self.stopping.set()
        if threading.current_thread() is not self._thread:  # the garbage collector may call this from anywhere
            self._thread.join()
        with self.changed:
            self.changed.notify_all()

    def hand_over(self) -> Received:
        """The message whose turn it is; called with `changed` held."""
        turn = self.waiting.popleft()
        if not isinstance(turn, str):
            return turn
        self._histories.pop(turn, None)
        return self._newest.pop(turn)

    def _run(self) -> None:
        try:
            import numpy  # noqa: F401 (here, so that the first mask() does not wait for it)
            import zstandard  # noqa: F401

            while not self.stopping.is_set():
                self._link.socket.poll(_POLL_MS)
                self._watch_connection()
                while (data := take(self._link.socket)) is not None and not self.stopping.is_set():
                    self._note(b"".join(data))
        except Exception as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()
        finally:
            self._link.close()

    def _watch_connection(self) -> None:
        while (event := event_of(self._link.monitor)) is not None:
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connection, self._again_at_s, self._again_s = "connected", None, _AGAIN_S[0]
                continue
            if event & FAILURES:
                self.connection = "refused"
            elif self.connection == "connected":
                self.connection = "connecting"
            if self._again_at_s is None:
                self._again_at_s = time.monotonic() + self._again_s
        if self._again_at_s is not None and (now := time.monotonic()) >= self._again_at_s:
            self._again_s = min(2 * self._again_s, _AGAIN_S[1])
            self._again_at_s = None if self._link.connect_again() else now + self._again_s  # no event would come

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
        topic, counters = message.topic, self.counters
        before = self._places.get(topic)
        if before is None and len(self._places) >= _MOST_TOPICS:
            counters.bad += 1
            return
        place = (self._life_of(message), message.seq)
        if place == before:
            counters.duplicates += 1
            return
        self._places[topic] = place
        restarted = before is not None and before[0] != place[0]
        missed = place[1] - before[1] - 1 if before and not restarted else 0
        counters.received += 1
        counters.gaps += missed
        if health is not None:
            self.clocks.health = health
        if f"{topic}\0".startswith(self._asked):
            events, lost = self._fresh_events(message, is_first=before is None, restarted=restarted)
            self._keep(message, _History(missed, 0, restarted, events, lost))

    def _life_of(self, message: Message) -> tuple[str, int]:
        """The run of a message, and which playing of it: a drive's run has one name however often it is played.

        ZeroMQ reorders nothing, and what is sent again is the last message: a seq that falls is another process's.
        """
        camera, run = message.topic.partition("/")[0], message.header.run
        before = self._lives.get(camera)
        of_topic = self._places.get(message.topic)
        life = before or (run, 0)
        if run != life[0]:
            life = (run, 0)
        elif of_topic and of_topic[0] == life and message.seq < of_topic[1]:
            life = (run, life[1] + 1)
            self.clocks.health = None  # what it said of the drive's clock was for the playing before
        self.counters.restarts += before is not None and life != before
        self._lives[camera] = life
        return life

    def _fresh_events(self, message: Message, is_first: bool, restarted: bool) -> tuple[tuple[EventRow, ...], int]:
        """The events of an `events` message that none before it told, and how many between them never came."""
        topic = message.topic
        if message.kind is not Kind.TRACKS or not topic.endswith("/events"):
            return (), 0
        last = 0 if restarted else self._last_events.get(topic, 0)
        fresh = tuple(event for event in message.header.events if event.seq > last)
        if restarted or fresh:
            self._last_events[topic] = fresh[-1].seq if fresh else 0
        return fresh, fresh[0].seq - last - 1 if fresh and not is_first else 0

    def _keep(self, message: Message, news: _History) -> None:
        topic = message.topic
        old = self._newest.get(topic)
        history = self._histories.pop(topic, _History()).then(news)
        skipped = _History(skipped=1)
        if old is not None:
            history = history.then(skipped)
            self.counters.skipped += 1
        if self._queue_size and len(self.waiting) >= self._queue_size:
            self.counters.skipped += 1
            self._histories[topic] = history.then(skipped)
            return
        parts = {field.name: getattr(message, field.name) for field in fields(Message)}
        history_parts = {field.name: getattr(history, field.name) for field in fields(_History)}
        received = Received(**parts, clocks=self.clocks, **history_parts)
        if self._queue_size:
            self.waiting.append(received)
        else:
            self._newest[topic], self._histories[topic] = received, history
            if old is None:
                self.waiting.append(topic)
        self.changed.notify()
