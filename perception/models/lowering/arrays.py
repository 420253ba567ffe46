"""Array code that writes an ONNX graph: what reads like numpy here becomes nodes there.

Only operators that TensorRT 8.6 to 11 and OpenVINO take, and no shape that depends on data. Whole numbers are carried
as float32, exact to 2^24, for older TensorRT casts few integer types; only indices of Gather become int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROOM = "lowered"  # first part of the names of what is written around a network
FLOAT, INT64, UINT8, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.BOOL


class Tensor:
    """A tensor of the graph that is being written; operators broadcast as numpy's do."""

    __array_ufunc__ = None  # numpy leaves the operators to this class

    def __init__(self, writer: Writer, name: str) -> None:
        self.writer, self.name = writer, name

    def __add__(self, other: Operand) -> Tensor:
        return self.writer.op("Add", self, other)

    def __sub__(self, other: Operand) -> Tensor:
        return self.writer.op("Sub", self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return self.writer.op("Add", other, self)

    def __rmul__(self, other: Operand) -> Tensor:
        return self.writer.op("Mul", other, self)

    def __rsub__(self, other: Operand) -> Tensor:
        return self.writer.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return self.writer.op("Mul", self, other)

    def __truediv__(self, other: Operand) -> Tensor:
        return self.writer.op("Div", self, other)

    def __gt__(self, other: Operand) -> Tensor:
        return self.writer.op("Greater", self, other)

    def __ge__(self, other: Operand) -> Tensor:
        return self.writer.op("Not", self.writer.op("Less", self, other))

    def __le__(self, other: Operand) -> Tensor:
        return self.writer.op("Not", self.writer.op("Greater", self, other))

    def __and__(self, other: Tensor) -> Tensor:
        return self.writer.op("And", self, other)

    def __invert__(self) -> Tensor:
        return self.writer.op("Not", self)

    def equals(self, other: Operand) -> Tensor:
        return self.writer.op("Equal", self, other)

    def cast(self, dtype: int) -> Tensor:
        return self.writer.op("Cast", self, to=dtype)

    def floor(self) -> Tensor:
        return self.writer.op("Floor", self)

    def rounded(self) -> Tensor:
        """To the nearest whole number, halves up, as OpenCV's fixed-point arithmetic has it; Round's go to even."""
        return (self + 0.5).floor()

    def reshape(self, *shape: int) -> Tensor:
        return self.writer.op("Reshape", self, self.writer.ints(shape))

    def transpose(self, *order: int) -> Tensor:
        return self.writer.op("Transpose", self, perm=order)

    def sum(self, axis: int) -> Tensor:
        """Of float32, keeping the axis."""
        return self.writer.op("ReduceSum", self, self.writer.ints([axis]), keepdims=1)

    def max(self, axis: int) -> Tensor:
        return self.writer.op("ReduceMax", self, axes=[axis], keepdims=1)

    def min(self, axis: int) -> Tensor:
        return self.writer.op("ReduceMin", self, axes=[axis], keepdims=1)

    def take(self, index: Tensor) -> Tensor:
        """Of a flat tensor the elements at a float32 tensor of indices."""
        return self.writer.op("Gather", self, index.cast(INT64), axis=0)

    def slices(self, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
        parts = (self.writer.ints(part) for part in (starts, ends, axes, steps))
        return self.writer.op("Slice", self, *parts)

    def neighbours_max(self, size: int) -> Tensor:
        """(1, c, h, w): the greatest of the window of this odd size; what is outside does not count."""
        pads = [size // 2] * 4
        return self.writer.op("MaxPool", self, kernel_shape=[size, size], strides=[1, 1], pads=pads)

    def cell_mean(self, step: int) -> Tensor:
        """(1, c, h, w) -> (1, c, h / step, w / step)."""
        return self.writer.op("AveragePool", self, kernel_shape=[step, step], strides=[step, step])

    def enlarged(self, step: int) -> Tensor:
        """(1, c, h, w) -> (1, c, h * step, w * step), each cell repeated."""
        scales = self.writer.constant(np.array([1, 1, step, step], np.float32))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.writer.op("Resize", self, "", scales, **how)


Operand = Tensor | float | np.float32 | NDArray


class Writer:
    """Appends nodes to a graph.

    Args:
        graph: what is written to.
        room: first part of the names of all that is written, which no other node may have.
    """

    def __init__(self, graph: onnx.GraphProto, room: str) -> None:
        self.graph, self._room, self._count = graph, room, 0
        self._known: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{self._room}/{what}_{self._count}"

    def tensor(self, name: str) -> Tensor:
        """One that is in the graph already."""
        return Tensor(self, name)

    def op(self, kind: str, *inputs: Operand | str, **attributes: Any) -> Tensor:
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: Operand | str, **attributes: Any) -> list[Tensor]:
        """A node of several outputs; an input that is left out is ""."""
        names = ["" if isinstance(value, str) else self._operand(value).name for value in inputs]
        node = self._name(kind)
        given = [node if outputs == 1 else f"{node}_{i}" for i in range(outputs)]
        self.graph.node.append(helper.make_node(kind, names, given, node, **attributes))
        return [Tensor(self, name) for name in given]

    def where(self, condition: Tensor, one: Operand, other: Operand) -> Tensor:
        return self.op("Where", condition, one, other)

    def _operand(self, value: Operand) -> Tensor:
        return value if isinstance(value, Tensor) else self.constant(np.asarray(value, np.float32))

    def ints(self, values: Sequence[int]) -> Tensor:
        return self.constant(np.array(values, np.int64))

    def constant(self, array: NDArray) -> Tensor:
        """Equal ones are kept once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = self._name("constant")
            self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            self._known[key] = Tensor(self, name)
        return self._known[key]

    def give(self, tensor: Tensor, name: str, dtype: int, shape: Sequence[int]) -> None:
        """Make a tensor an output of the graph.

        What was written last gets the name itself: TensorRT lets bytes come out of a Cast, but of no Identity.
        """
        last = self.graph.node[-1] if self.graph.node else None
        if last is not None and list(last.output) == [tensor.name]:
            last.output[0] = name
        else:
            self.graph.node.append(helper.make_node("Identity", [tensor.name], [name], self._name("give")))
        self.graph.output.append(helper.make_tensor_value_info(name, dtype, list(shape)))
