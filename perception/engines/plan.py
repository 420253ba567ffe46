"""What an accelerator's compiled graph is made for and by: the seam between a compiler such as TensorRT and what
builds, keeps, checks and serves its plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from perception.protocols import Engine

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Progress = Callable[[str, int, int], None]  # what, done, of how many; 0: nobody can say


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that a plan is compiled for. A plan of another target must never be loaded."""

    compiler: str  # "tensorrt"
    version: str  # of the compiler, "10.13.2"
    device: str  # name of the accelerator, "NVIDIA H200"
    capability: str  # compute capability, "9.0"
    driver: str  # version of the driver, "570.86"


def carrying_precision(precision: Precision) -> Precision:
    """That of the propagator beside a network: int8 and fp8 are for graphs that take camera frames."""
    return precision if precision in ("fp32", "fp16", "bf16") else "fp16"


class PlanCompiler(Protocol):
    """Compiles graphs to plans and runs them. Implementations inherit nothing."""

    name: str  # "tensorrt"

    @property
    def flags(self) -> tuple[str, ...]:
        """What else decides its plans, beside graph, target and precision: other flags, other plans."""
        ...

    def check(self, precision: Precision) -> None:
        """Raises ModelError where this version or this machine has no such precision; DeviceError, as `target`."""
        ...

    def target(self) -> Target:
        """This machine's.

        Raises:
            ModelError: the compiler or an accelerator is missing, with the fix. DeviceError: it does not answer now.
        """
        ...

    def compile(self, graph: Path, out: Path, precision: Precision, timing_cache: Path, progress: Progress) -> None:
        """Write the plan of an ONNX graph to `out`; minutes. Reads and renews `timing_cache`, which may be absent.

        Raises:
            ModelError: the graph can't be compiled, with the compiler's own words. DeviceError: the accelerator is
                lost or out of memory.
        """
        ...

    def open(self, plan: Path) -> Engine:
        """Load a plan.

        Raises:
            ModelError: it is broken or of another target. DeviceError: the accelerator is lost or out of memory.
        """
        ...
