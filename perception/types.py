"""The nouns: what flows from a source through the pipeline to the sinks.

Every array's shape, dtype and unit is said once, here. numpy is imported for annotations only, so that a
subscriber can import this module without paying for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VOID = 255
"""The class index of a pixel that no class claims."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One camera image. `stamp_ns` is taken as close to the sensor as the source allows and never replaced."""

    seq: int  # capture counter of the source; a gap means frames that were captured and not taken
    stamp_ns: int  # capture time on the source's clock [ns]
    camera: str  # name of the camera: first part of every topic, and calibration/<camera>.toml
    image: NDArray[np.uint8]  # (h, w, 3) RGB, C-contiguous, origin top left


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One thing that the network saw in one image."""

    class_id: int  # index into the model card's classes
    score: float  # [0, 1] mean confidence of its pixels; with centres, times heat and how well pixels agree
    area_px: int  # [mask px]
    box_xyxy: tuple[int, int, int, int]  # half open [mask px]


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What the network's encoder makes of one image: what a propagator tells things apart by."""

    keys: NDArray[np.float32]  # (d, h/16, w/16) of the mask's h and w; alike where the same thing is in two frames
    context: NDArray[np.float32]  # (c, h/16, w/16) what the decoders start from: rather what it is than which one
    fine8: NDArray[np.float32]  # (c, h/8, w/8)
    fine4: NDArray[np.float32]  # (c, h/4, w/4)


FEATURES = tuple(field.name for field in fields(Features))
"""Their names, as a graph's outputs have them."""


@dataclass(frozen=True, slots=True, eq=False)
class Panoptic:
    """What the network saw in one image."""

    labels: NDArray[np.uint8]  # (h, w) class index of every pixel, VOID where there is none
    id_map: NDArray[np.uint16]  # (h, w) 0 = no thing, k = segments[k - 1]
    segments: tuple[Segment, ...]
    features: Features | None = None  # None where the model gives none
    confidence: NDArray[np.uint8] | None = None  # (h', w') the winning class's probability * 255, coarser than labels
    looks: NDArray[np.float32] | None = None  # (segments, d) of `looks.Looks`, where the model's graph gives them


class TrackState(StrEnum):
    """Life cycle: tentative -> confirmed -> occluded -> lost -> ended."""

    TENTATIVE = "tentative"  # seen, not yet often enough to be published as a sure thing
    CONFIRMED = "confirmed"
    OCCLUDED = "occluded"  # not visible now, known to be behind something (a later propagator's word)
    LOST = "lost"  # not seen for a while, may come back
    ENDED = "ended"  # its id will not be used again


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One thing over time. `track_id` is never reused in a run; its place in `Scene.tracks` is only a position."""

    track_id: int
    class_id: int
    state: TrackState
    score: float  # [0, 1]
    box_xyxy: tuple[int, int, int, int]  # half open [mask px]; the last one seen where it is not visible
    first_ns: int  # stamp of the frame that began it [ns]
    last_ns: int  # stamp of the last frame in which the network confirmed it [ns]
    observed: bool = True  # the network saw it in this very frame; else its mask was carried here
    quality: float = 1.0  # predicted IoU of its mask in this frame with the truth, [0, 1]; falls with age
    prompted: bool = False  # begun by a prompt, not by the network


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a person or a program points at in the frame that was last stepped: one of points, box and mask."""

    points: tuple[tuple[float, float], ...] = ()  # (x, y) on the thing [frame px]
    box_xyxy: tuple[float, float, float, float] | None = None  # around the thing, half open [frame px]
    mask: NDArray[np.bool_] | None = None  # (h, w), the whole frame at any size
    class_id: int = VOID  # VOID: a thing of no class of the model


@dataclass(frozen=True, slots=True, eq=False)
class TrackEvent:
    """A change of state, with its reason."""

    track_id: int
    class_id: int
    state: TrackState
    reason: str
    stamp_ns: int


class Validity(StrEnum):
    """How much a message may be trusted; absence is never silence."""

    OBSERVED = "observed"  # the network looked at this very frame
    PROPAGATED = "propagated"  # carried forward from earlier frames
    DEGRADED = "degraded"  # usable, with a reason to be careful
    NO_INPUT = "no_input"  # the camera gives nothing
    FAILED = "failed"  # there is nothing to use, and the reason says why


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What the node says about one frame. The masks are at the model's output size."""

    frame_seq: int
    stamp_ns: int  # of the frame [ns]
    camera: str
    frame_size: tuple[int, int]  # width, height of the camera frame [px]
    labels: NDArray[np.uint8]  # (h, w) class index, VOID where there is none
    id_map: NDArray[np.uint16]  # (h, w) 0 = no tracked thing, k = tracks[k - 1]
    tracks: tuple[Track, ...]  # the visible ones first, in the order of id_map; then those not visible now
    events: tuple[TrackEvent, ...]
    validity: Validity
    reason: str  # empty when observed
    frames_since_network: int  # 0 when the network looked at this frame
