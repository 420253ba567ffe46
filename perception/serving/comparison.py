"""Sums over frames of how far what one engine says is from what another says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from perception.looks import Looks
from perception.propagation.carrier import Carried
from perception.propagation.flaws import flaw
from perception.serving.report import Tolerance
from perception.serving.segments import inconsistency
from perception.types import FEATURES, VOID, Features, Panoptic

ENCODERS = "encoder's "  # features
CELL, MIDDLE = 4, 2  # of the finest features [mask px]: where looks are taken
LEAST_SHARE = 0.003  # of the pixels: the IoU of a smaller class, or of masks carried, says nothing


class Comparison:
    """What two engines say of the same, by kind of answer; what was not added does not fail.

    Args:
        classes: names, in index order.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._pairs = np.zeros((256, 256), np.int64)
        self._things = self._met = 0
        self._distances: list[float] = []
        self._cosines: dict[str, list[float]] = {}
        self._off: dict[str, list[float]] = {}
        self._carried = np.zeros(3, np.int64)  # pixels of masks that both carry, that either does, and that there are
        self._broken: list[str] = []

    def add(self, wanted: Panoptic, got: Panoptic, shows: bool = True) -> None:
        """What the network saw in a frame.

        Args:
            shows: something. Of a black picture labels and things are chance, also where both engines are right.
        """
        if wanted.labels.shape != got.labels.shape:
            self._broken.append(f"a class map of {got.labels.shape}, not of {wanted.labels.shape}")
            return
        if why := inconsistency(got, len(self._classes)):
            self._broken.append(why)
            return
        if shows:
            pairs = wanted.labels.astype(np.int64).ravel() * 256 + got.labels.ravel()
            self._pairs += np.bincount(pairs, minlength=65536).reshape(256, 256)
            self._meet(wanted, got)
        self._trust(wanted.confidence, got.confidence)
        if wanted.features is not None:
            self.feel(wanted.features, got.features)

    def _meet(self, wanted: Panoptic, got: Panoptic) -> None:
        """Things that share more than half: of the same class, where, how sure, and how they look."""
        self._things += len(wanted.segments) + len(got.segments)
        met: list[tuple[int, int]] = []
        for k, segment in enumerate(wanted.segments, 1):
            mask = wanted.id_map == k
            numbers, counts = np.unique(got.id_map[mask], return_counts=True)
            number = int(numbers[counts.argmax()])
            other = got.segments[number - 1] if number else None
            shared = int(counts.max())
            if other and other.class_id == segment.class_id:
                union = segment.area_px + other.area_px - shared
                if 2 * shared > union:
                    met.append((k - 1, number - 1))
                    self._distances.append(_apart(mask, got.id_map == number))
                    self._differ("score", abs(segment.score - other.score))
        self._met += 2 * len(met)
        if met and got.looks is not None and wanted.features is not None:
            self._look(wanted, got, got.looks, met)

    def _look(self, wanted: Panoptic, got: Panoptic, looks: NDArray[np.float32], met: list[tuple[int, int]]) -> None:
        """Things that both saw, by numbers of theirs; who says no looks has those of its features."""
        own = wanted.looks
        if own is None and wanted.features is not None:
            cells = wanted.id_map[MIDDLE::CELL, MIDDLE::CELL].astype(np.int64)
            own = Looks(wanted.features).of(cells, len(wanted.segments))
        if own is None or own.shape[1:] != looks.shape[1:]:
            self._broken.append(f"looks of {looks.shape[1:]}, not of {None if own is None else own.shape[1:]}")
            return
        cells = np.bincount(got.id_map[MIDDLE::CELL, MIDDLE::CELL].ravel(), minlength=len(got.segments) + 1)
        for k, number in met:
            if own[k].any() and cells[number + 1]:  # else it is so thin that it has no cell of its own
                self._cosines.setdefault("looks", []).append(_cosine(own[k], looks[number]))

    def _trust(self, wanted: NDArray[np.uint8] | None, got: NDArray[np.uint8] | None) -> None:
        """Confidence, in [0, 255]."""
        if wanted is None:
            return
        if got is None or wanted.shape != got.shape:
            self._broken.append(f"confidence is {None if got is None else got.shape}, not {wanted.shape}")
            return
        self._differ("confidence", float(np.abs(wanted.astype(np.int16) - got).mean()) / 255)

    def feel(self, wanted: Features, got: Features | None, of: str = "") -> None:
        """Features of a frame, on the host.

        Args:
            of: whose, as failures name them: "", the network's own, or ENCODERS.
        """
        for name in FEATURES:
            a, b, called = getattr(wanted, name), getattr(got, name, None), of + name
            if b is None or a.shape != b.shape:
                self._broken.append(f"{called} is {None if b is None else b.shape}, not {a.shape}")
                continue
            if not np.isfinite(b).all():
                self._broken.append(f"{called} has values that are no numbers")
                continue
            norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
            self._cosines.setdefault(called, []).append(float(((a * b).sum(0) / np.maximum(norms, 1e-9)).mean()))

    def carry(self, wanted: Carried, got: Carried, active: NDArray[np.bool_]) -> None:
        """Masks carried to a frame.

        Args:
            active: (slots,) that hold a thing.
        """
        said = {"masks": got.masks, "presence": got.presence, "quality": got.quality}
        if what := flaw(said):
            self._broken.append(f"carried {what} have values that are no numbers")
            return
        one, other = wanted.masks[active] > 0.5, got.masks[active] > 0.5
        self._carried += int((one & other).sum()), int((one | other).sum()), wanted.masks[0].size
        for name in ("presence", "quality") if active.any() else ():
            self._differ(name, float(np.abs(getattr(wanted, name) - getattr(got, name))[active].mean()))

    def _differ(self, name: str, by: float) -> None:
        self._off.setdefault(name, []).append(by)

    @property
    def equal(self) -> float:
        """Share of equal labels."""
        seen = int(self._pairs.sum())
        return int(np.diag(self._pairs).sum()) / seen if seen else 1.0

    def iou(self) -> dict[str, float]:
        """By class, of those that either saw."""
        return {name: shared / union for name, shared, union in self._overlaps() if union}

    def _overlaps(self) -> Iterator[tuple[str, int, int]]:
        shared = np.diag(self._pairs)
        union = self._pairs.sum(0) + self._pairs.sum(1) - shared
        for index, name in [*enumerate(self._classes), (VOID, "void")]:
            yield name, int(shared[index]), int(union[index])

    @property
    def found(self) -> float:
        """Share of the things, of both, that the other saw too."""
        return self._met / self._things if self._things else 1.0

    @property
    def centre_px(self) -> float:
        """Median distance of their centres [mask px]."""
        return float(np.median(self._distances)) if self._distances else 0.0

    def cosine(self) -> dict[str, float]:
        return {name: float(np.mean(values)) for name, values in self._cosines.items()}

    @property
    def carried(self) -> float:
        """IoU of all masks carried; 1 where neither carried any."""
        shared, union, _ = self._carried.tolist()
        return shared / union if union else 1.0

    def off(self) -> dict[str, float]:
        """Mean differences of what is in [0, 1]."""
        return {name: float(np.mean(values)) for name, values in self._off.items()}

    def failures(self, limit: Tolerance) -> Iterator[str]:
        """What is worse than the limit, one line each; nothing where all is well."""
        yield from dict.fromkeys(self._broken)
        if self.equal < limit.equal:
            yield f"{100 * self.equal:.2f} % of the labels are equal, at least {100 * limit.equal:g} must be"
        least = LEAST_SHARE * self._pairs.sum()
        for name, shared, union in self._overlaps():
            if union > least and shared / union < limit.iou:
                yield f"IoU of {name} is {100 * shared / union:.1f} %, at least {100 * limit.iou:g} must be"
        if self.found < limit.found:
            yield f"{100 * self.found:.0f} % of the things are seen by both, at least {100 * limit.found:g} must be"
        if self.centre_px > limit.centre_px:
            yield f"centres are {self.centre_px:.1f} px apart, at most {limit.centre_px:g} may be"
        for name, cosine in self.cosine().items():
            if not cosine >= limit.cosine:
                yield f"cosine of {name} is {cosine:.3f}, at least {limit.cosine:g} must be"
        yield from self._failures_of_carrying(limit)

    def _failures_of_carrying(self, limit: Tolerance) -> Iterator[str]:
        """And of what else is in [0, 1]."""
        _, union, there = self._carried.tolist()
        if union > LEAST_SHARE * there and self.carried < limit.carried:
            yield f"IoU of carried masks is {100 * self.carried:.1f} %, at least {100 * limit.carried:g} must be"
        for name, off in self.off().items():
            if not off <= limit.off:
                yield f"{name} is off by {off:.3f} on average, at most {limit.off:g} may be"


def _apart(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    one, other = (np.argwhere(mask).mean(0) for mask in (a, b))
    return float(np.hypot(*(one - other)))


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)
