"""Labelled data sets: pictures, and what is known about each pixel of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.evaluation.classes import ScoredClasses
from perception.evaluation.names import natural_key
from perception.evaluation.picture_headers import require_size, require_upright, shape_of
from perception.evaluation.segmentation import IGNORE
from perception.evaluation.segments import SegmentMap, true_segments
from perception.evaluation.stored import read_plane
from perception.images import SUFFIXES


@dataclass(frozen=True, eq=False)
class Truth:
    """One picture's truth, in scored classes."""

    labels: NDArray[np.uint8] | None  # (h, w) IGNORE where unlabelled; None in sets that label things only
    segments: SegmentMap  # track ids are right where the set is one of clips
    hidden: frozenset[int] | None = None  # numbers of things in the picture without a pixel; None where not known


class TruthSet(Protocol):
    """A data set's truth. `panoptic` are the scored classes of which every segment is known, `things` those of them
    whose instances are told apart."""

    names: tuple[str, ...]
    panoptic: frozenset[int]
    things: frozenset[int]
    has_labels: bool

    def read(self, name: str) -> Truth:
        """Raises ConfigError where the truth of this picture is missing or not right."""
        ...


class LabelFolder:
    """`labels/NAME.png` (uint8 class index, 255 ignored) and, where known, `instances/NAME.png` (integer, 0 = none).

    Thing pixels with instance 0 are a crowd. Without instances, only the stuff classes are panoptic.
    """

    has_labels = True

    def __init__(self, root: Path, classes: ScoredClasses) -> None:
        self._root, self._classes = root, classes
        self.names = names_in(root / "labels", {".png"})
        if not self.names:
            raise ConfigError(f"{root / 'labels'}: no label PNGs here")
        self._has_instances = (root / "instances").is_dir()
        self.things = classes.things if self._has_instances else frozenset()
        self.panoptic = frozenset(range(len(classes.names))) - (classes.things - self.things)

    def read(self, name: str) -> Truth:
        path = self._root / "labels" / f"{name}.png"
        labels = read_plane(path, np.uint8)
        known = len(self._classes.target)
        wrong = np.setdiff1d(np.unique(labels), [*range(known), IGNORE])
        if wrong.size:
            raise ConfigError(f"{path}: label value {wrong[0]} is not one of 0..{known - 1} or {IGNORE}")
        instances = None
        if self._has_instances:
            instance_path = self._root / "instances" / f"{name}.png"
            instances = read_plane(instance_path, np.uint16, np.uint8)
            require_size(instance_path, instances.shape, labels.shape, "its label picture")
        lut = self._classes.lut
        return Truth(lut[labels], true_segments(labels, instances, self._classes.things, lut))


def files_in(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Files of these kinds in a folder and below it, by their name without suffix.

    Raises:
        ConfigError: two files have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes):
        other = found.setdefault(str(path.relative_to(folder).with_suffix("")), path)
        if other != path:
            raise ConfigError(f"{path}: and {other.name} beside it, of one name: keep the one that is meant")
    return found


def names_in(folder: Path, suffixes: Collection[str]) -> tuple[str, ...]:
    """The names of `files_in`, numbers in the order of their values. Raises ConfigError as it does."""
    return tuple(sorted(files_in(folder, suffixes), key=natural_key))


def pictures_of(root: Path, truth: TruthSet) -> dict[str, Path]:
    """Each labelled picture by name.

    Raises:
        ConfigError: there are no pictures, one has no truth, the name of another, another size than its label map or
            is stored turned, or a truth has no picture.
    """
    folder = root / "images"
    pictures = files_in(folder, SUFFIXES)
    if not pictures:
        raise ConfigError(f"{folder}: no pictures here")
    unlabelled = sorted(set(pictures) - set(truth.names))
    if unlabelled:
        first = pictures[unlabelled[0]]
        raise ConfigError(f"{first}: no truth in {root / 'labels'} ({len(unlabelled)} pictures lack theirs)")
    missing = sorted(set(truth.names) - set(pictures))
    if missing:
        raise ConfigError(f"{folder}: no picture for the truth of {missing[0]!r} ({len(missing)} are missing)")
    for name, path in pictures.items():
        require_upright(path)
        labels = root / "labels" / f"{name}.png"
        if (shape := shape_of(labels)) and (wanted := shape_of(path)):
            require_size(labels, shape, wanted, "its picture")
    return pictures
