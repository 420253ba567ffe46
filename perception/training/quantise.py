"""Post-training quantisation on real frames: int8 as explicit Q/DQ, and weights that bfloat16 holds exactly."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from perception.images import load_image
from perception.models.graph import scaled
from perception.models.lowering.precision import drop_unused
from perception.models.lowering.quantised import stays_float
from perception.models.rounding import ENOUGH_FOR_MEANS, Rounding, round_weights, to_bfloat16, to_int8
from perception.training.pictures import evenly_spaced

MOST_PICTURES = 100
ACTIVATIONS = ("Relu", "Clip")  # part of the rounding before them, whose range begins at 0: one operation less a layer


class Pictures(CalibrationDataReader):
    """Evenly spaced pictures of some folders, as the graph wants them. Raises ConfigError where there are none."""

    def __init__(self, folders: Sequence[Path], width: int, height: int, most: int = MOST_PICTURES) -> None:
        self._paths, self._size = iter(evenly_spaced(folders, most, "calibrate")), (width, height)

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        """Those that are left, (1, h, w, 3) each. Raises SourceError for a file that is no picture."""
        return (scaled(load_image(path), *self._size)[None] for path in self._paths)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:  # type: ignore[override]  # the stub has no type
        """As a calibration wants it. Raises SourceError for a file that is no picture."""
        picture = next(self.pictures(), None)
        return None if picture is None else {"image": picture}


def for_bfloat16(graph: Path, out: Path, calibration: Sequence[Path]) -> None:
    """Write `graph` to `out` such that an engine that computes in bfloat16 finds nothing left to round in it."""
    pictures = Pictures(calibration, *picture_size(graph), ENOUGH_FOR_MEANS)
    round_weights(graph, out, pictures.pictures(), lambda _: to_bfloat16)


def quantise(graph: Path, out: Path, calibration: Sequence[Path]) -> None:
    """Write `graph` to `out` with its convolutions in int8, except those that accuracy needs in float."""
    with tempfile.TemporaryDirectory() as folder:
        prepared, rounded = Path(folder) / "prepared.onnx", Path(folder) / "rounded.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        size = picture_size(prepared)
        pictures = Pictures(calibration, *size, ENOUGH_FOR_MEANS)
        round_weights(prepared, rounded, pictures.pictures(), grid_of)
        quantize_static(
            str(rounded),
            str(out),
            Pictures(calibration, *size),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Add", "Concat", *ACTIVATIONS],
            nodes_to_exclude=[node.name for node in onnx.load(str(rounded)).graph.node if stays_float(node.name)],
        )
        whole = onnx.load(str(out))
        read_unrounded(whole)
        give_unrounded(whole)
        onnx.save(whole, str(out))


def picture_size(graph: Path) -> tuple[int, int]:
    """Width and height of the picture that a graph takes [px]."""
    _, height, width, _ = (d.dim_value for d in onnx.load(str(graph)).graph.input[0].type.tensor_type.shape.dim)
    return width, height


def grid_of(node: str) -> Rounding:
    """What the weights of the node of this name are rounded to."""
    return to_bfloat16 if stays_float(node) else to_int8


def read_unrounded(model: onnx.ModelProto) -> None:
    """Let layers that stay in float read what float layers give them, and not its 256 steps, in place.

    What an int8 convolution gives stays rounded for all: ONNX Runtime computes it in int8 only where nobody reads it
    otherwise.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in (n for n in model.graph.node if stays_float(n.name)):
        for i, name in enumerate(node.input):
            pair = made_by.get(name)
            rounded = made_by.get(pair.input[0]) if pair and pair.op_type == "DequantizeLinear" else None
            maker = made_by.get(rounded.input[0]) if rounded else None  # None for a weight
            if rounded and maker and (maker.op_type != "Conv" or stays_float(maker.name)):
                node.input[i] = rounded.input[0]
    drop_unused(model.graph)


def give_unrounded(model: onnx.ModelProto) -> None:
    """Make outputs that would be rounded to 256 steps, as the next layer reads them, what they were before.

    It costs nothing, and OpenVINO 2026.4 does not load a graph whose output is an int8 layer's input.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    renamed: dict[str, str] = {}
    for name in (output.name for output in model.graph.output):
        if made_by[name].op_type == "DequantizeLinear":
            exact = made_by[made_by[name].input[0]].input[0]
            renamed |= {name: f"{name}_DequantizeLinear_Output", exact: name}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
