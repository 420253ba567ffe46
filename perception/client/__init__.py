"""What a subscriber imports: `for scene in subscribe("tcp://127.0.0.1:5601", "front/road")`.

A thread receives everything and keeps the newest message of each topic, because a program that reads a socket
directly, and is slower than the camera, gets data that is seconds old. Bad bytes never raise here: they are counted.
Importing this package does not import numpy: the thread does, while it waits for the first message.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType

import zmq

from perception.client.absence import absence_of
from perception.client.age import Clocks, Received, age_of
from perception.client.connection import ClientKeys, ServerKey, check_seconds, open_link
from perception.client.control import Control, Prompted
from perception.client.reader import Counters, Reader
from perception.errors import EndpointError
from perception.wire import MAX_MESSAGE, EventRow, Health, valid_topic

__all__ = ["Clocks", "Control", "Counters", "Prompted", "Received", "Subscription", "age_of", "subscribe"]

_WAKE_S = 0.2  # a signal that comes just before a wait does not end it: look again so often


def subscribe(
    endpoint: str,
    *topics: str,
    latest: bool = True,
    timeout_s: float | None = None,
    server_key: ServerKey = None,
    client_keys: ClientKeys = None,
    queue_size: int = 1000,
    stale_after_s: float = 1.0,
) -> Subscription:
    """The messages of `topics` ("front/road", "front/*"; none: all) as they come, the newest of each topic only.

    `latest=False` hands over every message, up to `queue_size` waiting ones, for recorders. `timeout_s` is how long
    to wait for a message before TimeoutError; None waits for ever. After `stale_after_s` of silence `state` says so.
    `server_key` (the publisher's `.public`) and `client_keys` (one's own `.secret`) open an encrypted endpoint. Raises
    EndpointError for an endpoint, topic, key or time that can't be; a publisher that is not there yet is no error, and
    one that refuses us is asked again every two seconds.
    """
    prefixes = _prefixes(topics)
    check_seconds("timeout_s", timeout_s)
    check_seconds("stale_after_s", stale_after_s)
    kept = 0 if latest else max(1, queue_size)
    link = open_link(zmq.SUB, endpoint, server_key, client_keys, lambda socket: _configure(socket, prefixes))
    asked = tuple(prefix for prefix, is_asked in prefixes.items() if is_asked)
    try:
        return Subscription(Reader(link, asked, kept), endpoint, topics, timeout_s, stale_after_s)
    except BaseException:  # no thread could be started
        link.close()
        raise


class Subscription:
    """Messages, in the order in which they came. Iterate over it, or call receive(); close it, or use `with`."""

    def __init__(
        self, reader: Reader, endpoint: str, topics: tuple[str, ...], timeout_s: float | None, stale_after_s: float
    ) -> None:
        self._any_reader = reader
        self._endpoint, self._topics = endpoint, topics
        self._timeout_s, self._stale_after_s = timeout_s, stale_after_s
        reader.start()
        self._finalizer = weakref.finalize(self, reader.stop)

    def __iter__(self) -> Iterator[Received]:
        return self

    def __next__(self) -> Received:
        if (received := self.receive(self._timeout_s)) is None:
            raise StopIteration
        return received

    def receive(self, timeout_s: float | None = None) -> Received | None:
        """The next message; None once the subscription is closed. Raises TimeoutError after `timeout_s`."""
        check_seconds("timeout_s", timeout_s)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        reader = self._reader
        with reader.changed:
            while not reader.waiting:
                if reader.error is not None:
                    raise reader.error
                if reader.stopping.is_set():
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(self._why_nothing_came(timeout_s))
                reader.changed.wait(_WAKE_S if left is None else min(left, _WAKE_S))
            return reader.hand_over()

    def events(self) -> Iterator[EventRow]:
        """Each event of the subscribed `events` topics exactly once, also those of just before we came.

        For a subscription to such topics alone: messages of others are passed over. A program that wants both takes
        `new_events` of the messages. Raises TimeoutError as the subscription does.
        """
        for received in self:
            yield from received.new_events

    @property
    def counters(self) -> Counters:
        with self._reader.changed:
            return replace(self._reader.counters)

    @property
    def health(self) -> Health | None:
        """The publisher's last word on how it is; None before the first."""
        return self._reader.clocks.health

    @property
    def connection(self) -> str:
        """connecting | connected | refused (the handshake fails: a key is wrong or missing; it is tried again)."""
        return self._reader.connection

    @property
    def state(self) -> str:
        """waiting (nothing came yet) | live | stale (silent for `stale_after_s`) | mismatch (another major version)."""
        reader = self._reader
        if reader.mismatch is not None:
            return "mismatch"
        if reader.last_ns is None:
            return "waiting"
        return "stale" if (time.monotonic_ns() - reader.last_ns) / 1e9 > self._stale_after_s else "live"

    @property
    def mismatch(self) -> str:
        """Which major version of the wire the publisher speaks instead of ours; "" where it speaks ours."""
        return str(self._reader.mismatch or "")

    @property
    def absence(self) -> str:
        """Which of the topics the node does not have, by its own word, and what it has; "" where it may have all."""
        is_silent = self.connection == "connected" and self.state == "waiting"
        return absence_of(self._topics, self.health, is_silent)

    def close(self) -> None:
        """End the thread and the iteration. Twice is fine."""
        self._finalizer()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def _reader(self) -> Reader:
        """Raises EndpointError in a forked child: the thread that reads is no part of it, nothing would ever come."""
        if os.getpid() != (pid := self._any_reader.pid):
            raise EndpointError(f"a subscription of process {pid}, from before a fork: subscribe again in this one")
        return self._any_reader

    def _why_nothing_came(self, timeout_s: float | None) -> str:
        reader, wanted = self._reader, ", ".join(self._topics) or "anything"
        parts = [f"no message of {wanted} from {self._endpoint} within {timeout_s:g} s", self.connection]
        if reader.mismatch is not None:
            parts.append(str(reader.mismatch))
        if reader.last_ns is not None:
            parts.append(f"the last of any kind was {(time.monotonic_ns() - reader.last_ns) / 1e9:.1f} s ago")
        if (health := self.health) is not None:
            parts.append(f"the node said {health.state}{health.reason and ': ' + health.reason}")
        if absent := self.absence:
            parts.append(absent)
        if bad := reader.counters.bad:
            parts.append(f"{bad} bad messages")
        return "; ".join(parts)


def _prefixes(topics: tuple[str, ...]) -> dict[str, bool]:
    """What to subscribe to: prefix -> whether the program asked for it; the rest tells how the publisher is."""
    found: dict[str, bool] = {}
    for topic in topics or ("*",):
        if not isinstance(topic, str):
            raise EndpointError(
                f"topic {topic!r}: each is a word of its own: subscribe(ENDPOINT, 'front/road', 'front/lane')"
            )
        wildcard = topic == "*" or topic.endswith("/*")
        if topic != "*" and not valid_topic(topic[:-1] + "x" if wildcard else topic):
            raise EndpointError(f"topic {topic!r}: write CAMERA/NAME, as front/road, or CAMERA/* for all of a camera")
        found[topic[:-1] if wildcard else topic + "\0"] = True
    for prefix in list(found):
        if prefix:
            found.setdefault(prefix.partition("/")[0] + "/health\0", False)
    return found


def _configure(socket: zmq.Socket[bytes], prefixes: dict[str, bool]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, max(4, 2 * len(prefixes)))
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 2000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 300)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 900)
    socket.setsockopt(zmq.IPV6, 1)
    for prefix in prefixes:
        socket.setsockopt_string(zmq.SUBSCRIBE, prefix)
