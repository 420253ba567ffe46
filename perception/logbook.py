"""What a node decides about every frame, told to a recorder: the reason why a drive can be followed again later."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from perception.drives.layout import ControlCall, Decision, StateRow
from perception.drives.pictures import encode_picture
from perception.errors import DeviceError, ModelError
from perception.images import decode_image
from perception.pipeline import Pipeline
from perception.propagation.snapshot import copy
from perception.sinks.messages import SceneEncoder
from perception.sinks.recorder import Recorder
from perception.types import Frame
from perception.wire import Health
from perception.wire.control import Reply, Request, SaveRequest, TracksRequest, encode_reply, encode_request

log = logging.getLogger(__name__)

BAD = ("no_input", "degraded", "failed")
_WAITING = 64  # frames between capture and decision: many more than there can be


@dataclass(frozen=True, slots=True)
class Rewritten:
    """How images go through a recording's codec before the network sees them."""

    form: str  # jpeg | png | raw
    quality: int


class Logbook:
    """A capture listener, and the notes of the pipeline's thread.

    Args:
        recorder: takes it all, never blocks.
        pipeline, encoder: whose state is kept from time to time.
        engine: name of the one that serves; may change between two frames.
        wall_offset_ns: add to a stamp for the wall clock [ns]; None for a drive, whose stamps are all the time it has.
        rewritten: let the pipeline have the images as the recording gives them back.
        saves_on_health: a state that is worse than running saves the recorder's ring.
    """

    def __init__(
        self,
        recorder: Recorder,
        pipeline: Pipeline,
        encoder: SceneEncoder,
        engine: str,
        wall_offset_ns: int | None,
        rewritten: Rewritten | None = None,
        saves_on_health: bool = False,
    ) -> None:
        self.recorder, self._pipeline, self._encoder, self.engine = recorder, pipeline, encoder, engine
        self._wall_offset_ns, self._rewritten = wall_offset_ns, rewritten
        self._undecided: dict[int, tuple[Frame, int]] = {}  # frames that nothing is decided of, and when they came [ns]
        self._stamp_ns = 0
        self._asked: deque[str] = deque(maxlen=8)  # reasons to save the ring
        self._saves_on_health, self._health = saves_on_health, ""
        self._lacks_state = False  # one was due, and could not be had
        self._try_state(-1, 0)

    def captured(self, frame: Frame, arrived_ns: int) -> Frame:
        """Of the capture thread: keep the image; the frame for the pipeline."""
        data = b""
        if self._rewritten and self._rewritten.form in ("jpeg", "png"):
            data = encode_picture(frame.image, self._rewritten.form, self._rewritten.quality)
            frame = Frame(frame.seq, frame.stamp_ns, frame.camera, decode_image(data, "recorded frame"))
        while len(self._undecided) >= _WAITING:
            del self._undecided[next(iter(self._undecided))]
        self._undecided[frame.seq], self._stamp_ns = (frame, arrived_ns), frame.stamp_ns
        self.recorder.captured(frame, arrived_ns, data)
        return frame

    def dropped(self, frame: Frame, reason: str) -> None:
        arrived_ns = self._undecided.pop(frame.seq, (frame, 0))[1]
        self.recorder.decided(Decision(frame.seq, frame.stamp_ns, "dropped", reason, arrived_ns=arrived_ns))

    def broken(self, seq: int, stamp_ns: int, reason: str) -> None:
        self.recorder.decided(Decision(seq, stamp_ns, "broken", reason))

    def sent(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Messages that were published; by the pipeline's thread and by the heartbeat."""
        if self._wall_offset_ns is not None:
            self.recorder.sent(messages, time.monotonic_ns() + self._wall_offset_ns)
        elif not messages[0][0].endswith("/health"):  # which is about this machine's time, not about the drive's
            self.recorder.sent(messages, self._stamp_ns)

    def stepped(self, frame: Frame, taken_ns: int, done_ns: int, prompted: bool) -> None:
        """The pipeline made a scene of a frame, and it was published."""
        self._decide(frame, "stepped", "", taken_ns, done_ns, time.monotonic_ns(), prompted)

    def failed(self, frame: Frame, taken_ns: int, reason: str) -> None:
        self._decide(frame, "failed", reason, taken_ns, time.monotonic_ns())

    def called(self, frame: Frame, answered: tuple[Request, Reply] | None) -> None:
        """A request was answered after this frame; one that changes nothing is not kept."""
        if answered and not isinstance(answered[0], TracksRequest | SaveRequest):
            request, reply = encode_request(answered[0]), encode_reply(answered[1])
            self.recorder.called(ControlCall(frame.seq, frame.stamp_ns, request, reply))

    def settle(self, frame: Frame) -> None:
        """Between two frames, when all is done about the one before."""
        if self.recorder.wants_state():
            self._try_state(frame.seq, frame.stamp_ns)

    def ask_save(self, reason: str) -> None:
        """Have the ring saved at the next heartbeat; callable from a signal handler."""
        self._asked.append(reason)

    def beat(self, health: Health) -> None:
        """By the heartbeat: save the ring where somebody asked for it, or the node's health changed for the worse."""
        while self._asked:
            self.recorder.trigger(self._asked.popleft())
        if self._saves_on_health and health.state != self._health and health.state in BAD:
            self.recorder.trigger(f"health {health.state}")
        self._health = health.state

    def _try_state(self, seq: int, stamp_ns: int) -> None:
        """Keep the state; before the next frame, where the engine that has it can't give it now."""
        try:
            self.keep_state(seq, stamp_ns)
        except (ModelError, DeviceError) as error:  # what its next call says is the frame's
            if not self._lacks_state:
                log.warning("the recording has no state of frame %d: %s; tried again", seq, error)
            self._lacks_state = True
        else:
            self._lacks_state = False

    def keep_state(self, seq: int, stamp_ns: int) -> None:
        """Copy the state that the next frame meets; the recorder's thread makes bytes of it.

        Raises ModelError, DeviceError where it lies on a device that does not give it.
        """
        copied, encoder, steps = copy(self._pipeline.propagator), self._encoder, self._pipeline.steps
        seqs, count, events = encoder.seqs, encoder.event_count, encoder.events

        def row() -> StateRow:
            told = msgspec.msgpack.encode(events)
            return StateRow(seq, stamp_ns, steps, seqs, count, told, copied.encode())

        self.recorder.state(row)

    def close(self, reason: str) -> None:
        """Nothing more will be decided, and nothing is left undecided; the recording is finished."""
        for frame, _ in list(self._undecided.values()):
            self.dropped(frame, "the node stopped before it was taken")
        self.recorder.close(reason)

    def _decide(
        self,
        frame: Frame,
        what: str,
        reason: str,
        taken_ns: int,
        done_ns: int,
        sent_ns: int = 0,
        prompted: bool = False,
    ) -> None:
        arrived_ns = self._undecided.pop(frame.seq, (frame, taken_ns))[1]
        looked = self._pipeline.looked
        times = (arrived_ns, taken_ns, done_ns, sent_ns)
        decision = Decision(frame.seq, frame.stamp_ns, what, reason, looked, self.engine, *times, prompted)
        self.recorder.decided(decision)
