"""Engines run graphs; `open_engine` is the one place that names them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from perception.protocols import Engine

EngineName = Literal["auto", "onnxruntime", "openvino"]


def open_engine(graph: Path, name: EngineName = "auto", threads: int = 0) -> Engine:
    """Load a graph. "auto" takes OpenVINO where it is installed and ONNX Runtime elsewhere.

    Raises:
        ModelError: the engine is missing or can't run the graph.
    """
    match name:
        case "auto":
            best = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
            return open_engine(graph, best, threads)
        case "openvino":
            from perception.engines.openvino import OpenVinoEngine

            return OpenVinoEngine(graph, threads)
        case "onnxruntime":
            from perception.engines.ort import OnnxRuntimeEngine

            return OnnxRuntimeEngine(graph, threads)
