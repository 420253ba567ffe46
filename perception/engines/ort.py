"""ONNX Runtime: the engine that works anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from perception.errors import ModelError
from perception.protocols import TensorSpec

DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}
DTYPES |= {"tensor(int32)": "int32", "tensor(int8)": "int8", "tensor(double)": "float64", "tensor(bool)": "bool"}


class OnnxRuntimeEngine:
    """Runs an ONNX graph on the CPU.

    Args:
        graph: the .onnx file.
        threads: worker threads; 0 takes all cores.

    Raises:
        ModelError: the file is not a graph that ONNX Runtime can run.
    """

    name = "onnxruntime"

    def __init__(self, graph: Path, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors reach us as exceptions
        # Spinning workers would take the cores from the capture thread between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types here
            raise ModelError(f"{graph}: ONNX Runtime can't load it: {one_line(error)}") from None
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Raises ModelError when the graph fails on these arrays."""
        try:
            values = self._session.run(self._names, dict(arrays))
        except Exception as error:
            raise ModelError(f"ONNX Runtime failed: {one_line(error)}") from None
        return {name: np.asarray(value) for name, value in zip(self._names, values, strict=True)}

    def close(self) -> None:
        """Nothing to release before the object goes."""


def folded(graph: bytes, name: str) -> bytes:
    """A graph with everything computed that does not depend on its input, still in plain ONNX operators.

    Raises:
        ModelError: it is not a graph that ONNX Runtime can load.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(out)
        try:
            onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{name}: ONNX Runtime can't load it: {one_line(error)}") from None
        return out.read_bytes()


def one_line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else None for d in node.shape)
    return TensorSpec(node.name, shape, DTYPES.get(str(node.type), str(node.type)))
