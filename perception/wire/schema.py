"""The msgpack parts of a message. Readers ignore fields that they do not know, so a minor version may add some.

Words that may grow (validity, states) are plain strings here: a reader must survive a value that it has not met.
"""

from __future__ import annotations

import msgspec

Box = tuple[int, int, int, int]


class TrackRow(msgspec.Struct, frozen=True):
    """One track, as a message tells it. In a `positions` mask the value k means row k - 1."""

    id: int  # for ever: never reused in a run
    class_name: str
    state: str  # perception.types.TrackState
    score: float  # [0, 1]
    box: Box  # x0, y0, x1, y1, half open [mask px]
    first_ns: int  # stamp of the frame that began it [ns]
    last_ns: int  # stamp of the last frame in which the network confirmed it [ns]
    # from version 1.1 on:
    observed: bool = True  # the network saw it in this very frame; else its mask was carried here
    quality: float = 1.0  # predicted IoU of its mask with the truth, [0, 1]
    prompted: bool = False  # begun by a prompt, not by the network


class EventRow(msgspec.Struct, frozen=True):
    """A change of a track's state, with its reason."""

    id: int
    class_name: str
    state: str  # perception.types.TrackState
    reason: str
    stamp_ns: int
    seq: int = 0  # counts the events of this run, from 1; 0 before version 1.1


class Header(msgspec.Struct, frozen=True):
    """What a message says besides its pixels: a pure function of the scene and of the run's identity."""

    run: str  # UUID of the run; another value means that the node was started again
    camera: str
    clock: str = ""  # boot id of the host whose monotonic clock the stamps count on, or "drive"
    wall_offset_ns: int = 0  # add to a stamp for UTC [ns]; 0 = unknown
    frame_width: int = 0  # of the camera image [px]
    frame_height: int = 0
    roi: Box = (0, 0, 0, 0)  # x, y, width, height that the mask covers in the camera image [px]
    validity: str = ""  # perception.types.Validity
    reason: str = ""
    since_network: int = 0  # frames since the network last looked
    model: str = ""  # first 16 hex digits of the model's hash
    calibration: str = ""  # the same of the calibration, "" when there is none
    classes: tuple[str, ...] = ()  # names that this message uses; of a `labels` mask all, in index order
    tracks: tuple[TrackRow, ...] = ()
    events: tuple[EventRow, ...] = ()  # `tracks`: of this frame; `events`: the last ones


class SourceRow(msgspec.Struct, frozen=True):
    """The source of frames, as perception.protocols.SourceStatus says it."""

    state: str = "starting"
    reason: str = ""
    captured: int = 0
    dropped: int = 0
    broken: int = 0
    reopened: int = 0


class StageRow(msgspec.Struct, frozen=True):
    """How long one stage of the pipeline takes."""

    p50_ms: float
    p99_ms: float


class EngineRow(msgspec.Struct, frozen=True):
    """One engine that could serve, from version 1.2 on."""

    name: str
    state: str  # waiting | building | opening | testing | ready | serving | failed | refused
    reason: str = ""
    what: str = ""  # what its build does now
    done: int = 0  # of it
    of: int = 0
    step_ms: float = 0.0  # a frame, median; 0 = not known
    demotions: int = 0  # how often it was left in this run
    retry_s: float = 0.0  # until a failed one is tried again [s]


class Health(msgspec.Struct, frozen=True):
    """How the node is. Sent ten times a second, also when no frame comes."""

    run: str
    seq: int
    monotonic_ns: int  # this host's CLOCK_MONOTONIC when it was written [ns]
    boot_id: str
    clock: str = ""  # what the stamps of this run count on: boot_id, or "drive"
    wall_offset_ns: int = 0  # add to monotonic_ns for UTC [ns]; 0 = unknown
    drive_offset_ns: int | None = None  # add to a drive's stamp for monotonic_ns [ns]; None until known
    state: str = "starting"  # starting | running | no_input | degraded | failed | stopping
    reason: str = ""
    source: SourceRow = SourceRow()
    rate_hz: float = 0.0  # scenes published a second
    last_frame_seq: int = 0
    last_frame_age_ms: float | None = None  # None before the first frame
    published: dict[str, int] = {}  # messages by topic
    validity: dict[str, str] = {}  # the last one by topic
    engine: str = ""
    model: str = ""
    stages: dict[str, StageRow] = {}
    subscribers: int = 0
    rejected: int = 0  # peers that failed the handshake: unknown key, plain text, not ZeroMQ
    send_failures: int = 0
    # from version 1.2 on:
    engine_reason: str = ""  # why this engine serves, where there is a choice
    engines: tuple[EngineRow, ...] = ()  # all that there are, best first, where there is a choice
