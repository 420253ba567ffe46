"""What a rendered drive yields: frames, and what is true about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.geometry import Camera

CLASS_NAMES: tuple[str, ...] = (
    "sky",
    "building",
    "pole",
    "road",
    "sidewalk",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
    "lane marking",
)
"""The class of each index in `Truth.labels`; grass and hedges are tree, a rider with his bicycle is bicyclist."""

SKY, BUILDING, POLE, ROAD, SIDEWALK, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, MARKING = range(12)


@dataclass(frozen=True, slots=True, eq=False)
class ActorTruth:
    """One car, pedestrian or bicyclist that is at least partly within the image, hidden or not."""

    actor_id: int  # the same over the whole drive, never given to another
    class_id: int  # index into CLASS_NAMES
    ground_xy: tuple[float, float]  # middle of its footprint in the vehicle frame [m]
    box_xyxy: tuple[int, int, int, int]  # half open, of its outline within the image as if nothing hid it [px]
    visible_px: int  # pixels that show it
    amodal_px: int  # pixels within the image that would show it if nothing were in front


@dataclass(frozen=True, slots=True, eq=False)
class EgoPose:
    """Where the vehicle is in the drive's world: x along the road's first tangent, y left."""

    x: float  # [m]
    y: float  # [m]
    heading: float  # positive turns left [rad]
    speed: float  # [m/s]


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """Exact for the image before the sensor's blur and noise."""

    labels: NDArray[np.uint8]  # (h, w) index into CLASS_NAMES
    instances: NDArray[np.uint16]  # (h, w) actor_id, 0 where there is no actor
    actors: tuple[ActorTruth, ...]  # in order of actor_id
    camera: Camera  # calibration and pose of this very frame, the body's pitching included
    ego: EgoPose


@dataclass(frozen=True, slots=True, eq=False)
class RenderedFrame:
    index: int
    stamp_ns: int  # index / fps [ns]
    image: NDArray[np.uint8]  # (h, w, 3) RGB
    truth: Truth | None  # None when the drive was made with truth=False
