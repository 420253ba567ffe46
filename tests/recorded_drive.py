"""Small recordings that are true in every row, written without a node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from perception.drives import layout
from perception.drives.foxglove import Place, calibration_record, image_record
from perception.drives.layout import About, Certificate, Channel, Decision, Record, StateRow, Tally
from perception.drives.schemas import DECISION
from perception.drives.segment import SegmentWriter
from perception.geometry import Camera
from perception.wire import EventRow, Header, Kind, encode

PERIOD_NS = 40_000_000
OFFSET_NS = 1_700_000_000_000_000_000
ABOUT = About("6ba7b810", "front", "run", "boot", OFFSET_NS, model="road", model_id="ab" * 8, engine="onnxruntime")
SIZE = (64, 48)
STATE_EVERY = 25


def records_of(seq: int) -> list[Record]:
    """What is recorded of a frame; every seventh is dropped, and after every 25th comes a state."""
    stamp = seq * PERIOD_NS
    log, is_dropped = stamp + OFFSET_NS, seq % 7 == 6
    place = Place(log, log + 5_000_000, seq)
    image = np.full((SIZE[1], SIZE[0], 3), seq % 200, np.uint8)
    found = [image_record("front", image, "jpeg", 80, place)]
    what, reason = ("dropped", "busy") if is_dropped else ("stepped", "")
    decision = Decision(seq, stamp, what, reason, network=not is_dropped and seq % 2 == 0, engine="onnxruntime")
    found.append(Record(layout.decisions("front"), DECISION, "json", log, log, seq, msgspec.json.encode(decision)))
    if not is_dropped:
        found.append(tracks(seq))
    if seq % STATE_EVERY == 0:
        row = StateRow(seq or -1, stamp, seq, {}, 0, b"", b"state %d" % seq)
        found.append(Record(layout.state("front"), "", "msgpack", log, log, 0, msgspec.msgpack.encode(row)))
    if not seq:
        found.append(calibration_record("front", _lens(), place))
    return found


def tracks(seq: int) -> Record:
    number = seq + 1 - (seq + 1) // 7  # of the message: dropped frames have none
    stamp = seq * PERIOD_NS
    events = (EventRow(seq, "car", "confirmed", "seen", stamp),) if seq % 10 == 0 else ()
    header = Header("run", "front", "boot", OFFSET_NS, events=events)
    data = encode("front/tracks", header, Kind.TRACKS, None, seq=number, frame_seq=seq, stamp_ns=stamp, size=SIZE)
    log = stamp + OFFSET_NS
    return Record(layout.wire("front/tracks"), "", "perception", log, log, number, data)


def write_segment(
    path: Path, about: About, chunks: Iterable[Sequence[Record]], certificate: Certificate | None = None
) -> Path:
    """An MCAP file with these records, each chunk flushed as a frame is."""
    writer = SegmentWriter(path, about)
    for records in chunks:
        put(writer, records)
    writer.close(certificate)
    return path


def put(writer: SegmentWriter, records: Iterable[Record]) -> None:
    for r in records:
        writer.write(Channel(r.topic, r.schema, r.encoding), r.data, r.log_ns, r.publish_ns, r.sequence)
    writer.flush()


def write_drive(folder: Path, frames: int = 100, segments: int = 2, *, close: bool = True, lose: int = 0) -> Path:
    """A folder of segments. `lose` messages are missing by its certificate; without `close` the last one is active."""
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    each = -(-frames // segments)
    for n in range(segments):
        writer = SegmentWriter(folder / f"{n:04d}.mcap", msgspec.structs.replace(ABOUT, segment=n))
        for seq in range(n * each, min(frames, (n + 1) * each)):
            put(writer, records := records_of(seq))
            counts.update(record.topic for record in records)
        if n < segments - 1:
            writer.close()
        elif close:
            writer.close(_certificate(counts, frames, segments, lose))
        else:
            writer.abandon()
    return folder


def _certificate(counts: Counter[str], frames: int, segments: int, lose: int) -> Certificate:
    tallies = {topic: Tally(count + lose, count) for topic, count in counts.items()}
    return Certificate("closed", OFFSET_NS + frames * PERIOD_NS, segments, tallies, frames)


def _lens() -> Camera:
    K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
    return Camera("front", *SIZE, K, np.eye(4))
