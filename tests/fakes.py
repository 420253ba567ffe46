"""Small real things for tests: frames, what a network saw, and tiny graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.models.grouping import group_things
from perception.types import Frame, Panoptic

PERIOD_NS = 33_333_333
SIZE = (90, 160)  # h, w of the masks


def frame(i: int, stamp_ns: int | None = None) -> Frame:
    """Frame i of a 30 fps camera."""
    image = np.full((*SIZE, 3), i % 256, np.uint8)
    return Frame(i, i * PERIOD_NS if stamp_ns is None else stamp_ns, "front", image)


def seen(*boxes: tuple[int, int, int, int, int]) -> Panoptic:
    """Things as boxes (class, x0, y0, x1, y1) on an empty map; later ones cover earlier ones."""
    labels = np.zeros(SIZE, np.uint8)
    for class_id, x0, y0, x1, y1 in boxes:
        labels[y0:y1, x0:x1] = class_id
    return group_things(labels, [2, 3], [0] * 4)


CARD = """
card = 1
kind = "semantic"

[input]
width = 32
height = 16
layout = "{layout}"
colour = "{colour}"

[output]
name = "{output}"
form = "{form}"

[topics]
road = ["road"]
lane = ["road"]
pedestrian = ["person"]

[[classes]]
name = "sky"
[[classes]]
name = "road"
[[classes]]
name = "person"
thing = true
min_area = 1
"""


def tiny_model(
    folder: Path,
    *,
    form: str = "logits",
    layout: str = "NCHW",
    colour: str = "RGB",
    card: str = CARD,
    name: str = "tiny",
) -> Path:
    """A three-class network of one op and its card: logits are the input's channels, so colour decides the class.

    `form` "labels" gives class indices from uint8 bytes instead.
    """
    import onnx
    from onnx import TensorProto, helper

    shape = [1, 3, 16, 32] if layout == "NCHW" else [1, 16, 32, 3]
    axis = 1 if layout == "NCHW" else 3
    if form == "logits":
        source = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
        nodes = [helper.make_node("Identity", ["image"], ["logits"])]
        target = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    else:
        source = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
        nodes = [
            helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ArgMax", ["real"], ["index"], axis=axis, keepdims=0),
            helper.make_node("Cast", ["index"], ["labels"], to=TensorProto.UINT8),
        ]
        target = helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, 16, 32])
    graph = helper.make_graph(nodes, "tiny", [source], [target])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    path.with_suffix(".toml").write_text(card.format(layout=layout, colour=colour, output=form, form=form))
    return path
