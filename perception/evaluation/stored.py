"""Predictions on disk, as pictures that any tool can open: what the scoring loop reads instead of running a network.

A folder of predictions holds, for each picture NAME of the data set,
`labels/NAME.png` (uint8 class index, 255 where there is none), `instances/NAME.png` (uint16, 0 = no thing) and
`segments/NAME.json` (class and score of each instance; in a clip its track too), and `about.json` for all: who
predicted, and the class names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError, reason
from perception.evaluation.picture_headers import require_depth, require_size
from perception.opencv import cv2
from perception.types import VOID, Panoptic, Track, TrackState
from perception.whole_file import write

ABOUT = "about.json"
T = TypeVar("T")


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who predicted."""

    classes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=250)]
    things: tuple[str, ...]
    model: str
    engine: str
    propagator: str = ""  # empty: pictures, each for itself
    network_every: int = 1  # the network looked at every n-th frame of a clip
    given: bool = False  # the truth of each clip's first frame was given


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class StoredTrack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a propagator said of the track whose mask it is."""

    track_id: Annotated[int, msgspec.Meta(ge=1, le=(1 << 40) - 1)]
    state: TrackState
    observed: bool
    quality: Share


class StoredSegment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: Annotated[int, msgspec.Meta(ge=1, le=65535)]  # its value in the instance map
    class_id: Annotated[int, msgspec.Meta(ge=0, le=255)]  # VOID: a track of no class
    score: Share
    track: StoredTrack | None = None


@dataclass(frozen=True, eq=False)
class StoredPrediction:
    labels: NDArray[np.uint8]  # (h, w)
    instances: NDArray[np.uint16]  # (h, w)
    segments: dict[int, tuple[int, float]]  # instance -> class index, score
    tracks: dict[int, StoredTrack] = field(default_factory=dict)  # instance -> its track, in a clip


def write_prediction(folder: Path, name: str, seen: Panoptic, size: tuple[int, int]) -> None:
    """Store what a model saw in picture `name` of `size` (width, height).

    Maps of another size are scaled with nearest neighbour: that is what a subscriber would do. A segment that loses
    its last pixel by it is not stored.

    Raises:
        ConfigError: a file can't be written.
    """
    listed = [StoredSegment(k, s.class_id, _share(s.score)) for k, s in enumerate(seen.segments, 1)]
    _write(folder, name, (seen.labels, seen.id_map), listed, size)


def write_tracks(
    folder: Path,
    name: str,
    labels: NDArray[np.uint8],
    id_map: NDArray[np.uint16],
    tracks: Sequence[Track],
    size: tuple[int, int],
) -> None:
    """Store a frame of a clip as a propagator gave it: labels, positions k in `tracks[k - 1]`, and the tracks.

    Maps are scaled as by `write_prediction`; a track without a pixel is not stored.

    Raises:
        ConfigError: a file can't be written.
    """
    listed = [
        StoredSegment(k, t.class_id, _share(t.score), StoredTrack(t.track_id, t.state, t.observed, _share(t.quality)))
        for k, t in enumerate(tracks, 1)
    ]
    _write(folder, name, (labels, id_map), listed, size)


def _share(value: float) -> float:
    return min(1.0, max(0.0, float(value)))


def _write(
    folder: Path,
    name: str,
    maps: tuple[NDArray[np.uint8], NDArray[np.uint16]],
    listed: Sequence[StoredSegment],
    size: tuple[int, int],
) -> None:
    labels, instances = (np.asarray(cv2.resize(m, size, interpolation=cv2.INTER_NEAREST)) for m in maps)
    present = set(np.unique(instances).tolist())
    write_picture(folder / "labels" / f"{name}.png", labels)
    write_picture(folder / "instances" / f"{name}.png", instances)
    _put(folder / "segments" / f"{name}.json", msgspec.json.encode([s for s in listed if s.id in present]))


def read_prediction(folder: Path, name: str, classes: int) -> StoredPrediction:
    """What `write_prediction` stored.

    Raises:
        ConfigError: a file is missing or damaged, the three contradict each other or the number of classes, or a
            segment or a track is listed twice.
    """
    labels = read_plane(folder / "labels" / f"{name}.png", np.uint8)
    instance_path = folder / "instances" / f"{name}.png"
    instances = read_plane(instance_path, np.uint16)
    require_size(instance_path, instances.shape, labels.shape, "its label picture")
    path = folder / "segments" / f"{name}.json"
    listed = _decode(path, list[StoredSegment])
    _require_once(path, "id", (s.id for s in listed))
    _require_once(path, "track_id", (s.track.track_id for s in listed if s.track))
    segments = {s.id: (s.class_id, s.score) for s in listed}
    odd = set(np.unique(instances).tolist()) - {0} - set(segments)
    if odd:
        raise ConfigError(f"{path}: instance {min(odd)} of the instance map is not listed; predict again")
    tracks = {s.id: s.track for s in listed if s.track}
    outside = [s.class_id for s in listed if s.class_id >= classes and (s.class_id != VOID or s.track is None)]
    if outside:
        raise ConfigError(f"{path}: class_id {outside[0]} is not one of 0..{classes - 1}")
    return StoredPrediction(labels, instances, segments, tracks)


def _require_once(path: Path, key: str, values: Iterable[int]) -> None:
    """Raises ConfigError where a value occurs twice: a metric would count the same segment or track again."""
    for value, times in Counter(values).items():
        if times > 1:
            raise ConfigError(f"{path}: {key} {value} is listed twice; predict again")


def write_about(folder: Path, about: About) -> None:
    """Written last: a folder without it is a prediction that was cut short. Raises ConfigError where it can't be."""
    _put(folder / ABOUT, msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n")


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
    require_depth(path)
    return plane


def write_picture(path: Path, picture: NDArray) -> None:
    """Raises ConfigError where it can't be written."""
    _put(path, cv2.imencode(path.suffix, picture)[1].tobytes())


def _put(path: Path, data: bytes) -> None:
    """With its folder, whole or not at all. Raises ConfigError where it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: can't be written ({reason(error)}); make room, or name another folder") from None


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise ConfigError(f"{path}: missing") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}") from None
