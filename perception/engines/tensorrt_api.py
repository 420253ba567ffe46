"""What differs between TensorRT 8.6, 10 and 11, found by looking for the feature, never by comparing versions.

`tests/gpu/api_facts.json` holds which version has which name, and a test that every name used here is in it.
"""

from __future__ import annotations

import importlib
from typing import Any

from perception.engines.plan import Precision, Progress
from perception.errors import ModelError

INSTALL = "install TensorRT 8.6, 10 or 11 as docs/tensorrt.md says"
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool"}
DTYPES |= {"UINT8": "uint8"}  # of inputs and outputs; BF16 and FP8 have no numpy type and stay inside
NEEDS = {"bf16": "BF16", "fp8": "FP8"}  # of DataType
CAPABILITIES = {"bf16": (8, 0), "fp8": (8, 9)}  # least compute capability
COMPILING = "TensorRT is compiling"
KEPT_LOG = 64  # errors: a parser prints a whole node after what is wrong with it


def load_tensorrt() -> Any:
    """The module `tensorrt`. Raises ModelError, with the fix, where it or one of its libraries is missing."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        missing = getattr(error, "name", None) == "tensorrt"
        why = "is not installed" if missing else f"can't be loaded: {' '.join(str(error).split())}"
        raise ModelError(f"engine tensorrt {why}; {INSTALL}") from None


def logger(trt: Any) -> Any:
    """TensorRT's logger, that keeps the last errors in `told` instead of printing them."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.told: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.told = [*self.told, " ".join(msg.split())][-KEPT_LOG:]

        def last(self, otherwise: str) -> str:
            return self.told[-1][:300] if self.told else otherwise

    return Log()


def network_flags(trt: Any) -> int:
    """Explicit batch where there is still another kind, and types as the graph has them where that can be asked for."""
    kinds = trt.NetworkDefinitionCreationFlag
    if hasattr(kinds, "STRONGLY_TYPED"):  # since 10; in 11 there is nothing else
        return 1 << int(kinds.STRONGLY_TYPED)
    return 1 << int(kinds.EXPLICIT_BATCH)


def is_strongly_typed(trt: Any) -> bool:
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def check_precision(trt: Any, precision: Precision) -> None:
    """Raises ModelError for a precision that this version has no type for, or no way to read from a graph."""
    needed = NEEDS.get(precision)
    if needed and (not hasattr(trt.DataType, needed) or not is_strongly_typed(trt)):
        raise ModelError(f"TensorRT {trt.__version__} has no {precision}; take fp16 or int8, or TensorRT 10 or newer")


def check_capability(capability: str, precision: Precision) -> None:
    """Raises ModelError for a precision that GPUs of this compute capability ("9.0") don't compute in."""
    major, minor = CAPABILITIES.get(precision, (0, 0))
    if tuple(int(part) for part in capability.split(".")) < (major, minor):
        raise ModelError(
            f"this GPU has no {precision}: its compute capability is {capability}, {major}.{minor} is needed; take fp16"
        )


def set_precision(trt: Any, config: Any, network: Any, precision: Precision) -> None:
    """Let the types of the graph be those that run, also before networks were strongly typed."""
    flags = trt.BuilderFlag
    config.clear_flag(flags.TF32)  # what the graph has in float32 decides: it is meant to the last bit
    if is_strongly_typed(trt):
        return
    if precision == "fp16":
        config.set_flag(flags.FP16)
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        _constrain(trt, network)
    if precision == "int8":
        config.set_flag(flags.INT8)  # what has no Q/DQ around it stays in float32


def _constrain(trt: Any, network: Any) -> None:
    """Each layer that reads or makes floats computes in the graph's type for them. Only before 10.

    Those that make something else, too: comparisons and top k, whose float32 cell numbers and squares float16 lacks.
    """
    reals = (trt.DataType.FLOAT, trt.DataType.HALF)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE, trt.LayerType.CAST):
            continue
        made = [layer.get_output(k).dtype for k in range(layer.num_outputs)]
        tensors = [layer.get_input(k) for k in range(layer.num_inputs)]  # None: an optional one that is not given
        read = [tensor.dtype for tensor in tensors if tensor is not None]
        if kinds := [kind for kind in (*read, *made) if kind in reals]:
            layer.precision = kinds[0]
        for k, kind in enumerate(made):
            if kind in reals:
                layer.set_output_type(k, kind)


def set_tactics(trt: Any, config: Any) -> None:
    """Without cuDNN and cuBLAS, which need not be on the machine."""
    wanted = (trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS)
    config.set_tactic_sources(sum(1 << int(source) for source in wanted))


def watch(trt: Any, config: Any, progress: Progress) -> Any:
    """Report a build's phases where TensorRT tells them (since 10); the monitor must live as long as the build."""
    if not hasattr(trt, "IProgressMonitor"):
        progress(COMPILING, 0, 0)
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor
