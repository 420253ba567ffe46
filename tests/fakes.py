"""Small real things for tests: frames, what a network saw, and tiny graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.models.grouping import group_things
from perception.propagation.carrier import CELL, Carried, Kept
from perception.types import Features, Frame, Panoptic, Segment

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


MASKS = (128, 64)  # width, height of the masks that are carried in tests
LOOKS = 8  # how many looks a spot can have


def picture(i: int, stamp_ns: int | None = None) -> Frame:
    """Frame i of a 30 fps camera whose pictures are as large as the masks that are carried."""
    image = np.full((MASKS[1], MASKS[0], 3), i % 256, np.uint8)
    return Frame(i, i * PERIOD_NS if stamp_ns is None else stamp_ns, "front", image)


def view(*boxes: tuple[int, int, int, int, int], score: float = 0.9) -> Panoptic:
    """Things as boxes (class, x0, y0, x1, y1), each a segment of its own; later ones cover earlier ones."""
    labels = np.zeros(MASKS[::-1], np.uint8)
    id_map = np.zeros(MASKS[::-1], np.uint16)
    for k, (class_id, x0, y0, x1, y1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1], id_map[y0:y1, x0:x1] = class_id, k
    segments, table = [], np.zeros(len(boxes) + 1, np.uint16)
    for k, (class_id, *_) in enumerate(boxes, 1):
        rows, columns = np.nonzero(id_map == k)
        if len(rows):
            box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
            segments.append(Segment(class_id, score, len(rows), box))
            table[k] = len(segments)
    return Panoptic(labels, table[id_map], tuple(segments))


def features(*spots: tuple[int, int, int, int, int]) -> Features:
    """Spots (look, x0, y0, x1, y1) on a ground of look 0: things of one look are alike, of two not at all."""
    width, height = MASKS
    looks = np.zeros((height, width), int)
    for look, x0, y0, x1, y1 in spots:
        looks[y0:y1, x0:x1] = look
    planes = np.eye(LOOKS, dtype=np.float32)[looks].transpose(2, 0, 1)

    def plane(stride: int) -> NDArray[np.float32]:
        return np.zeros((1, height // stride, width // stride), np.float32)

    def averaged(stride: int) -> NDArray[np.float32]:
        shape = (LOOKS, height // stride, stride, width // stride, stride)
        return np.ascontiguousarray(planes.reshape(shape).mean((2, 4)))

    return Features(averaged(16), plane(16), plane(8), averaged(4))


class FakeCarrier:
    """Carries what was kept, moved as a test says, with the presence that it says.

    Its quality falls with the time since the network saw a thing.
    """

    def __init__(self, slots: int = 32) -> None:
        self.slots = slots
        self.cheap_slots = self.slots
        self.move_cells: tuple[int, int] = (0, 0)  # x, y, each frame
        self.presence = np.ones(slots, np.float32)
        self.kept: list[Kept] = []  # the last one
        self.told: list[tuple[str, int]] = []  # what happened to which slot since the last carry
        self.reset()

    def reset(self) -> None:
        self._masks = np.zeros((self.slots, MASKS[1] // CELL, MASKS[0] // CELL), np.float32)
        self._seen_ns = np.zeros(self.slots, np.int64)

    def close(self) -> None:
        """Nothing to release."""

    def carry(self, features: Features, stamp_ns: int) -> Carried:
        self.told = []
        masks = np.zeros_like(self._masks)
        (dx, dy), (h, w) = self.move_cells, masks.shape[1:]
        to = np.s_[:, max(0, dy) : h + min(0, dy), max(0, dx) : w + min(0, dx)]
        masks[to] = self._masks[:, max(0, -dy) : h - max(0, dy), max(0, -dx) : w - max(0, dx)]
        quality = np.exp((self._seen_ns - stamp_ns) / 2e9).astype(np.float32)
        masks *= (self.presence > 0)[:, None, None] / np.maximum(masks.sum(0), 1)
        return Carried(masks, self.presence.copy(), quality)

    def keep(self, kept: Kept) -> None:
        is_shown = kept.masks.any((1, 2)) | ~kept.active
        self._masks[is_shown] = kept.masks[is_shown]  # what is hidden is remembered where it was
        self._seen_ns = kept.seen_ns.copy()
        self.kept = [kept]

    def pin(self, slot: int, mask: NDArray[np.float32], stamp_ns: int) -> None:
        self.told.append(("pin", slot))
        self._masks *= 1 - mask
        self._masks[slot], self._seen_ns[slot] = mask, stamp_ns

    def forget(self, slot: int) -> None:
        self.told.append(("forget", slot))
        self._masks[slot] = 0


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
