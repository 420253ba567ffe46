"""A user's graph made part of another: constants folded, its quantisation undone, its input and outputs ours."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from perception.engines.ort import folded
from perception.errors import ModelError

OPSET = 17  # TensorRT 8.6 to 11 read it; a newer network is taken as it is


def load_network(graph: bytes, name: str, opset: int = OPSET) -> onnx.ModelProto:
    """A graph with constants folded, in float, of static shapes that are written down.

    Raises:
        ModelError: it is none, or a shape is left open.
    """
    model = onnx.load_from_string(folded(without_quantisation(graph, name), name))
    try:
        if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < opset:
            model = onnx.version_converter.convert_version(model, opset)
        model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # RuntimeError and its own types
        raise ModelError(f"{name}: {' '.join(str(error).split())[:200]}") from None
    for value in (*model.graph.input, *model.graph.output):
        if not all(d.dim_value for d in value.type.tensor_type.shape.dim):
            raise ModelError(f"{name}: the shape of {value.name} is open; an accelerator's graph needs static shapes")
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", version))
    return model


def without_quantisation(graph: bytes, name: str) -> bytes:
    """A graph whose QuantizeLinear and DequantizeLinear are gone.

    Weights become the floats that they stand for, what is rounded on its way passes as it is. Pairs that begin at 0
    may stand for a ReLU that was absorbed: unless one is before them they become one, with the pair's upper bound.
    """
    try:
        model = onnx.load_from_string(graph)
    except Exception:
        raise ModelError(f"{name}: not an ONNX graph") from None
    kinds = {node.op_type for node in model.graph.node}
    if "DequantizeLinear" not in kinds:
        return graph
    _Dequantising(model.graph).run()
    return model.SerializeToString()


class _Dequantising:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.made_by = {name: node for node in graph.node for name in node.output}
        self.is_output = {output.name for output in graph.output}
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        for node in self.graph.node:
            if node.op_type == "DequantizeLinear":
                self._dequantise(node)
            elif node.op_type != "QuantizeLinear":
                self.nodes.append(node)
        used = {name for node in self.nodes for name in node.input} | self.is_output
        kept = [i for i in self.graph.initializer if i.name in used]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(kept)

    def _dequantise(self, node: onnx.NodeProto) -> None:
        source, out = node.input[0], node.output[0]
        if source in self.constants:
            value = numpy_helper.from_array(self._value(node), out)
            self.graph.initializer.append(value)
            return
        before = self.made_by[source]  # a QuantizeLinear
        exact = before.input[0]
        low, high = self._range(before)
        producer = self.made_by.get(exact)
        if low == 0 and (producer is None or producer.op_type not in ("Relu", "Clip", "Sigmoid", "Softmax")):
            bounds = (f"{out}_low", f"{out}_high")
            for bound, number in zip(bounds, (low, high), strict=True):
                self.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), bound))
            self.nodes.append(onnx.helper.make_node("Clip", [exact, *bounds], [out], f"{out}_clip"))
        else:
            self.nodes.append(onnx.helper.make_node("Identity", [exact], [out], f"{out}_exact"))

    def _scale(self, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
        scale = self.constants[node.input[1]]
        has_zero = len(node.input) > 2 and node.input[2]
        return scale, self.constants[node.input[2]] if has_zero else np.zeros_like(scale, np.uint8)

    def _value(self, node: onnx.NodeProto) -> np.ndarray:
        scale, zero = self._scale(node)
        whole = self.constants[node.input[0]]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if scale.ndim else 0
        shape = [-1 if i == axis % max(1, whole.ndim) else 1 for i in range(whole.ndim)] if scale.size > 1 else []
        scale, zero = scale.reshape(shape), zero.reshape(shape)
        return ((whole.astype(np.float64) - zero.astype(np.float64)) * scale).astype(np.float32)

    def _range(self, node: onnx.NodeProto) -> tuple[float, float]:
        scale, zero = self._scale(node)
        bounds = np.iinfo(zero.dtype)
        low, high = (float(((bound - zero.astype(np.float64)) * scale).max()) for bound in (bounds.min, bounds.max))
        return low, high
