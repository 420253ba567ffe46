"""The engines that only some machines have; imported where they are used, so that they cost nobody else a thing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from perception.engines.plan import PlanCompiler
from perception.protocols import Engine

DEVICES = ("nvidiactl", "nvhost-gpu", "nvgpu", "dxg")  # in /dev: of a card, of a Jetson, of WSL


def open_tensorrt() -> PlanCompiler:
    """It is looked for when it is first asked something: its ModelError then says what is missing, and the fix."""
    from perception.engines.tensorrt import TensorRtCompiler

    return TensorRtCompiler()


def compiled_and_opened(graph: Path) -> Engine:
    """A graph as it is, compiled each time: for measuring on pictures. Raises ModelError, DeviceError."""
    from perception.engines import tensorrt

    return tensorrt.compiled_and_opened(graph)


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
