"""The engines that only some machines have; loaded by name, so that none of them costs anybody else a thing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from perception.engines.plan import PlanCompiler
from perception.errors import ModelError
from perception.protocols import Engine

DEVICES = ("nvidiactl", "nvhost-gpu", "nvgpu", "dxg")  # in /dev: of a card, of a Jetson, of WSL


def open_tensorrt() -> PlanCompiler:
    """Raises ModelError, with the fix, where it is not installed."""
    return _tensorrt().TensorRtCompiler()


def compiled_and_opened(graph: Path) -> Engine:
    """A graph as it is, compiled each time: for measuring on pictures. Raises ModelError, DeviceError."""
    return _tensorrt().compiled_and_opened(graph)


def _tensorrt() -> Any:
    try:
        return importlib.import_module("perception.engines.tensorrt")
    except ImportError as error:
        missing = error.name or "tensorrt"
        raise ModelError(
            f"engine tensorrt needs {missing}, which is not installed; pip install 'perception-node[tensorrt]'"
        ) from None


def has_tensorrt() -> bool:
    """Whether it is worth asking for: the package and a device are there. Costs no import."""
    return importlib.util.find_spec("tensorrt") is not None and has_gpu()


def has_gpu() -> bool:
    """Whether there is a device file of an NVIDIA driver."""
    return any((Path("/dev") / name).exists() for name in DEVICES)


def has_cuda_provider() -> bool:
    """Whether this ONNX Runtime can use the GPU."""
    if not has_gpu():
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
