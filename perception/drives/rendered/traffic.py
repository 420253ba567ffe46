"""Who moves, step by step: the ego vehicle, the cars around it, and everyone on foot or bicycle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perception.drives.rendered.blocks import CARS, Block, Walker, build_block
from perception.drives.rendered.pavement import ZEBRA
from perception.drives.rendered.style import PERIOD_M, Style

VIEW_M = 190.0
BEHIND_M = 25.0
_EGO_FRONT_M = 3.7
_BUS_HALF_M = 5.4
_LAST_ID = 65535  # what an instance map of 16 bits can say


@dataclass(slots=True)
class Driver:
    """A car in traffic; `way` is +1 when it goes where the ego goes."""

    actor_id: int  # 0 is the ego
    which: int
    s: float
    d: float
    way: int
    speed: float
    desired: float
    half_m: float = 2.3
    braking: bool = False


class Traffic:
    """The moving world of one drive. Every call of `step` is one frame; equal seeds give equal worlds."""

    def __init__(self, style: Style, seed: int, fps: float, lengths: tuple[float, ...]) -> None:
        self._style, self._seed, self._dt, self._lengths = style, seed, 1.0 / fps, lengths
        self._rng = np.random.default_rng([seed, 3])
        self._next_id = 0
        self.blocks: dict[int, Block] = {}
        self.time = 0.0
        lane = style.side * style.lane_m * (style.lanes - 0.5)
        self.ego = Driver(0, 0, 30.0, lane, 1, style.speed * 0.8, style.speed, half_m=_EGO_FRONT_M)
        self._lane, self._shift, self.drift = lane, 0.0, 0.0
        self.drivers: list[Driver] = []
        self._spawn_in = 0.0
        self._arrange()
        for _ in range(round(5 * style.busy_cars)):
            self._spawn(self.ego.s + self._rng.uniform(15, 150))

    @property
    def exhausted(self) -> bool:
        """Whether the drive has handed out every id that an instance map can hold; many hours."""
        return self._next_id >= _LAST_ID - 200

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def walkers(self) -> list[Walker]:
        return [walker for block in self.blocks.values() for walker in block.walkers]

    def step(self) -> None:
        """Move everything by one frame."""
        self.time += self._dt
        self._arrange()
        walkers = self.walkers()
        for walker in walkers:
            _walk(walker, self._style, self.ego, self._dt)
        crossing = [walker for walker in walkers if walker.mode == "cross"]
        for driver in [self.ego, *self.drivers]:
            self._drive(driver, crossing)
        self._swerve(walkers)
        keep = [a for a in self.drivers if -BEHIND_M - 15 < a.s - self.ego.s < VIEW_M + 60]
        self.drivers = keep
        self._spawn_in -= self._dt
        if self._spawn_in <= 0.0:
            self._spawn_in = float(self._rng.exponential(5.0 / self._style.busy_cars)) + 1.2
            self._spawn(self.ego.s + VIEW_M + 20)

    def _arrange(self) -> None:
        first, last = (math.floor((self.ego.s + offset) / PERIOD_M) for offset in (-BEHIND_M, VIEW_M + 30))
        for index in range(first, last + 1):
            if index not in self.blocks:
                self.blocks[index] = build_block(self._style, self._seed, index, self._lengths, self.new_id)
        for index in [index for index in self.blocks if index < first]:
            del self.blocks[index]

    def _spawn(self, s: float) -> None:
        style, rng = self._style, self._rng
        way = 1 if rng.random() < 0.35 else -1
        lane = int(rng.integers(0, style.lanes))
        d = style.side * way * style.lane_m * (lane + 0.5)
        if any(abs(other.s - s) < 14 and abs(other.d - d) < 1.5 for other in [self.ego, *self.drivers]):
            return
        desired = style.speed * float(rng.uniform(0.75, 1.15))
        which = int(rng.integers(0, CARS))
        half = _BUS_HALF_M if which == 0 else 2.3
        self.drivers.append(Driver(self.new_id(), which, float(s), d, way, desired, desired, half))

    def _drive(self, driver: Driver, walkers: list[Walker]) -> None:
        gap = min(self._gap_cars(driver), self._gap_people(driver, walkers))
        wish = 1.4 * (driver.desired + 0.08 * driver.desired * math.sin(0.1 * self.time + driver.which) - driver.speed)
        safe = math.sqrt(max(0.0, 2 * 2.6 * (gap - 1.0)))
        limit = (safe - driver.speed) / 0.25 if safe < driver.speed + 0.5 else wish
        accel = max(-7.0, min(1.8, wish, limit))
        driver.braking = accel < -0.6 or driver.speed < 0.3
        driver.speed = max(0.0, driver.speed + accel * self._dt)
        driver.s += driver.way * driver.speed * self._dt

    def _gap_cars(self, driver: Driver) -> float:
        gap = 1e3
        for other in [self.ego, *self.drivers]:
            ahead = (other.s - driver.s) * driver.way
            if other is not driver and ahead > 0 and abs(other.d - driver.d) < 1.8 and other.way == driver.way:
                rear = 0.8 if other is self.ego else other.half_m
                gap = min(gap, ahead - rear - driver.half_m - 3.0 + 0.5 * (other.speed**2) / 5.0)
        return gap

    def _gap_people(self, driver: Driver, walkers: list[Walker]) -> float:
        gap, style = 1e3, self._style
        for walker in walkers:
            ahead = (walker.s - driver.s) * driver.way - driver.half_m
            if ahead < 0.5 or ahead > 60:
                continue
            waits = walker.triggered and walker.trips > 0 and walker.delay < 2.5 and abs(walker.d) >= style.road_half
            if abs(walker.d) < style.road_half + 0.2 or waits:
                in_block = walker.s % PERIOD_M
                at_zebra = style.zebra and ZEBRA[0] <= in_block <= ZEBRA[1]
                line = (in_block - ZEBRA[0] if driver.way > 0 else ZEBRA[1] - in_block) + 2.2 if at_zebra else 4.5
                gap = min(gap, ahead - line)
        return gap

    def _swerve(self, walkers: list[Walker]) -> None:
        """Give bicyclists room, and wander a little within the lane."""
        style, ego = self._style, self.ego
        near = any(
            w.mode == "ride" and -4 < w.s - ego.s < 24 and abs(w.d - self._lane) < style.lane_m * 0.6 for w in walkers
        )
        target = -style.side * 1.4 if near else 0.12 * math.sin(0.23 * self.time)
        before = self._shift
        rate = min(1.0, self._dt * 0.9) * min(1.0, ego.speed / 4.0)
        self._shift += (target - self._shift) * rate
        self.drift = (self._shift - before) / max(1e-6, ego.speed * self._dt) if ego.speed > 0.5 else 0.0
        ego.d = self._lane + self._shift


def _walk(walker: Walker, style: Style, ego: Driver, dt: float) -> None:
    ahead = walker.s - ego.s
    if ahead > VIEW_M - 30:
        return
    moved = 0.0
    if walker.mode in ("walk", "ride"):
        moved = walker.speed * dt
        walker.s += moved
    elif walker.mode == "cross":
        moved = _cross(walker, style, ahead, ego.speed, dt)
    elif walker.mode == "lurk":
        moved = _lurk(walker, style, dt)
    stride = 5.0 if walker.mode == "ride" else 1.45
    walker.phase = (walker.phase + abs(moved) / stride) % 1.0


def _lurk(walker: Walker, style: Style, dt: float) -> float:
    """To the kerb, or between the parked cars, and back."""
    walker.delay += dt
    reach = max(0.4, abs(walker.home) - style.road_half + (0.9 if style.parking_m else -0.3))
    turn = 2.0 * walker.delay / reach
    walker.across = -math.copysign(math.sin(turn), walker.home)
    walker.d = walker.home - math.copysign(reach * (0.5 - 0.5 * math.cos(turn)), walker.home)
    return walker.across * dt


def _cross(walker: Walker, style: Style, ahead: float, ego_speed: float, dt: float) -> float:
    walker.triggered = walker.triggered or ahead < 62.0
    if not walker.triggered or walker.trips <= 0:
        return 0.0
    walker.delay -= dt
    at_kerb = abs(walker.d) >= style.road_half
    too_late = at_kerb and ego_speed > 0.5 and -6.0 < ahead < 5.0 + ego_speed**2 / 4.0
    if walker.delay > 0 or (too_late and walker.d * walker.across < 0):
        return 0.0
    walker.d += walker.across * dt
    if abs(walker.d) > style.road_half + 0.7 and walker.d * walker.across > 0:
        walker.trips -= 1
        walker.across, walker.delay = -walker.across, 2.5
        if walker.trips <= 0:
            walker.mode, walker.speed = "walk", math.copysign(1.2, walker.across)
    return walker.across * dt
