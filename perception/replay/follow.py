"""Frames through a pipeline as a plan says, the network some frames ahead of the propagator."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import msgspec

from perception.control.answers import Answers
from perception.drives.layout import ControlCall, Decision, StateRow
from perception.errors import RecordingError
from perception.pipeline import Pipeline, Sight
from perception.propagation.snapshot import copy, put
from perception.sinks.messages import SceneEncoder
from perception.types import Frame, Scene
from perception.wire import EventRow
from perception.wire.control import decode_request, encode_reply

_events = msgspec.msgpack.Decoder(tuple[EventRow, ...]).decode


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A frame to be stepped, and how."""

    frame: Frame
    decision: Decision  # what the result says of it; `network` and `prompted` are followed
    calls: tuple[ControlCall, ...] = ()  # to be answered after it


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """What came of it."""

    planned: Planned
    scene: Scene
    messages: list[tuple[str, bytes]]
    replies: tuple[ControlCall, ...]


class Follower:
    """A pipeline, an encoder and the answers to prompts, as one run of a node has them.

    Args:
        pipelines: which share a propagator; all of them look, the first one follows.
    """

    def __init__(self, pipelines: Sequence[Pipeline], encoder: SceneEncoder, answers: Answers) -> None:
        self.pipeline, self.encoder, self.answers = pipelines[0], encoder, answers
        self._eyes: SimpleQueue[Pipeline] = SimpleQueue()
        for pipeline in pipelines:
            self._eyes.put(pipeline)
        self._count = len(pipelines)

    def begin_after(self, row: StateRow) -> None:
        """Go on from a kept state.

        Raises:
            PerceptionError: it is of another model, setting or version.
        """
        put(self.pipeline.propagator, row.propagator)
        self.pipeline.steps = row.steps
        try:
            events = _events(row.events)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise RecordingError(f"a kept state can't be read: {error}") from None
        self.encoder.continue_after(row.seqs, row.event_count, events)

    def state_after(self, frame: Frame) -> StateRow:
        """What `begin_after` goes on from."""
        told = msgspec.msgpack.encode(self.encoder.events)
        seqs, count = self.encoder.seqs, self.encoder.event_count
        propagator = copy(self.pipeline.propagator).encode()
        return StateRow(frame.seq, frame.stamp_ns, self.pipeline.steps, seqs, count, told, propagator)

    def follow(self, plan: Iterable[Planned]) -> Iterator[Followed]:
        """Step through a plan.

        Raises:
            PerceptionError: a frame fails; an error of the plan's frames.
        """
        seen: deque[tuple[Planned, Future[Sight]]] = deque()
        with ThreadPoolExecutor(self._count, "network") as pool:
            for planned in plan:
                seen.append((planned, pool.submit(self._see, planned)))
                if len(seen) > self._count:
                    yield self._step(*seen.popleft())
            while seen:
                yield self._step(*seen.popleft())

    def _see(self, planned: Planned) -> Sight:
        eye = self._eyes.get()  # there are as many as threads
        try:
            return eye.see(planned.frame, planned.decision.network)
        finally:
            self._eyes.put(eye)

    def _step(self, planned: Planned, sight: Future[Sight]) -> Followed:
        frame = planned.frame
        scene = self.pipeline.follow(frame, *sight.result())
        messages = self.encoder.encode(scene, prompted=planned.decision.prompted)
        self.answers.note(frame)
        replies = tuple(self._answered(call, frame, scene) for call in planned.calls)
        return Followed(planned, scene, messages, replies)

    def _answered(self, call: ControlCall, frame: Frame, scene: Scene) -> ControlCall:
        request = decode_request(call.request)
        reply = self.answers.answer(request, self.pipeline.propagator, frame, scene)
        return ControlCall(frame.seq, frame.stamp_ns, call.request, encode_reply(reply))
