"""Small results to hold against each other: a road with a car and two pedestrians that walk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from perception.drives import layout
from perception.drives.layout import About, Certificate, Channel, Decision
from perception.drives.pictures import encode_picture
from perception.drives.schemas import COMPRESSED_IMAGE, DECISION, message_type
from perception.drives.segment import SegmentWriter
from perception.sinks.messages import Identity, SceneEncoder, TopicSpec
from perception.types import Scene, Track, TrackState, Validity
from perception.wire import Health, StageRow
from tests.fakes import PERIOD_NS

CLASSES = ("road", "car", "truck", "pedestrian")
ROAD, CAR, TRUCK, PEDESTRIAN = range(4)
SIZE = (48, 96)  # h, w [px]
TOPICS = (
    TopicSpec("panoptic", (0, 1, 2, 3), "labels"),
    TopicSpec("instances", (1, 2, 3), "positions"),
    TopicSpec("road", (0,), "bits"),
)
WALL_NS = 1_700_000_000_000_000_000
Change = Callable[[Scene], Scene]


def about(**more: Any) -> About:
    told = {"recording": "rec-1", "camera": "front", "run": "run-1", "clock": "boot-1", "wall_offset_ns": WALL_NS}
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
    said = said or about()
    encoder = SceneEncoder(Identity(said.run, said.camera, classes, said.clock, said.wall_offset_ns), topics)
    writer, skipped = SegmentWriter(path, said), set(dropped)
    for one in told:
        log_ns = one.stamp_ns + said.wall_offset_ns
        if images:
            _write_image(writer, said.camera, one, log_ns)
        if one.frame_seq not in skipped:
            for topic, data in encoder.encode(one):
                seq = encoder.seqs[topic.partition("/")[2]]
                writer.write(Channel(layout.wire(topic), "", "perception"), data, log_ns, log_ns, seq)
        if one.frame_seq not in skipped or not tells_dropped_last:
            _write_decision(writer, said.camera, one, log_ns, late_ms, one.frame_seq in skipped)
        if one.frame_seq % 10 == 0:
            _write_health(writer, encoder, one, log_ns, late_ms)
        writer.flush()
    for one in told if tells_dropped_last else ():
        if one.frame_seq in skipped:
            _write_decision(writer, said.camera, one, one.stamp_ns + said.wall_offset_ns, late_ms, True)
    if not closes:
        return writer.active
    writer.close(Certificate("end", 0, 1, {}))
    return path


def _write_image(writer: SegmentWriter, camera: str, one: Scene, log_ns: int) -> None:
    rows = np.linspace(40, 220, SIZE[0]).astype(np.uint8)[:, None, None]
    picture = np.broadcast_to(rows, (*SIZE, 3)).copy()
    data = encode_picture(picture, "jpeg")
    message = message_type(COMPRESSED_IMAGE)(data=data, format="jpeg", frame_id=camera)
    channel = Channel(layout.image(camera), COMPRESSED_IMAGE, "protobuf")
    writer.write(channel, message.SerializeToString(), log_ns, log_ns, one.frame_seq)


def _write_decision(
    writer: SegmentWriter, camera: str, one: Scene, log_ns: int, late_ms: float, is_dropped: bool
) -> None:
    stamp = one.stamp_ns
    jitter = one.frame_seq % 7 * 300_000
    done = stamp + 32_000_000 + jitter + round(late_ms * 1e6)
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
    channel = Channel(layout.decisions(camera), DECISION, "json")
    writer.write(channel, msgspec.json.encode(row), log_ns, log_ns, one.frame_seq)


def _write_health(writer: SegmentWriter, encoder: SceneEncoder, one: Scene, log_ns: int, late_ms: float) -> None:
    stages = {"network": StageRow(24.0 + late_ms, 29.0 + late_ms)}
    told = encoder.identity
    health = Health(told.run, one.frame_seq + 1, one.stamp_ns, told.clock, last_frame_seq=one.frame_seq, stages=stages)
    topic, data = encoder.encode_health(health)
    writer.write(Channel(layout.wire(topic), "", "perception"), data, log_ns, log_ns, health.seq)
