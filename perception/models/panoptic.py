"""A panoptic network: class map, centres and offsets to things (Cheng et al. 2020)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.errors import ModelError
from perception.models.card import Grouping, ModelFiles
from perception.models.centres import assign, find_centres
from perception.models.graph import Graph
from perception.models.grouping import REFERENCE_AREA
from perception.models.merging import merge, thing_cells, void_small_stuff
from perception.protocols import Engine
from perception.stopwatch import Stopwatch
from perception.types import Panoptic

# A predicted centre this far from every found one belongs to none of them: its thing's own centre was not found.
REACH_CELLS = 4.0  # plus
REACH_SHARE = 0.5  # of the offset's length: the further the centre, the less exact its prediction


class PanopticModel(Graph):
    """A graph of kind `panoptic` behind its card.

    Raises:
        ModelError: the graph's inputs or outputs are not what the card says.
    """

    def __init__(self, files: ModelFiles, engine: Engine, stopwatch: Stopwatch | None = None) -> None:
        super().__init__(files, engine, stopwatch)
        self._check_grid()

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB of any size -> what the network saw, at `mask_size`, with its keys."""
        outputs, names = self.run(image), self.card.output
        with self.time("grouping"):
            heat = np.asarray(outputs[names.centre][0, 0], np.float32)
            offset = np.asarray(outputs[names.offset][0], np.float32)
            labels, confidence = self.labels(outputs), self.confidence(outputs)
            unit = self.card.input.width / heat.shape[1]
            seen = group_by_centres(
                labels, heat, offset, unit, self.things, self.min_areas, self.card.grouping, confidence
            )
            if not names.keys:
                return seen
            keys = outputs[names.keys][0].astype(np.float32)  # a copy: the engine reuses its buffers
            return Panoptic(seen.labels, seen.id_map, seen.segments, keys)

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
        if names.keys and len(shapes[names.keys]) != 4:
            raise ModelError(f"{self.name}: keys have shape {shapes[names.keys]}; they must be (1, d, h, w)")


def group_by_centres(
    labels: NDArray[np.uint8],
    heat: NDArray[np.float32],
    offset: NDArray[np.float32],
    unit: float,
    things: list[int],
    min_areas: list[int],
    grouping: Grouping,
    confidence: NDArray | None = None,
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
    """
    if grouping.stuff_area:
        void_small_stuff(labels, things, round(grouping.stuff_area * labels.size / REFERENCE_AREA))
    cells = thing_cells(labels, things, heat.shape)
    centres = find_centres(heat, grouping.threshold, grouping.kernel, grouping.most)
    instances = np.zeros(heat.shape, np.uint16)
    if cells and len(centres.heat):
        is_thing = np.zeros(heat.shape, bool)
        for c in cells:
            is_thing[c.window] |= c.pixels > 0
        at = np.flatnonzero(is_thing)
        nearest, distance = assign(centres, offset, at, unit)
        reach = REACH_CELLS * unit + REACH_SHARE * np.hypot(*offset.reshape(2, -1)[:, at])
        instances.reshape(-1)[at] = np.where(distance <= reach, nearest + 1, 0)
    scores = np.append(np.float32(grouping.threshold), centres.heat)
    return merge(labels, cells, instances, scores, min_areas, confidence)
