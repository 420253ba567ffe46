"""Where a propagator's state lies while engines change. No GPU was used: the engines add numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from perception.errors import DeviceError
from perception.protocols import TensorSpec
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.rungs import Opened, Patience, Standing
from perception.serving.served_engine import FETCH_EVERY, ServedEngine
from perception.serving.worker import Worker
from perception.types import Features, Panoptic
from tests.test_node import until

HANG_S = 20.0  # most


class Sum:
    """y is the sum of all keys so far, of which the state is the one before."""

    name = "sum"
    inputs = (TensorSpec("keys", (1,), "float32"), TensorSpec("memory_s", (1,), "float32"))
    outputs = (TensorSpec("y", (1,), "float32"), TensorSpec("next_s", (1,), "float32"))

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        y = arrays["keys"] + arrays["memory_s"]
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


ONE = {"keys": np.ones(1, np.float32)}


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


# Calls that hang


class Hanging:
    """What an engine's next call waits for, if anything."""

    hang: threading.Event | None = None

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        if self.hang:
            self.hang.wait(HANG_S)
        return super().__call__(arrays)  # type: ignore[misc]


class HangingSum(Hanging, Sum): ...


class HangingKeepingSum(Hanging, KeepingSum): ...


class DeviceArray:
    """An array on a device: to fetch it may hang, too."""

    hang: threading.Event | None = None

    def __init__(self) -> None:
        self.fetches = 0

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        self.fetches += 1
        if self.hang:
            self.hang.wait(HANG_S)
        return np.ones(1, np.float32)


class Seeing(NoModel):
    def __init__(self, keys) -> None:
        self.found = Features(keys, keys, keys, keys)

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        return Panoptic(image[..., 0], image[..., 0].astype(np.uint16), (), self.found)


class Watching:
    """Implements `ladder.Watcher`."""

    has_time = True

    def __init__(self) -> None:
        self.steady: list[Standing] = []

    def settled(self, standing: Standing) -> None:
        self.steady.append(standing)

    def fell(self, standing: Standing, reason: str) -> None: ...
    def took(self, standing: Standing) -> None: ...
    def left(self, standing: Standing) -> None: ...
    def sampled(self, standing: Standing, image: NDArray[np.uint8], seen: Panoptic) -> None: ...


IMAGE = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture
def end() -> Iterator[threading.Event]:
    """Of what hangs."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def worker(end: threading.Event) -> Iterator[Worker]:
    worker = Worker("device")
    yield worker
    end.set()
    worker.close()


def on_device(model: NoModel, engine: Sum, worker: Worker) -> tuple[Ladder, ServedModel, ServedEngine]:
    """They serve; the bottom sees keys of 2."""
    ladder = Ladder(Opened("bottom", Seeing(np.array(2, np.float32)), Sum()), must_be_faster=False)
    patience = Patience(least_s=0.5, first_s=0.5)
    ladder.offer(Standing(Opened("device", model, engine), worker, patience), True)
    ladder.settle()
    served_model = ServedModel(ladder)
    served = ServedEngine(ladder, Sum(), served_model)
    served.keep_state({"memory_s": "next_s"})
    return ladder, served_model, served


def test_features_are_not_fetched_from_a_device_that_does_not_answer(end: threading.Event, worker: Worker) -> None:
    there, engine = DeviceArray(), HangingKeepingSum()
    ladder, model, served = on_device(Seeing(there), engine, worker)
    model(IMAGE)
    engine.hang = end
    assert float(served({"keys": there})["y"][0]) == 2  # type: ignore[dict-item]  # the bottom's own
    assert float(served({"keys": there})["y"][0]) == 4  # type: ignore[dict-item]  # another bucket's, of the same frame
    assert "no answer within" in ladder.fallen
    assert there.fetches == 0


def test_nor_are_they_where_a_check_of_the_frame_has_hung(end: threading.Event, worker: Worker) -> None:
    there = DeviceArray()
    ladder, model, served = on_device(Seeing(there), KeepingSum(), worker)
    ladder.watcher, there.hang = Watching(), end
    model(IMAGE)
    assert "no answer within" in ladder.fallen
    assert float(served({"keys": there})["y"][0]) == 2  # type: ignore[dict-item]
    assert there.fetches == 1  # the check's


@pytest.mark.parametrize("kind", [HangingSum, HangingKeepingSum])
def test_a_call_that_returns_late_changes_no_state(kind: type, end: threading.Event, worker: Worker) -> None:
    engine = kind()
    ladder, _, served = on_device(NoModel(), engine, worker)
    for _ in range(FETCH_EVERY - 1):
        served(ONE)
    engine.hang = end
    told = [float(served(ONE)["y"][0]) for _ in range(4)]  # the first one hangs, and would fetch the state
    assert ladder.engine == "bottom"
    end.set()
    until(lambda: not worker.is_busy)
    assert float(served.read_state()["memory_s"][0]) == told[-1]
    assert float(served(ONE)["y"][0]) == told[-1] + 1
