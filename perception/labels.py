"""The class table: which classes a model knows, which are countable things, how they are coloured and grouped.

Classes are data of a model's card; nothing else in the package knows their numbers.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from perception.errors import ConfigError

# Cityscapes' colours (its published label table), with the names that CamVid and others use for the same things.
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "tree": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "pedestrian": (220, 20, 60),
    "rider": (255, 0, 0),
    "bicyclist": (255, 0, 0),
    "car": (0, 0, 142),
    "vehicle": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
    "lane": (255, 255, 255),
    "lane marking": (255, 255, 255),
}


@dataclass(frozen=True)
class ClassTable:
    """Class names in index order, which of them are things, and the named groups that become topics."""

    names: tuple[str, ...]
    things: frozenset[str]
    groups: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"class names repeat: {', '.join(self.names)}")
        for where, wanted in [("things", tuple(self.things)), *self.groups.items()]:
            self.indices(wanted, where)

    def indices(self, wanted: tuple[str, ...], where: str) -> tuple[int, ...]:
        """Class indices of names; raises ConfigError naming `where` and the classes that exist."""
        unknown = [name for name in wanted if name not in self.names]
        if unknown:
            raise ConfigError(f"{where}: no class {unknown[0]!r}; the model has {', '.join(self.names)}")
        return tuple(self.names.index(name) for name in wanted)

    @cached_property
    def thing_ids(self) -> frozenset[int]:
        return frozenset(self.names.index(name) for name in self.things)

    def colour(self, class_id: int) -> tuple[int, int, int]:
        """RGB; a class without a customary colour gets one from its index."""
        if not 0 <= class_id < len(self.names):
            return (0, 0, 0)
        name = self.names[class_id]
        return COLOURS[name] if name in COLOURS else spread_colour(class_id)


def spread_colour(i: int) -> tuple[int, int, int]:
    """The i-th of a sequence of well-spread RGB colours (golden-ratio steps of hue)."""
    r, g, b = colorsys.hsv_to_rgb((i * 0.618034) % 1.0, 0.65, 0.95)
    return round(255 * r), round(255 * g), round(255 * b)
