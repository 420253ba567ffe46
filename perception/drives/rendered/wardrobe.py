"""Who people are: body, clothes, bag and bicycle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.drives.rendered.textures import Colour, jitter

_SKIN: tuple[Colour, ...] = ((226, 184, 156), (200, 152, 118), (150, 104, 76), (98, 66, 50), (236, 198, 172))
_HAIR: tuple[Colour, ...] = ((40, 32, 28), (86, 60, 40), (150, 116, 70), (170, 168, 164), (28, 26, 28))
_TOPS: tuple[Colour, ...] = (
    (40, 44, 54), (150, 36, 40), (44, 70, 120), (190, 186, 176), (70, 90, 60), (206, 160, 60), (110, 60, 96),
    (84, 84, 86), (30, 30, 32), (60, 120, 130), (226, 226, 226), (120, 92, 66),
)  # fmt: skip
_LEGS: tuple[Colour, ...] = ((44, 52, 74), (34, 34, 38), (96, 88, 74), (62, 74, 96), (120, 116, 110), (70, 48, 40))


@dataclass(frozen=True)
class Person:
    """One wardrobe and body."""

    height_m: float
    build: float
    skin: Colour
    hair: Colour
    top: Colour
    legs: Colour
    shoes: Colour
    coat: float  # how far the coat reaches below the hip, share of height
    skirt: bool
    bag: Colour | None
    cap: bool
    bicycle: Colour


def draw_person(rng: np.random.Generator) -> Person:
    """Someone at random."""
    top = jitter(rng, _TOPS[rng.integers(0, len(_TOPS))], 12.0)
    bag = jitter(rng, _TOPS[rng.integers(0, len(_TOPS))], 20.0) if rng.random() < 0.4 else None
    return Person(
        height_m=float(np.clip(rng.normal(1.72, 0.1), 1.2 if rng.random() < 0.12 else 1.52, 1.93)),
        build=float(rng.uniform(0.86, 1.16)),
        skin=_SKIN[rng.integers(0, len(_SKIN))],
        hair=jitter(rng, _HAIR[rng.integers(0, len(_HAIR))], 8.0),
        top=top,
        legs=jitter(rng, _LEGS[rng.integers(0, len(_LEGS))], 10.0),
        shoes=jitter(rng, (50.0, 46.0, 44.0) if rng.random() < 0.7 else (200.0, 196.0, 192.0), 12.0),
        coat=float(rng.uniform(0.08, 0.2)) if rng.random() < 0.35 else 0.03,
        skirt=bool(rng.random() < 0.15),
        bag=bag,
        cap=bool(rng.random() < 0.2),
        bicycle=jitter(rng, _TOPS[rng.integers(0, len(_TOPS))], 20.0),
    )
