"""How alike the maps of two recordings are: IoU by class and frame, boundary F, and classes that took others' place."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.compare.series import Series
from perception.compare.side import Incomparable
from perception.evaluation.boundary import BoundaryF
from perception.evaluation.segmentation import IGNORE, Confusion
from perception.opencv import cv2
from perception.types import VOID
from perception.wire import Kind, Message

NOTHING = "void"
"""The name of what is of no class; of a topic with one class, of its rest."""
_CODES = 256
_CORE = np.ones((3, 3), np.uint8)
_MOST = 0.5  # of a class in a frame: so much in another's place is a swap, however thin it is


@dataclass(slots=True)
class Swap:
    """Where pixels of one class in A are of another one in B, by frame."""

    frames: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)  # of the class's area in A


@dataclass(slots=True)
class ClassSeries:
    """One class of one topic over the matched frames."""

    iou: Series = field(default_factory=Series)
    differing: Series = field(default_factory=Series)  # pixels that only one of the two has
    sum_iou: float = 0.0
    frames: int = 0  # where A or B has it


class TopicAreas:
    """The maps of one topic, frame by frame: those of a `labels` topic by class, of another its one group.

    IoU is |A and B| / |A or B|, void being a class like others; a class that neither has in a frame has none there.
    A swap is what is left of "class x in A, class y in B" after an erosion by 3x3 px, which takes away borders that
    lie elsewhere by up to two pixels; all of it where it is more than half of x.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.names: list[str] = [NOTHING]
        self.series: dict[str, ClassSeries] = {}
        self.swaps: dict[tuple[str, str], Swap] = {}
        self.boundary = BoundaryF(_CODES)
        self._pooled = np.zeros((_CODES, _CODES), np.int64)
        self._tables: dict[tuple[str, ...], NDArray[np.uint8]] = {}

    def add(self, frame: int, a: Message, b: Message) -> int:
        """Count one frame; returns how many pixels differ. Raises WireError for a broken payload."""
        one = self._map(a)
        if _same_map(a, b):
            return self._add_same(frame, one)
        other = self._map(b)
        if one.shape != other.shape:
            sizes = [f"{m.shape[1]}x{m.shape[0]}" for m in (one, other)]
            raise Incomparable(f"masks of {self.topic} are {sizes[0]} px in A and {sizes[1]} px in B: replay alike")
        differs = one != other
        joint = _joint(one, other, differs, len(self.names))
        differing = int(np.count_nonzero(differs))
        if not differing:
            return self._add_same(frame, one)
        self._note_classes(frame, joint)
        self.boundary.add(one, other)
        if a.kind is Kind.LABELS:
            self._note_swaps(frame, one, other, differs, joint)
        return differing

    def _add_same(self, frame: int, one: NDArray[np.uint8]) -> int:
        self._note_classes(frame, np.diag(np.bincount(one.ravel(), minlength=len(self.names))))
        self.boundary.add_same(one)
        return 0

    def pooled_iou(self) -> dict[str, float]:
        """By class, over the pixels of all frames."""
        n = len(self.names)
        confusion = Confusion(n)
        confusion.counts[:, :n] = self._pooled[:n, :n]
        return {name: value for name, value in zip(self.names, confusion.iou().tolist(), strict=True) if value == value}

    def boundary_f(self) -> dict[str, dict[int, float]]:
        """By class and tolerance [px], pooled over all frames."""
        values = self.boundary.f()
        return {
            name: {t: float(values[k, i]) for k, t in enumerate(self.boundary.tolerances)}
            for i, name in enumerate(self.names)
            if not np.isnan(values[0, i])
        }

    def _map(self, message: Message) -> NDArray[np.uint8]:
        """The message's mask as indices into `names`."""
        mask = message.mask()
        if message.kind is Kind.LABELS:
            return cv2.LUT(np.ascontiguousarray(mask), self._table(message.header.classes)).astype(np.uint8, copy=False)
        self._index(self.topic)
        return (mask > 0).astype(np.uint8)

    def _table(self, classes: tuple[str, ...]) -> NDArray[np.uint8]:
        if classes not in self._tables:
            table = np.zeros(_CODES, np.uint8)
            table[: len(classes)] = [self._index(name) for name in classes]
            table[VOID] = 0
            self._tables[classes] = table
        return self._tables[classes]

    def _index(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        if len(self.names) >= IGNORE:
            raise Incomparable(f"{self.topic}: more than {IGNORE - 2} classes in A and B together can't be compared")
        return self.names.index(name)

    def _note_classes(self, frame: int, joint: NDArray[np.int64]) -> None:
        both = np.diag(joint)
        either = joint.sum(0) + joint.sum(1) - both
        self._pooled[: len(both), : len(both)] += joint
        for i in np.flatnonzero(either):
            series = self.series.setdefault(self.names[i], ClassSeries())
            iou = both[i] / either[i]
            series.iou.put(frame, float(iou))
            series.differing.put(frame, float(either[i] - both[i]))
            series.sum_iou += float(iou)
            series.frames += 1

    def _note_swaps(
        self, frame: int, one: NDArray, other: NDArray, differs: NDArray[np.bool_], joint: NDArray[np.int64]
    ) -> None:
        core = cv2.erode(differs.astype(np.uint8), _CORE).astype(bool)
        inside = _pairs(one[core], other[core], len(self.names))
        area = joint.sum(1)
        for i, j in np.argwhere(joint):
            if i == j:
                continue
            pixels = joint[i, j] if joint[i, j] > _MOST * area[i] else inside[i, j]
            if pixels:
                swap = self.swaps.setdefault((self.names[i], self.names[j]), Swap())
                swap.frames.append(frame)
                swap.pixels.append(int(pixels))
                swap.shares.append(float(pixels / area[i]))


def _joint(one: NDArray[np.uint8], other: NDArray[np.uint8], differs: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """(k, k) how many pixels have which pair of values below k."""
    joint = _pairs(one[differs], other[differs], k)
    joint[np.diag_indices(k)] = np.bincount(one.ravel(), minlength=k) - joint.sum(1)
    return joint


def _pairs(one: NDArray[np.uint8], other: NDArray[np.uint8], k: int) -> NDArray[np.int64]:
    """(k, k) the same of values that all differ."""
    return np.bincount(one.astype(np.intp) * k + other, minlength=k * k).reshape(k, k)


def _same_map(a: Message, b: Message) -> bool:
    """Whether B's map is known to be A's without decoding it."""
    shape = [(m.kind, m.encoding, m.width, m.height, m.header.classes) for m in (a, b)]
    return shape[0] == shape[1] and a.payload == b.payload
