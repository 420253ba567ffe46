"""What all pages share: the feeds, the node's control socket, and who looks at which camera."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from perception.client import Control, age_of
from perception.errors import PerceptionError
from perception.view.feed import Feed, SeenCamera
from perception.view.packets import Packet, finite, plain

_POLL_S = 0.4
_MOST_STAGES = 24


class Looker(Protocol):
    """A page that is open."""

    camera: str
    wants_frames: bool

    def wake(self) -> None: ...


@dataclass(eq=False)
class Board:
    """Used in the loop's thread only; feeds tell it of news from their own."""

    loop: asyncio.AbstractEventLoop
    control: Control | None = None
    feeds: list[Feed] = field(default_factory=list)
    lookers: set[Looker] = field(default_factory=set)
    play: dict[str, Any] | None = None  # how the drive is played
    can_prompt: bool = False
    _packets: dict[str, Packet] = field(default_factory=dict)  # of the newest frame, by camera

    def follow(self, endpoints: Sequence[str], **keys: Any) -> None:
        """Raises EndpointError for an endpoint or key that can't be."""
        for endpoint in endpoints:
            self.feeds.append(Feed(endpoint, self._tell, **keys))
        for feed in self.feeds:
            feed.start()

    def _tell(self) -> None:
        """Called by feeds, in their threads."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self.loop.call_soon_threadsafe(self.wake)

    def close(self) -> None:
        for feed in self.feeds:
            feed.close()

    def wake(self) -> None:
        for looker in self.lookers:
            looker.wake()

    @property
    def cameras(self) -> dict[str, SeenCamera]:
        """By the name that people choose them by: with its endpoint where two have the same."""
        found: dict[str, SeenCamera] = {}
        for feed in self.feeds:
            for name, camera in list(feed.cameras.items()):
                found[f"{name} at {feed.endpoint}" if name in found else name] = camera
        return found

    def chosen(self, name: str) -> tuple[str, SeenCamera | None]:
        """The camera that a page shows: the one that it asks for, else the first."""
        cameras = self.cameras
        name = name if name in cameras else next(iter(cameras), "")
        return name, cameras.get(name)

    def note_looks(self) -> None:
        """Have the feeds take what pages show, and no more."""
        shown = {id(self.chosen(looker.camera)[1]) for looker in self.lookers if looker.wants_frames}
        for camera in self.cameras.values():
            camera.looked_at = id(camera) in shown

    def packet(self, camera: SeenCamera) -> Packet | None:
        """The newest frame, decoded once."""
        frame = camera.frame
        if frame is None:
            return None
        key = f"{camera.endpoint} {camera.name}"
        packet = self._packets.get(key)
        if packet is None or packet.frame is not frame or packet.message_count != len(frame.messages):
            packet = self._packets[key] = Packet(frame)
        return packet

    def status(self, name: str, events_after: int) -> dict[str, Any]:
        """What a page tells beside the frames; of the events those after this one."""
        name, camera = self.chosen(name)
        feed = next((f for f in self.feeds if camera and camera in f.cameras.values()), None)
        troubled = [f for f in self.feeds if f.problem]
        shown = feed or next(iter(troubled or self.feeds))
        kept = self._packets.get(f"{camera.endpoint} {camera.name}") if camera else None
        return {
            "kind": "status",
            "cameras": [plain(each, 120) for each in self.cameras],
            "camera": plain(name, 120),
            "endpoint": shown.endpoint,
            "problem": shown.problem,
            "silent_s": round(time.monotonic() - camera.heard_s, 2) if camera else 0.0,
            "health": _health(camera),
            "topics": camera.topics if camera else (),
            "picture": kept.complaint if kept else "",
            "events": [_event(n, row) for n, row in list(camera.events) if n > events_after] if camera else [],
            "viewer": {
                "missed": camera.missed if camera else 0,
                "left_out": shown.assembler.left_out,
                "bad": shown.bad,
            },
            "play": self.play,
            "can_prompt": self.can_prompt,
        }

    async def ask(self, what: str, **arguments: Any) -> Any:
        """One method of the control client, in a thread: `prompt`, `remove` or `play`. Raises PerceptionError."""
        if self.control is None:
            raise PerceptionError("this view has no control socket: start it with --control ENDPOINT")
        return await asyncio.to_thread(getattr(self.control, what), **arguments)

    async def watch_playing(self) -> None:
        """Ask the node now and then how its drive is played, while somebody looks."""
        while True:
            if self.lookers and self.control and self._is_drive():
                try:
                    self.play = msgspec.to_builtins(await self.ask("play"))
                    self.can_prompt = True
                except PerceptionError as error:
                    self.play = None
                    self.can_prompt = "it can't be paused" in str(error)
            elif self.lookers and self.control:
                self.play = None
                self.can_prompt = True
            await asyncio.sleep(_POLL_S)

    def _is_drive(self) -> bool:
        return any(c.health is not None and c.health.clock == "drive" for c in self.cameras.values())


def age_s(packet: Packet, camera: SeenCamera) -> float | None:
    """How old the frame is now [s]; None where that can't be told."""
    message = next(iter(packet.frame.messages.values()))
    return age_of(message, message.clocks, time.monotonic_ns(), time.time_ns())[0]


def _health(camera: SeenCamera | None) -> dict[str, Any] | None:
    if camera is None or camera.health is None:
        return None
    health = camera.health
    source = msgspec.to_builtins(health.source)
    return {
        "state": plain(health.state),
        "reason": plain(health.reason, 200),
        "rate_hz": finite(health.rate_hz),
        "engine": plain(health.engine),
        "model": plain(health.model),
        "subscribers": health.subscribers,
        "send_failures": health.send_failures,
        "source": source | {"state": plain(source["state"]), "reason": plain(source["reason"], 200)},
        "stages": {
            plain(name): {"p50_ms": finite(row.p50_ms), "p99_ms": finite(row.p99_ms)}
            for name, row in list(health.stages.items())[:_MOST_STAGES]
        },
        "validity": {topic.partition("/")[2]: plain(word) for topic, word in health.validity.items()},
    }


def _event(n: int, row: Any) -> dict[str, Any]:
    return {
        "n": n,
        "id": row.id,
        "class": plain(row.class_name),
        "state": plain(row.state),
        "reason": plain(row.reason, 120),
    }
