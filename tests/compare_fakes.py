"""Small results to hold against each other: a road with a car and two pedestrians that walk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception.drives import layout
from perception.drives.foxglove import Place, image_record
from perception.drives.layout import About, Certificate, Decision, Record
from perception.drives.schemas import DECISION
from perception.drives.segment import SegmentWriter
from perception.sinks.messages import Identity, SceneEncoder, TopicSpec
from perception.types import Scene, Track, TrackState, Validity
from perception.wire import Health, StageRow
from tests.fakes import PERIOD_NS
from tests.recorded_drive import OFFSET_NS, put

CLASSES = ("road", "car", "truck", "pedestrian")
ROAD, CAR, TRUCK, PEDESTRIAN = range(4)
SIZE = (48, 96)  # h, w [px]
TOPICS = (
    TopicSpec("panoptic", (0, 1, 2, 3), "labels"),
    TopicSpec("instances", (1, 2, 3), "positions"),
    TopicSpec("road", (0,), "bits"),
)
Change = Callable[[Scene], Scene]


def about(**more: Any) -> About:
    told = {"recording": "rec-1", "camera": "front", "run": "run-1", "clock": "boot-1", "wall_offset_ns": OFFSET_NS}
    return About(**{**told, "engine": "openvino", "model_id": "0123456789abcdef", "source": "/dev/video0", **more})


def scene(seq: int, things: Sequence[tuple[int, int, int, int]] | None = None) -> Scene:
    """Road below, sky above. Things are (id, class, x, y) of 12 x 10 px; the usual ones move a pixel in four frames."""
    labels = np.full(SIZE, 255, np.uint8)
    labels[24:] = ROAD
    id_map = np.zeros(SIZE, np.uint16)
    shift = seq // 4 % 40
    tracks = []
    usual = ((10, CAR, 4 + shift, 20), (11, PEDESTRIAN, 50, 16), (12, PEDESTRIAN, 80, 18))
    for k, (track_id, class_id, x, y) in enumerate(usual if things is None else things, start=1):
        labels[y : y + 10, x : x + 12], id_map[y : y + 10, x : x + 12] = class_id, k
        box = (x, y, x + 12, y + 10)
        tracks.append(Track(track_id, class_id, TrackState.CONFIRMED, 0.75, box, 1, seq))
    place = (seq, 1_000_000_000 + seq * PERIOD_NS, "front", (SIZE[1], SIZE[0]))
    return Scene(*place, labels, id_map, tuple(tracks), (), Validity.OBSERVED, "", 0)


def scenes(count: int = 30, change: Change = lambda told: told, only: Iterable[int] | None = None) -> list[Scene]:
    """The usual frames; `change` is made to those of `only` (None: to all)."""
    chosen = set(range(count)) if only is None else set(only)
    return [change(scene(i)) if i in chosen else scene(i) for i in range(count)]


def car_is_truck(told: Scene) -> Scene:
    labels = told.labels.copy()
    labels[labels == CAR] = TRUCK
    tracks = tuple(replace(t, class_id=TRUCK) if t.class_id == CAR else t for t in told.tracks)
    return replace(told, labels=labels, tracks=tracks)


def renamed(before: int, after: int) -> Change:
    """A thing gets another id."""
    return lambda told: replace(
        told, tracks=tuple(replace(t, track_id=after) if t.track_id == before else t for t in told.tracks)
    )


def write_result(
    path: Path,
    told: Sequence[Scene],
    said: About | None = None,
    topics: Sequence[TopicSpec] = TOPICS,
    *,
    classes: tuple[str, ...] = CLASSES,
    late_ms: float = 0.0,
    images: bool = False,
    dropped: Iterable[int] = (),
    closes: bool = True,
    tells_dropped_last: bool = False,
) -> Path:
    """A recording with the messages of these scenes, a decision a frame, and health now and then.

    `late_ms` is how much longer than 30 ms the network and the propagator took; `dropped` are frames that only have a
    decision, at the end of the recording where it `tells_dropped_last`.
    """
    said, skipped = said or about(), set(dropped)
    encoder = SceneEncoder(Identity(said.run, said.camera, classes, said.clock, said.wall_offset_ns), topics)
    writer = SegmentWriter(path, said)
    for one in told:
        is_dropped = one.frame_seq in skipped
        records = [_image(said, one)] if images else []
        records += [] if is_dropped else _messages(said, one, encoder)
        records += [] if is_dropped and tells_dropped_last else [_decision(said, one, late_ms, is_dropped)]
        records += [] if one.frame_seq % 10 else [_health(said, one, encoder, late_ms)]
        put(writer, records)
    if tells_dropped_last:
        put(writer, [_decision(said, one, late_ms, True) for one in told if one.frame_seq in skipped])
    if not closes:
        return writer.active
    writer.close(Certificate("end", 0, 1, {}))
    return path


def _image(said: About, one: Scene) -> Record:
    rows = np.linspace(40, 220, SIZE[0]).astype(np.uint8)[:, None, None]
    log_ns = one.stamp_ns + said.wall_offset_ns
    place = Place(log_ns, log_ns, one.frame_seq)
    return image_record(said.camera, np.broadcast_to(rows, (*SIZE, 3)).copy(), "jpeg", 90, place)


def _messages(said: About, one: Scene, encoder: SceneEncoder) -> list[Record]:
    encoded = encoder.encode(one)
    return [_wire(said, one, topic, encoder.seqs[topic.partition("/")[2]], data) for topic, data in encoded]


def _decision(said: About, one: Scene, late_ms: float, is_dropped: bool) -> Record:
    stamp = one.stamp_ns
    done = stamp + 32_000_000 + one.frame_seq % 7 * 300_000 + round(late_ms * 1e6)
    row = Decision(
        frame_seq=one.frame_seq,
        stamp_ns=stamp,
        what="stepped",
        network=True,
        engine="openvino",
        arrived_ns=stamp + 1_000_000,
        taken_ns=stamp + 2_000_000,
        done_ns=done,
        sent_ns=done + 1_000_000,
    )
    if is_dropped:
        row = Decision(one.frame_seq, stamp, "dropped", "a newer frame came", arrived_ns=stamp + 1_000_000)
    log_ns = stamp + said.wall_offset_ns
    data = msgspec.json.encode(row)
    return Record(layout.decisions(said.camera), DECISION, "json", log_ns, log_ns, one.frame_seq, data)


def _health(said: About, one: Scene, encoder: SceneEncoder, late_ms: float) -> Record:
    stages = {"network": StageRow(24.0 + late_ms, 29.0 + late_ms)}
    last = one.frame_seq
    health = Health(said.run, last + 1, one.stamp_ns, said.clock, last_frame_seq=last, stages=stages)
    topic, data = encoder.encode_health(health)
    return _wire(said, one, topic, health.seq, data)


def _wire(said: About, one: Scene, topic: str, seq: int, data: bytes) -> Record:
    log_ns = one.stamp_ns + said.wall_offset_ns
    return Record(layout.wire(topic), "", "perception", log_ns, log_ns, seq, data)
