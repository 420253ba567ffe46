"""Post-training quantisation: int8 weights and activations as explicit Q/DQ, calibrated on real frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from perception.images import load_image
from perception.models.graph import scaled
from perception.models.lowering.quantised import FLOAT_PARTS
from perception.training.pictures import evenly_spaced

MOST_PICTURES = 100


class Pictures(CalibrationDataReader):
    """Evenly spaced pictures of some folders, as the graph wants them. Raises ConfigError where there are none."""

    def __init__(self, folders: Sequence[Path], width: int, height: int) -> None:
        self._paths, self._size = iter(evenly_spaced(folders, MOST_PICTURES, "calibrate")), (width, height)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:  # type: ignore[override]  # the stub has no type
        """Raises SourceError for a file that is no picture."""
        path = next(self._paths, None)
        return None if path is None else {"image": scaled(load_image(path), *self._size)[None]}


def quantise(graph: Path, out: Path, calibration: Sequence[Path]) -> None:
    """Write `graph` to `out` with its convolutions in int8, except those that accuracy needs in float."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        _, height, width, _ = (d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
        kept = [n.name for n in model.graph.node if any(part in n.name for part in FLOAT_PARTS)]
        quantize_static(
            str(prepared),
            str(out),
            Pictures(calibration, width, height),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Add", "Concat"],
            nodes_to_exclude=kept,
        )
        whole = onnx.load(str(out))
        give_unrounded(whole)
        onnx.save(whole, str(out))


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
