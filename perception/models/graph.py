"""A graph behind its card: an image goes in as the graph wants it, class indices come out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from perception.errors import ModelError
from perception.models.card import Card, ModelFiles
from perception.opencv import cv2
from perception.protocols import Engine, TensorSpec
from perception.stopwatch import Stopwatch

DTYPES = ("uint8", "float32")


class Graph:
    """What the models of all kinds share: preparing the image, running the engine, reading the class map.

    Raises:
        ModelError: the graph's inputs or outputs are not what the card says.
    """

    def __init__(self, files: ModelFiles, engine: Engine, stopwatch: Stopwatch | None = None) -> None:
        self.name, self.card, self.engine = files.graph.name, files.card, engine
        self.time = stopwatch or Stopwatch()
        self._input = check_input(self.name, self.card, engine)
        self._output = check_output(self.name, self.card, engine)
        self._table = None if self._input.dtype == "uint8" else normalisation(self.card)
        blank = np.zeros((self.card.input.height, self.card.input.width, 3), np.uint8)
        outputs = engine({self._input.name: self._prepare(blank)})  # also warms the engine up
        self.shapes = {name: array.shape for name, array in outputs.items()}  # whole, where the graph leaves them open
        height, width = self.labels(outputs).shape
        self.mask_size = (width, height)
        self.things = sorted(self.card.class_table().thing_ids)
        self.min_areas = [c.min_area for c in self.card.classes]

    def close(self) -> None:
        self.engine.close()

    def run(self, image: NDArray[np.uint8]) -> dict[str, NDArray]:
        """(h, w, 3) RGB of any size -> the graph's outputs, valid until the next call."""
        with self.time("resize"):
            tensor = self._prepare(image)
        with self.time("network"):
            return self.engine({self._input.name: tensor})

    def labels(self, outputs: Mapping[str, NDArray]) -> NDArray[np.uint8]:
        """(h, w) class indices, a copy: the engine reuses its buffers."""
        raw = outputs[self._output.name]
        if self.card.output.form == "logits":
            return raw[0].argmax(0).astype(np.uint8)
        plane = raw.reshape(raw.shape[-2:]) if raw.shape[-1] != 1 else raw.reshape(raw.shape[-3:-1])
        return plane.astype(np.uint8)

    def confidence(self, outputs: Mapping[str, NDArray]) -> NDArray | None:
        """(h', w') probability of the winning class, where the graph gives it."""
        confidence = outputs.get(self.card.output.confidence)
        return None if confidence is None else confidence.reshape(confidence.shape[-2:])

    def byte_confidence(self, outputs: Mapping[str, NDArray]) -> NDArray[np.uint8] | None:
        """(h', w') the same times 255, a copy."""
        confidence = self.confidence(outputs)
        if confidence is None or confidence.dtype == np.uint8:
            return None if confidence is None else confidence.copy()
        return (255 * confidence.astype(np.float32)).clip(0, 255).astype(np.uint8)

    def _prepare(self, image: NDArray[np.uint8]) -> NDArray:
        wanted = self.card.input
        image = scaled(image, wanted.width, wanted.height)
        if wanted.colour == "BGR":
            image = image[..., ::-1]
        tensor = image if self._table is None else cv2.LUT(np.ascontiguousarray(image), self._table)
        if wanted.layout == "NCHW":
            tensor = tensor.transpose(2, 0, 1)
        return np.ascontiguousarray(tensor)[None]


def scaled(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """(h, w, 3) -> (height, width, 3), as every graph gets its image.

    Bilinear taps are two pixels wide, which is enough until about 2.5; area averaging is four times as slow.
    """
    if image.shape[1::-1] == (width, height):
        return image
    method = cv2.INTER_AREA if shrinks_much(image.shape[1::-1], (width, height)) else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method).astype(np.uint8, copy=False)


def shrinks_much(size: tuple[int, ...], wanted: tuple[int, int]) -> bool:
    """Whether an image of width and height `size` is averaged over areas to become one of `wanted`."""
    return size[0] >= 2.5 * wanted[0] and size[1] >= 2.5 * wanted[1]


def normalisation(card: Card) -> NDArray[np.float32]:
    """(1, 256, 3) table of what each pixel value becomes per channel, for `cv2.LUT`."""
    value = np.arange(256, dtype=np.float64)[:, None] * card.input.scale
    return ((value - np.array(card.input.mean)) / np.array(card.input.std)).astype(np.float32)[None]


def check_input(graph: str, card: Card, engine: Engine) -> TensorSpec:
    """The graph's one input, which must be the card's."""
    names = ", ".join(spec.name for spec in engine.inputs)
    if len(engine.inputs) != 1 or engine.inputs[0].name != card.input.name:
        raise ModelError(f"{graph}: inputs are {names}; the card says input.name = {card.input.name!r}")
    spec = engine.inputs[0]
    h, w = card.input.height, card.input.width
    wanted = (1, 3, h, w) if card.input.layout == "NCHW" else (1, h, w, 3)
    fits = len(spec.shape) == 4 and all(s in (None, t) for s, t in zip(spec.shape, wanted, strict=True))
    if not fits:
        shape = tuple(s if s is not None else "?" for s in spec.shape)
        raise ModelError(f"{graph}: input {spec.name} has shape {shape}; the card says {wanted} ({card.input.layout})")
    if spec.dtype not in DTYPES:
        raise ModelError(f"{graph}: input {spec.name} is {spec.dtype}; it must be uint8 or float32")
    return spec


def check_names(graph: str, named: Iterable[str], engine: Engine) -> None:
    """Raises ModelError where a graph has no output that the card names; those not named are ""."""
    has = [spec.name for spec in engine.outputs]
    for name in filter(None, named):
        if name not in has:
            raise ModelError(f"{graph}: no output {name!r}; it has {', '.join(has)}")


def check_output(graph: str, card: Card, engine: Engine) -> TensorSpec:
    """The graph's output of classes, which must have as many channels as the card has classes."""
    by_name = {spec.name: spec for spec in engine.outputs}
    check_names(graph, (card.output.name, card.output.confidence, *card.output.instance_names().values()), engine)
    spec = by_name[card.output.name]
    if card.output.form == "logits":
        channels = spec.shape[1] if len(spec.shape) == 4 else 0
        if channels not in (None, len(card.classes)):
            raise ModelError(f"{graph}: output {spec.name} has {channels} classes; the card lists {len(card.classes)}")
    elif spec.dtype not in ("uint8", "int32", "int64"):
        raise ModelError(f"{graph}: output {spec.name} is {spec.dtype}; labels must be whole numbers")
    return spec
