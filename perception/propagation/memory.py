"""The learned carrier: a graph that reads a memory of a few frames once for sixteen things at a time.

The graph is `perception.training.networks.memory.MemoryReader`; here is its policy: which frames enter the memory, and
more buckets of slots when sixteen do not suffice (as SAM 3.1's object multiplex has them).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from perception.errors import ModelError
from perception.propagation.carrier import Carried, Kept
from perception.propagation.flaws import flaw
from perception.protocols import Engine, KeepingEngine
from perception.types import FEATURES, Features

log = logging.getLogger(__name__)

STATE = ("keys", "values", "known", "last_key", "last_look", "pointers", "areas")
OUTPUTS = ("probabilities", "presence", "quality")
WRITES = ("masks", "entry", "kept", "taught", "active", "age_s", "filled")
SEEN = ("keys", "last_key", "last_look")  # the state that is of frames, not of slots
LEAST_BACKGROUND = np.float32(1e-30)  # a lesser one would let odds overflow
LAST, RECENT, OLD_KEY, NEW_KEY = range(4)  # the entries of the memory
KEYS = (OLD_KEY, NEW_KEY)
RECENT_EVERY_NS = 160_000_000  # a recent frame is replaced after this time [ns]


@dataclass(eq=False)
class _Bucket:
    """The state of sixteen slots, and what is to be written of the frame before."""

    state: dict[str, NDArray[np.float32]]
    write: dict[str, NDArray[np.float32]]
    seen_ns: NDArray[np.int64]
    is_used: bool = False


@dataclass(eq=False)
class _Turn:
    """Whose turn it is to be replaced. Both buckets see the same frames."""

    recent_ns: int = -(1 << 62)
    stamp_ns: int = 0
    pins: dict[int, int] = field(default_factory=dict)  # entry of a prompt's frame -> slot; the oldest first
    newest_key: int = NEW_KEY
    filled: NDArray[np.float32] = field(default_factory=lambda: np.zeros(4, np.float32))


class MemoryCarrier:
    """Carries masks with the learned memory; the cost is that of one bucket up to sixteen things, of two up to 32.

    Args:
        engine: of the graph, with named inputs and outputs as `perception export-memory` writes them.
        buckets: most buckets of slots.

    Raises:
        ModelError: the graph is not one of a memory reader.
    """

    def __init__(self, engine: Engine, buckets: int = 2) -> None:
        self.engine = engine
        self._keepers = _keepers(engine, buckets)
        self._loaded: list[_Bucket | None] = [None] * buckets  # whose state each keeper has
        self._shapes = {spec.name: tuple(int(n or 1) for n in spec.shape) for spec in engine.inputs}
        wanted = {*FEATURES, *(f"memory_{s}" for s in STATE), *WRITES}
        if set(self._shapes) != wanted or not set(OUTPUTS) <= {spec.name for spec in engine.outputs}:
            raise ModelError("the propagator's graph is not one of a memory reader; export it with this version")
        self._slots = self._shapes["active"][1]
        self.slots, self.cheap_slots = buckets * self._slots, self._slots
        self._buckets = [self._fresh() for _ in range(buckets)]
        self._turn = _Turn()
        self._told = self._nothing_told()

    def _nothing_told(self) -> Carried:
        """What `carry` gives: room that every frame is written into."""
        masks = np.zeros((self.slots, *self._shapes["masks"][2:]), np.float32)
        vectors = np.zeros((2, self.slots), np.float32)
        return Carried(masks, vectors[0], vectors[1])

    def _fresh(self) -> _Bucket:
        state = {name: np.zeros(self._shapes[f"memory_{name}"], np.float32) for name in STATE}
        write = {name: np.zeros(self._shapes[name], np.float32) for name in WRITES}
        write["kept"][:] = 1
        return _Bucket(state, write, np.zeros(self._slots, np.int64))

    def reset(self) -> None:
        self._buckets = [self._fresh() for _ in self._buckets]
        self._turn = _Turn()

    def close(self) -> None:
        for engine in self._keepers or [self.engine]:
            engine.close()

    def change_engine(self, engine: Engine) -> None:
        """Go on from the same state on another engine of the same graph; the one before is closed.

        Raises:
            ModelError: its graph is another; nothing has changed then. DeviceError: the engine before is lost with
                the state; call `reset` first then.
        """
        if {s.name: s.shape for s in engine.inputs} != {s.name: s.shape for s in self.engine.inputs}:
            raise ModelError("the propagator's new engine runs another graph")
        self.settle()
        before = self._keepers or [self.engine]
        self.engine, self._keepers = engine, _keepers(engine, len(self._buckets))
        self._loaded = [None] * len(self._buckets)
        for one in before:
            one.close()

    def settle(self) -> None:
        """Fetch the state from where the engine keeps it: snapshots are of what is here."""
        for keeper, loaded, bucket in zip(self._keepers, self._loaded, self._buckets, strict=False):
            if loaded is bucket:
                for name, array in keeper.read_state().items():
                    np.copyto(bucket.state[name.removeprefix("memory_")], array)

    def check_features(self, features: Features) -> None:
        """Raises ModelError where the network's features are not those that the graph was trained on."""
        for name in FEATURES:
            given, wanted = getattr(features, name).shape, self._shapes[name][1:]
            if given != wanted:
                raise ModelError(
                    f"the network's {name} are {given}, the propagator was made for {wanted}; take its own"
                )

    def carry(self, features: Features, stamp_ns: int) -> Carried:
        """As `Carrier.carry`. Raises ModelError where features are no numbers, or the graph's answers are none."""
        self.check_features(features)
        given = {name: self._given(getattr(features, name)) for name in FEATURES}
        self._turn.stamp_ns = stamp_ns
        used = [i for i, bucket in enumerate(self._buckets) if bucket.is_used or not i]
        told = self._told
        for vector in (told.masks, told.presence, told.quality):
            vector[self._slots :] = 0
        for i in used:
            out = self._sound_step(i, given)
            part = slice(i * self._slots, (i + 1) * self._slots)
            _write_odds(out["probabilities"][0], told.masks[part], is_alone=len(used) == 1)
            told.presence[part], told.quality[part] = out["presence"][0], out["quality"][0]
        if len(used) > 1:
            np.divide(told.masks, 1 + told.masks.sum(0), out=told.masks)
        return told

    def _given(self, feature: NDArray) -> NDArray:
        """With the graph's leading axis; fetched, where it lies on an accelerator that this engine is not on."""
        return feature[None] if self._keepers else np.asarray(feature)[None]

    def _sound_step(self, i: int, given: dict[str, NDArray]) -> Mapping[str, NDArray]:
        """One bucket's; what is no number would stay in the memory for ever, so it begins anew then.

        Raises:
            ModelError: it is no number even so. The next frame finds an empty memory.
        """
        what = ""
        for _ in range(2):
            out = self._step_kept(i, given) if self._keepers else self._step(self._buckets[i], given)
            what = flaw({name: out[name] for name in OUTPUTS})
            if not what:
                return out
            self._begin_anew(i)
        raise ModelError(f"the propagator's {what} hold what is no number, of an empty memory too")

    def _begin_anew(self, i: int) -> None:
        """Nothing is remembered but the masks of the frame before; the other bucket forgets when that was, too."""
        log.warning("the propagator's memory holds what is no number; it begins anew")
        for array in self._buckets[i].state.values():
            array[:] = 0
        self._loaded[i] = None
        self._turn.pins, self._turn.filled = {}, np.zeros(4, np.float32)
        for bucket in self._buckets:
            for name in ("entry", "filled", "taught"):  # there is no key of the frame before to write
                bucket.write[name][:] = 0

    def _step_kept(self, i: int, given: dict[str, NDArray]) -> Mapping[str, NDArray]:
        """As `_step`, with the state where the engine runs; it goes there only when the bucket is another."""
        bucket, keeper = self._buckets[i], self._keepers[i]
        if self._loaded[i] is not bucket:
            keeper.load_state({f"memory_{s}": a for s, a in bucket.state.items()})
            self._loaded[i] = bucket
        bucket.write["age_s"][0] = (self._turn.stamp_ns - bucket.seen_ns) / 1e9
        out = keeper({**given, **bucket.write})
        bucket.write["kept"][:] = 1
        return out

    def _step(self, bucket: _Bucket, given: dict[str, NDArray]) -> Mapping[str, NDArray]:
        write = bucket.write
        write["age_s"][0] = (self._turn.stamp_ns - bucket.seen_ns) / 1e9
        out = self.engine({**given, **{f"memory_{s}": a for s, a in bucket.state.items()}, **write})
        for name, array in bucket.state.items():
            np.copyto(array, out[f"next_{name}"])  # the engine's buffers are overwritten by its next call
        write["kept"][:] = 1
        return out

    def keep(self, kept: Kept) -> None:
        self._turn.pins = {place: slot for place, slot in self._turn.pins.items() if kept.active[slot]}
        entry = self._entries(kept)
        for i, bucket in enumerate(self._buckets):
            part = slice(i * self._slots, (i + 1) * self._slots)
            active, write = kept.active[part], bucket.write
            was_used, is_used = bucket.is_used, bool(active.any())
            if is_used:
                self._use(bucket)
            bucket.is_used = is_used
            if is_used or was_used:
                write["masks"][0] = kept.masks[part]
            write["active"][0], write["taught"][0] = active, kept.taught[part]
            write["entry"][0], write["filled"][0] = entry, self._turn.filled
            bucket.seen_ns[:] = kept.seen_ns[part]

    def _use(self, bucket: _Bucket) -> None:
        """All buckets see the same frames: one that comes into use takes over those that the first has seen."""
        if not bucket.is_used and bucket is not self._buckets[0]:
            self.settle()
            self._loaded = [None if loaded is bucket else loaded for loaded in self._loaded]
            for name in SEEN:
                np.copyto(bucket.state[name], self._buckets[0].state[name])
        bucket.is_used = True

    def _entries(self, kept: Kept) -> NDArray[np.float32]:
        """Where this frame goes: the frame before always, a recent one in turn, key frames over the older one.

        While both hold frames of prompts, key frames have no place.
        """
        turn = self._turn
        entry = np.zeros(4, np.float32)
        entry[LAST] = 1
        if kept.is_good and turn.stamp_ns - turn.recent_ns >= RECENT_EVERY_NS:
            entry[RECENT], turn.recent_ns = 1, turn.stamp_ns
        free = [place for place in KEYS if place not in turn.pins]
        if kept.is_key and free:
            place = next((place for place in free if place != turn.newest_key), free[0])
            entry[place], turn.newest_key = 1, place
        turn.filled = np.maximum(turn.filled, entry)
        return entry

    def pin(self, slot: int, mask: NDArray[np.float32], stamp_ns: int) -> None:
        place = self._pin_place(slot)
        for bucket in self._buckets:
            bucket.write["masks"][0] *= 1 - mask
            bucket.write["entry"][0, place], bucket.write["filled"][0, place] = 1, 1
        bucket, i = self._buckets[slot // self._slots], slot % self._slots
        self._use(bucket)
        for name, value in (("masks", mask), ("active", 1), ("taught", 1)):
            bucket.write[name][0, i] = value
        bucket.seen_ns[i] = stamp_ns

    def _pin_place(self, slot: int) -> int:
        """The entry for a prompt's frame: its thing's own, else one without such a frame, else the oldest one's."""
        turn = self._turn
        own = next((place for place, owner in turn.pins.items() if owner == slot), None)
        free = next((place for place in KEYS if place not in turn.pins), None)
        place = next(place for place in (own, free, *turn.pins) if place is not None)
        turn.pins.pop(place, None)
        turn.pins[place] = slot
        turn.newest_key, turn.filled[place] = (NEW_KEY if place == OLD_KEY else OLD_KEY), 1
        return place

    def forget(self, slot: int) -> None:
        self._buckets[slot // self._slots].write["kept"][0, slot % self._slots] = 0


def _keepers(engine: Engine, buckets: int) -> list[KeepingEngine]:
    """One for each bucket where the engine can keep a state, else none."""
    if not hasattr(engine, "keep_state"):
        return []
    first = cast("KeepingEngine", engine)
    first.keep_state({f"memory_{s}": f"next_{s}" for s in STATE})
    return [first, *(first.fork() for _ in range(buckets - 1))]


def _write_odds(probabilities: NDArray[np.float32], out: NDArray[np.float32], is_alone: bool) -> None:
    """(1 + slots, h, w) of one bucket, background first, as they are where it is alone, else as odds against it.

    Buckets share one background logit: their odds over 1 + the sum of all are soft aggregation.
    """
    if is_alone:
        np.copyto(out, probabilities[1:])
    else:
        np.divide(probabilities[1:], np.maximum(probabilities[:1], LEAST_BACKGROUND), out=out)
