"""The frames that differ most, drawn: A, B, and where they differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.compare.findings import Finding
from perception.compare.measures import Frames, Measures
from perception.compare.side import Side
from perception.compare.things import ThingPairs, Things, match, things_of
from perception.drives.frames import image_of
from perception.drives.layout import About, image, wire
from perception.drives.pictures import encode_picture
from perception.drives.recording import Recording
from perception.errors import RecordingError, WireError
from perception.opencv import cv2
from perception.sinks.overlay import draw_messages
from perception.wire import Kind, Message, decode
from perception.wire.pixels import MASKS

Image = NDArray[np.uint8]
WIDTH = 480  # of a picture [px]
_QUALITY = 70
_GREY = 96
_APART = 3  # frames between two that are chosen by how much they differ alone
DIFFERS, VANISHED, APPEARED, CHANGED = (235, 64, 52), (255, 140, 0), (52, 199, 89), (255, 214, 10)
"""RGB in the picture of differences: other pixels, things of A alone, of B alone, things of another id or class."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame as three JPEGs."""

    frame: int  # number of the matched frame
    seq: int  # of A
    seconds: float  # since A's first matched frame
    note: str  # what differs
    a: bytes
    b: bytes
    difference: bytes


@dataclass(slots=True)
class _Shown:
    """What a recording holds of one frame."""

    messages: dict[str, Message] = field(default_factory=dict)
    image: Image | None = None


def choose_frames(measures: Measures, findings: Sequence[Finding], most: int) -> list[int]:
    """Frames worth a look: one of each finding, the most telling first, then those that differ most."""
    chosen = list(dict.fromkeys(f.worst for f in findings if f.worst is not None))[:most]
    kept = measures.frames
    differing, alone, changed = (np.asarray(v, np.float64) for v in (kept.differing, kept.alone, kept.changed))
    score = differing / max(1.0, differing.max(initial=0)) + alone + 2 * changed
    ranked = [f for f in np.argsort(-score, kind="stable")[: 50 * most].tolist() if score[f] > 0]
    for apart in (_APART, 1):  # other moments first, then whatever there is
        for frame in ranked:
            if len(chosen) < most and all(abs(frame - other) >= apart for other in chosen):
                chosen.append(frame)
    return sorted(chosen)


def draw_frames(
    a: Side, b: Side, measures: Measures, frames: Sequence[int], drive: Recording | None = None
) -> tuple[Picture, ...]:
    """These matched frames, over the camera's image of A, B or `drive`, whichever has it; else over grey.

    Raises Incomparable where a recording is damaged.
    """
    kept, topics = measures.frames, measures.topics
    stamps = [{f: kept.stamps_ns[f] for f in frames}, {f: kept.b_stamps_ns[f] for f in frames}]
    shown = []
    for side, told in zip((a, b), stamps, strict=True):
        try:
            shown.append(_read(side.recording, side.about, told, topics))
        except (RecordingError, WireError) as error:
            raise side.damaged(error) from None
    spare = _read(drive, drive.about, stamps[0], ()) if drive and drive.about else {}
    switched = {f: {s.a_id for s in measures.identities.switches if s.frame == f} for f in frames}
    pictures = []
    for f in frames:
        one, other = shown[0].get(f, _Shown()), shown[1].get(f, _Shown())
        images = (one.image, other.image, spare[f].image if f in spare else None)
        under = next((found for found in images if found is not None), None)
        drawn = _draw(one, other, under, topics, switched[f])
        if drawn:
            seconds, note = (kept.stamps_ns[f] - kept.stamps_ns[0]) * 1e-9, _note(kept, f)
            jpegs = (encode_picture(drawing, "jpeg", _QUALITY) for drawing in drawn)
            pictures.append(Picture(f, kept.seqs[f], seconds, note, *jpegs))
    return tuple(pictures)


def _note(kept: Frames, f: int) -> str:
    return f"{kept.differing[f]} px differ, {kept.alone[f]} things alone, {kept.changed[f]} of another id or class"


def _read(recording: Recording, about: About, stamps: Mapping[int, int], topics: Collection[str]) -> dict[int, _Shown]:
    """Messages and image of the frames with these stamps, by the frames' numbers."""
    if not stamps:
        return {}
    by_log = {stamp + about.wall_offset_ns: frame for frame, stamp in stamps.items()}
    wanted = {image(about.camera), *(wire(f"{about.camera}/{name}") for name in topics)}
    found: dict[int, _Shown] = {}
    for record in recording.messages(wanted, min(by_log), max(by_log) + 1):
        frame = by_log.get(record.log_ns)
        if frame is None:
            continue
        kept = found.setdefault(frame, _Shown())
        if record.topic == image(about.camera):
            picture = image_of(record)
            kept.image = None if picture is None else _scaled(picture)
        else:
            kept.messages[record.topic.rpartition("/")[2]] = decode(record.data)
    return found


def _scaled(picture: Image) -> Image:
    height = max(1, round(picture.shape[0] * WIDTH / picture.shape[1]))
    shrinks = picture.shape[1] > WIDTH
    return cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)  # type: ignore[return-value]


def _draw(
    one: _Shown, other: _Shown, under: Image | None, topics: Collection[str], switched: Collection[int]
) -> tuple[Image, Image, Image] | None:
    masks = [[m for _, m in sorted(shown.messages.items()) if m.kind in MASKS] for shown in (one, other)]
    if not masks[0] or not masks[1]:
        return None
    if under is None:
        under = _scaled(np.full((masks[0][0].height, masks[0][0].width, 3), _GREY, np.uint8))
    a, b = draw_messages(under, masks[0]), draw_messages(under, masks[1])
    if a is None or b is None:
        return None
    return a, b, _difference(one, other, under, topics, switched)


def _difference(one: _Shown, other: _Shown, under: Image, topics: Collection[str], switched: Collection[int]) -> Image:
    """The image darkened, and on it what differs: pixels, then things."""
    first = next(m for m in one.messages.values() if m.kind in MASKS)
    marks = np.zeros((first.height, first.width, 3), np.uint8)
    for name in sorted(one.messages.keys() & other.messages.keys()):
        a, b = one.messages[name], other.messages[name]
        if a.kind in MASKS and a.kind is b.kind and (a.height, a.width) == (b.height, b.width) == marks.shape[:2]:
            marks[_unlike(a, b)] = DIFFERS
    _mark_things(marks, match(things_of(one.messages, topics), things_of(other.messages, topics)), switched)
    size = (under.shape[1], under.shape[0])
    marks = cv2.resize(marks, size, interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(cv2.cvtColor(under, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) // 2
    marked = marks.any(2)
    grey[marked] = marks[marked]
    return grey.astype(np.uint8, copy=False)


def _unlike(a: Message, b: Message) -> NDArray[np.bool_]:
    """(h, w) where two masks of a topic say something else: class names and whether a thing is there, not numbers."""
    one, other = a.mask(), b.mask()
    if a.kind is Kind.POSITIONS:
        return (one > 0) != (other > 0)
    if a.kind is Kind.BITS or a.header.classes == b.header.classes:
        return one != other
    names = {name: k for k, name in enumerate(dict.fromkeys((*a.header.classes, *b.header.classes)))}
    tables = [np.full(256, 255, np.uint8) for _ in range(2)]
    for table, message in zip(tables, (a, b), strict=True):
        table[: len(message.header.classes)] = [names[name] for name in message.header.classes]
    return tables[0][one] != tables[1][other]


def _mark_things(marks: Image, met: ThingPairs, switched: Collection[int]) -> None:
    for side, colour in ((0, VANISHED), (1, APPEARED)):
        for k in met.alone(side):
            _mark(marks, (met.a, met.b)[side], k, colour)
    for i, j in met.pairs:
        row, other = met.a.rows[i], met.b.rows[j]
        if row.class_name != other.class_name or row.id in switched:
            _mark(marks, met.a, i, CHANGED)


def _mark(marks: Image, things: Things, k: int, colour: tuple[int, int, int]) -> None:
    if things.id_map is not None and things.masked[k] and things.id_map.shape == marks.shape[:2]:
        marks[things.id_map == k + 1] = colour
    else:
        x0, y0, x1, y1 = things.rows[k].box
        cv2.rectangle(marks, (x0, y0), (x1 - 1, y1 - 1), colour, 1)
