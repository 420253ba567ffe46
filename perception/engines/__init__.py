"""Engines run graphs; `open_engine` is the one place that names them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from perception.engines.measured import fastest
from perception.protocols import Engine

EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"]

ACCELERATED = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt")
"""Those that need an NVIDIA GPU, best first."""


def chosen(name: EngineName) -> Literal["onnxruntime", "openvino"]:
    """The CPU's engine: the one that is named, else what `perception selftest` found to be the fastest here, else
    OpenVINO where it is installed, and ONNX Runtime elsewhere.

    Accelerators come on top of it (`perception.serving`).
    """
    if name in ("onnxruntime", "openvino"):
        return name
    if measured := fastest():
        return measured
    return "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"


def beneath(name: EngineName) -> EngineName:
    """What a node opens first, and falls back on: the CPU's engine where an accelerator is named."""
    return chosen(name) if name in ACCELERATED else name


def open_engine(graph: Path, name: EngineName = "auto", threads: int = 0) -> Engine:
    """Load a graph.

    Raises:
        ModelError: the engine is missing or can't run the graph.
    """
    match name if name in ACCELERATED else chosen(name):
        case "openvino":
            from perception.engines.openvino import OpenVinoEngine

            return OpenVinoEngine(graph, threads)
        case "tensorrt":
            from perception.engines.accelerators import compiled_and_opened

            return compiled_and_opened(graph)
        case "onnxruntime-cuda" | "onnxruntime-tensorrt" as accelerated:
            from perception.engines.ort import OnnxRuntimeEngine

            return OnnxRuntimeEngine(graph, threads, "cuda" if accelerated == "onnxruntime-cuda" else "tensorrt")
        case _:
            from perception.engines.ort import OnnxRuntimeEngine

            return OnnxRuntimeEngine(graph, threads)
