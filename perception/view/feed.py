"""What a node says, kept for those who look: a thread that subscribes to what is looked at, and to no more."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from perception.client import Received, Subscription, subscribe
from perception.errors import PerceptionError, WireError
from perception.view.frames import FrameAssembler, SeenFrame
from perception.wire import EventRow, Health, Kind, valid_topic

log = logging.getLogger(__name__)

_EVENTS_KEPT = 64
_ALWAYS = ("health", "events")
_LOOKED_AT = ("image", "tracks", "prompted")
_KNOW_S = 0.3  # from the first health on, in which each camera of an endpoint has said something
_WAIT_S = 0.1
_AGAIN_S = 1.0  # after a subscription that failed
_QUEUE = 500  # messages; the thread only sorts them


@dataclass(slots=True, eq=False)
class SeenCamera:
    """What is known of one camera. Replaced parts, never changed ones: any thread may read."""

    name: str
    endpoint: str
    health: Health | None = None
    heard_s: float = 0.0  # when it said something last [s, monotonic]
    frame: SeenFrame | None = None  # the newest
    topics: tuple[str, ...] = ()  # of masks
    events: deque[tuple[int, EventRow]] = field(default_factory=lambda: deque(maxlen=_EVENTS_KEPT))
    event_count: int = 0
    last_event: tuple[str, int] = ("", 0)  # run and seq of the last one
    missed: int = 0  # messages that never came
    looked_at: bool = False  # set by who shows it


class Feed:
    """Follows one endpoint in a thread of its own.

    It begins with everything, to learn which cameras there are; from then on it takes health and events, and the masks
    and pictures of a camera only while that is `looked_at`. So a node makes pictures only while somebody looks.
    """

    def __init__(
        self,
        endpoint: str,
        on_change: Callable[[], None],
        server_key: str | Path | None = None,
        client_key: str | Path | None = None,
    ) -> None:
        """`on_change` is called in the thread. Raises EndpointError for an endpoint or key that can't be."""
        self.endpoint = endpoint
        self.cameras: dict[str, SeenCamera] = {}
        self.problem = ""
        self.bad = 0
        self.assembler = FrameAssembler()
        self._keys = (server_key, client_key)
        self._on_change = on_change
        self._stop = threading.Event()
        self._first = self._subscribe(self._wanted())  # here, so that a wrong endpoint is said at once
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Twice is fine."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(3)
        self._first.close()

    def _wanted(self) -> tuple[str, ...]:
        """The topics to subscribe to now."""
        found: list[str] = []
        for camera in list(self.cameras.values()):
            names = {*_ALWAYS, *((*_LOOKED_AT, *camera.topics) if camera.looked_at else ())}
            found += [f"{camera.name}/{name}" for name in sorted(names)]
        return tuple(found) or ("*",)

    def _subscribe(self, topics: Iterable[str]) -> Subscription:
        server_key, client_keys = self._keys
        told = {"latest": False, "queue_size": _QUEUE}
        return subscribe(self.endpoint, *topics, server_key=server_key, client_keys=client_keys, **told)

    def _run(self) -> None:
        first: Subscription | None = self._first
        while not self._stop.is_set():
            topics = self._wanted()
            try:
                with first or self._subscribe(topics) as subscription:
                    self._follow(subscription, topics)
            except PerceptionError as error:  # go on: a node may come back under the same endpoint, a key be mended
                self._fail(str(error))
            except Exception as error:  # a fault of ours: without this thread the page would show an old picture
                log.exception("what %s says can't be followed", self.endpoint)
                self._fail(f"{self.endpoint} can't be followed: {type(error).__name__}: {error}")
            first = None

    def _fail(self, problem: str) -> None:
        """Say it, and wait a little."""
        self.problem = problem
        self._on_change()
        self._stop.wait(_AGAIN_S)

    def _follow(self, subscription: Subscription, topics: tuple[str, ...]) -> None:
        """Take messages until other topics are wanted."""
        first_s = None
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                if (message := subscription.receive(_WAIT_S)) is not None:
                    self._note(message)
                    first_s = first_s or time.monotonic()
            self._note_problem(subscription)
            is_new = topics == ("*",)
            if (not is_new or (first_s and time.monotonic() - first_s > _KNOW_S)) and self._wanted() != topics:
                return

    def _note_problem(self, subscription: Subscription) -> None:
        problem = ""
        if subscription.state == "mismatch":
            problem = f"{self.endpoint}: {subscription.mismatch}"
        elif subscription.connection == "refused":
            problem = (
                f"{self.endpoint} refuses the handshake: a key is missing, wrong or unknown there (--server-key, --key)"
            )
        elif subscription.counters.bad and not subscription.counters.received:
            problem = f"{self.endpoint} sends what is none of our messages: is that a perception node?"
        self.bad = subscription.counters.bad
        if problem != self.problem:
            self.problem = problem
            self._on_change()

    def _note(self, message: Received) -> None:
        name = message.topic.partition("/")[0]
        camera = self.cameras.get(name)
        if camera is None:
            if len(self.cameras) >= 64:
                return
            camera = self.cameras[name] = SeenCamera(name, self.endpoint)
        camera.heard_s = time.monotonic()
        camera.missed += message.missed
        if message.restarted and camera.frame and camera.frame.run != message.header.run:
            camera.frame = None
        match message.kind:
            case Kind.HEALTH:
                self._note_health(camera, message)
            case _ if message.topic.endswith("/events"):
                self._note_events(camera, message)
            case _:
                if frame := self.assembler.add(message):
                    camera.frame = frame
                    self._on_change()

    def _note_events(self, camera: SeenCamera, message: Received) -> None:
        """Those that were not told before: a new subscription is told the last ones again."""
        run, last = message.header.run, 0
        if run == camera.last_event[0] and not message.restarted:
            last = camera.last_event[1]
        for event in message.new_events:
            if event.seq > last:
                camera.event_count += 1
                camera.events.append((camera.event_count, event))
        camera.last_event = (run, max(last, *(event.seq for event in message.new_events), 0))

    def _note_health(self, camera: SeenCamera, message: Received) -> None:
        with contextlib.suppress(WireError):
            health = message.health()
            camera.health = health
            # of this camera, and names that can be subscribed to, whatever the network says
            good = (t for t in health.published if t.startswith(f"{camera.name}/") and valid_topic(t))
            told = (topic.partition("/")[2] for topic in good)
            masks = [name for name in told if name not in (*_ALWAYS, *_LOOKED_AT)]
            camera.topics = tuple(dict.fromkeys((*camera.topics, *masks)))[:32]
