"""What a node's notes do when what they are of fails. No GPU was used: the engine that keeps the state is a test's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from perception.engines import open_engine
from perception.errors import DeviceError
from perception.logbook import Logbook
from perception.pipeline import Pipeline
from perception.propagation.fusion import FusedPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.sinks.messages import SceneEncoder
from perception.sinks.recorder import Recorder
from perception.types import Frame
from tests import published
from tests.memory_walk import GRAPH, walk
from tests.recorder_fakes import ABOUT, HERE


class Keeping:
    """Keeps the state, on a device that can be lost."""

    is_lost = False

    def __init__(self) -> None:
        self._engine = open_engine(GRAPH, "onnxruntime")
        self.name, self.inputs, self.outputs = self._engine.name, self._engine.inputs, self._engine.outputs

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        out = dict(self._engine({**arrays, **self._state}))
        self._state = {taken: out.pop(given) for taken, given in self._pairs.items()}
        return out

    def keep_state(self, pairs: Mapping[str, str]) -> None:
        self._pairs = pairs
        shapes = {spec.name: [n or 1 for n in spec.shape] for spec in self.inputs}
        self._state = {name: np.zeros(cast("Any", shapes[name]), np.float32) for name in pairs}

    def load_state(self, arrays: Mapping[str, NDArray]) -> None:
        self._state = dict(arrays)

    def read_state(self) -> dict[str, NDArray]:
        if self.is_lost:
            raise DeviceError("device lost")
        return self._state

    def fork(self) -> Keeping:
        other = Keeping()
        other.keep_state(self._pairs)
        return other

    def leave(self, outputs: Any) -> None: ...
    def close(self) -> None: ...


class Stepping:
    """As much of a pipeline as a state is of."""

    steps, looked = 3, True

    def __init__(self, engine: Keeping) -> None:
        carrier = MemoryCarrier(engine)
        self.propagator = FusedPropagator((640, 352), LifeCycle(2, 10**9), carrier, 12, frozenset({8, 9}))
        walk(carrier, range(3))


def test_a_state_that_cant_be_had_now_is_kept_before_a_later_frame(tmp_path: Path) -> None:
    engine, recorder = Keeping(), Recorder(tmp_path / "drive", ABOUT, HERE)
    pipeline = cast("Pipeline", Stepping(engine))
    encoder = SceneEncoder(published.identity(wall_offset_ns=0), published.topics())
    frame = Frame(7, 700, "front", np.zeros((72, 128, 3), np.uint8))
    with closing(engine):
        engine.is_lost = True
        logbook = Logbook(recorder, pipeline, encoder, engine.name, 0)
        logbook.settle(frame)
        assert recorder.wants_state()
        engine.is_lost = False
        logbook.settle(frame)
        assert not recorder.wants_state()
        logbook.close("the test is over")
