"""A semantic network: class map to things.

Things come from connected regions of their class: two people who touch are one segment. A panoptic network does
better; this is what any user's semantic model can give.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from perception.models.graph import Graph
from perception.models.grouping import group_things
from perception.types import Features, Panoptic


class SemanticModel(Graph):
    """A graph of kind `semantic` behind its card."""

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB of any size -> what the network saw, at `mask_size`."""
        outputs = self.run(image)
        with self.time("grouping"):
            seen = group_things(self.labels(outputs), self.things, self.min_areas, self.confidence(outputs))
            return dataclasses.replace(seen, confidence=self.byte_confidence(outputs))

    def features(self, image: NDArray[np.uint8]) -> Features | None:
        """None: a semantic graph is anybody's, and has no outputs that say which thing is which."""
        return None
