"""OpenVINO: the faster engine on an x86 CPU, in bfloat16 where the processor has it; it can keep a graph's state."""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
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
        ModelError: OpenVINO is not installed, or the file is no graph; of one that it can't run the first call says so.
    """

    def __init__(self, graph: Path, threads: int = 0, precision: str = "auto") -> None:
        # A vehicle's node tells nobody anything: without this, importing OpenVINO loads its telemetry sender.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        try:
            import openvino
        except ImportError:
            raise ModelError("engine openvino is not installed; pip install 'perception-node[openvino]'") from None
        self._core, self._graph, self._threads = openvino.Core(), graph, threads
        with _loading(graph):
            native = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            model = self._core.read_model(str(graph))
        self.precision = "bf16" if precision == "auto" and native else "f32"
        self.name = f"openvino-{self.precision}"
        self.inputs = tuple(_spec(port) for port in model.inputs)
        self.outputs = tuple(_spec(port) for port in model.outputs)
        self._program: Any = None  # not compiled before it is known which state it keeps

    def _compile(self, pairs: Mapping[str, str]) -> Any:
        """The graph, ready to run, with its state within; raises ModelError for what it can't run."""
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        options["ENABLE_CPU_PINNING"] = False  # pinned workers starve when anything else runs on their core
        options["INFERENCE_PRECISION_HINT"] = self.precision
        if self._threads:
            options["INFERENCE_NUM_THREADS"] = self._threads
        with _loading(self._graph):
            model = self._core.read_model(str(self._graph))
            if pairs:
                _keep(model, pairs)
            return self._core.compile_model(model, "CPU", options)

    def _open(self, program: Any, pairs: Mapping[str, str]) -> None:
        self._program, self._pairs = program, dict(pairs)
        self._request = program.create_infer_request()
        self._given = [_name(port) for port in program.outputs]
        names = {taken + given: taken for taken, given in pairs.items()}  # as OpenVINO calls what it makes of a pair
        self._variables = {names[variable.name]: variable for variable in self._request.query_state()}

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The outputs are the engine's own buffers: valid until the next call. Raises ModelError."""
        if self._program is None:
            self._open(self._compile({}), {})
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
        self._open(self._compile(pairs), pairs)

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
        """Another one of the same compiled graph, with a state of its own; after `keep_state`."""
        other = copy.copy(self)
        other._open(self._program, self._pairs)
        return other

    def close(self) -> None:
        """Nothing to release before the object goes."""


@contextmanager
def _loading(graph: Path) -> Iterator[None]:
    """What OpenVINO can't load becomes a ModelError, and this thread's signal stack stays."""
    try:
        with signal_stack_kept():
            yield
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
