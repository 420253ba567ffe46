"""Predictions on disk, as pictures that any tool can open: what the scoring loop reads instead of running a network.

A folder of predictions holds, for each picture NAME of the data set,
`labels/NAME.png` (uint8 class index, 255 where there is none), `instances/NAME.png` (uint16, 0 = no thing) and
`segments/NAME.json` (class and score of each instance), and `about.json` for all: who predicted, and the class names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.opencv import cv2
from perception.types import Panoptic

ABOUT = "about.json"
T = TypeVar("T")


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who predicted."""

    classes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=250)]
    things: tuple[str, ...]
    model: str
    engine: str


class StoredSegment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[int, msgspec.Meta(ge=1, le=65535)]  # its value in the instance map
    class_id: Annotated[int, msgspec.Meta(ge=0, le=249)]
    score: Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True, eq=False)
class StoredPrediction:
    labels: NDArray[np.uint8]  # (h, w)
    instances: NDArray[np.uint16]  # (h, w)
    segments: dict[int, tuple[int, float]]  # instance -> class index, score


def write_prediction(folder: Path, name: str, seen: Panoptic, size: tuple[int, int]) -> None:
    """Store what a model saw in picture `name` of `size` (width, height).

    Maps of another size are scaled with nearest neighbour: that is what a subscriber would do. A segment that loses
    its last pixel by it is not stored.

    Raises:
        ConfigError: a file can't be written.
    """
    labels = cv2.resize(seen.labels, size, interpolation=cv2.INTER_NEAREST)
    instances = cv2.resize(seen.id_map, size, interpolation=cv2.INTER_NEAREST)
    present = set(np.unique(instances).tolist())
    segments = [
        StoredSegment(k, s.class_id, min(1.0, max(0.0, float(s.score))))
        for k, s in enumerate(seen.segments, 1)
        if k in present
    ]
    write_picture(folder / "labels" / f"{name}.png", np.asarray(labels))
    write_picture(folder / "instances" / f"{name}.png", np.asarray(instances))
    path = folder / "segments" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(segments))


def read_prediction(folder: Path, name: str, classes: int) -> StoredPrediction:
    """What `write_prediction` stored.

    Raises:
        ConfigError: a file is missing or damaged, or the three contradict each other or the number of classes.
    """
    labels = read_plane(folder / "labels" / f"{name}.png", np.uint8)
    instances = read_plane(folder / "instances" / f"{name}.png", np.uint16)
    if labels.shape != instances.shape:
        raise ConfigError(f"{folder / 'instances' / name}.png: {_size(instances)}, its labels are {_size(labels)}")
    path = folder / "segments" / f"{name}.json"
    listed = _decode(path, list[StoredSegment])
    segments = {s.id: (s.class_id, s.score) for s in listed}
    odd = set(np.unique(instances).tolist()) - {0} - set(segments)
    if odd:
        raise ConfigError(f"{path}: instance {min(odd)} of the instance map is not listed; predict again")
    outside = [c for c, _ in segments.values() if c >= classes]
    if outside:
        raise ConfigError(f"{path}: class_id {outside[0]} is not one of 0..{classes - 1}")
    return StoredPrediction(labels, instances, segments)


def write_about(folder: Path, about: About) -> None:
    """Written last: a folder without it is a prediction that was cut short."""
    (folder / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")


def read_about(folder: Path) -> About:
    """Raises ConfigError where the folder holds no finished predictions."""
    if not (folder / ABOUT).is_file():
        raise ConfigError(f"{folder}: no {ABOUT}, so no finished predictions; `perception evaluate --keep` writes them")
    return _decode(folder / ABOUT, About)


def read_plane(path: Path, *dtypes: type[np.generic]) -> NDArray:
    """A one-channel picture of one of `dtypes`; raises ConfigError naming what is wrong with it."""
    if not path.is_file():
        raise ConfigError(f"{path}: missing")
    plane = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if plane is None:
        raise ConfigError(f"{path}: can't be read as a picture")
    if plane.ndim != 2 or plane.dtype not in [np.dtype(d) for d in dtypes]:
        channels = 1 if plane.ndim == 2 else plane.shape[2]
        wanted = " or ".join(np.dtype(d).name for d in dtypes)
        raise ConfigError(f"{path}: {channels} channels of {plane.dtype}; it must be one channel of {wanted}")
    return plane


def write_picture(path: Path, picture: NDArray) -> None:
    """Raises ConfigError where it can't be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        raise ConfigError(f"{path}: can't be written; is the disk full?")


def require_size(path: Path, plane: NDArray, shape: Sequence[int], of: str) -> None:
    """Raises ConfigError where `plane`, read from `path`, is not (h, w) = `shape`, the shape of `of`."""
    if plane.shape != tuple(shape):
        raise ConfigError(f"{path}: {_size(plane)}, {of} is {shape[1]}x{shape[0]}; they must have one size")


def _size(plane: NDArray) -> str:
    return f"{plane.shape[1]}x{plane.shape[0]}"


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}") from None
