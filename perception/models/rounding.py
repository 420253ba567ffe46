"""Weights on the grid that an engine would round them to anyway, and biases that make up for the rounding.

Rounding a folded MobileNetV2's weights to bfloat16 moves the means of its channels, which costs more than all else that
bfloat16 rounds (docs/models.md). The shift can be measured, and a bias takes it back (Nagel et al. 2019, section 4.2,
with measured means).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from perception.engines import open_engine
from perception.models.lowering.precision import drop_unused

Weights = NDArray[np.float32]  # (out, in / groups, kh, kw)
Rounding = Callable[[Weights], Weights]
GREATEST_FLOAT8 = 448.0  # finite, of E4M3
LEAST = 1e-6  # of a range: a tensor of zeros gets a step, too
ENOUGH_FOR_MEANS = 16  # pictures


def to_bfloat16(weights: Weights) -> Weights:
    """The nearest values whose lower 16 bits are 0, as float32; ties to even."""
    bits = np.ascontiguousarray(weights, np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + (bits >> 16 & 1)
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32)


def to_int8(weights: Weights) -> Weights:
    """The nearest of 255 even steps up to each output channel's largest weight, as symmetric int8 has them."""
    step = np.abs(weights).max((1, 2, 3), keepdims=True) / 127
    return (np.round(weights / np.where(step, step, 1)) * step).astype(np.float32)


def to_float8(weights: Weights) -> Weights:
    """The nearest numbers of FP8 E4M3 (Micikevicius et al. 2022), of which the largest weight is made the largest."""
    step = np.float32(max(float(np.abs(weights).max()), LEAST) / GREATEST_FLOAT8)
    return (weights / step).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * step


def round_weights(
    graph: Path, out: Path, pictures: Iterable[NDArray[np.uint8]], rounding: Callable[[str], Rounding | None]
) -> None:
    """Write `graph` to `out` with the weights of its convolutions rounded and their biases corrected.

    Args:
        pictures: (1, h, w, 3) what the graph is given; a dozen is enough.
        rounding: by a node's name, what is done to its weights; None: nothing.
    """
    model = onnx.load(str(graph))
    round_convolutions(model, pictures, rounding)
    onnx.save(model, str(out))


def round_convolutions(
    model: onnx.ModelProto, pictures: Iterable[NDArray[np.uint8]], rounding: Callable[[str], Rounding | None]
) -> None:
    """The same in place."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in constants]
    convolutions = [(node, how) for node in found if (how := rounding(node.name))]
    if not convolutions:
        return
    means = input_means(model, [node for node, _ in convolutions], pictures)
    for node, how in convolutions:
        exact = constants[node.input[1]]
        rounded = how(exact)
        bias = _shift(exact - rounded, means[node.input[0]])
        if len(node.input) > 2:
            bias = bias + constants[node.input[2]]
        _replace(model, node, rounded, bias)
    drop_unused(model.graph)


def input_means(
    model: onnx.ModelProto, convolutions: Iterable[onnx.NodeProto], pictures: Iterable[NDArray[np.uint8]]
) -> dict[str, NDArray[np.float64]]:
    """(channels,) mean of each convolution's input over all pixels of the pictures, by the input's name."""
    names = sorted({node.input[0] for node in convolutions})
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    means = {name: f"{name}/mean" for name in names}
    nodes = (onnx.helper.make_node("GlobalAveragePool", [name], [mean]) for name, mean in means.items())
    probed.graph.node.extend(nodes)
    seen = [{key: value.copy() for key, value in v.items()} for v in values_of(probed, means.values(), pictures)]
    return {name: np.mean([found[mean] for found in seen], 0).reshape(-1) for name, mean in means.items()}


def values_of(
    model: onnx.ModelProto, tensors: Iterable[str], pictures: Iterable[NDArray[np.uint8]]
) -> Iterator[dict[str, NDArray]]:
    """What the named tensors of a graph of one input are for each picture; valid until the next."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wider.onnx"
        onnx.save(wider, str(path))
        engine = open_engine(path, "onnxruntime")
        (given,) = (spec.name for spec in engine.inputs)
        for picture in pictures:
            yield engine({given: picture})
        engine.close()


def _shift(lost: Weights, mean: NDArray[np.float64]) -> Weights:
    """(out,) what the outputs lose on average: the lost weights times the mean of the channels that they meet."""
    inputs = mean.reshape(-1, 1, lost.shape[1])  # (groups, 1, in / groups)
    per_group = lost.sum((2, 3)).reshape(len(inputs), -1, lost.shape[1])  # (groups, out / groups, in / groups)
    return (per_group * inputs).sum(2).reshape(-1).astype(np.float32)


def _replace(model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights, bias: Weights) -> None:
    """Give a node weights and a bias of its own, since several may share theirs."""
    taken = {tensor.name for tensor in model.graph.initializer}  # by an earlier rounding, too
    names = [_free(f"{node.output[0]}/{part}", taken) for part in ("weights", "bias")]
    model.graph.initializer.extend(map(numpy_helper.from_array, (weights, bias.astype(np.float32)), names))
    node.input[1:] = names


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "+"
    return name
