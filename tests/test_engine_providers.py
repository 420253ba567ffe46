"""ONNX Runtime's providers for GPUs and the engine tensorrt where there is none: one line each, with the fix."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime
import pytest

from perception.bench.settings import BenchSettings
from perception.engines import open_engine
from perception.engines.ort import OnnxRuntimeEngine
from perception.errors import ModelError
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
