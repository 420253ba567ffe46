"""Small recordings with everything in them, for tests: a pedestrian and a car that cross the picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.config import Launch
from perception.drives import layout
from perception.drives.foxglove import Place, image_record, picture_of
from perception.drives.frames import stored_frames
from perception.drives.layout import About, Certificate, Decision, Record, Tally
from perception.drives.recording import open_recording
from perception.drives.schemas import DECISION
from perception.drives.segment import SegmentWriter
from perception.sinks.messages import Identity, SceneEncoder, TopicSpec
from perception.types import Frame, Scene, Track, TrackEvent, TrackState, Validity
from tests.recorded_drive import put

PERIOD_NS = 33_333_333
CLASSES = ("sky", "road", "pedestrian", "car")
TOPICS = (
    TopicSpec("road", (1,), "bits"),
    TopicSpec("pedestrian", (2,), "positions"),
    TopicSpec("panoptic", (0, 1, 2, 3), "labels"),
)
SIZE, MASKS = (128, 96), (64, 48)
"""Width, height of the images and of the masks [px]."""
RUN, RECORDING = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
WALL_OFFSET_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Look:
    """What differs between one recording and another.

    Args:
        form: of the images: jpeg | png | raw | none.
        clock: a boot id, or "drive", whose log times are the stamps.
        dropped: frames that were captured and not taken.
        unseen: frames about which no message tells, although they were taken.
        hidden: frames in which the pedestrian is behind something: its track lives, its mask is gone.
    """

    form: str = "jpeg"
    clock: str = "boot"
    camera: str = "front"
    dropped: Collection[int] = ()
    unseen: Collection[int] = ()
    hidden: Collection[int] = ()
    topics: Sequence[TopicSpec] = TOPICS
    mode: str = "live"
    pictures: bool = True  # masks and boxes also as other tools have them


def about_of(look: Look | None = None) -> About:
    look = look or Look()
    things = [{"name": name, "thing": name in ("pedestrian", "car")} for name in CLASSES]
    return About(
        recording=RECORDING,
        camera=look.camera,
        run=RUN,
        clock=look.clock,
        wall_offset_ns=0 if look.clock == "drive" else WALL_OFFSET_NS,
        launch=msgspec.json.encode(Launch(version=1)).decode(),
        card=msgspec.json.encode({"classes": things}).decode(),
        model="tiny",
        model_id="0123456789abcdef",
        engine="onnxruntime",
        frames=look.form,
        mode=look.mode,
    )


def make_drive(path: Path, frames: int = 10, look: Look | None = None, segments: int = 1) -> Path:
    """Write a whole recording: one file where `path` ends in .mcap, else a folder of segments; returns `path`."""
    look = look or Look()
    about, encoder = about_of(look), encoder_of(look)
    tally: Counter[str] = Counter()
    if path.suffix != ".mcap":
        path.mkdir(parents=True, exist_ok=True)
    for segment in range(segments):
        target = path if path.suffix == ".mcap" else path / f"{segment:04d}.mcap"
        writer = SegmentWriter(target, msgspec.structs.replace(about, segment=segment))
        for i in range(frames * segment // segments, frames * (segment + 1) // segments):
            put(writer, records := records_of(i, look, about, encoder))
            tally.update(record.topic for record in records)
        is_last = segment == segments - 1
        writer.close(_certificate(frames, segments, tally, look) if is_last else None)
    return path


def encoder_of(look: Look) -> SceneEncoder:
    about = about_of(look)
    identity = Identity(RUN, look.camera, CLASSES, look.clock, about.wall_offset_ns, about.model_id)
    return SceneEncoder(identity, look.topics)


def records_of(i: int, look: Look, about: About, encoder: SceneEncoder) -> list[Record]:
    """Image, messages and decision of frame i, as a recorder puts them into one chunk."""
    stamp_ns = i * PERIOD_NS
    log_ns = stamp_ns + about.wall_offset_ns
    found: list[Record] = []
    if look.form != "none":
        place = Place(log_ns, log_ns, i)
        found.append(image_record(look.camera, image(i), look.form, 95, place))
    is_stepped = i not in look.dropped
    if is_stepped and i not in look.unseen:
        for topic, data in encoder.encode(scene(i, look)):
            sequence = encoder.seqs[topic.partition("/")[2]]
            found.append(Record(layout.wire(topic), "", "perception", log_ns, log_ns + 9_000_000, sequence, data))
        if look.pictures:
            found += [picture for record in found[1:] if (picture := picture_of(record))]
    what = "stepped" if is_stepped else "dropped"
    reason = "" if is_stepped else "a newer frame came"
    decision = Decision(i, stamp_ns, what, reason, is_stepped and i % 2 == 0, about.engine, stamp_ns + 1_000_000)
    data, topic = msgspec.json.encode(decision), layout.decisions(look.camera)
    return [*found, Record(topic, DECISION, "json", log_ns, log_ns, i, data)]


def image(i: int) -> NDArray[np.uint8]:
    """(h, w, 3) RGB: a fine chequer, so that whatever blurs it shows, and the two things."""
    width, height = SIZE
    y, x = np.mgrid[:height, :width]
    picture = np.where((x // 2 + y // 2) % 2, 200, 40).astype(np.uint8)[..., None].repeat(3, 2)
    for (x0, y0, x1, y1), colour in ((walker(i), (220, 20, 60)), (car(i), (0, 0, 142))):
        body = picture[2 * y0 : 2 * y1, 2 * x0 : 2 * x1]
        body[:] = body // 2 + np.array(colour, np.uint8) // 2
    return picture


def walker(i: int) -> tuple[int, int, int, int]:
    """The pedestrian's box [mask px]."""
    x = 4 + i % 16
    return x, 8, x + 8, 38


def car(i: int) -> tuple[int, int, int, int]:
    x = 34 + i % 8
    return x, 22, x + 20, 40


def scene(i: int, look: Look | None = None) -> Scene:
    """What a node says of frame i; of every second frame only what was carried there."""
    look = look or Look()
    is_hidden, observed, stamp_ns = i in look.hidden, i % 2 == 0, i * PERIOD_NS
    labels = np.zeros(MASKS[::-1], np.uint8)
    id_map = np.zeros(MASKS[::-1], np.uint16)
    labels[30:] = 1
    shown = [(2, car(i), 3)] if is_hidden else [(1, walker(i), 2), (2, car(i), 3)]
    for k, (_, (x0, y0, x1, y1), class_id) in enumerate(shown, 1):
        labels[y0:y1, x0:x1], id_map[y0:y1, x0:x1] = class_id, k
    tracks = [Track(t, c, TrackState.CONFIRMED, 0.87, box, 0, stamp_ns, observed) for t, box, c in shown]
    if is_hidden:
        tracks.append(Track(1, 2, TrackState.OCCLUDED, 0.5, walker(i), 0, stamp_ns, False, 0.4))
    events = (TrackEvent(1, 2, TrackState.CONFIRMED, "seen", stamp_ns),) if i == 0 else ()
    validity = Validity.OBSERVED if observed else Validity.PROPAGATED
    reason = "" if observed else "the network looks at every second frame"
    things = (labels, id_map, tuple(tracks), events, validity, reason, 0 if observed else 1)
    return Scene(i, stamp_ns, look.camera, SIZE, *things)


def stored(path: Path) -> list[NDArray[np.uint8]]:
    """The images of a recording, all of which can be decoded."""
    images = [frame.image for frame in stored_frames(open_recording(path))]
    return [image for image in images if image is not None]


def frames_of(count: int) -> list[Frame]:
    """The camera's frames alone."""
    return [Frame(i, i * PERIOD_NS, "front", image(i)) for i in range(count)]


def _certificate(frames: int, segments: int, tally: dict[str, int], look: Look) -> Certificate:
    channels = {topic: Tally(count, count) for topic, count in sorted(tally.items())}
    dropped = len([i for i in look.dropped if i < frames])
    return Certificate("end", 1, segments, channels, frames, frames - dropped, dropped)
