"""What stands along one block of the street: houses, trees, lamps, signs, fences and who parks and walks there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from perception.drives.rendered.pavement import JUNCTION, ZEBRA
from perception.drives.rendered.style import PERIOD_M, Style

KINDS = 5  # trees, lamps, ... per kind
PEOPLE = 16
CARS = 12  # the first is a bus


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing that never moves: s along the road, d across it (left positive) [m]; `which` picks one of its kind."""

    kind: str  # "house" | "fence" | "tree" | "bush" | "lamp" | "sign"
    which: int
    s: float
    d: float
    open_end: bool = True  # a house whose end towards the ego is not covered by its neighbour


@dataclass(slots=True)
class Walker:
    """A pedestrian or bicyclist. `mode`: walk, stand, cross (waits for `delay`, then crosses), ride, lurk."""

    actor_id: int
    which: int
    mode: str
    s: float
    d: float
    speed: float  # along the road, negative comes towards the ego [m/s]
    delay: float = 0.0
    home: float = 0.0  # d where a crossing began
    across: float = 0.0  # speed across the road [m/s]; its sign is the direction
    trips: int = 1
    phase: float = 0.0
    triggered: bool = False


@dataclass(slots=True)
class Parked:
    actor_id: int
    which: int
    s: float
    d: float
    turned: bool


@dataclass(slots=True)
class Block:
    start: float  # s of its beginning [m]
    placed: list[Placed] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    walkers: list[Walker] = field(default_factory=list)


def build_block(style: Style, seed: int, index: int, lengths: tuple[float, ...], new_id: Callable[[], int]) -> Block:
    """Block `index` of the street; `lengths` are the fronts' lengths [m], `new_id` hands out actor ids."""
    rng = np.random.default_rng([seed, 7, index])
    block = Block(index * PERIOD_M)
    for side in (-1, 1):
        _houses(block, style, rng, side, lengths)
        _greens(block, style, rng, side)
        _poles(block, style, rng, side)
        if style.parking_m:
            _parked(block, style, rng, side, new_id)
        _walkers(block, style, rng, side, new_id)
    _crossers(block, style, rng, new_id)
    for _ in range(rng.poisson(2.2)):
        _riders(block, style, rng, new_id)
    return block


def _in_junction(style: Style, begin: float, end: float) -> bool:
    return style.junction and begin < JUNCTION[1] + 1.0 and end > JUNCTION[0] - 1.0


def _houses(block: Block, style: Style, rng: np.random.Generator, side: int, lengths: tuple[float, ...]) -> None:
    if style.place == "rural" and rng.random() < 0.75:
        return
    s, last_end = float(rng.uniform(0, 3)), -9.0
    setback = style.walk_outer + {"city": 0.0, "suburb": 4.0, "rural": 9.0}[style.place]
    while s < PERIOD_M:
        which = int(rng.integers(0, len(lengths)))
        length = lengths[which]
        gap = {"city": rng.choice([0.0, 0.0, 0.0, 2.5, 8.0]), "suburb": rng.uniform(2.5, 8)}.get(
            style.place, rng.uniform(20, 60)
        )
        if s + length > PERIOD_M:
            return
        if _in_junction(style, s, s + length):
            s = JUNCTION[1] + 1.0
            continue
        back = setback + (rng.uniform(0, 0.6) if style.place == "city" else rng.uniform(0, 3))
        block.placed.append(Placed("house", which, block.start + s, side * float(back), s - last_end > 0.5))
        last_end = s + length
        s += length + float(gap)


def _greens(block: Block, style: Style, rng: np.random.Generator, side: int) -> None:
    dense = {"city": 0.45, "suburb": 0.9, "rural": 1.0}[style.place] * rng.uniform(0.2, 1.0)
    row = rng.random() < 0.5
    s = float(rng.uniform(2, 10))
    while s < PERIOD_M:
        if not _in_junction(style, s - 3, s + 3) and rng.random() < dense:
            rows = style.walk_inner + (0.6 if style.verge_m < 0.5 else -style.verge_m / 2)
            far = style.walk_outer + rng.uniform(1.0, 3.2 if style.place != "rural" else 14.0)
            d = rows if row and style.place != "rural" else far
            if style.place != "city" or row:
                block.placed.append(Placed("tree", int(rng.integers(0, KINDS)), block.start + s, side * float(d)))
        s += float(rng.uniform(7, 16))
    if style.place == "city":
        return
    for s in np.arange(0.0, PERIOD_M - 4.0, 4.0):
        if rng.random() < 0.35 and not _in_junction(style, s, s + 4):
            bush = Placed(
                "bush",
                int(rng.integers(0, KINDS)),
                block.start + float(s),
                side * (style.walk_outer + float(rng.uniform(0.8, 2.5))),
            )
            block.placed.append(bush)
    if rng.random() < 0.7:
        begin, end = sorted(rng.uniform(0, PERIOD_M, 2))
        which = int(rng.integers(0, 2))
        for s in np.arange(begin // 4 * 4, end, 4.0):
            if not _in_junction(style, s, s + 4):
                block.placed.append(Placed("fence", which, block.start + float(s), side * (style.walk_outer + 0.35)))


def _poles(block: Block, style: Style, rng: np.random.Generator, side: int) -> None:
    if rng.random() < 0.75:
        step, which = float(rng.choice([21.0, 32.0, 42.0])), int(rng.integers(0, 2))
        for s in np.arange(rng.uniform(0, step), PERIOD_M, step):
            if not _in_junction(style, s, s):
                block.placed.append(Placed("lamp", which, block.start + float(s), side * (style.road_half + 0.55)))
    for _ in range(rng.integers(1, 5)):
        s = float(rng.uniform(0, PERIOD_M))
        if not _in_junction(style, s, s):
            where = side * (style.road_half + float(rng.uniform(0.5, 0.9)))
            block.placed.append(Placed("sign", int(rng.integers(0, KINDS)), block.start + s, where))
    if style.zebra:
        block.placed.append(Placed("sign", 0, block.start + ZEBRA[0] - 0.7, side * (style.road_half + 0.5)))


def _parked(block: Block, style: Style, rng: np.random.Generator, side: int, new_id: Callable[[], int]) -> None:
    s = float(rng.uniform(2, 8))
    while s < PERIOD_M - 6:
        near_zebra = style.zebra and ZEBRA[0] - 8 < s < ZEBRA[1] + 6
        if rng.random() < style.busy_cars * 0.75 and not _in_junction(style, s - 5, s + 5) and not near_zebra:
            d = side * (style.road_half - 0.15 - 0.95 - float(rng.uniform(0, max(0.01, style.parking_m - 2.0))))
            with_traffic = rng.random() < 0.9
            turned = (side != style.side) == with_traffic
            block.parked.append(Parked(new_id(), int(rng.integers(1, CARS)), block.start + s, d, turned))
        s += float(rng.uniform(5.6, 7.5))


def _walk_d(style: Style, rng: np.random.Generator, side: int) -> float:
    inner, outer = style.walk_inner + 0.4, max(style.walk_outer - 0.3, style.walk_inner + 0.7)
    return side * float(rng.uniform(inner, outer))


def _walkers(block: Block, style: Style, rng: np.random.Generator, side: int, new_id: Callable[[], int]) -> None:
    for _ in range(rng.poisson(7 * style.busy_people)):
        s, d = block.start + float(rng.uniform(0, PERIOD_M)), _walk_d(style, rng, side)
        mode = str(rng.choice(["walk", "stand", "lurk"], p=[0.72, 0.16, 0.12]))
        speed = float(rng.choice([-1, 1]) * rng.uniform(0.9, 1.7))
        group = int(rng.choice([1, 2, 3], p=[0.7, 0.22, 0.08]))
        for member in range(group):
            place = (s + member * rng.uniform(-0.5, 0.5), d - side * member * 0.62)
            walker = Walker(
                new_id(), int(rng.integers(0, PEOPLE)), mode, *place, speed, home=place[1], phase=float(rng.random())
            )
            block.walkers.append(walker)


def _crossers(block: Block, style: Style, rng: np.random.Generator, new_id: Callable[[], int]) -> None:
    places = [(rng.uniform(10, 85), 1)] * rng.poisson(0.9 * style.busy_people)
    if style.zebra and rng.random() < 0.35 + 0.6 * style.busy_people:
        places += [(rng.uniform(ZEBRA[0] + 0.4, ZEBRA[1] - 0.4), 0) for _ in range(rng.integers(1, 7))]
    for s, early in places:
        side = int(rng.choice([-1, 1]))
        home = side * (style.road_half + 0.5)
        delay = float(rng.uniform(0, 4.5)) if not early else float(rng.uniform(0, 2))
        walker = Walker(new_id(), int(rng.integers(0, PEOPLE)), "cross", block.start + float(s), home, 0.0, delay, home)
        walker.across, walker.trips = -side * float(rng.uniform(1.0, 1.75)), int(rng.choice([1, 1, 1, 2]))
        block.walkers.append(walker)


def _riders(block: Block, style: Style, rng: np.random.Generator, new_id: Callable[[], int]) -> None:
    side = int(rng.choice([-1, 1]))
    d = side * (style.lanes * style.lane_m - 0.4)
    speed = float(rng.uniform(3.5, 5.5)) * (1 if side == style.side else -1)
    s = block.start + float(rng.uniform(0, PERIOD_M))
    block.walkers.append(Walker(new_id(), int(rng.integers(0, PEOPLE)), "ride", s, d, speed))
