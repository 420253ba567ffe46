"""How far an engine is from the reference, and how far it may be."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from perception.engines.plan import Precision


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What still passes."""

    equal: float  # share of equal labels, at least
    iou: float  # of any class that is not small
    found: float  # share of the things that both see
    centre_px: float  # median distance of their centres, at most [mask px]
    cosine: float  # mean of each feature, and of looks
    carried: float  # IoU of masks carried by the propagator
    off: float  # mean difference of scores, of confidence, and of what the propagator says of its masks, at most


CLOSE = Tolerance(0.985, 0.85, 0.8, 2.0, 0.95, 0.9, 0.05)
COARSE = Tolerance(0.975, 0.75, 0.7, 3.0, 0.92, 0.85, 0.1)
IN_FLIGHT = Tolerance(0.93, 0.6, 0.5, 6.0, 0.85, 0.6, 0.25)
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
    off: dict[str, float] = {}  # mean difference of scores, confidence, presence and quality, all in [0, 1]
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
        lines += [f"  mean difference of {name:10} {value:.4f}" for name, value in self.off.items()]
        lines += [f"  a frame takes {self.step_ms:.2f} ms; the reference, on one core, {self.reference_ms:.2f} ms"]
        return "\n".join(lines) + "\n"
