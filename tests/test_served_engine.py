"""Where a propagator's state lies while engines change. No GPU was used: the engines add numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import DeviceError
from perception.protocols import TensorSpec
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.rungs import Opened, Standing
from perception.serving.served_engine import FETCH_EVERY, ServedEngine
from perception.types import Panoptic


class Sum:
    """y is the sum of all x so far, of which the state is the one before."""

    name = "sum"
    inputs = (TensorSpec("x", (1,), "float32"), TensorSpec("memory_s", (1,), "float32"))
    outputs = (TensorSpec("y", (1,), "float32"), TensorSpec("next_s", (1,), "float32"))

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        y = arrays["x"] + arrays["memory_s"]
        return {"y": y, "next_s": y.copy()}

    def close(self) -> None: ...


class KeepingSum(Sum):
    """The same, keeping its state, on a device that can be lost."""

    is_lost = False

    def keep_state(self, pairs: Mapping[str, str]) -> None:
        self.state = {name: np.zeros(1, np.float32) for name in pairs}

    def load_state(self, arrays: Mapping[str, NDArray]) -> None:
        self.state = {name: array.copy() for name, array in arrays.items()}

    def read_state(self) -> dict[str, NDArray]:
        if self.is_lost:
            raise DeviceError("device lost")
        return self.state

    def fork(self) -> KeepingSum:
        other = KeepingSum()
        other.keep_state(dict.fromkeys(self.state, "next_s"))
        return other

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        if self.is_lost:
            raise DeviceError("device lost")
        assert "memory_s" not in arrays
        out = super().__call__({**arrays, **self.state})
        self.state = {"memory_s": out.pop("next_s")}
        return out


class NoModel:
    mask_size: tuple[int, int] = (1, 1)

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        raise NotImplementedError

    def features(self, image: NDArray[np.uint8]) -> None: ...
    def close(self) -> None: ...


ONE = {"x": np.ones(1, np.float32)}


@pytest.fixture
def ladder() -> Ladder:
    return Ladder(Opened("bottom", NoModel(), Sum()), must_be_faster=False)


@pytest.fixture
def served(ladder: Ladder) -> ServedEngine:
    assert ladder.bottom.opened.carrier
    engine = ServedEngine(ladder, ladder.bottom.opened.carrier, ServedModel(ladder))
    engine.keep_state({"memory_s": "next_s"})
    return engine


def swap(ladder: Ladder) -> KeepingSum:
    keeping = KeepingSum()
    ladder.offer(Standing(Opened("device", NoModel(), keeping)), True)
    ladder.settle()
    return keeping


def test_a_state_goes_on_over_a_swap(ladder: Ladder, served: ServedEngine) -> None:
    assert [float(served(ONE)["y"][0]) for _ in range(3)] == [1, 2, 3]
    keeping = swap(ladder)
    assert [float(served(ONE)["y"][0]) for _ in range(3)] == [4, 5, 6]
    assert float(keeping.state["memory_s"][0]) == 6
    assert float(served.read_state()["memory_s"][0]) == 6


def test_a_lost_device_takes_a_few_steps_of_the_state_with_it(ladder: Ladder, served: ServedEngine) -> None:
    keeping = swap(ladder)
    for _ in range(FETCH_EVERY + 3):
        served(ONE)
    keeping.is_lost = True
    assert float(served(ONE)["y"][0]) == FETCH_EVERY + 1  # the last three are forgotten
    assert ladder.engine == "bottom"
    assert "device lost" in ladder.fallen
    assert float(served.read_state()["memory_s"][0]) == FETCH_EVERY + 1


def test_reading_from_a_lost_device_gives_what_was_fetched_last(ladder: Ladder, served: ServedEngine) -> None:
    keeping = swap(ladder)
    for _ in range(FETCH_EVERY + 3):
        served(ONE)
    keeping.is_lost = True
    assert float(served.read_state()["memory_s"][0]) == FETCH_EVERY
    assert ladder.engine == "bottom"


def test_a_fork_has_a_state_of_its_own_there_too(ladder: Ladder, served: ServedEngine) -> None:
    other = served.fork()
    served(ONE)
    swap(ladder)
    assert float(served(ONE)["y"][0]) == 2
    assert float(other(ONE)["y"][0]) == 1
    assert len(ladder.serving.opened.forks) == 1


def test_who_keeps_its_state_itself_gives_and_takes_it(ladder: Ladder) -> None:
    assert ladder.bottom.opened.carrier
    plain = ServedEngine(ladder, ladder.bottom.opened.carrier, ServedModel(ladder))
    out = plain({**ONE, "memory_s": np.full(1, 4, np.float32)})
    assert {name: float(value[0]) for name, value in out.items()} == {"y": 5, "next_s": 5}
