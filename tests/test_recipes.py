"""What goes between network and propagator on an accelerator stays there. No GPU is used: a fake one of host memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception.build.lowering import NETWORK, PROPAGATOR
from perception.build.recipes import Lowered
from perception.config import Launch
from perception.drives.rendered import RenderedDrive
from perception.models.card import ModelFiles, find
from perception.models.lowering import lower, lower_propagator
from perception.protocols import Model
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.rungs import Opened, Standing
from perception.stopwatch import Stopwatch
from perception.types import Features
from tests.gpu_fakes import FakeCuda, FakeLog, FakePlan, FakeTrt

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed; pip install 'perception-node[dev]'")

from perception.engines.device_tensor import DeviceTensor
from perception.engines.tensorrt_engine import TensorRtEngine
from perception.propagation.memory import MemoryCarrier

CAMERA = (640, 352)


class Given(Lowered):
    """A recipe whose graphs are there already."""

    def __init__(self, files: ModelFiles, has_carrier: bool) -> None:
        launch = Launch(version=1)
        super().__init__(files, launch, True, has_carrier, Stopwatch(), store=None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The shipped network and its memory, lowered."""
    out, files = tmp_path_factory.mktemp("lowered"), find("road-float")
    (out / NETWORK).write_bytes(lower(files, CAMERA).SerializeToString())
    (out / PROPAGATOR).write_bytes(lower_propagator(files).SerializeToString())
    return out


def opened(folder: Path, gpu: FakeCuda, *parts: str) -> Opened:
    engines = {part: TensorRtEngine(FakeTrt, None, FakePlan(folder / part, gpu), FakeLog()) for part in parts}
    return Given(find("road-float"), PROPAGATOR in parts).assemble(engines, "tensorrt-fp32", CAMERA)


def features(model: Model, picture: np.ndarray) -> Features:
    found = model(picture).features
    assert found is not None
    return found


def image() -> np.ndarray:
    (frame,) = RenderedDrive(1, *CAMERA, truth=False).at((30,))
    return frame.image


def test_features_stay_where_the_propagator_runs_too(folder, gpu):
    found = opened(folder, gpu, NETWORK, PROPAGATOR)
    assert found.carrier is not None
    seen = features(found.model, image())
    assert isinstance(seen.keys, DeviceTensor)
    carrier = MemoryCarrier(found.carrier, buckets=1)
    before = gpu.uploads
    carrier.carry(seen, 0)
    assert gpu.uploads - before < len(found.carrier.inputs) - 3  # none of the four features


def test_features_are_fetched_for_a_propagator_that_runs_on_the_host(folder, gpu):
    assert isinstance(features(opened(folder, gpu, NETWORK).model, image()).keys, np.ndarray)


def test_what_a_replay_sees_ahead_outlives_the_next_frame(folder, gpu):
    ladder = Ladder(opened(folder, gpu, NETWORK), must_be_faster=False)
    ladder.offer(Standing(opened(folder, gpu, NETWORK, PROPAGATOR)), True)
    ladder.settle()
    model = ServedModel(ladder, keeps=True)
    first = features(model, image())
    keys = np.array(first.keys)
    model(np.zeros_like(image()))
    assert np.array_equal(first.keys, keys)
