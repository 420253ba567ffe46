"""The propagator's engine of whatever serves. Its state outlives a swap, and the loss of a device."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from perception.errors import DeviceError, ModelError
from perception.propagation.flaws import flaw
from perception.protocols import Engine, KeepingEngine
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.rungs import Opened, Standing
from perception.serving.samples import carrying
from perception.types import FEATURES

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
    where the bottom serves, it lies here. An accelerator that gives what is no number has failed: the state is then the
    last one that was all numbers.

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
        """Raises ModelError where the bottom fails too; whether its answers are numbers is the carrier's to look at."""
        given = self._to_check(arrays)
        bottom, standing = self._ladder.bottom.opened, self._ladder.serving

        def carry(opened: Opened) -> _Answer:
            if opened.carrier is None or opened is bottom:
                return self._by_bottom(arrays)
            engine = self._engine_of(opened)
            if self._pairs and hasattr(engine, "keep_state"):
                return _sound(self._there(engine, arrays, standing))
            return _sound(self._here(engine, arrays))

        try:
            answer = carry(bottom) if standing.opened.carrier is None else self._ladder.step("carry", carry)
        except (ModelError, DeviceError):
            self._home = None  # what a call that has failed left there is nothing to go on from
            raise
        for name, value in answer.state.items():
            np.copyto(self._state[name], value)
        self._home, self._keeper, self._steps = answer.home, answer.keeper, answer.steps
        if answer.keeper:
            self._forked = answer.keeper.opened, answer.home
        if given and self._ladder.answered is standing:
            self._ladder.tell(standing, "carry", carrying(given, _copies(answer.outputs)))
        return answer.outputs

    def _to_check(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray] | None:
        """All that this step takes, the state too, where the reference is to take the same; else None.

        That costs a fetch of the state and of the features, once in some hundred steps.
        """
        standing = self._ladder.serving
        if standing.opened.carrier is None or not self._ladder.wants("carry"):
            return None
        state = self.read_state()
        if self._ladder.serving is not standing:  # its device may not answer: nothing of it is fetched in this thread
            return None
        return self._ladder.kept(standing, lambda: _copies({**state, **arrays}))

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
        """Copies, by input name: what the next step will read, or what was fetched last, where the device is lost.

        Raises ModelError, DeviceError where nothing else may serve than what is lost.
        """
        home, keeper = self._home, self._keeper
        if home is not None and keeper is not None and keeper is self._ladder.serving:
            try:
                self._state = keeper.run("state", lambda _: _sound_state(home.read_state()), _no_clock)
            except (ModelError, DeviceError) as error:
                if self._ladder.is_pinned:
                    raise
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

    def _by_bottom(self, arrays: Mapping[str, NDArray]) -> _Answer:
        """From its own features where an accelerator's lead to what is no number. Raises ModelError."""
        answer = self._here(self._bottom, self._on_host(arrays))
        seen_by = self._model.seen_by
        if seen_by is self._ladder.bottom or self._ladder.is_pinned or not flaw(answer.outputs):
            return answer
        own = self._own_features([name for name in FEATURES if name in arrays])
        answer = self._here(self._bottom, {**arrays, **own})
        if not flaw(answer.outputs):
            self._ladder.demote(seen_by, "its features hold what is no number")
        return answer

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
        return {**arrays, **self._own_features(kept)}

    def _own_features(self, names: Collection[str]) -> dict[str, NDArray]:
        """What the bottom sees in this frame, of the features that are named. Raises ModelError where it can't."""
        image = self._model.image
        features = None if image is None else self._ladder.bottom.opened.model(image).features
        if features is None:
            raise ModelError("the features of this frame are lost with their accelerator")
        return {name: getattr(features, name)[None] for name in names}


def _sound(answer: _Answer) -> _Answer:
    """An accelerator's answer, as it is. Raises DeviceError for one with what is no number."""
    if what := flaw({**answer.outputs, **answer.state}):
        raise DeviceError(f"its propagator's {what} hold what is no number")
    return answer


def _sound_state(arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Copies. Raises DeviceError as `_sound`."""
    return _copies(_sound(_Answer({}, arrays)).state)


def _copies(arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name: np.array(array) for name, array in arrays.items()}


def _no_clock() -> float:
    """How long it takes to fetch a state says nothing."""
    return 0.0
