"""int8 and fp8 by explicit QuantizeLinear and DequantizeLinear, symmetric, as every TensorRT wants it.

Activations have one scale a tensor, from real frames; weights one a channel in int8 and one a tensor in fp8. Biases
take back what the rounding of the weights moves. fp8 is only where TensorRT has convolutions in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from perception.errors import ModelError
from perception.models.compiled import FRAME
from perception.models.lowering.precision import deciding
from perception.models.rounding import (
    ENOUGH_FOR_MEANS,
    GREATEST_FLOAT8,
    LEAST,
    Rounding,
    round_convolutions,
    to_float8,
    to_int8,
    values_of,
)

# Parts of node names that stay in float. Measured on CamVid val: quantising the stem and the first two stages, whose
# depthwise channels differ in range by orders of magnitude, costs 6 points of lane marking IoU and saves 2 ms. Pooled
# branches work on one value a channel (int8 pooling crashes OpenVINO besides), heads are tiny and what they say is
# compared with thresholds.
FLOAT_PARTS = (
    "/stem",  # of both backbones, stem2 and stem4 among them
    "/stages.0/",
    "/stages.1/",
    "/contracting.0",  # U-Net's first level
    "/image/",  # the pooled branch of an ASPP
    "/mix/",
    "/aspp/fuse/",  # what comes out of the light ASPP is given out as context
    "/aspp/Add",
    "/head/",
    "/refine/",
    "/net/Add",  # the sum of both heads' logits: in 256 steps it would decide every close call by rounding
    "/semantic_head/",
    "/centre",
    "/offset",
)
KINDS = {"int8": (TensorProto.INT8, 127.0), "fp8": (TensorProto.FLOAT8E4M3FN, GREATEST_FLOAT8)}  # type, greatest number
ROUNDINGS: dict[str, Rounding] = {"int8": to_int8, "fp8": to_float8}
FP8_CHANNELS = 16  # TensorRT's fp8 convolutions have multiples of it in and out, and no groups (TensorRT#4524)
KEPT_SHARE = 0.9999  # of an activation's values in a frame are within its range
EVERY = 5  # values that is estimated from


def quantise(model: onnx.ModelProto, precision: Literal["int8", "fp8"], frames: Sequence[NDArray[np.uint8]]) -> None:
    """Put Q/DQ before the convolutions of a lowered graph, in place.

    Raises:
        ModelError: there are no frames, or the graph takes none.
    """
    graph = model.graph
    if not frames:
        raise ModelError(f"{precision} needs real frames to be calibrated on; give some, or take fp16")
    if [value.name for value in graph.input] != [FRAME]:
        raise ModelError(f"{precision} is for graphs that take a camera's frame; take fp16 for the propagator")
    kept = deciding(graph) | (_without_fp8(graph) if precision == "fp8" else set())
    few = frames[:: -(-len(frames) // ENOUGH_FOR_MEANS)]

    def rounding(node: str) -> Rounding | None:
        return None if node in kept or stays_float(node) else ROUNDINGS[precision]

    round_convolutions(model, (frame[None] for frame in few), rounding)
    constants = {i.name: i for i in graph.initializer}
    chosen = [n for n in graph.node if n.op_type == "Conv" and rounding(n.name) and n.input[1] in constants]
    ranges = measured(model, sorted({n.input[0] for n in chosen}), frames)
    writer = _Pairs(graph, precision)
    for node in chosen:
        node.input[0] = writer.activation(node.input[0], ranges[node.input[0]])
        node.input[1] = writer.weight(node.input[1], numpy_helper.to_array(constants[node.input[1]]))
    writer.insert()


def _without_fp8(graph: onnx.GraphProto) -> set[str]:
    """Names of the convolutions for which TensorRT has no fast fp8: Q/DQ would only cost their rounding."""
    channels = {i.name: i.dims[:2] for i in graph.initializer}

    def is_without(node: onnx.NodeProto) -> bool:
        has_groups = any(a.name == "group" and a.i > 1 for a in node.attribute)
        return has_groups or any(count % FP8_CHANNELS for count in channels.get(node.input[1], ()))

    return {node.name for node in graph.node if node.op_type == "Conv" and is_without(node)}


def stays_float(node: str) -> bool:
    """Whether the node of this name is left out of a quantisation."""
    return any(part in node for part in FLOAT_PARTS)


def measured(model: onnx.ModelProto, tensors: Iterable[str], frames: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """How far each tensor's values go, but for the furthest 0.01 % of a frame; the most of all frames."""
    found = dict.fromkeys(tensors, LEAST)
    if not found:  # a network of nothing but parts that stay in float
        return found
    for values in values_of(model, found, (frame[None] for frame in frames)):
        for name, value in values.items():
            sizes = np.abs(value.ravel()[::EVERY])
            found[name] = max(found[name], float(np.quantile(sizes, KEPT_SHARE)))
    return found


class _Pairs:
    """Q and DQ nodes, one pair for each tensor."""

    def __init__(self, graph: onnx.GraphProto, precision: Literal["int8", "fp8"]) -> None:
        self.graph, (self.kind, self.greatest) = graph, KINDS[precision]
        self.per_channel = precision == "int8"
        self.before: dict[str, list[onnx.NodeProto]] = {}  # by the tensor that is quantised

    def activation(self, name: str, reach: float) -> str:
        return self._pair(name, np.array(reach / self.greatest, np.float32))

    def weight(self, name: str, value: NDArray) -> str:
        axes = tuple(range(1, value.ndim)) if self.per_channel else None
        reach = np.maximum(np.abs(value).max(axes), LEAST)
        return self._pair(name, np.asarray(reach / self.greatest, np.float32), axis=0)

    def _pair(self, name: str, scale: NDArray[np.float32], axis: int | None = None) -> str:
        out = f"{name}_dequantised"
        if name not in self.before:
            zero = helper.make_tensor(f"{name}_zero", self.kind, scale.shape, bytes(max(1, scale.size)), raw=True)
            self.graph.initializer.extend((numpy_helper.from_array(scale, f"{name}_scale"), zero))
            around = [f"{name}_scale", f"{name}_zero"]
            attributes: dict[str, Any] = {"axis": axis} if axis is not None and scale.ndim else {}
            middle = f"{name}_quantised"
            self.before[name] = [
                helper.make_node("QuantizeLinear", [name, *around], [middle], f"{middle}_node", **attributes),
                helper.make_node("DequantizeLinear", [middle, *around], [out], f"{out}_node", **attributes),
            ]
        return out

    def insert(self) -> None:
        """Each pair goes before the first node that reads it."""
        pairs = {nodes[1].output[0]: nodes for nodes in self.before.values()}
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            for name in node.input:
                nodes += pairs.pop(name, [])
            nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(nodes)
