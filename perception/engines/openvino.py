"""OpenVINO: the faster engine on an x86 CPU, in bfloat16 where the processor has it; it can keep a graph's state."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Mapping
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
        self._core, self._graph, self._threads, self._precision = openvino.Core(), graph, threads, precision
        self._open(*self._compiled({}), {})
        self.inputs = tuple(_spec(port) for port in self._program.inputs)
        self.outputs = tuple(_spec(port) for port in self._program.outputs)

    def _compiled(self, pairs: Mapping[str, str]) -> tuple[Any, str]:
        """The graph with its state within, and the precision it runs in; raises ModelError."""
        with signal_stack_kept():
            return _compile(self._core, self._graph, self._threads, self._precision, pairs)

    def _open(self, program: Any, precision: str, pairs: Mapping[str, str]) -> None:
        self._program, self.precision, self._pairs = program, precision, dict(pairs)
        self.name = f"openvino-{precision}"
        self._request = program.create_infer_request()
        self._given = [_name(port) for port in program.outputs]
        names = {taken + given: taken for taken, given in pairs.items()}  # as OpenVINO calls what it makes of a pair
        self._variables = {names[variable.name]: variable for variable in self._request.query_state()}

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs are the engine's own buffers: valid until the next call. Raises ModelError."""
        try:
            self._request.infer(dict(arrays), share_inputs=True)
        except Exception as error:
            raise ModelError(f"OpenVINO failed: {one_line(error)}") from None
        return {name: self._request.get_output_tensor(i).data for i, name in enumerate(self._given)}

    # The state of a graph that has one

    def keep_state(self, pairs: Mapping[str, str]) -> None:
        """Let outputs be the next step's inputs, zeros at first; neither is given or taken any more.

        Args:
            pairs: input -> output, of equal shape and dtype; without any the graph has no state again.

        Raises:
            ModelError: the graph has no such input or output, or their shapes or dtypes differ.
        """
        specs = {spec.name: (spec.shape, spec.dtype) for spec in (*self.inputs, *self.outputs)}
        for taken, given in pairs.items():
            a, b = specs.get(taken), specs.get(given)
            if a is None or a != b:
                raise ModelError(f"{self._graph.name}: {given} {b} can't become {taken} {a}")
        self._open(*self._compiled(pairs), pairs)

    def read_state(self) -> dict[str, NDArray]:
        """By input name, what the next step will read; copies."""
        return {name: np.array(variable.state.data) for name, variable in self._variables.items()}

    def load_state(self, arrays: Mapping[str, NDArray]) -> None:
        """Let the next step read these, by input name: another engine's `read_state`."""
        from openvino import Tensor

        for name, variable in self._variables.items():
            variable.state = Tensor(np.ascontiguousarray(arrays[name]))

    def leave(self, outputs: Collection[str]) -> None:
        """Nothing: outputs are arrays where they are, and nothing is fetched."""

    def fork(self) -> OpenVinoEngine:
        """Another one of the same compiled graph, with a state of its own."""
        other = copy.copy(self)
        other._open(self._program, self.precision, self._pairs)
        return other

    def close(self) -> None:
        """Nothing to release before the object goes."""


def _compile(core: Any, graph: Path, threads: int, precision: str, pairs: Mapping[str, str]) -> tuple[Any, str]:
    """The compiled model and the precision it runs in; raises ModelError for what is not a graph it can run."""
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    options["ENABLE_CPU_PINNING"] = False  # pinned workers starve when anything else runs on their core
    native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    taken = "bf16" if precision == "auto" and native else "f32"
    options["INFERENCE_PRECISION_HINT"] = taken
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core.read_model(str(graph))
        if pairs:
            _keep(model, pairs)
        return core.compile_model(model, "CPU", options), taken
    except Exception as error:  # its errors are RuntimeError and its own types
        raise ModelError(f"{graph}: OpenVINO can't load it: {one_line(error)}") from None


def _keep(model: Any, pairs: Mapping[str, str]) -> None:
    """Turn pairs of an input and an output into variables of the model, in place."""
    from openvino.passes import MakeStateful, Manager  # slow to import: only who keeps a state needs it

    passes = Manager()
    passes.register_pass(MakeStateful(dict(pairs)))
    passes.run_passes(model)


def _spec(port: Any) -> TensorSpec:
    shape = tuple(d.get_length() if d.is_static else None for d in port.partial_shape)
    dtype = np.dtype(port.element_type.to_dtype()).name
    return TensorSpec(_name(port), shape, dtype)


def _name(port: Any) -> str:
    """The graph's own name of an input or output, which may be one of several that OpenVINO knows the tensor by."""
    own = port.get_node().friendly_name.split("/sink_port_")[0]
    return own if own in port.get_names() else port.any_name
