"""Pictures of what the masks say: classes coloured over the camera's image, things outlined with their ids."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.labels import COLOURS, ClassTable, spread_colour
from perception.opencv import cv2
from perception.types import Scene
from perception.wire import Kind, Message

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

_OPACITY = 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_WHITE = (255, 255, 255)
_MOST_THINGS = 200  # that are outlined
_DASH_PX = 7
_PAINT_ORDER = (Kind.LABELS, Kind.BITS, Kind.POSITIONS)


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of an id map, as it is to be named in a picture."""

    track_id: int
    class_name: str
    box_xyxy: tuple[int, int, int, int]  # half open [mask px]
    score: float | None = None  # [0, 1]; None: not told
    observed: bool = True  # the network saw it in this very frame; else its outline is broken

    @property
    def label(self) -> str:
        score = "" if self.score is None else f" {self.score:.2f}"
        return f"#{self.track_id} {self.class_name}{score}"


@dataclass(slots=True)
class Layer:
    """What is painted over an image, at the masks' size."""

    colours: Image  # (h, w, 3) RGB
    painted: NDArray[np.bool_]  # (h, w)
    id_map: NDArray[np.uint16]  # (h, w) 0 = nothing, k = things[k - 1]
    things: tuple[Thing, ...] = ()


def colour_of(name: str) -> Colour:
    """RGB of a class or topic by its name: the customary one, or always the same other one."""
    return COLOURS[name] if name in COLOURS else spread_colour(zlib.crc32(name.encode()) % 997)


def empty_layer(width: int, height: int) -> Layer:
    shape = (height, width)
    return Layer(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.bool_), np.zeros(shape, np.uint16))


def draw_scene(image: Image | None, scene: Scene, classes: ClassTable, note: str = "") -> Image:
    """The scene over the camera's (H, W, 3) RGB image, or over black: a new image of the same size."""
    layer = empty_layer(scene.labels.shape[1], scene.labels.shape[0])
    _paint_labels(layer, scene.labels, [classes.colour(i) for i in range(len(classes.names))])
    layer.id_map = scene.id_map
    layer.things = tuple(Thing(t.track_id, classes.names[t.class_id], t.box_xyxy) for t in scene.tracks)
    return draw(image, layer, note or scene.reason)


def draw_messages(image: Image | None, messages: Sequence[Message], note: str = "") -> Image | None:
    """The masks of one frame's messages over its image, or over black; None where no message has a mask.

    Raises WireError for a broken payload.
    """
    masks = [m for kind in _PAINT_ORDER for m in messages if m.kind is kind]
    if not masks:
        return None
    layer = empty_layer(masks[0].width, masks[0].height)
    for message in masks:
        if (message.width, message.height) == (masks[0].width, masks[0].height):
            _paint_message(layer, message)
    return draw(image, layer, note)


def draw(image: Image | None, layer: Layer, note: str = "") -> Image:
    """A layer over an (H, W, 3) RGB image of any size, or over black of the layer's size: a new image."""
    canvas = np.zeros_like(layer.colours) if image is None else image.copy()
    size = (canvas.shape[1], canvas.shape[0])
    colours = cv2.resize(layer.colours, size, interpolation=cv2.INTER_NEAREST)
    painted = cv2.resize(layer.painted.view(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
    mixed = cv2.addWeighted(canvas, 1 - _OPACITY, colours, _OPACITY, 0) if image is not None else colours
    canvas[painted] = mixed[painted]
    _draw_things(canvas, layer)
    if note:
        write_text(canvas, note, (4, 4), (0, 0, 0))
    return canvas


def _paint_labels(layer: Layer, labels: NDArray[np.uint8], colours: Sequence[Colour]) -> None:
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = np.array(colours, np.uint8).reshape(-1, 3)
    known = labels < len(colours)
    layer.colours[known] = table[labels[known]]
    layer.painted |= known


def _paint_message(layer: Layer, message: Message) -> None:
    mask = message.mask()
    if message.kind is Kind.LABELS:
        _paint_labels(layer, mask, [colour_of(name) for name in message.header.classes])
    elif message.kind is Kind.BITS:
        layer.colours[mask] = colour_of(message.topic.partition("/")[2])
        layer.painted |= mask
    else:
        rows = message.header.tracks
        table = np.array([(0, 0, 0), *(colour_of(row.class_name) for row in rows)], np.uint8)
        layer.colours[mask > 0] = table[mask[mask > 0]]
        layer.painted |= mask > 0
        shown = {thing.track_id for thing in layer.things}
        new = [row for row in rows if row.id not in shown]
        layer.things += tuple(Thing(row.id, row.class_name, row.box, row.score, row.observed) for row in new)
        places = {thing.track_id: k for k, thing in enumerate(layer.things, start=1)}
        renumber = np.array([0, *(places[row.id] for row in rows)], np.uint16)
        layer.id_map = np.where(mask > 0, renumber[mask], layer.id_map)


def _draw_things(canvas: Image, layer: Layer) -> None:
    """Outlines in each track's own colour, then the names, so that no outline crosses a name."""
    height, width = layer.id_map.shape
    scale = (canvas.shape[1] / width, canvas.shape[0] / height)
    names = []
    for k in np.unique(layer.id_map)[:_MOST_THINGS]:
        if not 0 < k <= len(layer.things):
            continue
        thing = layer.things[k - 1]
        colour = spread_colour(thing.track_id)
        shape = cv2.resize((layer.id_map == k).astype(np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        outlines = cv2.findContours(shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        lines = outlines if thing.observed else [dash for outline in outlines for dash in dashes(outline)]
        cv2.polylines(canvas, lines, thing.observed, colour, max(1, canvas.shape[1] // 500), cv2.LINE_AA)
        corner = (round(thing.box_xyxy[0] * scale[0]), round(thing.box_xyxy[1] * scale[1]))
        names.append((thing.label, corner, colour))
    for text, corner, colour in names:
        write_text(canvas, text, (corner[0], corner[1] - 4), colour, above=True)


def dashes(outline: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """Every second piece of a line whose (n, 1, 2) points are one pixel apart."""
    return [outline[i : i + _DASH_PX] for i in range(0, len(outline), 2 * _DASH_PX)]


def write_text(canvas: Image, text: str, corner: tuple[int, int], back: Colour, above: bool = False) -> None:
    """Text on a plate, moved so that it stays inside the picture."""
    size = max(0.35, canvas.shape[1] / 2400)
    plain = text.encode("ascii", "replace").decode()[:80]
    (width, height), below = cv2.getTextSize(plain, _FONT, size, 1)
    x = max(0, min(corner[0], canvas.shape[1] - width - 4))
    y = corner[1] - height - below if above else corner[1]
    y = max(0, min(y, canvas.shape[0] - height - below - 4))
    cv2.rectangle(canvas, (x, y), (x + width + 4, y + height + below + 2), back, -1)
    bright = back[0] * 0.3 + back[1] * 0.59 + back[2] * 0.11 > 140
    cv2.putText(canvas, plain, (x + 2, y + height + 1), _FONT, size, (0, 0, 0) if bright else _WHITE, 1, cv2.LINE_AA)
