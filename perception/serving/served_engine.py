"""The propagator's engine of whatever serves. Its state outlives a swap, and the loss of a device."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from perception.errors import DeviceError, ModelError
from perception.protocols import Engine, KeepingEngine
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.rungs import Opened, Standing

FETCH_EVERY = 10  # steps on an accelerator that keeps the state: a lost device takes with it no more than these


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
        self._forked: tuple[Opened, Any] | None = None
        self._steps = 0

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Raises ModelError where the bottom fails too."""
        bottom, standing = self._ladder.bottom.opened, self._ladder.serving

        def carry(opened: Opened) -> dict[str, NDArray]:
            if opened.carrier is None or opened is bottom:
                return self._here(self._bottom, self._on_host(arrays))
            engine = self._engine_of(opened)
            if self._pairs and hasattr(engine, "keep_state"):
                self._keeper = standing
                return self._there(engine, arrays)
            return self._here(engine, arrays)

        if standing.opened.carrier is None:
            return carry(bottom)
        return self._ladder.step("carry", carry)

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

    def _here(self, engine: Engine, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The state lies here, and is an input and an output like others."""
        self._home = None
        out = engine({**arrays, **self._state})
        for taken, given in self._pairs.items():
            np.copyto(self._state[taken], out[given])
        return {name: value for name, value in out.items() if name not in self._pairs.values()} if self._pairs else out

    def _there(self, engine: Any, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The state lies with the accelerator; in its thread."""
        if self._home is not engine:
            engine.keep_state(self._pairs)
            engine.load_state(self._state)
            self._home, self._steps = engine, 0
        out = engine(arrays)
        self._steps += 1
        if self._steps % FETCH_EVERY == 0:
            self._state = _copies(engine.read_state())
        return out

    def _engine_of(self, opened: Opened) -> Any:
        """The accelerator's engine that is this one's alone; in its thread."""
        carrier: Any = opened.carrier
        if not self._is_fork or not hasattr(carrier, "fork"):
            return carrier
        if self._forked is None or self._forked[0] is not opened:
            self._forked = opened, carrier.fork()
            opened.forks.append(self._forked[1])
        return self._forked[1]

    def _on_host(self, arrays: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        """What an accelerator has kept must come from where it is, or from the bottom."""
        kept = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
        if not kept:
            return arrays
        try:
            return {**arrays, **{name: np.asarray(arrays[name], np.float32) for name in kept}}
        except Exception:  # the device is lost: any error of its driver's
            image = self._model.image
            features = None if image is None else self._ladder.bottom.opened.model(image).features
            if features is None:
                raise ModelError("the features of this frame are lost with their accelerator") from None
            return {**arrays, **{name: getattr(features, name)[None] for name in kept}}


def _copies(arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    return {name: np.array(array) for name, array in arrays.items()}


def _no_clock() -> float:
    """How long it takes to fetch a state says nothing."""
    return 0.0
