"""How far an engine is from the reference, and how far it may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.engines.plan import Precision
from perception.types import VOID, Features, Panoptic

FEATURES = ("keys", "context", "fine8", "fine4")
LEAST_SHARE = 0.003  # of the pixels: the IoU of a smaller class says nothing


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What still passes."""

    equal: float  # share of equal labels, at least
    iou: float  # of any class that is not small
    found: float  # share of the things that both see
    centre_px: float  # median distance of their centres, at most [mask px]
    cosine: float  # mean of each feature
    carried: float  # IoU of masks carried by the propagator


CLOSE = Tolerance(0.985, 0.85, 0.8, 2.0, 0.95, 0.9)
COARSE = Tolerance(0.975, 0.75, 0.7, 3.0, 0.92, 0.85)
IN_FLIGHT = Tolerance(0.93, 0.6, 0.5, 6.0, 0.85, 0.0)
"""Of one frame of a real drive, which may be all edges; only what is badly wrong is."""
TOLERANCES: dict[Precision, Tolerance] = {"fp32": CLOSE, "fp16": CLOSE, "bf16": COARSE, "int8": COARSE, "fp8": COARSE}


class Report(msgspec.Struct, frozen=True):
    """What the gate found, as it is kept beside the plan."""

    engine: str
    reference: str
    passed: bool
    failures: tuple[str, ...] = ()
    equal: float = 1.0  # share of equal labels
    repeats: float = 1.0  # the same of one frame seen twice by this engine
    iou: dict[str, float] = {}  # by class, of those that were there
    found: float = 1.0
    centre_px: float = 0.0
    cosine: dict[str, float] = {}
    carried: float | None = None  # None where the propagator has no engine of its own here
    step_ms: float = 0.0  # median of its frames
    reference_ms: float = 0.0
    frames: int = 0

    def text(self) -> str:
        """For people."""
        word = "agrees with" if self.passed else "REFUSED: it does not agree with"
        lines = [f"{self.engine} {word} {self.reference} on {self.frames} golden frames"]
        lines += [f"  failed: {failure}" for failure in self.failures]
        lines += [f"  equal labels     {100 * self.equal:8.3f} %", f"  seen twice alike {100 * self.repeats:8.3f} %"]
        lines += [f"  IoU {name:16} {100 * value:6.2f} %" for name, value in self.iou.items()]
        lines += [f"  things both see  {100 * self.found:8.1f} %, centres {self.centre_px:.2f} px apart"]
        lines += [f"  cosine {name:13} {value:8.4f}" for name, value in self.cosine.items()]
        lines += [] if self.carried is None else [f"  IoU of carried masks {100 * self.carried:6.2f} %"]
        lines += [f"  a frame takes {self.step_ms:.2f} ms; the reference, on one core, {self.reference_ms:.2f} ms"]
        return "\n".join(lines) + "\n"


class Comparison:
    """Sums over frames what two engines saw.

    Args:
        classes: names, in index order.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._pairs = np.zeros((256, 256), np.int64)
        self._things = self._met = 0
        self._distances: list[float] = []
        self._cosines: dict[str, list[float]] = {}
        self._broken: list[str] = []

    def add(self, wanted: Panoptic, got: Panoptic) -> None:
        if wanted.labels.shape != got.labels.shape:
            self._broken.append(f"a class map of {got.labels.shape}, not of {wanted.labels.shape}")
            return
        pairs = wanted.labels.astype(np.int64).ravel() * 256 + got.labels.ravel()
        self._pairs += np.bincount(pairs, minlength=65536).reshape(256, 256)
        self._meet(wanted, got)
        if wanted.features is not None:
            self._feel(wanted.features, got.features)

    def _meet(self, wanted: Panoptic, got: Panoptic) -> None:
        """Things that share more than half: of the same class, and where."""
        self._things += len(wanted.segments) + len(got.segments)
        for k, segment in enumerate(wanted.segments, 1):
            mask = wanted.id_map == k
            numbers, counts = np.unique(got.id_map[mask], return_counts=True)
            number = int(numbers[counts.argmax()])
            other = got.segments[number - 1] if number else None
            shared = int(counts.max())
            if other and other.class_id == segment.class_id:
                union = segment.area_px + other.area_px - shared
                if 2 * shared > union:
                    self._met += 2
                    self._distances.append(_apart(mask, got.id_map == number))

    def _feel(self, wanted: Features, got: Features | None) -> None:
        for name in FEATURES:
            a, b = getattr(wanted, name), getattr(got, name, None)  # on the host, both
            if b is None or a.shape != b.shape:
                self._broken.append(f"{name} is {None if b is None else b.shape}, not {a.shape}")
                continue
            if not np.isfinite(b).all():
                self._broken.append(f"{name} has values that are no numbers")
                continue
            norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
            self._cosines.setdefault(name, []).append(float(((a * b).sum(0) / np.maximum(norms, 1e-9)).mean()))

    @property
    def equal(self) -> float:
        """Share of equal labels."""
        return float(np.diag(self._pairs).sum() / max(1, self._pairs.sum()))

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
            if cosine < limit.cosine:
                yield f"cosine of {name} is {cosine:.3f}, at least {limit.cosine:g} must be"


def _apart(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    one, other = (np.argwhere(mask).mean(0) for mask in (a, b))
    return float(np.hypot(*(one - other)))
