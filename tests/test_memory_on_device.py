"""The memory's state kept by the engine: the same masks as with the state on the host. The GPU is a fake."""

from __future__ import annotations

import numpy as np
import pytest

from perception.engines import open_engine
from perception.errors import ModelError
from perception.models.card import find
from perception.propagation import snapshot
from perception.propagation.fusion import FusedPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.types import Features
from tests.gpu_fakes import FakeCuda, FakeLog, FakePlan, FakeTrt
from tests.memory_walk import GRAPH, NS, SHAPES, features, walk

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed; pip install 'perception-node[dev]'")

from perception.engines import cuda
from perception.engines.device_tensor import DeviceTensor
from perception.engines.tensorrt_engine import TensorRtEngine


def host() -> MemoryCarrier:
    return MemoryCarrier(open_engine(GRAPH, "onnxruntime"))


def device(gpu: FakeCuda) -> MemoryCarrier:
    return MemoryCarrier(TensorRtEngine(FakeTrt, None, FakePlan(GRAPH, gpu), FakeLog()))


def test_masks_are_those_of_the_state_on_the_host(gpu):
    carrier = device(gpu)
    for a, b in zip(walk(host(), range(5)), walk(carrier, range(5)), strict=True):
        np.testing.assert_array_equal(a, b)
    uploads = gpu.uploads
    carrier.carry(features(5), 5 * NS)
    assert gpu.uploads - uploads == len(SHAPES) + 7  # features and what is written, no state


def test_an_engine_can_be_changed_in_between(gpu):
    wanted = walk(host(), range(6))
    carrier = device(gpu)
    told = walk(carrier, range(3))
    carrier.change_engine(open_engine(GRAPH, "onnxruntime"))  # down the ladder
    told += walk(carrier, range(3, 5))
    carrier.change_engine(TensorRtEngine(FakeTrt, None, FakePlan(GRAPH, gpu), FakeLog()))  # and up again
    told += walk(carrier, range(5, 6))
    for a, b in zip(wanted, told, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_graph_is_no_engine_to_change_to(gpu):
    carrier = host()
    with pytest.raises(ModelError, match="runs another graph"):
        carrier.change_engine(open_engine(find("road-float").graph, "onnxruntime"))
    carrier.carry(features(0), 0)  # it still runs


def test_a_snapshot_holds_the_state_that_the_engine_keeps(gpu):
    def propagator(carrier: MemoryCarrier) -> FusedPropagator:
        return FusedPropagator((640, 352), LifeCycle(2, 10**9), carrier, 12, frozenset({8, 9}))

    a, b = propagator(device(gpu)), propagator(host())
    for one in (a, b):
        walk(one.carrier, range(3))  # type: ignore[arg-type]
    taken = snapshot.take(a)
    assert taken == snapshot.take(b)
    again = propagator(device(gpu))
    snapshot.put(again, taken)
    np.testing.assert_array_equal(walk(again.carrier, range(3, 4))[0], walk(b.carrier, range(3, 4))[0])  # type: ignore[arg-type]


def test_features_on_the_device_are_fetched_for_an_engine_that_is_not_there(gpu):
    exact = features(0)
    left = {}
    for name in SHAPES:
        buffer = cuda.Buffer(getattr(exact, name).nbytes)
        array = getattr(exact, name)
        gpu.cudaMemcpy(buffer.address, array.ctypes.data, array.nbytes, gpu.cudaMemcpyKind.cudaMemcpyHostToDevice)
        left[name] = (buffer, DeviceTensor(buffer.address, array.shape, np.dtype(np.float32)))
    there = Features(**{name: tensor for name, (_, tensor) in left.items()})  # type: ignore[arg-type]
    for carrier in (host(), device(gpu)):
        np.testing.assert_array_equal(carrier.carry(there, 0).masks, host().carry(exact, 0).masks)
