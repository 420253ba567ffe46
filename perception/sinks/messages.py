"""A scene as messages: which masks the topics show, and what their headers say. No sockets here."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.drives.pictures import encode_picture
from perception.errors import ConfigError
from perception.opencv import cv2
from perception.types import VOID, Frame, Scene, Track, TrackEvent, TrackState
from perception.wire import EventRow, Header, Health, Kind, TrackRow, encode, valid_topic

RESERVED = ("tracks", "events", "prompted", "image", "health")
"""Topics that every camera has; no mask may take their names."""
NO_CLASS = "object"
"""The class name of a prompted track that is of no class of the model."""
EVENTS_KEPT = 64
"""Events that every message of the `events` topic repeats."""
_SHOWN = (TrackState.TENTATIVE, TrackState.CONFIRMED)
_KINDS = {"bits": Kind.BITS, "positions": Kind.POSITIONS, "labels": Kind.LABELS}
_JPEG_QUALITY = 80


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What the masks of one topic show."""

    name: str  # the second half of the topic
    class_ids: tuple[int, ...]  # indices into Identity.classes
    form: str  # "bits": any of these classes | "positions": which track | "labels": which class


@dataclass(frozen=True, slots=True)
class Identity:
    """What all messages of a run say alike."""

    run: str  # UUID
    camera: str
    classes: tuple[str, ...]  # names of the model's classes, by index
    clock: str = ""  # boot id, or "drive"
    wall_offset_ns: int = 0  # add to a stamp for UTC [ns]; 0 = unknown
    model: str = ""  # 16 hex digits
    calibration: str = ""


def topic_spec(name: str, class_ids: Sequence[int], thing_ids: Collection[int]) -> TopicSpec:
    """A topic for a group of classes: positions where all of them are things, else bits."""
    things = bool(class_ids) and set(class_ids) <= set(thing_ids)
    return TopicSpec(name, tuple(class_ids), "positions" if things else "bits")


def panoptic_topics(class_count: int, thing_ids: Collection[int]) -> tuple[TopicSpec, TopicSpec]:
    """Everything that the network says, in two topics: `panoptic` with all labels, `instances` with all tracks."""
    labels = TopicSpec("panoptic", tuple(range(class_count)), "labels")
    return labels, TopicSpec("instances", tuple(sorted(thing_ids)), "positions")


class SceneEncoder:
    """Scenes to messages, numbered by topic. The bytes are a pure function of the identity and of the scenes."""

    def __init__(self, identity: Identity, topics: Sequence[TopicSpec], encoding: str = "zstd") -> None:
        """Raises ConfigError for topics that can't be: their names, their classes, or two of one name."""
        _check_topics(identity, topics)
        self.identity = identity
        self._topics = tuple(topics)
        self._encoding = encoding
        self._seqs: Counter[str] = Counter()
        self._events: deque[EventRow] = deque(maxlen=EVENTS_KEPT)
        self._event_count = 0

    @property
    def seqs(self) -> dict[str, int]:
        """The seq of the last message, by topic without its camera; 0 where none was sent."""
        return {name: self._seqs[name] for name in (*(spec.name for spec in self._topics), *RESERVED)}

    @property
    def event_count(self) -> int:
        """The seq of the last event."""
        return self._event_count

    @property
    def events(self) -> tuple[EventRow, ...]:
        """The last ones, which the next message of the `events` topic repeats."""
        return tuple(self._events)

    def continue_after(self, seqs: Mapping[str, int], event_count: int, events: Iterable[EventRow] = ()) -> None:
        """Number what comes above what another process of this run may have sent, and repeat its last events."""
        self._seqs, self._event_count = Counter(seqs), event_count
        self._events = deque(events, EVENTS_KEPT)

    @property
    def topics(self) -> tuple[str, ...]:
        """All the topics that may be sent, in full."""
        return tuple(self.topic(name) for name in (*(spec.name for spec in self._topics), *RESERVED))

    def topic(self, name: str) -> str:
        return f"{self.identity.camera}/{name}"

    def encode(self, scene: Scene, prompted: bool = False) -> list[tuple[str, bytes]]:
        """The masks of all topics, then the tracks and the events: (topic, message).

        The mask of the prompted tracks is among them while one lives, or where `prompted` asks for it anyway.
        """
        sent = [self._encode_mask(scene, spec) for spec in self._topics]
        if prompted or any(track.prompted for track in scene.tracks):
            sent.append(self._encode_positions(scene, "prompted", lambda track: track.prompted))
        return [*sent, *self._encode_tracks(scene)]

    def encode_image(self, frame: Frame, scene: Scene) -> tuple[str, bytes]:
        """The camera's image, as a JPEG of the masks' size."""
        height, width = scene.labels.shape
        small = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_AREA)
        jpeg = encode_picture(small.astype(np.uint8, copy=False), "jpeg", _JPEG_QUALITY)
        return self._message("image", self._header(scene), Kind.IMAGE, jpeg, scene)

    def encode_health(self, health: Health) -> tuple[str, bytes]:
        """How the node is, numbered as `health` is, at its own monotonic time."""
        told = self.identity
        wall_offset_ns = health.wall_offset_ns
        header = Header(run=told.run, camera=told.camera, clock=health.boot_id, wall_offset_ns=wall_offset_ns)
        topic = self.topic("health")
        place: dict[str, Any] = {"seq": health.seq, "frame_seq": health.last_frame_seq, "stamp_ns": health.monotonic_ns}
        return topic, encode(topic, header, Kind.HEALTH, health, **place)

    def _encode_mask(self, scene: Scene, spec: TopicSpec) -> tuple[str, bytes]:
        names = tuple(self._name(class_id) for class_id in spec.class_ids)
        if spec.form == "positions":
            return self._encode_positions(scene, spec.name, lambda track: track.class_id in spec.class_ids, names)
        if spec.form == "labels":
            mask, names = scene.labels, self.identity.classes
        else:
            mask = bits_of(scene.labels, spec.class_ids)
        return self._message(spec.name, self._header(scene, classes=names), _KINDS[spec.form], mask, scene)

    def _encode_positions(
        self, scene: Scene, name: str, is_shown: Callable[[Track], bool], classes: tuple[str, ...] = ()
    ) -> tuple[str, bytes]:
        """A mask of tracks; `classes` are the names that it says besides those of its tracks."""
        mask, tracks = positions_of(scene, is_shown)
        rows = tuple(self._row(track) for track in tracks)
        names = tuple(dict.fromkeys((*classes, *(row.class_name for row in rows))))
        return self._message(name, self._header(scene, classes=names, tracks=rows), Kind.POSITIONS, mask, scene)

    def _encode_tracks(self, scene: Scene) -> list[tuple[str, bytes]]:
        """All tracks with the events of this frame, and the events again with those before them."""
        rows = tuple(self._row(track) for track in scene.tracks)
        fresh = tuple(self._event(event) for event in scene.events)
        classes = tuple(dict.fromkeys(row.class_name for row in (*rows, *fresh)))
        header = self._header(scene, classes=classes, tracks=rows, events=fresh)
        self._events.extend(fresh)
        # more than are kept may happen in one frame: all of those are said
        told = fresh if len(fresh) > EVENTS_KEPT else tuple(self._events)
        names = tuple(dict.fromkeys(row.class_name for row in told))
        return [
            self._message("tracks", header, Kind.TRACKS, None, scene),
            self._message("events", self._header(scene, classes=names, events=told), Kind.TRACKS, None, scene),
        ]

    def _event(self, event: TrackEvent) -> EventRow:
        self._event_count += 1
        name, state = self._name(event.class_id), str(event.state)
        return EventRow(event.track_id, name, state, event.reason, event.stamp_ns, self._event_count)

    def _message(
        self, name: str, header: Header, kind: Kind, content: NDArray | bytes | None, scene: Scene
    ) -> tuple[str, bytes]:
        topic = self.topic(name)
        self._seqs[name] += 1
        height, width = scene.labels.shape
        place: dict[str, Any] = {"seq": self._seqs[name], "frame_seq": scene.frame_seq, "stamp_ns": scene.stamp_ns}
        return topic, encode(topic, header, kind, content, **place, encoding=self._encoding, size=(width, height))

    def _header(
        self,
        scene: Scene,
        classes: tuple[str, ...] = (),
        tracks: tuple[TrackRow, ...] = (),
        events: tuple[EventRow, ...] = (),
    ) -> Header:
        told = self.identity
        width, height = scene.frame_size
        return Header(
            run=told.run,
            camera=told.camera,
            clock=told.clock,
            wall_offset_ns=told.wall_offset_ns,
            frame_width=width,
            frame_height=height,
            roi=(0, 0, width, height),
            validity=str(scene.validity),
            reason=scene.reason,
            since_network=scene.frames_since_network,
            model=told.model,
            calibration=told.calibration,
            classes=classes,
            tracks=tracks,
            events=events,
        )

    def _row(self, track: Track) -> TrackRow:
        return TrackRow(
            id=track.track_id,
            class_name=self._name(track.class_id),
            state=str(track.state),
            score=round(track.score, 4),
            box=track.box_xyxy,
            first_ns=track.first_ns,
            last_ns=track.last_ns,
            observed=track.observed,
            quality=round(track.quality, 3),
            prompted=track.prompted,
        )

    def _name(self, class_id: int) -> str:
        return NO_CLASS if class_id == VOID else self.identity.classes[class_id]


def bits_of(labels: NDArray[np.uint8], class_ids: Sequence[int]) -> NDArray[np.uint8]:
    """(h, w) 1 where the label is one of the classes, else 0."""
    table = np.zeros(256, np.uint8)
    table[list(class_ids)] = 1
    return cv2.LUT(labels, table).astype(np.uint8, copy=False)


def positions_of(scene: Scene, is_shown: Callable[[Track], bool]) -> tuple[NDArray[np.uint16], tuple[Track, ...]]:
    """The id map of these tracks alone, renumbered, and the tracks in the order of its numbers.

    Only what the frame shows is in it: tentative and confirmed tracks that the scene's id map can hold.
    """
    visible = int(scene.id_map.max(initial=0))
    table = np.zeros(max(visible, len(scene.tracks)) + 1, np.uint16)
    tracks: list[Track] = []
    for position, track in enumerate(scene.tracks[:visible], start=1):
        if track.state in _SHOWN and is_shown(track):
            tracks.append(track)
            table[position] = len(tracks)
    if not tracks:
        return np.zeros_like(scene.id_map), ()
    if len(tracks) == visible:
        return scene.id_map, tuple(tracks)
    return table[scene.id_map], tuple(tracks)


def _check_topics(identity: Identity, topics: Sequence[TopicSpec]) -> None:
    counts: Mapping[str, int] = Counter(spec.name for spec in topics)
    for spec in topics:
        topic = f"{identity.camera}/{spec.name}"
        if not valid_topic(topic):
            raise ConfigError(f"topic {topic!r}: letters, digits, _ - and . only, and not too long: rename it")
        if spec.name in RESERVED or counts[spec.name] > 1:
            raise ConfigError(f"topic {topic!r} is there already: rename it")
        if spec.form not in _KINDS:
            raise ConfigError(f"topic {topic!r}: form {spec.form!r} is none of {', '.join(_KINDS)}")
        if wrong := [i for i in spec.class_ids if not 0 <= i < len(identity.classes)]:
            raise ConfigError(f"topic {topic!r}: class {wrong[0]} is none of the model's {len(identity.classes)}")
