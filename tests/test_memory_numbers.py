"""What is no number never stays in the memory: not from an engine, and not from features. No GPU was used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.engines import open_engine
from perception.errors import ModelError
from perception.propagation.memory import MemoryCarrier
from perception.types import Features
from tests.memory_walk import GRAPH, NS, features, kept, walk


class Ailing:
    """The shipped memory, that gives NaN where it is told to."""

    name = "ailing"

    def __init__(self) -> None:
        self._engine = open_engine(GRAPH, "onnxruntime", 1)
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs
        self.spoilt: tuple[str, ...] = ()  # outputs of the next call

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        out = self._engine(arrays)
        spoilt, self.spoilt = self.spoilt, ()
        return {name: np.full_like(value, np.nan) if name in spoilt else value for name, value in out.items()}

    def close(self) -> None: ...


FRAMES = range(5, 10)


def carried(carrier: MemoryCarrier) -> list[NDArray]:
    """Masks of the frames, each of which all that is told of is numbers."""
    found = []
    for i in FRAMES:
        told = carrier.carry(features(i), i * NS)
        assert all(np.isfinite(a).all() for a in (told.masks, told.presence, told.quality))
        found.append(told.masks.copy())
        carrier.keep(kept(i, 5))
    return found


@pytest.fixture
def carrier() -> MemoryCarrier:
    """Five boxes have been kept twice."""
    carrier = MemoryCarrier(Ailing())
    walk(carrier, range(2))
    return carrier


@pytest.fixture(scope="module")
def healthy() -> list[NDArray]:
    carrier = MemoryCarrier(open_engine(GRAPH, "onnxruntime", 1))
    walk(carrier, range(2))
    return carried(carrier)


@pytest.mark.parametrize(
    "spoilt", [("probabilities",), ("presence",), ("quality",), ("next_keys",), ("next_values", "next_pointers")]
)
def test_the_memory_begins_anew_after_what_is_no_number(
    carrier: MemoryCarrier, healthy: list[NDArray], spoilt: tuple[str, ...]
) -> None:
    carrier.engine.spoilt = spoilt  # type: ignore[attr-defined]
    told = carried(carrier)
    np.testing.assert_allclose(told[-1], healthy[-1], atol=0.05)


def test_a_frame_whose_features_are_no_numbers_fails_alone(carrier: MemoryCarrier, healthy: list[NDArray]) -> None:
    good = features(2)
    with pytest.raises(ModelError, match="probabilities hold what is no number"):
        carrier.carry(Features(np.full_like(good.keys, np.nan), good.context, good.fine8, good.fine4), 2 * NS)
    np.testing.assert_allclose(carried(carrier)[-1], healthy[-1], atol=0.05)
