"""The types of a lowered graph, written into the graph itself: TensorRT 11 has no other way to be told.

float16 and bfloat16 begin at convolutions and matrix products and go on through what only moves or clips numbers.
What decides stays in float32: the camera, the grouping, the looks, and the last convolution of every head, whose scores
are compared and whose offsets are tens of pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter

from perception.engines.plan import Precision
from perception.models.compiled import CONFIDENCE, INSTANCES, LABELS, SEGMENTS
from perception.models.lowering.arrays import ROOM

FLOAT = TensorProto.FLOAT
LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
OPSETS = {"bf16": 22, "fp8": 19}  # the first in which convolutions, or QuantizeLinear, have that type
STARTS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
GOES_ON = STARTS.union(  # where all that goes in is small already
    ("Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "HardSigmoid", "Add", "Mul"),
    ("Concat", "Resize", "MaxPool", "AveragePool", "GlobalAveragePool"),
    ("DepthToSpace", "Reshape", "Transpose", "Slice", "Identity", "Squeeze"),
)
DECIDES = (LABELS, INSTANCES, SEGMENTS, CONFIDENCE)  # outputs whose last convolutions stay in float32
STAYS_FLOAT = {"Resize": 3}  # inputs before this one but the first are float32 by the operator's definition


def in_precision(
    model: onnx.ModelProto,
    precision: Precision,
    frames: Sequence[NDArray[np.uint8]] = (),
    starts: Collection[str] = STARTS,
) -> onnx.ModelProto:
    """A float32 graph in another precision; its inputs and outputs keep their types.

    Args:
        model: of `lower`, `lower_encoder` or `lower_propagator`; unchanged.
        precision: int8 and fp8 become QuantizeLinear and DequantizeLinear around convolutions.
        frames: (h, w, 3) RGB, what int8 and fp8 are calibrated on: real ones, of the camera's size.
        starts: operators that float16 or bfloat16 begins at.

    Raises:
        ModelError: int8 or fp8 without frames, or on a graph that takes no camera frame.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if precision in OPSETS:
        del copy.graph.value_info[:]
        copy = version_converter.convert_version(copy, OPSETS[precision])
        copy = shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True)
    if precision in LOW:
        _Lowering(copy.graph, LOW[precision], starts).run()
    elif precision in ("int8", "fp8"):
        from perception.models.lowering.quantised import quantise

        quantise(copy, precision, frames)
    drop_unused(copy.graph)
    del copy.graph.value_info[:]
    return shape_inference.infer_shapes(copy, data_prop=True)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output depends on."""
    wanted, kept = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    constants = [i for i in graph.initializer if i.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def deciding(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes from the outputs that decide back to the convolutions before them, these too."""
    made_by = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    waiting = [output.name for output in graph.output if output.name in DECIDES]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += [] if node.op_type in STARTS else node.input
    return found


class _Lowering:
    """Gives nodes a smaller type, with casts where it begins and ends."""

    def __init__(self, graph: onnx.GraphProto, kind: int, starts: Collection[str]) -> None:
        self.graph, self.kind, self.starts = graph, kind, starts
        values = (*graph.value_info, *graph.input, *graph.output)
        self.types = {v.name: v.type.tensor_type.elem_type for v in values}
        self.constants = {i.name: i for i in graph.initializer}
        self.kept = deciding(graph) | {n.name for n in graph.node if n.name.startswith(f"{ROOM}/")}
        self.low: set[str] = set()  # tensors
        self.nodes: list[onnx.NodeProto] = []
        self.known: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        for node in self.graph.node:
            if self._becomes_low(node):
                fixed = range(1, STAYS_FLOAT.get(node.op_type, 1))
                node.input[:] = [n if i in fixed else self._low(n) for i, n in enumerate(node.input)]
                self.low |= {name for name in node.output if self.types.get(name) == FLOAT}
            else:
                node.input[:] = [self._cast(name, FLOAT) if name in self.low else name for name in node.input]
            self.nodes.append(node)
        self._restore_outputs()
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)

    def _becomes_low(self, node: onnx.NodeProto) -> bool:
        reals = [n for n in node.input if n and n not in self.constants and self.types.get(n) == FLOAT]
        if node.name in self.kept or not reals:
            return False
        return node.op_type in self.starts or (node.op_type in GOES_ON and all(name in self.low for name in reals))

    def _low(self, name: str) -> str:
        if name in self.constants:
            return self._constant(name)
        return name if name in self.low or self.types.get(name) != FLOAT else self._cast(name, self.kind)

    def _constant(self, name: str) -> str:
        value = self.constants[name]
        if value.data_type != FLOAT:
            return name
        smaller = f"{name}_low"
        if (name, self.kind) not in self.known:
            array = numpy_helper.to_array(value).astype(DTYPES[self.kind])
            self.graph.initializer.append(
                helper.make_tensor(smaller, self.kind, array.shape, array.tobytes(), raw=True)
            )
            self.known[name, self.kind] = smaller
        return smaller

    def _cast(self, name: str, to: int) -> str:
        if (name, to) not in self.known:
            out = f"{name}_{'float' if to == FLOAT else 'low'}"
            self.nodes.append(helper.make_node("Cast", [name], [out], f"{out}_cast", to=to))
            self.known[name, to] = out
        return self.known[name, to]

    def _restore_outputs(self) -> None:
        """What the graph gives in the smaller type gets another name, and a cast to the old one."""
        for name in [o.name for o in self.graph.output if o.name in self.low]:
            inner = f"{name}_low"
            for node in self.nodes:
                node.output[:] = [inner if n == name else n for n in node.output]
                node.input[:] = [inner if n == name else n for n in node.input]
            self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}_cast", to=FLOAT))
