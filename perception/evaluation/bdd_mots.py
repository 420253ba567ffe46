"""BDD100K's multi-object tracking and segmentation sets: Scalabel JSON with COCO run lengths (Yu et al. 2020)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.evaluation.classes import ScoredClasses
from perception.evaluation.extra import load_extra
from perception.evaluation.names import natural_key
from perception.evaluation.segments import OTHER, SegmentMap
from perception.evaluation.truth import Truth

CATEGORIES = ("pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
SYNONYMS = {"person": "pedestrian"}  # what a model calls it -> what the data set does


class Rle(msgspec.Struct):
    counts: str
    size: tuple[int, int]  # h, w


class Label(msgspec.Struct):
    category: str
    id: Annotated[str, msgspec.Meta(min_length=1)]  # the same thing's is the same in all frames of its video
    rle: Rle | None = None
    attributes: dict[str, Any] | None = None


class Frame(msgspec.Struct):
    name: str
    videoName: str
    labels: list[Label] | None = None


class MotsFolder:
    """`images/VIDEO/NAME.jpg` and `labels/*.json`, as published.

    A category counts where the model has a class of its name (person = pedestrian) that is scored as a thing. Every
    other labelled thing, a truck where the model knows cars only or a rider where it knows bicyclists, is void: right
    and wrong there can't be said. Unlabelled pixels are known to be none of the categories.

    Raises:
        ConfigError: a file is not of this form, the model has none of the categories, or pycocotools is missing.
    """

    has_labels = False

    def __init__(self, root: Path, classes: ScoredClasses) -> None:
        self._mask = load_extra("pycocotools.mask", "reading run lengths")
        self._frames: dict[str, Frame] = {}
        for path in sorted((root / "labels").glob("*.json")):
            try:
                frames = msgspec.json.decode(path.read_bytes(), type=list[Frame])
            except msgspec.MsgspecError as error:
                raise ConfigError(f"{path}: not Scalabel frames: {error}") from None
            self._add(path, frames)
        self.names = tuple(sorted(self._frames, key=natural_key))
        known = {(f.videoName, label.id) for f in self._frames.values() for label in f.labels or []}
        self._track_of = {key: k for k, key in enumerate(sorted(known), 1)}
        sizes = (label.rle.size for f in self._frames.values() for label in f.labels or [] if label.rle)
        first = next(sizes, None)
        if first is None:
            raise ConfigError(f"{root / 'labels'}: no run lengths in any frame")
        self._size = first
        scored = {SYNONYMS.get(n, n): i for n, i in zip(classes.model_names, classes.target, strict=True)}
        self._class_of = {n: i for n, i in scored.items() if n in CATEGORIES and i in classes.things}
        self.things = self.panoptic = frozenset(self._class_of.values())
        if not self.things:
            raise ConfigError(f"{root}: the model has no thing class called {', '.join(CATEGORIES)}")

    def _add(self, path: Path, frames: list[Frame]) -> None:
        for frame in frames:
            name = f"{frame.videoName}/{Path(frame.name).stem}"
            if name in self._frames:
                raise ConfigError(f"{path}: frame {name} is listed twice; its labels must stand in one place")
            self._frames[name] = frame

    def read(self, name: str) -> Truth:
        ids = np.ones(self._size, np.int64)
        listed = [(OTHER, True, 0)]
        frame = self._frames[name]
        for label in frame.labels or []:
            if label.rle is None:
                continue
            if label.rle.size != self._size:
                raise ConfigError(f"{name}: run lengths of {label.rle.size}, of other pictures {self._size}")
            rle = {"size": list(self._size), "counts": label.rle.counts.encode()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools still speaks numpy 1's __array__
                mask = self._mask.decode(rle).astype(bool)
            class_id = self._class_of.get(label.category)
            ids[mask] = 0 if class_id is None else len(listed) + 1
            if class_id is not None:
                crowd = bool((label.attributes or {}).get("crowd"))
                listed.append((class_id, crowd, 0 if crowd else self._track_of[frame.videoName, label.id]))
        return Truth(None, _visible(ids, listed))


def _visible(ids: NDArray[np.int64], listed: list[tuple[int, bool, int]]) -> SegmentMap:
    """The segments that kept a pixel: masks of a picture may cover each other, and the later one counts."""
    present = np.flatnonzero(np.bincount(ids.ravel())[1:]) + 1
    lut = np.zeros(len(listed) + 1, np.int64)
    lut[present] = np.arange(1, len(present) + 1)
    class_ids, crowd, tracks = (np.array(column)[present - 1] for column in zip(*listed, strict=True))
    return SegmentMap(lut[ids], class_ids, crowd, np.ones(len(present)), tracks)
