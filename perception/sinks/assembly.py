"""From what a node tells its recorder to the blocks of a recording."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from perception import wire
from perception.drives import layout
from perception.drives.block import Block
from perception.drives.foxglove import Place, image_record
from perception.drives.layout import About, ControlCall, Decision, Record, StateRow
from perception.drives.schemas import DECISION
from perception.errors import PerceptionError, WireError
from perception.sinks.record_queue import Captured, Noted, Sent
from perception.types import Frame

QUEUE_FULL = "the recorder's queue was full"
MESSAGES_LOST = f"{QUEUE_FULL}: messages"
NO_STATE = "a state that can't be kept"
_WIRE, _JSON, _MSGPACK = "perception", "json", "msgpack"  # encodings of our rows


@dataclass(frozen=True, slots=True)
class _Image:
    """An image whose frame nothing is decided of yet."""

    record: Record
    size: tuple[int, int]


class Assembler:
    """Puts the image, the messages and the decision of one frame into one block.

    An image waits for the messages or the decision of its frame, but no longer than until the next image comes.

    Args:
        about: the camera, and how stamps become log times.
        form: of images: "jpeg" | "png" | "raw" | "none".
        quality: of a JPEG.
    """

    def __init__(self, about: About, form: str, quality: int) -> None:
        self._about, self._form, self._quality = about, form, quality
        self._block = Block()
        self._waiting: _Image | None = None
        self._first: StateRow | None = None  # the one from before the first frame
        self._log_ns: int | None = None  # of the last frame

    @property
    def holds_state(self) -> bool:
        """The state before the first frame waits for that frame."""
        return self._first is not None

    def captured(self, item: Captured) -> Iterator[Block]:
        frame, topic = item.frame, layout.image(self._about.camera)
        if frame is None:
            self._block.captured += 1
            self._block.expected[topic] += 1
            self._block.lost[QUEUE_FULL] += 1
            return
        self._log_ns = frame.stamp_ns + self._about.wall_offset_ns
        yield from self._begin(self._log_ns)
        if self._waiting:
            alone = Block()
            self._place(alone)
            yield alone
        size = (frame.image.shape[1], frame.image.shape[0])
        if self._form == "none":
            self._block.captured, self._block.frame_size = self._block.captured + 1, size
            return
        self._waiting = _Image(self._image(frame, item), size)

    def sent(self, item: Sent) -> None:
        for topic, data in item.messages:
            if topic.endswith("/image"):
                continue  # the frame is there itself
            log_ns, seq = self._now_ns(), 0
            try:
                message = wire.decode(data)
            except WireError:
                pass  # the exact bytes are kept whatever they are
            else:
                log_ns, seq = message.stamp_ns + self._about.wall_offset_ns, message.seq
                if message.kind is not wire.Kind.HEALTH:
                    self._place_if(message.frame_seq)
            self._block.add(Record(layout.wire(topic), "", _WIRE, log_ns, item.publish_ns, seq, data))

    def noted(self, item: Noted) -> Iterator[Block]:
        row = item.row
        if isinstance(row, Decision):
            yield from self._decided(row)
        elif isinstance(row, ControlCall):
            log_ns, data = row.stamp_ns + self._about.wall_offset_ns, msgspec.msgpack.encode(row)
            topic = layout.control(self._about.camera)
            self._block.add(Record(topic, "", _MSGPACK, log_ns, log_ns, row.frame_seq, data))
            yield self._whole()
        else:
            yield from self._state(row)

    def missed(self, dropped: Counter[str]) -> None:
        """Messages by topic, and rows as "", that the queue had no room for."""
        self._block.expected.update({layout.wire(topic): n for topic, n in dropped.items() if topic})
        self._block.lost[MESSAGES_LOST] += dropped.total()

    def finish(self) -> Iterator[Block]:
        """All that waits: no frame will come."""
        yield from self._begin(self._now_ns())
        yield from self.flush()

    def flush(self) -> Iterator[Block]:
        """All that waits for nothing but more of its kind; the state before the first frame goes on waiting for it."""
        self._place(self._block)
        if not self._block.is_empty:
            yield self._whole()

    def _decided(self, row: Decision) -> Iterator[Block]:
        self._log_ns = log_ns = row.stamp_ns + self._about.wall_offset_ns
        yield from self._begin(log_ns)
        self._place_if(row.frame_seq)
        publish_ns = self._wall_ns(row.sent_ns or row.done_ns or row.arrived_ns, log_ns)
        data, topic = msgspec.json.encode(row), layout.decisions(self._about.camera)
        self._block.add(Record(topic, DECISION, _JSON, log_ns, publish_ns, row.frame_seq, data))
        self._block.decided[row.what] += 1
        yield self._whole()

    def _state(self, row: StateRow | Callable[[], StateRow]) -> Iterator[Block]:
        try:
            row = row if isinstance(row, StateRow) else row()
        except PerceptionError:
            self._block.lost[NO_STATE] += 1
            return
        if row.frame_seq < 0 and self._log_ns is None:
            self._first = row  # a stamp of 0 would be hours before the first frame
        else:
            yield self._state_block(row, row.stamp_ns + self._about.wall_offset_ns)

    def _begin(self, log_ns: int) -> Iterator[Block]:
        """The state before the first frame, at the time of that frame."""
        if self._first:
            row, self._first = self._first, None
            yield self._state_block(row, log_ns)

    def _state_block(self, row: StateRow, log_ns: int) -> Block:
        topic, data = layout.state(self._about.camera), msgspec.msgpack.encode(row)
        block = Block(has_state=True)
        block.add(Record(topic, "", _MSGPACK, log_ns, log_ns, max(0, row.frame_seq), data))
        return block

    def _image(self, frame: Frame, item: Captured) -> Record:
        log_ns = frame.stamp_ns + self._about.wall_offset_ns
        place = Place(log_ns, self._wall_ns(item.arrived_ns, log_ns), frame.seq)
        return image_record(self._about.camera, frame.image, self._form, self._quality, place, item.encoded or None)

    def _place_if(self, frame_seq: int) -> None:
        if self._waiting and self._waiting.record.sequence == frame_seq:
            self._place(self._block)

    def _place(self, block: Block) -> None:
        if self._waiting:
            block.add(self._waiting.record)
            block.captured, block.frame_size = block.captured + 1, self._waiting.size
            self._waiting = None

    def _whole(self) -> Block:
        block, self._block = self._block, Block()
        return block

    def _now_ns(self) -> int:
        """Log time of what is about no frame: the last one's, else now, or the begin of a drive."""
        if self._log_ns is not None:
            return self._log_ns
        return 0 if self._about.clock == "drive" else time.time_ns()

    def _wall_ns(self, monotonic_ns: int, log_ns: int) -> int:
        if self._about.clock == "drive" or not monotonic_ns:
            return log_ns
        return monotonic_ns + self._about.wall_offset_ns
