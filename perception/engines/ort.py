"""ONNX Runtime: the engine that works anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from perception.errors import DeviceError, ModelError, PerceptionError
from perception.protocols import TensorSpec

DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}
DTYPES |= {"tensor(int32)": "int32", "tensor(int8)": "int8", "tensor(double)": "float64", "tensor(bool)": "bool"}


Provider = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
OPTIONS = {"cuda": {"use_tf32": "0"}}  # it may be what a smaller precision is compared with
GPU_WHEEL = "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"
DEVICE_WORDS = ("cuda", "cudnn", "cublas", "out of memory", "device")
NO_ROOM = ("out of memory", "failed to allocate", "bad allocation", "bad_alloc")
FAILING = ("cuda failure", "cuda error", "cudnn failure", "cudnn_status", "cublas failure", "cublas_status")
MISSING = ("load library", "shared object", "no cuda-capable device", "driver version is insufficient", "dependencies")


class OnnxRuntimeEngine:
    """Runs an ONNX graph, on the CPU unless told otherwise.

    Args:
        graph: the .onnx file.
        threads: worker threads; 0 takes all cores.
        provider: what runs it; what an accelerator can't do is done by the CPU.

    Raises:
        ModelError: the file is not a graph that ONNX Runtime can run, or the provider is missing, with the fix.
        DeviceError: the accelerator has no room for it or fails; later it may work.
    """

    def __init__(self, graph: Path, threads: int = 0, provider: Provider = "cpu") -> None:
        self.name = "onnxruntime" if provider == "cpu" else f"onnxruntime-{provider}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # its errors reach us as exceptions
        # Spinning workers would take the cores from the capture thread between two frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = _providers(provider)
        try:
            # where an accelerator fails it would go on with the CPU, under the accelerator's name
            self._session = onnxruntime.InferenceSession(str(graph), options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types here
            raise self._cant_load(graph, error) from None
        if PROVIDERS[provider] not in self._session.get_providers():  # where libraries are missing it goes on, too
            raise self._cant_start()
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Raises ModelError when the graph fails on these arrays, DeviceError when an accelerator does."""
        try:
            values = self._session.run(self._names, dict(arrays))
        except Exception as error:
            text = f"ONNX Runtime failed: {one_line(error)}"
            is_device = type(error).__name__ == "EPFail" or _has(error, DEVICE_WORDS)
            raise (DeviceError(text) if is_device and self.name != "onnxruntime" else ModelError(text)) from None
        return {name: np.asarray(value) for name, value in zip(self._names, values, strict=True)}

    def _cant_load(self, graph: Path, error: Exception) -> PerceptionError:
        text = f"{graph}: ONNX Runtime can't load it: {one_line(error)}"
        if self.name == "onnxruntime":
            return ModelError(text)
        if _has(error, NO_ROOM):
            return DeviceError(text)
        if _has(error, MISSING):
            return self._cant_start(f" ({one_line(error)})")
        return DeviceError(text) if _has(error, FAILING) else ModelError(text)

    def _cant_start(self, why: str = "") -> ModelError:
        return ModelError(
            f"{self.name} can't start: CUDA's libraries or the driver are missing{why}; perception doctor tells"
        )

    def close(self) -> None:
        """Nothing to release before the object goes."""


def _providers(provider: Provider) -> list[str | tuple[str, dict[str, str]]]:
    """In order of preference. Raises ModelError where this build of ONNX Runtime lacks the provider."""
    name = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise ModelError(f"ONNX Runtime {onnxruntime.__version__} was built without {name}; {GPU_WHEEL}")
    wanted = ["tensorrt", "cuda"] if provider == "tensorrt" else [provider]
    there = [p for p in (*wanted, "cpu") if PROVIDERS[p] in onnxruntime.get_available_providers()]
    return [(PROVIDERS[p], OPTIONS.get(p, {})) for p in dict.fromkeys(there)]


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


def _has(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def one_line(error: BaseException, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else None for d in node.shape)
    return TensorSpec(node.name, shape, DTYPES.get(str(node.type), str(node.type)))
