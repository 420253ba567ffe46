"""float16 and bfloat16 graphs for a CPU that computes in neither: float32, rounded where the graph says so."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

FLOAT = TensorProto.FLOAT
LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same numbers, but for the order of roundings within one node."""
    copy = shape_inference.infer_shapes(model, data_prop=True)
    graph = copy.graph
    low = {v.name: v.type.tensor_type.elem_type for v in graph.value_info if v.type.tensor_type.elem_type in LOW}
    for i, constant in enumerate(graph.initializer):
        if constant.data_type in LOW:
            values = numpy_helper.to_array(constant).astype(np.float32)
            graph.initializer[i].CopyFrom(numpy_helper.from_array(values, constant.name))
    nodes = []
    for node in graph.node:
        small = [name for name in node.output if name in low]
        nodes.append(node)
        for name in small:
            raw, between, kind = f"{name}_raw", f"{name}_rounded", low[name]
            node.output[:] = [raw if n == name else n for n in node.output]
            if node.op_type == "Cast":
                next(a for a in node.attribute if a.name == "to").i = FLOAT
            nodes.append(helper.make_node("Cast", [raw], [between], f"{name}_down", to=kind))
            nodes.append(helper.make_node("Cast", [between], [name], f"{name}_up", to=FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return copy
