"""A control socket with frames that come, a propagator that does as it is told, and plain sockets to ask with."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from perception.client import Control
from perception.control.answers import Answers
from perception.control.server import ControlServer
from perception.errors import PromptError
from perception.propagation.change import SceneChange
from perception.protocols import Outlook
from perception.types import Features, Frame, Panoptic, Prompt, Scene, Track, TrackState
from tests.published import ANY_PORT, CLASSES, scene

BOX = (40.0, 40.0, 160.0, 120.0)  # of the car of tests.published.scene, in frame pixels

NOISE = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)


class Following:
    """A propagator that does as it is told, and follows nothing: prompted tracks stay where they began."""

    needs_features = False

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.classes: dict[int, int] = {}
        self.failure: Exception | None = None

    def step(self, frame: Frame, seen: Panoptic | None, features: Features | None = None) -> Scene:
        tracks = tuple(self._track(track_id, frame) for track_id in self.classes)
        plain = dataclasses.replace(scene(frame.seq, (32, 16), frame.stamp_ns), events=(), camera=frame.camera)
        return dataclasses.replace(
            plain,
            frame_size=frame.image.shape[1::-1],
            labels=np.zeros((16, 32), np.uint8),
            id_map=np.zeros((16, 32), np.uint16),
            tracks=tracks,
        )

    def _track(self, track_id: int, frame: Frame) -> Track:
        state, stamp = TrackState.CONFIRMED, frame.stamp_ns
        return Track(track_id, self.classes[track_id], state, 1.0, (1, 2, 3, 4), stamp, stamp, False, 0.5, True)

    def outlook(self) -> Outlook:
        return SceneChange().outlook(has_seen=True)

    def prompt(self, prompt: Prompt) -> int:
        if self.failure:
            raise self.failure
        self.prompts.append(prompt)
        track_id = 16 + len(self.prompts)
        self.classes[track_id] = prompt.class_id
        return track_id

    def remove(self, track_id: int) -> None:
        self._alive(track_id)
        del self.classes[track_id]

    def relabel(self, track_id: int, class_id: int) -> None:
        self._alive(track_id)
        self.classes[track_id] = class_id

    def close(self) -> None:
        pass

    def reset(self) -> None:
        self.classes.clear()

    def _alive(self, track_id: int) -> None:
        if track_id not in self.classes:
            raise PromptError(f"track {track_id} does not live")


def frame(seq: int = 1, stamp_ns: int | None = None) -> Frame:
    return Frame(seq, seq * 100_000_000 if stamp_ns is None else stamp_ns, "front", NOISE)


@contextlib.contextmanager
def stepping(server: ControlServer, propagator: Any) -> Iterator[None]:
    """Frames that come every few milliseconds, with the scene of tests.published."""
    ended = threading.Event()

    def step() -> None:
        seq = 0
        while not ended.wait(0.003):
            seq += 1
            server.serve(propagator, frame(seq), scene(seq))

    thread = threading.Thread(target=step)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def serving(
    propagator: Any = None, endpoint: str = ANY_PORT, frames: bool = True, **more: Any
) -> Iterator[ControlServer]:
    """A control socket, and frames that come."""
    server = ControlServer(endpoint, Answers("front", CLASSES), **more)
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        if frames:
            stack.enter_context(stepping(server, propagator or Following()))
        yield server


class Sockets:
    """Plain sockets, closed in the end."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context, self._made = context, []

    def open(self, kind: int, endpoint: str = "") -> zmq.Socket[bytes]:
        self._made.append(made := self._context.socket(kind))
        if endpoint:
            made.connect(endpoint)
        return made

    def ask(self, endpoint: str, data: bytes) -> zmq.Socket[bytes]:
        asking = self.open(zmq.REQ, endpoint)
        asking.send(data)
        return asking

    def close(self) -> None:
        for made in self._made:
            made.close(0)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with zmq.Context() as context, contextlib.closing(Sockets(context)) as sockets:
        yield sockets


@pytest.fixture
def followed() -> Following:
    return Following()


@pytest.fixture
def control(followed: Following) -> Iterator[Control]:
    with serving(followed) as server:
        yield Control(server.endpoint)
