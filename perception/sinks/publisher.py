"""Scenes onto ZeroMQ: never waits for anyone, keeps the last message of each topic, and counts who is refused."""

from __future__ import annotations

import logging
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import zmq

from perception.errors import EndpointError
from perception.keys import Curve
from perception.sinks.endpoints import IpcPlace, bind_error, checked
from perception.sinks.gate import Gate, encrypt
from perception.sinks.messages import Identity, SceneEncoder, TopicSpec
from perception.sinks.subscriptions import Subscriptions
from perception.stopwatch import Stopwatch
from perception.types import Frame, Scene
from perception.wire import Health

log = logging.getLogger(__name__)

_LAST_WORD_MS = 150  # how long close() waits for the last messages to leave
_TOLD_AT_ONCE = 1000  # that are taken in before the node goes on with its frames
_PEER_BYTES = 64  # most that a peer may send at once: a subscription, and nothing else
_PEER_BYTES_CURVE = 512  # the same with room for CURVE's handshake
_HIGHEST_MARK = 1000
_HANDSHAKE_MS = 3000  # how long a peer may take to say who it is

_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """What a publisher has done so far."""

    published: dict[str, int]  # messages by topic
    validity: dict[str, str]  # of the last message, by mask topic
    subscribers: int  # peers that are connected now
    rejected: int  # handshakes that failed: unknown key, plain text, not ZeroMQ
    send_failures: int
    floods: int  # how often all peers were dropped because of senseless subscriptions


class Publisher:
    """A sink that publishes a camera's scenes. Every method may be called from any thread.

    Attributes:
        listener: gets the messages of every `send` and `send_health` once they are out.
        prompted_wanted: somebody subscribed to the mask of prompted tracks when the last scene was sent.
    """

    listener: Callable[[Sequence[tuple[str, bytes]]], None] | None = None
    prompted_wanted = False

    def __init__(
        self,
        endpoints: str | Sequence[str],
        identity: Identity,
        topics: Sequence[TopicSpec],
        *,
        encoding: str = "zstd",
        image: bool = True,
        curve: Curve | None = None,
        insecure: bool = False,
        budget_bytes: int = 32 << 20,
        mask_size: tuple[int, int] = (1280, 720),
        stopwatch: Stopwatch | None = None,
    ) -> None:
        """Bind the endpoints. `budget_bytes` is about what one frozen subscriber may make us keep.

        Raises EndpointError for an endpoint that is taken, malformed, or open to strangers without `curve`;
        ConfigError for topics that can't be.
        """
        wanted = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not wanted:
            raise EndpointError("no endpoint to publish on: give at least one")
        self.encoder = SceneEncoder(identity, topics, encoding)
        self._image = image
        self._time = stopwatch or Stopwatch()
        self._image_topic, self._prompted_topic = self.encoder.topic("image"), self.encoder.topic("prompted")
        self._curve = curve
        self._high_water_mark = _high_water_mark(budget_bytes, mask_size, encoding, len(topics))
        self._subscriptions = Subscriptions(self.encoder.topics)
        self._lock = threading.Lock()
        self._last: dict[str, bytes] = {}
        self._published: Counter[str] = Counter()
        self._validity: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._peers: dict[int, float] = {}  # open connections: when they were accepted, by file descriptor
        self._closed = False
        self._places: list[IpcPlace] = []
        self._gate: Gate | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._context = zmq.Context()
        try:
            self._start([checked(e, encrypted=curve is not None, insecure=insecure) for e in wanted])
        except BaseException:
            self._shut(linger_ms=0)
            raise

    def _start(self, wanted: list[str]) -> None:
        if self._curve:
            self._gate = Gate(self._context, self._curve.clients)
        self._places = []
        for endpoint in wanted:
            if endpoint.startswith("ipc://"):
                self._places.append(IpcPlace(endpoint))
        self._endpoints = tuple(wanted)
        self._endpoints = self._open()

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where it listens, with the ports that the system chose where `*` was asked for."""
        return self._endpoints

    def send(self, frame: Frame, scene: Scene) -> None:
        """Publish the scene's masks and tracks, and the camera's image while somebody subscribes to it."""
        with self._time("encode"):
            self.prompted_wanted = self.is_wanted(self._prompted_topic)
            messages = self.encoder.encode(scene, prompted=self.prompted_wanted)
            if self._image and self.is_wanted(self._image_topic):
                messages.append(self.encoder.encode_image(frame, scene))
        with self._time("send"):
            self.send_messages(messages, str(scene.validity))
        if self.listener:
            self.listener(messages)

    def send_messages(self, messages: Iterable[tuple[str, bytes]], validity: str = "") -> None:
        """Publish messages that `encoder` made."""
        with self._lock:
            self._listen()
            for topic, data in messages:
                if topic not in (self._image_topic, self._prompted_topic):  # the last may be of long ago
                    self._last[topic] = data
                self._published[topic] += 1
                if validity:
                    self._validity[topic] = validity
                self._put(data)

    def send_health(self, health: Health) -> None:
        """Publish how the node is."""
        messages = [self.encoder.encode_health(health)]
        self.send_messages(messages)
        if self.listener:
            self.listener(messages)

    def service(self) -> None:
        """Answer those who came since the last call: to be called every 20 to 50 ms, also when nothing is sent."""
        with self._lock:
            self._listen()

    def is_wanted(self, topic: str) -> bool:
        """Whether somebody subscribes to this topic."""
        with self._lock:
            return self._subscriptions.wants(topic)

    def stats(self) -> PublisherStats:
        with self._lock:
            # The events do not say whose handshake succeeded: whoever came a moment ago may still be at it.
            counts, young = self._counts, time.monotonic() - _HANDSHAKE_MS / 1e3
            at_it = sum(came > young for came in self._peers.values())
            counts["rejected"] = max(counts["rejected"], counts["accepted"] - counts["joined"] - at_it)
            return PublisherStats(
                published=dict(self._published),
                validity=dict(self._validity),
                subscribers=max(0, min(len(self._peers), counts["joined"] + counts["rejected"] - counts["gone"])),
                rejected=counts["rejected"],
                send_failures=counts["failures"],
                floods=counts["floods"],
            )

    def close(self) -> None:
        """Let the last messages leave and free the endpoints, within 300 ms. Twice is fine."""
        with self._lock:
            if not self._closed:
                self._shut(_LAST_WORD_MS)

    def _open(self) -> tuple[str, ...]:
        """A socket bound to all the endpoints, which are returned as they came out."""
        socket = self._context.socket(zmq.XPUB)
        try:
            self._configure(socket)
            self._monitor = socket.get_monitor_socket(_EVENTS)
            bound = []
            for endpoint in self._endpoints:
                try:
                    socket.bind(endpoint)
                except zmq.ZMQError as error:
                    raise bind_error(endpoint, error) from error
                bound.append(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        except BaseException:
            self._drop(socket, 0)
            raise
        self._socket = socket
        return tuple(bound)

    def _configure(self, socket: zmq.Socket[Any]) -> None:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tells every subscription, so that a late joiner gets the last value
        socket.setsockopt(zmq.SNDHWM, self._high_water_mark)
        socket.setsockopt(zmq.RCVHWM, _HIGHEST_MARK)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 300)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 900)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, _PEER_BYTES_CURVE if self._curve else _PEER_BYTES)
        socket.setsockopt(zmq.IPV6, any("[" in endpoint for endpoint in self._endpoints))
        if self._curve:
            encrypt(socket, self._curve)

    def _put(self, data: bytes) -> None:
        if self._socket is None:
            self._counts["failures"] += not self._closed
            return
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.ZMQError:
            self._counts["failures"] += 1

    def _listen(self) -> None:
        """Take in subscriptions and peers' comings and goings; send what is known to those who just came."""
        if self._closed or (self._socket is None and not self._reopen()):
            return
        fresh: set[str] = set()
        for _ in range(_TOLD_AT_ONCE):
            if (told := _take(self._socket)) is None:
                break
            fresh |= self._subscriptions.note(told[0])
            if self._subscriptions.senseless:
                self._drop_all_peers()
                return
        while (event := _take(self._monitor)) is not None:
            self._note_event(event[0])
        for topic in self._last.keys() & fresh:
            self._put(self._last[topic])

    def _note_event(self, told: bytes) -> None:
        event, descriptor = struct.unpack("=HI", told)
        if event == zmq.EVENT_ACCEPTED:
            self._counts["accepted"] += 1
            self._peers[descriptor] = time.monotonic()
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._counts["joined"] += 1
        else:
            self._counts["gone"] += 1
            self._peers.pop(descriptor, None)

    def _drop_all_peers(self) -> None:
        """Free what a flood of subscriptions took: honest subscribers are back within a fraction of a second."""
        senseless = self._subscriptions.senseless
        log.warning("%d senseless subscriptions: all subscribers are dropped and may come back", senseless)
        assert self._socket is not None
        self._drop(self._socket, 0)
        self._socket = None
        self._subscriptions.forget()
        self._counts["floods"] += 1
        self._counts["gone"] += len(self._peers)
        self._peers.clear()

    def _reopen(self) -> bool:
        try:  # until the old listener is gone, which takes it a moment
            self._open()
        except (EndpointError, zmq.ZMQError):  # the latter where no descriptor is left
            return False
        return True

    def _drop(self, socket: zmq.Socket[Any], linger_ms: int) -> None:
        socket.disable_monitor()
        if self._monitor is not None:
            self._monitor.close(0)
            self._monitor = None
        socket.close(linger_ms)

    def _shut(self, linger_ms: int) -> None:
        self._closed = True
        if self._socket is not None:
            self._drop(self._socket, linger_ms)
            self._socket = None
        if self._gate is not None:
            self._gate.stop()
        # one socket left open would make term() wait for ever; destroy() closes what is left of them
        self._context.destroy(0)
        for place in self._places:
            place.release()


def _take(socket: zmq.Socket[bytes] | None) -> list[bytes] | None:
    if socket is None:
        return None
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.ZMQError:
        return None


def _high_water_mark(budget_bytes: int, mask_size: tuple[int, int], encoding: str, topics: int) -> int:
    """How many messages a subscriber may lag: at least four frames' worth."""
    largest = 2 * mask_size[0] * mask_size[1] // (1 if encoding == "raw" else 8)
    return min(_HIGHEST_MARK, max(4 * (topics + 1), budget_bytes // max(1, largest)))
