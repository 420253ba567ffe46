"""A panoptic network: class map, centres and offsets to things (Cheng et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from perception.errors import ModelError
from perception.models.card import Card, Grouping, ModelFiles
from perception.models.centres import Centres, assign, find_centres
from perception.models.graph import Graph, check_input, check_names
from perception.models.merging import ClassCells, Evidence, merge, thing_cells
from perception.models.small_stuff import settle_small_stuff
from perception.protocols import Engine
from perception.stopwatch import Stopwatch
from perception.types import Features, Panoptic

# A predicted centre this far from every found one belongs to none of them: its thing's own centre was not found.
REACH_CELLS = 4.0  # plus
REACH_SHARE = 0.5  # of the offset's length: the further the centre, the less exact its prediction
STRIDES = {"keys": 16, "context": 16, "fine8": 8, "fine4": 4}  # of the features [mask px]


class PanopticModel(Graph):
    """A graph of kind `panoptic` behind its card.

    Attributes:
        wants_features: fill `Panoptic.features`; off until a propagator needs them, for they are megabytes to copy.

    Raises:
        ModelError: the graph's inputs or outputs are not what the card says.
    """

    def __init__(self, files: ModelFiles, engine: Engine, stopwatch: Stopwatch | None = None) -> None:
        super().__init__(files, engine, stopwatch)
        self.kept = self.card.kept_stuff()
        self.wants_features = False
        self._encoder: Engine | None = None
        self._check_grid()
        check_features(self.name, self.card, self.shapes, self.mask_size)

    @property
    def has_encoder(self) -> bool:
        """`open_encoder` was called."""
        return self._encoder is not None

    def open_encoder(self, engine: Engine) -> None:
        """Let `features` run the card's encoder on this engine, which is closed with the model; warms it up.

        Raises:
            ModelError: the graph's input or outputs are not what the card says.
        """
        self._encoder = engine
        name = self.card.encoder.graph if self.card.encoder else self.name
        check_input(name, self.card, engine)
        check_names(name, self.card.output.feature_names().values(), engine)
        blank = np.zeros((self.card.input.height, self.card.input.width, 3), np.uint8)
        outputs = engine({self.card.input.name: self._prepare(blank)})
        check_features(name, self.card, {key: array.shape for key, array in outputs.items()}, self.mask_size)

    def close(self) -> None:
        super().close()
        if self._encoder:
            self._encoder.close()

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB of any size -> what the network saw, at `mask_size`; with `features` where they are wanted."""
        outputs, names = self.run(image), self.card.output
        with self.time("grouping"):
            heat = np.asarray(outputs[names.centre][0, 0], np.float32)
            offset = np.asarray(outputs[names.offset][0], np.float32)
            labels, confidence = self.labels(outputs), self.confidence(outputs)
            unit = self.card.input.width / heat.shape[1]
            seen = group_by_centres(
                labels,
                heat,
                offset,
                unit,
                self.things,
                self.min_areas,
                self.card.grouping,
                confidence,
                self.kept,
            )
            seen = dataclasses.replace(seen, confidence=self.byte_confidence(outputs))
        return dataclasses.replace(seen, features=self._features(outputs)) if self.wants_features else seen

    def features(self, image: NDArray[np.uint8]) -> Features | None:
        """What the encoder alone makes of an image; None until `open_encoder`."""
        if self._encoder is None:
            return None
        with self.time("resize"):
            tensor = self._prepare(image)
        with self.time("encoder"):
            outputs = self._encoder({self.card.input.name: tensor})
        return self._features(outputs)

    def _features(self, outputs: Mapping[str, NDArray]) -> Features | None:
        """Copies, since the engine reuses its buffers; None where the card names no features."""
        names = self.card.output.feature_names()
        if not names:
            return None
        with self.time("features"):
            return Features(**{key: np.array(outputs[name][0], np.float32) for key, name in names.items()})

    def _check_grid(self) -> None:
        """Centres and offsets lie on one grid, and the class map is a whole multiple of it."""
        names, shapes = self.card.output, self.shapes
        centre, offset = shapes[names.centre], shapes[names.offset]
        if len(centre) != 4 or centre[1] != 1 or offset != (centre[0], 2, *centre[2:]):
            raise ModelError(
                f"{self.name}: centre is {centre}, offset {offset}; they must be (1, 1, h, w) and (1, 2, h, w)"
            )
        width, height = self.mask_size
        steps = (height / centre[2], width / centre[3])
        if steps[0] != steps[1] or steps[0] % 1:
            raise ModelError(
                f"{self.name}: a class map of {width}x{height} on centres of {centre[3]}x{centre[2]}; "
                "width and height must be the same whole multiple of theirs"
            )


def check_features(graph: str, card: Card, shapes: Mapping[str, tuple[int, ...]], mask_size: tuple[int, int]) -> None:
    """Raises ModelError where a feature does not lie over the mask at its stride."""
    width, height = mask_size
    for key, name in card.output.feature_names().items():
        shape, cells = shapes[name], (height // STRIDES[key], width // STRIDES[key])
        if len(shape) != 4 or shape[0] != 1 or shape[2:] != cells:
            raise ModelError(
                f"{graph}: {key} is {shape}; "
                f"on a class map of {width}x{height} it must be (1, c, {cells[0]}, {cells[1]})"
            )


def group_by_centres(
    labels: NDArray[np.uint8],
    heat: NDArray[np.float32],
    offset: NDArray[np.float32],
    unit: float,
    things: list[int],
    min_areas: list[int],
    grouping: Grouping,
    confidence: NDArray | None = None,
    kept: Sequence[int] = (),
) -> Panoptic:
    """The steps of the paper on the grid of `heat`, then segments at the size of `labels`, which is changed.

    A thing pixel whose predicted centre is not near any found centre is grouped by connection with others of its
    class, so that nothing is lost, or joined to what is elsewhere, because one centre was missed.

    Args:
        labels: (H, W) class indices; H and W are the same multiple of h and w.
        heat: (h, w).
        offset: (2, h, w), (dy, dx) to the centre [px].
        unit: size of a cell [px], in which offsets are given.
        things: class indices that are countable.
        min_areas: by class index, smallest segment at 640x360 [px].
        grouping: the card's.
        confidence: (h', w') probability of the winning class as uint8 or float; None counts as 1.
        kept: class indices of stuff that stays however small.
    """
    if grouping.stuff_area:
        settle_small_stuff(labels, things, kept, grouping)
    cells = thing_cells(labels, things, heat.shape)
    centres = find_centres(heat, grouping.threshold, grouping.kernel, grouping.most)
    instances, stray = _votes(cells, centres, offset, unit)
    heats = np.clip(np.append(np.float32(grouping.threshold), centres.heat), 0, 1) ** np.float32(grouping.heat_power)
    weight = grouping.vote_weight(labels.shape[0] / (heat.shape[0] * unit))
    return merge(labels, cells, instances, Evidence(heats, stray * np.float32(weight), confidence), min_areas)


def _votes(
    cells: Sequence[ClassCells], centres: Centres, offset: NDArray[np.float32], unit: float
) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Of each cell with a thing in it, on the grid: the instance from 1, and how far its vote is from that centre [px].

    Instance 0 is no centre within reach; such a vote strays by as much as it may.
    """
    instances, stray = np.zeros(offset.shape[1:], np.uint16), np.zeros(offset.shape[1:], np.float32)
    is_thing = np.zeros(offset.shape[1:], bool)
    for c in cells:
        is_thing[c.window] |= c.pixels > 0
    at = np.flatnonzero(is_thing)
    reach = REACH_CELLS * unit + REACH_SHARE * np.hypot(*offset.reshape(2, -1)[:, at])
    stray.reshape(-1)[at] = reach
    if len(at) and len(centres.heat):
        nearest, distance = assign(centres, offset, at, unit)
        instances.reshape(-1)[at] = np.where(distance <= reach, nearest + 1, 0)
        stray.reshape(-1)[at] = np.minimum(distance, reach)
    return instances, stray
