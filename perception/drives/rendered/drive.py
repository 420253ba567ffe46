"""The rendered drive: an endless, seeded street scene with exact truth."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception.drives.rendered.canvas import View
from perception.drives.rendered.scene import Scene
from perception.drives.rendered.sensor import Sensor
from perception.drives.rendered.style import Style, draw_style
from perception.drives.rendered.traffic import Traffic
from perception.drives.rendered.truth import BICYCLIST, CAR, PEDESTRIAN, ActorTruth, EgoPose, RenderedFrame, Truth
from perception.errors import ConfigError
from perception.geometry import Camera, mounted

_NOMINAL = (1280, 720)
_PITCH_RAD = math.radians(2.0)
_MOUNT_M = (1.5, 0.0, 1.4)


def nominal_camera() -> Camera:
    """The camera of calibration/front.toml, 1280 x 720."""
    return Camera(
        name="front",
        width=_NOMINAL[0],
        height=_NOMINAL[1],
        K=np.array([[1000.0, 0.0, 639.5], [0.0, 1000.0, 359.5], [0.0, 0.0, 1.0]]),
        T_vehicle_from_camera=mounted(_MOUNT_M, pitch=_PITCH_RAD),
    )


@dataclass(frozen=True)
class RenderedDrive:
    """A drive made by the package itself; iterating it twice gives the same bytes twice.

    `frames` None never ends in practice. `start` is the index of the first frame that is yielded: the world is moved
    there without being painted. Without `truth` the frames carry None and cost less. Raises ConfigError for a size,
    rate or length that can't be.
    """

    seed: int = 0
    width: int = 1280
    height: int = 720
    fps: float = 30.0
    frames: int | None = None
    start: int = 0
    truth: bool = True

    def __post_init__(self) -> None:
        if not (64 <= self.width <= 4096 and 36 <= self.height <= 4096):
            raise ConfigError(
                f"rendered drive of {self.width}x{self.height}: it can be 64x36 to 4096x4096; name another size"
            )
        if not (1.0 <= self.fps <= 240.0):
            raise ConfigError(f"rendered drive at {self.fps} fps: it can be 1 to 240; name another rate")
        if self.seed < 0 or self.start < 0 or (self.frames is not None and self.frames < 0):
            raise ConfigError(
                f"rendered drive with seed {self.seed}, start {self.start}, frames {self.frames}: none may be negative"
            )

    @cached_property
    def style(self) -> Style:
        """What this seed looks like."""
        return draw_style(self.seed)

    @cached_property
    def camera(self) -> Camera:
        """Calibration of this drive's camera while the body does not pitch."""
        moved = nominal_camera().posed(pitch_rad=self.style.pitch, rise_m=self.style.rise)
        zoomed = moved.K * np.array([[self.style.zoom, 1.0, 1.0], [1.0, self.style.zoom, 1.0], [1.0, 1.0, 1.0]])
        return dataclasses.replace(moved, K=zoomed).scaled(self.width, self.height)

    def __iter__(self) -> Iterator[RenderedFrame]:
        end = None if self.frames is None else self.start + self.frames
        return self.at(itertools.count(self.start) if end is None else range(self.start, end))

    def at(self, indices: Iterable[int]) -> Iterator[RenderedFrame]:
        """Only the frames with these indices, which must increase; what lies between is moved through unpainted."""
        scene = Scene(self.style, self.camera, self.seed)
        sensor = Sensor(self.style, self.width, self.height, self.seed)
        traffic = Traffic(self.style, self.seed, self.fps, scene.front_lengths)
        haze = np.empty((self.height, self.width, 3), np.uint8)
        haze[:] = np.round(self.style.haze)
        index, before = 0, traffic.ego.speed
        for wanted in indices:
            while index < wanted:
                before = traffic.ego.speed
                traffic.step()
                index += 1
            if traffic.exhausted:
                return
            yield self._frame(index, scene, sensor, traffic, haze, (traffic.ego.speed - before) * self.fps)

    def _frame(
        self, index: int, scene: Scene, sensor: Sensor, traffic: Traffic, haze: np.ndarray, accel: float
    ) -> RenderedFrame:
        ego = _ego_pose(self.style, traffic)
        shape = (self.height, self.width)
        view = View(
            style=self.style,
            camera=self.camera.posed(pitch_rad=_nod(index / self.fps, accel, ego.speed)),
            ego=(ego.x, ego.y, ego.heading),
            image=np.empty((*shape, 3), np.uint8),
            haze=haze,
            labels=np.zeros(shape, np.uint8) if self.truth else None,
            instances=np.zeros(shape, np.uint16) if self.truth else None,
        )
        scene.paint(view, traffic)
        image = sensor.expose(view.image, index, ego.speed)
        truth = _truth(view, scene, traffic, ego) if self.truth else None
        return RenderedFrame(index, round(index * 1e9 / self.fps), image, truth)


def _ego_pose(style: Style, traffic: Traffic) -> EgoPose:
    s, d = traffic.ego.s, traffic.ego.d
    heading = math.atan(style.road_slope(s) + traffic.drift)
    return EgoPose(s, float(style.road_y(s)) + d, heading, traffic.ego.speed)


def _nod(time: float, accel: float, speed: float) -> float:
    """How far the body pitches down, by braking and by the road's roughness [rad]."""
    rough = 0.0011 * math.sin(8.3 * time) + 0.0008 * math.sin(13.1 * time + 1.0) + 0.0012 * math.sin(2.1 * time)
    return rough * min(1.0, speed / 6.0) - 0.0022 * max(-5.0, min(2.0, accel))


def _truth(view: View, scene: Scene, traffic: Traffic, ego: EgoPose) -> Truth:
    assert view.labels is not None
    assert view.instances is not None
    visible = np.bincount(view.instances.ravel(), minlength=1)
    places: dict[int, tuple[int, float, float]] = {}
    for block in traffic.blocks.values():
        places |= {parked.actor_id: (CAR, parked.s, parked.d) for parked in block.parked}
        places |= {w.actor_id: (BICYCLIST if w.mode == "ride" else PEDESTRIAN, w.s, w.d) for w in block.walkers}
    places |= {driver.actor_id: (CAR, driver.s, driver.d) for driver in traffic.drivers}
    actors = []
    for actor, drawn in sorted(view.drawn.items()):
        class_id, s, d = places[actor]
        x, y = scene.places(view, np.array([(s, d)]))[0]
        seen = int(visible[actor]) if actor < len(visible) else 0
        actors.append(ActorTruth(actor, class_id, (float(x), float(y)), drawn.box_xyxy, seen, drawn.amodal_px))
    return Truth(view.labels, view.instances, tuple(actors), view.camera, ego)
