"""What of a call in flight is kept, to be held against the reference in the background."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from perception.propagation.carrier import Carried
from perception.serving.comparison import ENCODERS, Comparison
from perception.serving.rungs import Opened
from perception.types import Features, Panoptic

Sample = Callable[[Opened, Comparison], None]
"""Has the reference say the same thing, and adds both answers to a comparison. Raises ModelError."""

LEAST_CONTRAST = 4.0  # standard deviation of [0, 255]; of less, rounding decides what an engine takes for what
STEP = 4  # px between those that are looked at for that

KINDS: tuple[str, ...] = ("network", "encoder", "carry")  # of calls


def seeing(image: NDArray[np.uint8], seen: Panoptic) -> Sample:
    """What the network saw in an image (h, w, 3)."""

    def add(reference: Opened, comparison: Comparison) -> None:
        shows = float(image[::STEP, ::STEP].std()) >= LEAST_CONTRAST
        comparison.add(reference.model(image), seen, shows)

    return add


def encoding(image: NDArray[np.uint8], features: Features) -> Sample:
    """What the encoder alone made of an image (h, w, 3)."""

    def add(reference: Opened, comparison: Comparison) -> None:
        if wanted := reference.model.features(image):
            comparison.feel(wanted, features, ENCODERS)

    return add


def carrying(given: Mapping[str, NDArray], said: Mapping[str, NDArray]) -> Sample:
    """One step of the propagator: all that it was given, the state too, and what it said."""

    def add(reference: Opened, comparison: Comparison) -> None:
        if reference.carrier:
            comparison.carry(_carried(reference.carrier(given)), _carried(said), given["active"][0] > 0)

    return add


def _carried(outputs: Mapping[str, NDArray]) -> Carried:
    return Carried(outputs["probabilities"][0, 1:], outputs["presence"][0], outputs["quality"][0])
