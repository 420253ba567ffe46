"""Engines run graphs; `open_engine` is the one place that names them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from perception.protocols import Engine

Chosen = Literal["onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"]
EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"]


def chosen(name: EngineName) -> Chosen:
    """What "auto" means on this machine: OpenVINO where it is installed, ONNX Runtime elsewhere."""
    if name != "auto":
        return name
    return "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"


def open_engine(graph: Path, name: EngineName = "auto", threads: int = 0) -> Engine:
    """Load a graph.

    Raises:
        ModelError: the engine is missing or can't run the graph.
    """
    match chosen(name):
        case "openvino":
            from perception.engines.openvino import OpenVinoEngine

            return OpenVinoEngine(graph, threads)
        case "onnxruntime":
            from perception.engines.ort import OnnxRuntimeEngine

            return OnnxRuntimeEngine(graph, threads)
        case "onnxruntime-cuda":
            from perception.engines.ort import OnnxRuntimeEngine

            return OnnxRuntimeEngine(graph, threads, "cuda")
        case "onnxruntime-tensorrt":
            from perception.engines.ort import OnnxRuntimeEngine

            return OnnxRuntimeEngine(graph, threads, "tensorrt")
        case "tensorrt":
            from perception.engines.tensorrt import compiled_and_opened

            return compiled_and_opened(graph)
