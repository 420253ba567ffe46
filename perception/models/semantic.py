"""A semantic network: class map to things.

Things come from connected regions of their class: two people who touch are one segment. A panoptic network does
better; this is what any user's semantic model can give.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.models.card import ModelFiles
from perception.models.graph import Graph
from perception.models.grouping import group_things
from perception.protocols import Engine
from perception.stopwatch import Stopwatch
from perception.types import Panoptic


class SemanticModel:
    """A graph of kind `semantic` behind its card.

    Raises:
        ModelError: the graph's inputs or outputs are not what the card says.
    """

    def __init__(self, files: ModelFiles, engine: Engine, stopwatch: Stopwatch | None = None) -> None:
        self.card, self.engine = files.card, engine
        self._graph = Graph(files, engine, stopwatch)
        self._things = sorted(self.card.class_table().thing_ids)
        self._areas = [c.min_area for c in self.card.classes]
        self.mask_size = self._graph.mask_size

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB of any size -> what the network saw, at `mask_size`."""
        outputs = self._graph(image)
        with self._graph.time("grouping"):
            labels, confidence = self._graph.labels(outputs), self._graph.confidence(outputs)
            return group_things(labels, self._things, self._areas, confidence)

    def close(self) -> None:
        self.engine.close()
