"""What one seed looks like: place, layout of the road, light, weather and lens. Drawn once, then only read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception.drives.rendered.textures import Colour, jitter

PERIOD_M = 128.0  # the ground repeats after this; one block of the street


@dataclass(frozen=True)
class Style:
    """Lateral places are distances from the road's middle [m]; `side` is +1 where traffic keeps left."""

    place: str  # "city" | "suburb" | "rural"
    side: int
    lanes: int  # per direction
    lane_m: float
    parking_m: float  # width of the parking strip at each kerb, 0 for none
    verge_m: float  # grass between kerb and sidewalk
    sidewalk_m: float  # 0 where there is none
    junction: bool
    zebra: bool
    marking: str  # "dashed" | "solid" | "double" for the middle line
    edge_lines: bool
    yellow: bool
    weather: str  # "sun" | "cloud" | "overcast" | "dusk"
    sun: tuple[float, float, float]  # unit vector towards it: forward, left, up
    haze: Colour
    haze_m: float  # distance at which 63 % is haze
    cast: Colour  # gain of each channel
    contrast: float
    exposure: float
    noise: float  # read noise [grey levels]
    vignette: float
    softness: float  # [px at 1280]
    speed: float  # [m/s]
    busy_cars: float
    busy_people: float
    bend: tuple[tuple[float, float, float], ...]  # amplitude [m], wave number [1/m], phase
    pitch: float  # [rad]
    rise: float  # [m] against the nominal camera
    zoom: float  # of the focal length, against the nominal camera

    @cached_property
    def road_half(self) -> float:
        """Distance of the kerb from the middle."""
        return self.lanes * self.lane_m + self.parking_m + 0.25

    @cached_property
    def walk_inner(self) -> float:
        return self.road_half + 0.15 + self.verge_m

    @cached_property
    def walk_outer(self) -> float:
        return self.walk_inner + self.sidewalk_m

    def road_y(self, x: float | np.ndarray) -> float | np.ndarray:
        """The road's middle line: y at x in the world."""
        return sum(a * np.sin(k * x + p) - a * np.sin(p) for a, k, p in self.bend) + 0.0 * x

    def road_slope(self, x: float) -> float:
        return float(sum(a * k * np.cos(k * x + p) for a, k, p in self.bend))


def _weather(rng: np.random.Generator, fine: bool) -> tuple[str, tuple[float, float, float], Colour, float]:
    weather = str(rng.choice(["sun", "cloud", "overcast", "dusk"], p=[0.36, 0.26, 0.26, 0.12])) if not fine else "sun"
    azimuth = rng.uniform(-np.pi, np.pi)
    height = rng.uniform(0.3, 1.1) if weather != "dusk" else rng.uniform(0.1, 0.2)
    sun = (float(np.cos(azimuth) * np.cos(height)), float(np.sin(azimuth) * np.cos(height)), float(np.sin(height)))
    haze: Colour = {
        "sun": (186.0, 204.0, 226.0),
        "cloud": (196.0, 206.0, 216.0),
        "overcast": (202.0, 205.0, 208.0),
        "dusk": (206.0, 166.0, 142.0),
    }[weather]
    reach = {"sun": 420.0, "cloud": 330.0, "overcast": 220.0, "dusk": 260.0}[weather] * rng.uniform(0.6, 1.3)
    return weather, sun, jitter(rng, haze, 8.0), float(reach)


def _bend(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    if rng.random() < 0.35:
        return ()
    waves = ((0.00035, 2 * np.pi / 900.0), (0.0009, 2 * np.pi / 390.0))
    amplitude = (c / k**2 * rng.uniform(0.2, 1.3) for c, k in waves)
    return tuple((float(a), float(k), float(rng.uniform(0, 6.28))) for a, (_, k) in zip(amplitude, waves, strict=True))


def draw_style(seed: int) -> Style:
    """The look of a seed. Seed 0 has the nominal camera of calibration/front.toml, the others a slightly moved one."""
    rng = np.random.default_rng([seed, 1])
    place = str(rng.choice(["city", "suburb", "rural"], p=[0.5, 0.35, 0.15])) if seed else "city"
    weather, sun, haze, reach = _weather(rng, seed == 0)
    rural = place == "rural"
    lanes = 1 if rural else int(rng.choice([1, 2], p=[0.65, 0.35]))
    parking = 0.0 if rural or rng.random() < 0.3 else float(rng.uniform(2.0, 2.4))
    warm = rng.normal(0.0, 0.035)
    return Style(
        place=place,
        side=int(rng.choice([-1, 1])) if seed else -1,
        lanes=lanes,
        lane_m=float(rng.uniform(3.0, 3.6)),
        parking_m=parking,
        verge_m=float(rng.uniform(0.6, 2.0)) if place == "suburb" and rng.random() < 0.5 else 0.0,
        sidewalk_m=0.0 if rural and rng.random() < 0.6 else float(rng.uniform(1.6, 4.2)),
        junction=not rural and rng.random() < 0.55,
        zebra=not rural and (rng.random() < 0.7 or seed == 0),
        marking=str(rng.choice(["dashed", "solid", "double"], p=[0.7, 0.15, 0.15])),
        edge_lines=bool(rng.random() < (0.7 if parking else 0.55)),
        yellow=bool(rng.random() < 0.18),
        weather=weather,
        sun=sun,
        haze=haze,
        haze_m=reach,
        cast=(float(1 + warm), float(1 + rng.normal(0, 0.012)), float(1 - warm)),
        contrast=float(rng.uniform(0.85, 1.2)),
        exposure=float(rng.uniform(0.8, 1.2)) * {"dusk": 0.8, "overcast": 1.05}.get(weather, 1.0),
        noise=float(rng.uniform(1.0, 4.5)) * (1.5 if weather == "dusk" else 1.0),
        vignette=float(rng.uniform(0.05, 0.35)),
        softness=float(rng.uniform(0.45, 0.95)),
        speed=float(rng.uniform(7.5, 12.5)) if not rural else float(rng.uniform(12.0, 18.0)),
        busy_cars=float(rng.uniform(0.25, 1.0)),
        busy_people=float(rng.uniform(0.2, 1.0)) * (0.35 if rural else 1.0),
        bend=_bend(rng),
        pitch=float(rng.normal(0.0, 0.016)) if seed else 0.0,
        rise=float(rng.uniform(-0.2, 0.3)) if seed else 0.0,
        zoom=float(rng.uniform(0.82, 1.25)) if seed else 1.0,
    )
