"""Scenes to publish, and a publisher in a process of its own: `python tests/published.py ENDPOINT RUN [RATE]`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from perception import wire
from perception.sinks.messages import Identity, TopicSpec, panoptic_topics, topic_spec
from perception.sinks.publisher import Publisher
from perception.types import Frame, Scene, Track, TrackEvent, TrackState, Validity

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
CLASSES = ("road", "lane marking", "car", "pedestrian")
THINGS = (2, 3)
ANY_PORT = "tcp://127.0.0.1:*"


def topics() -> list[TopicSpec]:
    group = {"road": (0, 1), "lane": (1,), "pedestrian": (3,)}
    return [*(topic_spec(name, ids, THINGS) for name, ids in group.items()), *panoptic_topics(len(CLASSES), THINGS)]


def identity(run: str = "run-1", **more: Any) -> Identity:
    return Identity(**{"run": run, "camera": "front", "classes": CLASSES, "clock": BOOT_ID, **more})


def track(track_id: int, class_id: int, state: TrackState, box: tuple[int, int, int, int]) -> Track:
    return Track(track_id, class_id, state, 0.75, box, 1, 2)


def scene(seq: int = 1, size: tuple[int, int] = (64, 36), stamp_ns: int | None = None) -> Scene:
    """A road in the lower half with a lane, a car (id 10), a pedestrian (id 11), and a lost pedestrian (id 12)."""
    width, height = size
    labels = np.full((height, width), 255, np.uint8)
    labels[height // 2 :] = 0
    labels[height // 2 :, width // 2] = 1
    id_map = np.zeros((height, width), np.uint16)
    id_map[2:6, 2:8], id_map[8:12, 20:24] = 1, 2
    labels[id_map == 1], labels[id_map == 2] = 2, 3
    tracks = (
        track(10, 2, TrackState.CONFIRMED, (2, 2, 8, 6)),
        track(11, 3, TrackState.TENTATIVE, (20, 8, 24, 12)),
        track(12, 3, TrackState.LOST, (0, 0, 1, 1)),
    )
    stamp = time.monotonic_ns() if stamp_ns is None else stamp_ns
    events = (TrackEvent(12, 3, TrackState.LOST, "not seen for 5 frames", stamp),)
    place = (seq, stamp, "front", (1280, 720))
    return Scene(*place, labels, id_map, tracks, events, Validity.OBSERVED, "", 0)


def frame(seq: int = 1) -> Frame:
    image = np.zeros((720, 1280, 3), np.uint8)
    image[:, :640] = (200, 40, 20)
    return Frame(seq, time.monotonic_ns(), "front", image)


def health(run: str = "run-1", seq: int = 1, **more: Any) -> wire.Health:
    return wire.Health(run, seq, time.monotonic_ns(), BOOT_ID, **{"clock": BOOT_ID, "state": "running", **more})


@contextlib.contextmanager
def publishing(
    endpoint: str | list[str] = ANY_PORT, run: str = "run-1", rate_hz: float = 0, **more: Any
) -> Iterator[Publisher]:
    """A publisher that is serviced every few milliseconds, and sends scenes at `rate_hz` if that is not 0."""
    publisher = Publisher(endpoint, identity(run), topics(), **more)
    ended = threading.Event()

    def serve() -> None:
        seq, due = 0, time.monotonic()
        while not ended.wait(0.005):
            publisher.service()
            if rate_hz and time.monotonic() >= due:
                seq, due = seq + 1, due + 1 / rate_hz
                publisher.send(frame(seq), scene(seq))
                publisher.send_health(health(run, seq))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield publisher
    finally:
        ended.set()
        thread.join()
        publisher.close()


def eventually(condition: Callable[[], Any], within_s: float = 5.0) -> bool:
    """Whether the condition becomes true in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said its first line; killed in the end."""
    child = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
    finally:
        child.kill()
        child.communicate()


def publisher_process(endpoint: str, run: str, rate_hz: float = 30) -> contextlib.AbstractContextManager:
    return process(__file__, endpoint, run, str(rate_hz))


if __name__ == "__main__":
    with publishing(sys.argv[1], sys.argv[2], float(sys.argv[3])):
        print("ready", flush=True)
        threading.Event().wait()
