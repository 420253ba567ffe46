"""ONNX Runtime's providers for GPUs and the engine tensorrt where there is none: one line each, with the fix."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_inference_collection
from onnxruntime.capi import onnxruntime_pybind11_state as bindings  # type: ignore[attr-defined]

from perception.bench.settings import BenchSettings
from perception.engines import open_engine
from perception.engines.ort import OnnxRuntimeEngine
from perception.errors import DeviceError, ModelError
from perception.models.card import find


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_the_wheel_lacks_is_named_with_the_fix(provider):
    if any(name.startswith(("CUDA", "Tensorrt")) for name in onnxruntime.get_available_providers()):
        pytest.skip("this ONNX Runtime is built for GPUs")
    with pytest.raises(ModelError, match=r"was built without .*ExecutionProvider; .*pip install onnxruntime-gpu"):
        open_engine(find("road").graph, f"onnxruntime-{provider}")  # type: ignore[arg-type]


def test_the_cpu_provider_is_the_default_and_keeps_its_name():
    engine = OnnxRuntimeEngine(find("road").graph)
    assert engine.name == "onnxruntime"
    out = engine({"image": np.zeros((1, 352, 640, 3), np.uint8)})
    assert out["labels"].shape == (1, 352, 640)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_engine_says_what_to_install():
    with pytest.raises(ModelError, match=r"engine tensorrt is not installed; install TensorRT 8\.6, 10 or 11"):
        open_engine(find("road").graph, "tensorrt")


@pytest.mark.parametrize("engine", ["tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_bench_takes_the_engines_of_a_gpu(engine):
    assert BenchSettings(engine=engine).launch().model.engine == engine


# Where there is a GPU, and it fails: ONNX Runtime's own Python would go on with the CPU

OUT_OF_MEMORY = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc"
NO_LIBRARY = "Failed to load library libonnxruntime_providers_cuda.so: libcudnn.so.9: cannot open shared object file"
NO_DRIVER = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1"


def failing_with(monkeypatch, words):
    """Sessions with an accelerator fail as they are made, the others do not."""
    real = onnxruntime_inference_collection.InferenceSession._create_inference_session

    def create(self, providers, options, disabled_optimizers=None):
        if any("CUDA" in str(provider) for provider in providers):
            self._fallback_providers = ["CPUExecutionProvider"]
            raise RuntimeError(words)
        return real(self, providers, options, disabled_optimizers)

    monkeypatch.setattr(onnxruntime_inference_collection.InferenceSession, "_create_inference_session", create)
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (OUT_OF_MEMORY, DeviceError),
        ("Failed to allocate memory for requested buffer of size 12345", DeviceError),
        ("CUDNN failure 1001: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0", DeviceError),
        ("CUDA failure 719: unspecified launch failure ; GPU=0", DeviceError),
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no CUDAExecutionProvider kernel for X",
            ModelError,
        ),
    ],
)
def test_what_fails_on_a_gpu_is_said_and_not_done_by_the_cpu(monkeypatch, words, kind):
    failing_with(monkeypatch, words)
    with pytest.raises(kind, match="ONNX Runtime can't load it"):
        OnnxRuntimeEngine(find("road").graph, 1, "cuda")


@pytest.mark.parametrize("words", [NO_LIBRARY, NO_DRIVER])
def test_what_a_gpu_lacks_is_said_with_the_fix(monkeypatch, words):
    failing_with(monkeypatch, words)
    with pytest.raises(ModelError, match=r"onnxruntime-cuda can't start: .* are missing .*; perception doctor tells"):
        OnnxRuntimeEngine(find("road").graph, 1, "cuda")


class Lost:
    """ONNX Runtime's own session, whose accelerator fails in a call."""

    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run(self, *_):
        raise bindings.EPFail("TensorRT EP execution context enqueue failed")


def test_a_call_that_an_accelerator_fails_in_is_not_repeated_by_the_cpu():
    engine = OnnxRuntimeEngine(find("road").graph, 1)
    engine.name = "onnxruntime-tensorrt"  # as on a machine with a GPU
    engine._session._sess = Lost(engine._session._sess)
    with pytest.raises(DeviceError, match="TensorRT EP execution context enqueue failed"):
        engine({"image": np.zeros((1, 352, 640, 3), np.uint8)})
