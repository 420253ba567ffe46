"""The propagator's engine of whatever serves. Its state outlives a swap, and the loss of a device."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from perception.errors import DeviceError, ModelError
from perception.protocols import Engine, KeepingEngine
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.rungs import Opened, Standing

FETCH_EVERY = 10  # steps on an accelerator that keeps the state: a lost device takes with it no more than these


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a step gives; only the caller's thread takes it up, for a call that was left behind may still return."""

    outputs: dict[str, NDArray]
    state: Mapping[str, NDArray]  # newer than what is here, by input name; valid until the engine's next call
    home: Any = None  # the accelerator's engine that has a newer one,
    keeper: Standing | None = None  # what it belongs to,
    steps: int = 0  # and for how many it has had it


class ServedEngine:
    """Gives a carrier one engine to talk to, which may also keep the state for it (`keep_state` and what follows it).

    Where the accelerator that serves can keep a state, the state lies there and is fetched now and then; else, and
    where the bottom serves, it lies here.

    Args:
        bottom: the engine of the ladder's bottom.
        model: gives the bottom's features of the frame where those that it was given are lost with their accelerator.
        is_fork: has a state of its own beside that of the first one.
    """

    def __init__(self, ladder: Ladder, bottom: Engine, model: ServedModel, is_fork: bool = False) -> None:
        self._ladder, self._bottom, self._model, self._is_fork = ladder, bottom, model, is_fork
        self.name, self.inputs, self.outputs = bottom.name, bottom.inputs, bottom.outputs
        self._pairs: dict[str, str] = {}  # input -> output
        self._state: dict[str, NDArray] = {}  # by input name
        self._home: Any = None  # the accelerator's engine that has a newer one,
        self._keeper: Standing | None = None  # and what it belongs to
        self._forked: tuple[Opened, Any] | None = None  # whose engine has kept it last
        self._steps = 0

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Raises ModelError where the bottom fails too."""
        bottom, standing = self._ladder.bottom.opened, self._ladder.serving

        def carry(opened: Opened) -> _Answer:
            if opened.carrier is None or opened is bottom:
                return self._here(self._bottom, self._on_host(arrays))
            engine = self._engine_of(opened)
            if self._pairs and hasattr(engine, "keep_state"):
                return self._there(engine, arrays, standing)
            return self._here(engine, arrays)

        answer = carry(bottom) if standing.opened.carrier is None else self._ladder.step("carry", carry)
        for name, value in answer.state.items():
            np.copyto(self._state[name], value)
        self._home, self._keeper, self._steps = answer.home, answer.keeper, answer.steps
        if answer.keeper:
            self._forked = answer.keeper.opened, answer.home
        return answer.outputs

    def close(self) -> None:
        self._bottom.close()

    # Where the state is

    def keep_state(self, pairs: Mapping[str, str]) -> None:
        """Let outputs become inputs (input -> output) of the next step, zeros at first."""
        self._pairs, self._home = dict(pairs), None
        if hasattr(self._bottom, "keep_state") and not self._is_fork:
            cast("KeepingEngine", self._bottom).keep_state(
                {}
            )  # its state lies here: a device that comes or goes finds it
        specs = {spec.name: spec for spec in self.inputs}
        shapes = {name: tuple(int(n or 1) for n in specs[name].shape) for name in pairs}
        self._state = {name: np.zeros(shape, specs[name].dtype) for name, shape in shapes.items()}

    def read_state(self) -> dict[str, NDArray]:
        """Copies, by input name: what the next step will read, or what was fetched last, where the device is lost."""
        home, keeper = self._home, self._keeper
        if home is not None and keeper is not None and keeper is self._ladder.serving:
            try:
                self._state = keeper.run("state", lambda _: _copies(home.read_state()), _no_clock)
            except (ModelError, DeviceError) as error:
                self._ladder.demote(keeper, str(error))
        return _copies(self._state)

    def load_state(self, arrays: Mapping[str, NDArray]) -> None:
        """Let the next step read these, by input name."""
        self._state, self._home = _copies({name: arrays[name] for name in self._pairs}), None

    def leave(self, outputs: Collection[str]) -> None:
        """Nothing: all of the outputs are the carrier's."""

    def fork(self) -> ServedEngine:
        """Another one with a state of its own."""
        other = ServedEngine(self._ladder, self._bottom, self._model, is_fork=True)
        if self._pairs:
            other.keep_state(self._pairs)
        return other

    def _here(self, engine: Engine, arrays: Mapping[str, NDArray]) -> _Answer:
        """The state lies here, and is an input and an output like others."""
        out = engine({**arrays, **self._state})
        state = {taken: out[given] for taken, given in self._pairs.items()}
        return _Answer({name: value for name, value in out.items() if name not in self._pairs.values()}, state)

    def _there(self, engine: Any, arrays: Mapping[str, NDArray], standing: Standing) -> _Answer:
        """The state lies with the accelerator; in its thread."""
        steps = self._steps
        if self._home is not engine:
            engine.keep_state(self._pairs)
            engine.load_state(self._state)
            steps = 0
        out, steps = engine(arrays), steps + 1
        state = engine.read_state() if steps % FETCH_EVERY == 0 else {}
        return _Answer(out, state, engine, standing, steps)

    def _engine_of(self, opened: Opened) -> Any:
        """The accelerator's engine that is this one's alone; in its thread."""
        carrier: Any = opened.carrier
        if not self._is_fork or not self._pairs or not hasattr(carrier, "fork"):
            return carrier
        if self._forked and self._forked[0] is opened:
            return self._forked[1]
        forked = carrier.fork()
        opened.forks.append(forked)
        return forked

    def _on_host(self, arrays: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        """What an accelerator has kept must come from where it is, or from the bottom. Raises ModelError.

        While a call of its hangs a copy would hang too, and here nobody can leave it behind.
        """
        kept = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
        if not kept:
            return arrays
        if not self._model.seen_by.is_busy:
            with contextlib.suppress(Exception):  # the device is lost: any error of its driver's
                return {**arrays, **{name: np.asarray(arrays[name], np.float32) for name in kept}}
        image = self._model.image
        features = None if image is None else self._ladder.bottom.opened.model(image).features
        if features is None:
            raise ModelError("the features of this frame are lost with their accelerator")
        return {**arrays, **{name: getattr(features, name)[None] for name in kept}}


def _copies(arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name: np.array(array) for name, array in arrays.items()}


def _no_clock() -> float:
    """How long it takes to fetch a state says nothing."""
    return 0.0
