"""A part of a recording as a recording of its own, which replays as the whole one does there."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perception.drives import layout
from perception.drives.copying import CopyWriter, refuse_existing
from perception.drives.layout import SUFFIX, Certificate, Decision, Record, StateRow, Tally
from perception.drives.recording import Recording
from perception.errors import RecordingError

CUT = "perception.cut"
"""Name of the metadata record that a cut recording gets."""
Progress = Callable[[str, int, int], None]  # what, milliseconds done, of how many


class Cut(msgspec.Struct, frozen=True):
    """Where a cut recording is from."""

    recording: str  # UUID of the whole one; "" where it has none
    from_ns: int  # log time of the wanted window [ns]
    to_ns: int
    lead_in_ns: int  # what is kept before it, so that a replay begins with the recorded state [ns]
    frame_seq: int  # of the last frame before the cut, whose state it begins with; -1 for none
    topics: tuple[str, ...] = ()  # that were chosen; empty: all


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a recording to keep.

    Attributes:
        from_s: seconds after the first message. `to_s`: None for the end.
        topics: None for all.
        exact: keep nothing before from_s; a replay then begins without the state that the node had.
    """

    from_s: float = 0.0
    to_s: float | None = None
    topics: Collection[str] | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class CutOut:
    """What was cut: the new file, its messages by topic, and where they are from."""

    path: Path
    counts: dict[str, int]
    cut: Cut
    has_state: bool


def cut_recording(
    recording: Recording, window: Window, out: Path, *, force: bool = False, progress: Progress | None = None
) -> CutOut:
    """Copy a window of a recording to the file `out`.

    It begins with the newest state of the node at or before from_s and holds every message since: replays of the cut
    and of the whole then give the same bytes for the same frames. Without a state before, and where the window is
    `exact`, it begins at from_s itself. The camera's calibration comes along, at the time of the first message.

    Raises:
        RecordingError: the window or a topic is not in the recording, the recording is damaged, or `out` is there.
    """
    if not out.name.endswith(SUFFIX):
        raise RecordingError(f"{out}: a recording's name ends in {SUFFIX}")
    refuse_existing(out, recording.segments, force=force)
    begin_ns, end_ns = _span(recording, window)
    state = None if window.exact else _state_before(recording, begin_ns, window.topics)
    first_ns, seq = begin_ns, -1
    if state:
        record, row = state
        first_ns, seq = record.log_ns + (row.frame_seq >= 0), row.frame_seq
    lead_ns = max(0, begin_ns - first_ns)
    whole = recording.about.recording if recording.about else ""
    cut = Cut(whole, begin_ns, end_ns, lead_ns, seq, tuple(sorted(window.topics or ())))
    about = recording.about and msgspec.structs.replace(
        recording.about, recording=str(uuid.uuid5(uuid.NAMESPACE_OID, repr(cut))), segment=0, began_ns=first_ns
    )
    counts: Counter[str] = Counter()
    frames: Counter[str] = Counter()
    with CopyWriter(out, recording.files[0], about) as writer:
        for record in _wanted(recording, window.topics, first_ns, end_ns, state[0] if state else None):
            writer.write(record, recording)
            counts[record.topic] += 1
            if about and record.topic == layout.decisions(about.camera):
                frames[_what(record)] += 1
            if progress:
                progress("cut", (record.log_ns - first_ns) // 1_000_000, (end_ns - first_ns) // 1_000_000)
        if not counts:
            raise RecordingError(f"{recording.path}: no message is in this window")
        writer.finish((CUT, cut), _certificate(counts, frames, end_ns) if about else None)
    return CutOut(out, dict(counts), cut, state is not None)


def _span(recording: Recording, window: Window) -> tuple[int, int]:
    """Log times of the window [ns), checked."""
    unknown = sorted(set(window.topics or ()) - recording.channels.keys())
    if unknown:
        known = ", ".join(sorted(recording.channels))
        raise RecordingError(f"{recording.path}: no topic {unknown[0]} in it: one of {known}")
    length_s = (recording.end_ns - recording.begin_ns) / 1e9
    begin_s, end_s = window.from_s, window.to_s
    if begin_s < 0 or begin_s > length_s or (end_s is not None and end_s <= begin_s):
        told = f"{begin_s:g} s to {'the end' if end_s is None else f'{end_s:g} s'}"
        raise RecordingError(f"{recording.path}: {told} of a recording of {length_s:.3f} s: give a part of it")
    last_ns = recording.end_ns + 1
    end_ns = last_ns if end_s is None else min(last_ns, recording.begin_ns + round(end_s * 1e9))
    return recording.begin_ns + round(begin_s * 1e9), end_ns


def _state_before(
    recording: Recording, begin_ns: int, topics: Collection[str] | None
) -> tuple[Record, StateRow] | None:
    """The newest state at or before a time; states are kept every few seconds, so it looks back ever farther."""
    topic = layout.state(recording.about.camera) if recording.about else ""
    if topic not in recording.channels or (topics is not None and topic not in topics):
        return None
    for back_ns in (15_000_000_000, 120_000_000_000, begin_ns):
        found = list(recording.messages({topic}, max(0, begin_ns - back_ns), begin_ns + 1))
        for record in reversed(found):
            row = _state_of(recording, record)
            if row.frame_seq < 0 or record.log_ns < begin_ns:  # else the window's first frame is in the state already
                return record, row
    return None


def _state_of(recording: Recording, record: Record) -> StateRow:
    try:
        return msgspec.msgpack.decode(record.data, type=StateRow)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordingError(f"{recording.path}: a state can't be read: {error}: cut with --exact-range") from None


def _wanted(
    recording: Recording, topics: Collection[str] | None, begin_ns: int, end_ns: int, state: Record | None
) -> Iterator[Record]:
    """The state, the calibration, and the window."""
    if state:
        yield state
    is_first = True
    for record in recording.messages(topics, begin_ns, end_ns):
        if is_first:
            is_first = False
            yield from _calibration(recording, topics, record)
        if state is None or (record.topic, record.log_ns, record.data) != (state.topic, state.log_ns, state.data):
            yield record


def _calibration(recording: Recording, topics: Collection[str] | None, first: Record) -> Iterator[Record]:
    """The newest one from before the first message, at its time."""
    topic = layout.calibration(recording.about.camera) if recording.about else ""
    if topic not in recording.channels or (topics is not None and topic not in topics):
        return
    newest = _newest(recording, topic, first.log_ns)
    if newest:
        at_ns = first.log_ns
        yield Record(topic, newest.schema, newest.encoding, at_ns, at_ns, newest.sequence, newest.data)


def _newest(recording: Recording, topic: str, before_ns: int) -> Record | None:
    """The last message of a topic before a time."""
    newest = None
    for record in recording.messages({topic}, None, before_ns):
        newest = record
    return newest


def _what(record: Record) -> str:
    try:
        return msgspec.json.decode(record.data, type=Decision).what
    except msgspec.MsgspecError:
        return "unreadable"


def _certificate(counts: Counter[str], frames: Counter[str], ended_ns: int) -> Certificate:
    tallies = {topic: Tally(count, count) for topic, count in counts.items()}
    return Certificate("cut", ended_ns, 1, tallies, frames.total(), frames["stepped"], frames["dropped"])
