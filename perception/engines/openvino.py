"""OpenVINO: the faster engine on an x86 CPU, in bfloat16 where the processor has it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.engines.ort import one_line
from perception.engines.signal_stack import signal_stack_kept
from perception.errors import ModelError
from perception.protocols import TensorSpec


class OpenVinoEngine:
    """Runs an ONNX graph with OpenVINO on the CPU.

    Args:
        graph: the .onnx file.
        threads: worker threads; 0 takes all cores.
        precision: "auto" lets OpenVINO take bfloat16 where the CPU computes it natively; "f32" forbids it.

    Raises:
        ModelError: OpenVINO is not installed, or the file is not a graph that it can run.
    """

    def __init__(self, graph: Path, threads: int = 0, precision: str = "auto") -> None:
        # A vehicle's node tells nobody anything: without this, importing OpenVINO loads its telemetry sender.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        try:
            import openvino
        except ImportError:
            raise ModelError("engine openvino is not installed; pip install 'perception-node[openvino]'") from None
        with signal_stack_kept():
            compiled, self.precision = _compile(openvino.Core(), graph, threads, precision)
        self.name = f"openvino-{self.precision}"
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs are the engine's own buffers: valid until the next call. Raises ModelError."""
        try:
            self._request.infer(dict(arrays), share_inputs=True)
        except Exception as error:
            raise ModelError(f"OpenVINO failed: {one_line(error)}") from None
        return {spec.name: self._request.get_output_tensor(i).data for i, spec in enumerate(self.outputs)}

    def close(self) -> None:
        """Nothing to release before the object goes."""


def _compile(core: Any, graph: Path, threads: int, precision: str) -> tuple[Any, str]:
    """The compiled model and the precision it runs in; raises ModelError for what is not a graph it can run."""
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    options["ENABLE_CPU_PINNING"] = False  # pinned workers starve when anything else runs on their core
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    taken = "bf16" if precision == "auto" and native else "f32"
    options["INFERENCE_PRECISION_HINT"] = taken
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        return core.compile_model(str(graph), "CPU", options), taken
    except Exception as error:  # its errors are RuntimeError and its own types
        raise ModelError(f"{graph}: OpenVINO can't load it: {one_line(error)}") from None


def _spec(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else None for d in port.partial_shape)
    dtype = np.dtype(port.element_type.to_dtype()).name
    return TensorSpec(_name(port), shape, dtype)


def _name(port: Any) -> str:
    """The graph's own name of an input or output, which may be one of several that OpenVINO knows the tensor by."""
    own = port.get_node().friendly_name.split("/sink_port_")[0]
    return own if own in port.get_names() else port.any_name
