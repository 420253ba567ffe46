"""Where faces and number plates are likely to be, by the tracks of a drive, and how they are made unrecognisable."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.conversion.drawing import in_image
from perception.conversion.outputs import Progress
from perception.conversion.reading import Drive, recorded_frames
from perception.errors import RecordingError, reason
from perception.opencv import cv2
from perception.types import TrackState, Validity
from perception.wire import Message

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1, half open [px of the camera's image]."""

PEOPLE = frozenset({"person", "pedestrian", "rider", "bicyclist", "cyclist", "motorcyclist"})
VEHICLES = frozenset(
    {"car", "vehicle", "truck", "bus", "van", "trailer", "caravan", "motorcycle", "autorickshaw", "train", "tram"}
)
MOST_CELLS = 12
_LEAST_CELL_PX = 8
_SMALL_PX = 40  # a person or vehicle that is smaller is covered as a whole: its box is less sure than its parts
_GROWN = 0.15  # of a region's size, on each side
_BLIND = (Validity.NO_INPUT, Validity.FAILED)
_FILE_LIMIT = 64 << 20  # [bytes]


@dataclass(frozen=True, slots=True)
class RegionWishes:
    """What is to be covered.

    Args:
        classes: names; empty: those of PEOPLE and VEHICLES that the recording has.
        whole: the whole of each thing, not only head or plate.
        hold: frames before and after, in which a region is covered too.
        cells: colours along the longer side of a region that are left of it; 1 to 12.
    """

    classes: tuple[str, ...] = ()
    whole: bool = False
    hold: int = 5
    cells: int = 6


@dataclass(slots=True)
class Regions:
    """The regions of a drive's frames.

    Attributes:
        looked_at: frames that a message tells of, by seq.
        boxes: how many boxes were seen, by class.
    """

    hold: int
    looked_at: set[int] = field(default_factory=set)
    boxes: Counter[str] = field(default_factory=Counter)
    everywhere: list[Box] = field(default_factory=list)
    _by_frame: defaultdict[int, list[Box]] = field(default_factory=lambda: defaultdict(list))

    def add(self, seq: int, box: Box) -> None:
        self._by_frame[seq].append(box)

    def of(self, seq: int) -> list[Box]:
        """Of this frame and those around it."""
        near = range(seq - self.hold, seq + self.hold + 1)
        return [*self.everywhere, *(box for s in near if s in self._by_frame for box in self._by_frame[s])]

    def is_known(self, seq: int) -> bool:
        """Whether anything looked at the frame, or at one so near that its regions are held."""
        return any(s in self.looked_at for s in range(seq - self.hold, seq + self.hold + 1))


def chosen_classes(asked: Collection[str], known: Mapping[str, bool]) -> frozenset[str]:
    """The classes to cover.

    Args:
        asked: by the user; empty: all of PEOPLE and VEHICLES that are things.
        known: the classes of the recording's model, and whether they are things, which have tracks.

    Raises:
        RecordingError: the recording does not have one of them, or has no tracks of it.
    """
    have = ", ".join(known) or "none"
    if wrong := [name for name in asked if name not in known]:
        raise RecordingError(f"no class {wrong[0]!r}: the recording's model has {have}")
    if wrong := [name for name in asked if not known[name]]:
        raise RecordingError(f"class {wrong[0]!r} has no tracks: the model sees it as a surface; cover it by --also")
    chosen = frozenset(asked) or frozenset(name for name in known if known[name]) & (PEOPLE | VEHICLES)
    if not chosen:
        raise RecordingError(
            f"the recording's model tells no people and no vehicles apart, it has {have}: give --class"
        )
    return chosen


def uncovered_classes(known: Mapping[str, bool]) -> tuple[str, ...]:
    """People and vehicles that the model knows as surfaces only, so that no box says where one is."""
    return tuple(name for name, is_thing in known.items() if name in PEOPLE | VEHICLES and not is_thing)


def find_regions(tracks: Drive, classes: Collection[str], wishes: RegionWishes, progress: Progress) -> Regions:
    """Read the tracks of a drive.

    Every track counts that has not ended: those carried and those hidden now too, whose box is the last one seen.

    Raises:
        RecordingError: it has no tracks, or is damaged.
    """
    if "tracks" not in tracks.topics:
        fix = "replay it, and give the result as --tracks"
        raise RecordingError(f"{tracks.path}: no message in it says where people and vehicles are: {fix}")
    found = Regions(wishes.hold)
    for n, frame in enumerate(recorded_frames(tracks, ("tracks",)), 1):
        if message := frame.messages.get("tracks"):
            _note(found, frame.seq, message, classes, wishes.whole)
        progress("looking", n, max(n, tracks.frames))
    return found


def _note(found: Regions, seq: int, message: Message, classes: Collection[str], whole: bool) -> None:
    head = message.header
    if head.validity in _BLIND:
        return
    found.looked_at.add(seq)
    size = (head.frame_width, head.frame_height)
    for row in head.tracks:
        if row.class_name in classes and row.state != TrackState.ENDED:
            found.boxes[row.class_name] += 1
            found.add(seq, region_of(in_image(row, message, size), row.class_name, whole))


def region_of(box: Box, class_name: str, whole: bool = False) -> Box:
    """The upper third of a person, the lower part of a vehicle, all of anything else; grown on every side."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    if not whole and min(height, width) > 0 and max(height, width) >= _SMALL_PX:
        if class_name in PEOPLE and height > width:
            y1 = y0 + max(1, round(height / 3))
        elif class_name in VEHICLES:
            y0 = y0 + round(0.4 * height)
    dx, dy = math.ceil(_GROWN * (x1 - x0)) + 2, math.ceil(_GROWN * (y1 - y0)) + 2
    return x0 - dx, y0 - dy, x1 + dx, y1 + dy


class _Given(msgspec.Struct, forbid_unknown_fields=True, rename={"begin": "from", "end": "to"}):
    """Boxes that somebody drew."""

    box: tuple[float, float, float, float]
    frame: int | None = None
    begin: int | None = None
    end: int | None = None


def read_boxes(path: Path, found: Regions) -> None:
    """Add the boxes of a file: a JSON list of {"box": [x0, y0, x1, y1]}, of the whole drive, or with "frame": 12, or
    with "from": 12, "to": 40 (to included).

    Raises:
        RecordingError: it is not such a file.
    """
    try:
        if path.stat().st_size > _FILE_LIMIT:
            raise RecordingError(f"{path}: larger than {_FILE_LIMIT >> 20} MiB: not taken for a list of boxes")
        given = msgspec.json.decode(path.read_bytes(), type=list[_Given])
    except OSError as error:
        raise RecordingError(f"{path}: {reason(error)}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordingError(f'{path}: {error}: write [{{"frame": 12, "box": [x0, y0, x1, y1]}}, ...]') from None
    for row in given:
        x0, y0, x1, y1 = (round(max(-1e6, min(1e6, value))) for value in row.box)
        if not (x1 > x0 and y1 > y0):
            raise RecordingError(f"{path}: box {list(row.box)}: x1 and y1 must be beyond x0 and y0")
        found.boxes["given"] += 1
        _add_given(path, found, row, (x0, y0, x1, y1))


def _add_given(path: Path, found: Regions, row: _Given, box: Box) -> None:
    if row.frame is not None:
        found.add(row.frame, box)
    elif row.begin is None and row.end is None:
        found.everywhere.append(box)
    elif row.begin is None or row.end is None or not 0 <= row.end - row.begin < 10_000_000:
        raise RecordingError(f"{path}: box {list(row.box)}: give both from and to, the first and the last frame")
    else:
        for seq in range(row.begin, row.end + 1):
            found.add(seq, box)


def pixelate(image: NDArray[np.uint8], boxes: Iterable[Box], cells: int) -> NDArray[np.uint8]:
    """A copy of the (h, w, 3) image in which each box is left with `cells` colours along its longer side at most.

    What is averaged away is gone: unlike a blur, which can be undone as far as it keeps fine contrast.
    """
    covered = image.copy()
    for box in boxes:
        x0, y0, x1, y1 = _inside(box, image.shape)
        if x1 > x0 and y1 > y0:
            part = covered[y0:y1, x0:x1]  # where two boxes overlap, the finer one must not show what the other took
            cell = max(_LEAST_CELL_PX, max(part.shape[:2]) / cells)
            size = (max(1, int((x1 - x0) / cell)), max(1, int((y1 - y0) / cell)))
            few = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
            covered[y0:y1, x0:x1] = cv2.resize(few, (x1 - x0, y1 - y0), interpolation=cv2.INTER_NEAREST)
    return covered


def _inside(box: Box, shape: Sequence[int]) -> Box:
    return max(0, box[0]), max(0, box[1]), min(shape[1], box[2]), min(shape[0], box[3])
