"""A compiler and its plans for tests without a GPU: a plan is a header and the graph, run by ONNX Runtime on the CPU.

What goes wrong is told by files in the folder $PLAN_FAULTS, read when it would happen, also in the child of a build:

    compile   slow | silent | fail | crash | stderr | oom | gpu | wrong | full: how a build goes ("wrong" compiles
              another network, "gpu" finds the GPU full; "silent" is slow and can't say how far it is)
    open      oom | broken | crash | hang: how loading goes
    run       oom | lost | hang | slow | wrong | bug | crash: how a call goes
              encoder | carry: what that alone says is wrong
    target    name of the device | none | bug
    check     what it says of any precision, instead of having it
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.engines.ort import OnnxRuntimeEngine
from perception.engines.plan import Precision, Progress, Target
from perception.errors import DeviceError, ModelError

HEADER, WRONG = b"PLAN1\n", b"PLAN1-WRONG\n"
SLOW_S = 0.04


def fault(what: str) -> str:
    folder = os.environ.get("PLAN_FAULTS", "")
    path = Path(folder) / what
    return path.read_text().strip() if folder and path.exists() else ""


def note(line: str) -> None:
    """So that a test can count what happened in all processes."""
    with (Path(os.environ["PLAN_FAULTS"]) / "log").open("a") as file:
        file.write(f"{line}\n")


class HeaderCompiler:
    """Stands in TensorRT's place. Implements `PlanCompiler`."""

    name = "header"
    flags = ("a", "b")

    def target(self) -> Target:
        if fault("target") == "none":
            raise ModelError("no accelerator: plug one in")
        if fault("target") == "bug":
            raise RuntimeError("in the bindings")
        return Target("header", "1.0", fault("target") or "CPU", "0.0", "none")

    def check(self, precision: Precision) -> None:
        if says := fault("check"):
            raise ModelError(says)

    def compile(self, graph: Path, out: Path, precision: Precision, timing_cache: Path, progress: Progress) -> None:
        how = fault("compile")
        known = timing_cache.read_text() if timing_cache.exists() else ""
        note(f"compile {os.getpid()} {os.getpriority(os.PRIO_PROCESS, 0)} {len(known)} {precision}")
        for i in range(10):
            progress("tactics", i, 10)
            if i == 5:
                out.write_bytes(b"half")
                _go_wrong(how)
            if i == 5 and how == "silent":
                progress("compiling", 0, 0)
            while i == 5 and fault("compile") in ("slow", "silent"):
                time.sleep(0.01)
        timing_cache.write_text(known + "timed\n")
        out.write_bytes((WRONG if how == "wrong" else HEADER) + graph.read_bytes())

    def open(self, plan: Path) -> HeaderEngine:
        how = fault("open")
        note(f"open {os.getpid()}")
        if how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        while how == "hang" and fault("open") == "hang":
            time.sleep(0.01)
        if how == "oom":
            raise DeviceError("out of memory")
        data = plan.read_bytes()
        header, _, graph = data.partition(b"\n")
        if how == "broken" or not header.startswith(b"PLAN1"):
            raise ModelError(f"{plan}: not a plan of this compiler")
        path = plan.with_name("graph.onnx")
        path.write_bytes(graph)
        return HeaderEngine(path, is_wrong=header + b"\n" == WRONG)


def _go_wrong(how: str) -> None:
    match how:
        case "fail":
            raise ModelError("unsupported operator Frobnicate")
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "stderr":
            print("out of workspace in layer 7", file=sys.stderr, flush=True)
            os._exit(3)
        case "oom":
            raise MemoryError
        case "gpu":
            raise DeviceError("the GPU's memory is full")
        case "full":
            raise OSError(errno.ENOSPC, "No space left on device", "plan")


class HeaderEngine:
    """Runs a plan, as well as it is told to."""

    name = "header"

    def __init__(self, graph: Path, is_wrong: bool) -> None:
        self._engine, self._is_wrong = OnnxRuntimeEngine(graph, 1), is_wrong
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
        self.is_closed = False

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        match how := fault("run"):
            case "oom" | "lost":
                raise DeviceError({"oom": "out of memory", "lost": "device lost"}[how])
            case "bug":
                raise ZeroDivisionError("in the engine")
            case "slow":
                time.sleep(SLOW_S)
            case "hang":
                while fault("run") == "hang":
                    time.sleep(0.01)
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
        outputs = self._engine(arrays)
        if (how == "wrong" or self._is_wrong) and "labels" in outputs:
            outputs["labels"] = ((outputs["labels"] + 1) % 3).astype(np.uint8)
        if how == "encoder" and "labels" not in outputs and "keys" in outputs:
            outputs |= {"keys": -outputs["keys"]}
        if how == "carry" and "probabilities" in outputs:
            outputs |= {"probabilities": np.roll(outputs["probabilities"], 20, axis=3)}
        return outputs

    def close(self) -> None:
        self.is_closed = True
