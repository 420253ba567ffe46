"""Where a propagator's state lies while engines change. No GPU was used: the engines add numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from perception.errors import DeviceError
from perception.protocols import TensorSpec
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.rungs import Opened, Patience, Standing
from perception.serving.samples import Sample
from perception.serving.served_engine import FETCH_EVERY, ServedEngine
from perception.serving.worker import Worker
from perception.types import Features, Panoptic, Segment
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
IMAGE = np.zeros((1, 1, 3), np.uint8)


@pytest.fixture
def ladder() -> Ladder:
    return Ladder(Opened("bottom", NoModel(), Sum()), must_be_faster=False)


@pytest.fixture
def served(ladder: Ladder) -> ServedEngine:
    assert ladder.bottom.opened.carrier
    engine = ServedEngine(ladder, ladder.bottom.opened.carrier, ServedModel(ladder))
    engine.keep_state({"memory_s": "next_s"})
    return engine


def swap(ladder: Ladder, engine: Any = None) -> Any:
    """An engine serves from now on, one that keeps its state if none is given."""
    engine = engine or KeepingSum()
    ladder.offer(Standing(Opened("device", NoModel(), engine)), True)
    ladder.settle()
    return engine


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


# What is no number

NAN = np.full(1, np.nan, np.float32)


class Spoilt:
    """What the next call of an engine gives is no number."""

    is_spoilt = False

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        out = super().__call__(arrays)  # type: ignore[misc]
        if self.is_spoilt:
            self.is_spoilt = False
            return {name: NAN.copy() for name in out}
        return out


class SpoiltSum(Spoilt, Sum): ...


class SpoiltKeepingSum(Spoilt, KeepingSum):
    """Its state too."""

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        was_spoilt = self.is_spoilt
        out = super().__call__(arrays)
        self.state = {"memory_s": NAN.copy()} if was_spoilt else self.state
        return out


@pytest.mark.parametrize(("kind", "kept"), [(SpoiltSum, FETCH_EVERY + 3), (SpoiltKeepingSum, FETCH_EVERY)])
def test_an_accelerator_that_gives_no_number_has_failed(
    ladder: Ladder, served: ServedEngine, kind: type[Sum], kept: int
) -> None:
    engine = swap(ladder, kind())
    for _ in range(FETCH_EVERY + 3):
        served(ONE)
    engine.is_spoilt = True  # type: ignore[attr-defined]
    assert float(served(ONE)["y"][0]) == kept + 1  # the bottom answers the same frame, from the last good state
    assert ladder.engine == "bottom"
    assert "propagator's y hold what is no number" in ladder.fallen
    assert float(served.read_state()["memory_s"][0]) == kept + 1


def test_a_state_that_is_no_number_is_not_fetched(ladder: Ladder, served: ServedEngine) -> None:
    engine = swap(ladder)
    served(ONE)
    engine.state = {"memory_s": NAN}
    assert float(served.read_state()["memory_s"][0]) == 0
    assert "memory_s hold what is no number" in ladder.fallen
    assert float(served(ONE)["y"][0]) == 1


def test_what_a_pinned_engine_spoils_is_lost_with_its_frame_alone() -> None:
    ladder = Ladder(Opened("bottom", NoModel(), Sum()), must_be_faster=False, is_pinned=True)
    served = ServedEngine(ladder, Sum(), ServedModel(ladder))
    served.keep_state({"memory_s": "next_s"})
    engine = swap(ladder, SpoiltKeepingSum())
    served(ONE)
    engine.is_spoilt = True  # type: ignore[attr-defined]
    with pytest.raises(DeviceError, match="no number"):
        served(ONE)
    assert float(served(ONE)["y"][0]) == 1
    assert ladder.engine == "device"


class Shown:
    """A model that sees the same in every image."""

    mask_size: tuple[int, int] = (1, 1)

    def __init__(self, number: float, score: float) -> None:
        keys = np.full(1, number, np.float32)
        segment = Segment(0, score, 1, (0, 0, 1, 1))
        labels, ids = np.zeros((1, 1), np.uint8), np.ones((1, 1), np.uint16)
        self.seen = Panoptic(labels, ids, (segment,), Features(keys, keys, keys, keys))

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        return self.seen

    def features(self, image: NDArray[np.uint8]) -> Features | None:
        return self.seen.features

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("number", "score", "kind"), [(np.nan, 0.5, "network"), (np.nan, 0.5, "encoder"), (1.0, np.nan, "network")]
)
def test_a_picture_with_what_is_no_number_is_seen_by_the_bottom(number: float, score: float, kind: str) -> None:
    bottom = Shown(1.0, 0.5)
    ladder = Ladder(Opened("bottom", bottom), must_be_faster=False)
    model = ServedModel(ladder)
    ladder.offer(Standing(Opened("device", Shown(number, score))), True)
    ladder.settle()
    if kind == "network":
        assert model(IMAGE) is bottom.seen
    else:
        assert model.features(IMAGE) is bottom.seen.features
    assert (ladder.engine, "no number" in ladder.fallen) == ("bottom", True)


@pytest.mark.parametrize("has_carrier", [True, False])
def test_features_that_are_no_numbers_are_the_accelerators_failure(has_carrier: bool) -> None:
    """They stay where it runs: nobody has looked at them before they lead to what is no number."""
    ladder = Ladder(Opened("bottom", Seeing(np.array(2, np.float32)), Sum()), must_be_faster=False)
    model = ServedModel(ladder)
    served = ServedEngine(ladder, Sum(), model)
    served.keep_state({"memory_s": "next_s"})
    there = DeviceArray(np.nan)
    ladder.offer(Standing(Opened("device", Seeing(there), KeepingSum() if has_carrier else None)), True)
    ladder.settle()
    model(IMAGE)
    assert float(served({"keys": there})["y"][0]) == 2  # type: ignore[dict-item]  # the bottom's own
    assert ladder.engine == "bottom"
    assert "no number" in ladder.fallen


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

    def __init__(self, number: float = 1.0) -> None:
        self.number, self.fetches = number, 0

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray:
        self.fetches += 1
        if self.hang:
            self.hang.wait(HANG_S)
        return np.full(1, self.number, np.float32)


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
        self.falls: list[tuple[str, bool]] = []  # and whether what fell is missed

    def settled(self, standing: Standing) -> None:
        self.steady.append(standing)

    def fell(self, standing: Standing, reason: str, is_missed: bool) -> None:
        self.falls.append((reason, is_missed))

    def took(self, standing: Standing) -> None: ...
    def left(self, standing: Standing) -> None: ...
    def sampled(self, standing: Standing, kind: str, sample: Sample) -> None: ...


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


class HangingStateSum(KeepingSum):
    """Its state can't be fetched."""

    hang: threading.Event | None = None

    def read_state(self) -> dict[str, NDArray]:
        if self.hang:
            self.hang.wait(HANG_S)
        return super().read_state()


def test_nor_are_they_for_a_check_whose_state_does_not_come(end: threading.Event, worker: Worker) -> None:
    there, engine = DeviceArray(), HangingStateSum()
    ladder, model, served = on_device(Seeing(there), engine, worker)
    model(IMAGE)
    served(ONE)
    ladder.watcher, engine.hang, there.hang = Watching(), end, end
    assert float(served({"keys": there})["y"][0]) == 2  # type: ignore[dict-item]  # the bottom's own
    assert "no answer within" in ladder.fallen
    assert there.fetches == 0


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
