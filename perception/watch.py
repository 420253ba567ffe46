"""What a subscriber sees, once a second: rate, age, gaps, validity and tracks; and overlay pictures on request."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perception.client import Received, Subscription, subscribe
from perception.errors import EndpointError, WireError
from perception.sinks.overlay import draw_messages
from perception.sinks.pictures import PictureFolder
from perception.wire import Kind

_PERIOD_S = 1.0
_FRAMES_KEPT = 16  # in which the messages of one frame find each other
COLUMNS = ("topic", "rate", "age p50/max", "gaps", "restarts", "validity", "tracks")


@dataclass(slots=True)
class TopicRow:
    """What one topic did since it was last shown, and since the beginning."""

    topic: str
    came: int = 0  # in this period, skipped ones included
    ages_s: list[float] = field(default_factory=list)  # in this period
    is_estimate: bool = False
    gaps: int = 0  # since the beginning
    restarts: int = 0  # since the beginning
    validity: str = "waiting"
    tracks: str = ""

    def note(self, got: Received) -> None:
        self.came += 1 + got.skipped
        if (age := got.age_s) is not None:
            self.ages_s.append(age)
            self.is_estimate = got.age_is_estimate
        self.gaps += got.missed
        self.restarts += got.restarted
        told = got.header
        if got.kind is Kind.HEALTH:
            health = got.health()
            self.validity = f"{health.state}{health.reason and ': ' + health.reason}"
        else:
            self.validity = f"{told.validity}{told.reason and ': ' + told.reason}"
        self.tracks = " ".join(f"#{row.id} {row.class_name}" for row in told.tracks)

    def cells(self, period_s: float) -> tuple[str, ...]:
        """The texts of COLUMNS; begins a new period."""
        age = "?"
        if self.ages_s:
            about = "~" if self.is_estimate else ""
            age = f"{about}{median(self.ages_s) * 1e3:.0f}/{max(self.ages_s) * 1e3:.0f} ms"
        rate = f"{self.came / period_s:.1f} Hz"
        self.came, self.ages_s = 0, []
        validity = self.validity if rate != "0.0 Hz" else f"silent ({self.validity})"
        return self.topic, rate, age, str(self.gaps), str(self.restarts), _plain(validity), _plain(self.tracks)


class Saver:
    """Overlay pictures of frames whose messages came together: the camera's image where it came too, else black."""

    def __init__(self, folder: Path, every_s: float = 1.0, most: int = 1000) -> None:
        """Raises ConfigError where the folder can't be written."""
        self.folder = folder
        self._pictures = PictureFolder(folder)
        self.saved = 0
        self.ended = ""  # why no more pictures are written
        self._every_s, self._most = every_s, most
        self._due = 0.0
        self._frames: OrderedDict[tuple[str, str, int], dict[str, Received]] = OrderedDict()

    def note(self, got: Received) -> None:
        """Take a message in; write a picture once one is due and a newer frame has begun, so that this one is whole."""
        if self.ended or got.kind in (Kind.HEALTH, Kind.TRACKS):
            return
        key = (got.topic.partition("/")[0], got.header.run, got.frame_seq)
        is_new = key not in self._frames
        if is_new and time.monotonic() >= self._due:
            self.flush()
        self._frames.setdefault(key, {})[got.topic] = got
        if len(self._frames) > _FRAMES_KEPT:
            self._frames.popitem(last=False)

    def flush(self) -> None:
        """Write a picture of the newest frame of each camera, those with an image first; forget all the frames."""
        best: dict[str, tuple[tuple[bool, int, int], dict[str, Received]]] = {}
        for order, ((camera, _, _), messages) in enumerate(self._frames.items()):
            rank = (any(m.kind is Kind.IMAGE for m in messages.values()), len(messages), order)
            if camera not in best or rank > best[camera][0]:
                best[camera] = (rank, messages)
        for camera, (_, messages) in best.items():
            self._write(camera, list(messages.values()))
        self._frames.clear()

    def _write(self, camera: str, messages: list[Received]) -> None:
        images = [m for m in messages if m.kind is Kind.IMAGE]
        note = next((m.header.validity for m in messages if m.header.validity != "observed"), "")
        with contextlib.suppress(WireError):  # bad pixels make no picture; the next frame may
            picture = draw_messages(images[0].image() if images else None, messages, note)
            if picture is None or self.ended:
                return
            self._due = time.monotonic() + self._every_s
            self._put(f"{camera}-{messages[0].frame_seq:06d}.png", picture)

    def _put(self, name: str, picture: NDArray[np.uint8]) -> None:
        self.ended = self._pictures.put(name, picture)
        self.saved += not self.ended
        if self.saved >= self._most:
            self.ended = f"{self._most} pictures are enough"


def watch(
    endpoint: str,
    topics: Sequence[str],
    *,
    save_dir: Path | None = None,
    seconds: float | None = None,
    count: int | None = None,
    server_key: str | Path | None = None,
    client_key: str | Path | None = None,
    console: Console | None = None,
) -> None:
    """Show what comes on `topics` until `seconds` or `count` messages or Ctrl-C; a picture a second into `save_dir`.

    A table that stays in place on a terminal, else one line a topic and second. Raises EndpointError where an
    endpoint, topic or key can't be or nothing came within `seconds`, ConfigError for a folder that can't be written.
    """
    saver = Saver(save_dir) if save_dir else None
    asked = list(dict.fromkeys(topics or ["*"]))
    images = {f"{topic.partition('/')[0]}/image" for topic in asked if topic != "*"} if saver else set()
    extra = [image for image in sorted(images) if not _matches(image, asked)]
    rows = {topic: TopicRow(topic) for topic in asked if not topic.endswith("*")}
    with (
        subscribe(endpoint, *asked, *extra, server_key=server_key, client_keys=client_key) as subscription,
        _Screen(console or Console(), endpoint, subscription, rows, saver) as screen,
        contextlib.suppress(KeyboardInterrupt),
    ):
        came = _follow(subscription, screen, asked, seconds, count)
        if seconds is not None and not came:
            why = f"{subscription.connection}, {subscription.state}"
            hint = subscription.absence or "is the node running there?"
            raise EndpointError(f"nothing came from {endpoint} within {seconds:g} s ({why}): {hint}")


def _follow(
    subscription: Subscription, screen: _Screen, asked: list[str], seconds: float | None, count: int | None
) -> int:
    """Take messages and show a summary each period; returns how many came."""
    begin, came = time.monotonic(), 0
    end = begin + seconds if seconds is not None else float("inf")
    while time.monotonic() < end and (count is None or came < count):
        got = None
        with contextlib.suppress(TimeoutError):
            got = subscription.receive(max(0.0, min(screen.due, end) - time.monotonic()))
        if got is not None:
            screen.note(got, _matches(got.topic, asked))
            came += _matches(got.topic, asked)
        if time.monotonic() >= screen.due:
            screen.show()
    return came


class _Screen:
    """Where the rows are shown: a live table on a terminal, else lines."""

    def __init__(
        self,
        console: Console,
        endpoint: str,
        subscription: Subscription,
        rows: dict[str, TopicRow],
        saver: Saver | None,
    ) -> None:
        self._console, self._endpoint, self._subscription = console, endpoint, subscription
        self._rows, self._saver = rows, saver
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._shown = time.monotonic()
        self.due = self._shown + _PERIOD_S

    def __enter__(self) -> _Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._saver:
            self._saver.flush()
        self.show()
        if self._live:
            self._live.stop()

    def note(self, got: Received, is_asked: bool) -> None:
        if is_asked:
            with contextlib.suppress(WireError):
                self._rows.setdefault(got.topic, TopicRow(got.topic)).note(got)
        if self._saver:
            self._saver.note(got)

    def show(self) -> None:
        now = time.monotonic()
        period_s, self._shown, self.due = max(now - self._shown, 1e-3), now, now + _PERIOD_S
        cells = [row.cells(period_s) for row in self._rows.values()]
        if self._live:
            table = Table(*COLUMNS, box=None, caption=Text(self._status()), caption_justify="left")
            for row in cells:
                table.add_row(*(Text(cell) for cell in row))
            self._live.update(table, refresh=True)
            return
        for topic, rate, age, gaps, restarts, validity, tracks in cells:
            line = f"{topic:20} {rate:>8}  age {age:>12}  gaps {gaps}  restarts {restarts}  {validity}  {tracks}"
            self._console.print(line.rstrip(), markup=False, highlight=False, soft_wrap=True)
        told = self._subscription
        if told.state != "live" or told.absence or (self._saver and self._saver.ended):
            self._console.print(self._status(), markup=False, highlight=False, soft_wrap=True)

    def _status(self) -> str:
        told, counters = self._subscription, self._subscription.counters
        parts = [f"{self._endpoint}: {told.connection}, {told.state}"]
        if (health := told.health) is not None:
            parts.append(f"node {health.state}{health.reason and ': ' + health.reason}")
        parts += [absent] if (absent := told.absence) else []
        parts += [f"{n} {what}" for n, what in ((counters.bad, "bad messages"), (counters.skipped, "skipped")) if n]
        if self._saver:
            saved = f"{self._saver.saved} pictures in {self._saver.folder}"
            parts.append(f"{saved}, no more: {self._saver.ended}" if self._saver.ended else saved)
        return _plain("; ".join(parts))


def _matches(topic: str, asked: Sequence[str]) -> bool:
    return any(topic.startswith(a[:-1]) if a.endswith("*") else topic == a for a in asked)


def _plain(text: str) -> str:
    """Text from the network without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text[:400])
