"""The memory carrier's policy: what it tells the graph, with an engine that writes down what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import ModelError
from perception.propagation.affinity import AffinityCarrier
from perception.propagation.carrier import CELL, Carried, Carrier, Kept
from perception.propagation.memory import LAST, NEW_KEY, OLD_KEY, RECENT, MemoryCarrier
from perception.protocols import TensorSpec
from perception.types import FEATURES, Features
from tests.fakes import LOOKS, MASKS, PERIOD_NS, features

H, W = MASKS[1] // CELL, MASKS[0] // CELL
N = H * W // 16
SLOTS = 16
SHAPES = {
    "keys": (1, LOOKS, H // 4, W // 4),
    "context": (1, 1, H // 4, W // 4),
    "fine8": (1, 1, H // 2, W // 2),
    "fine4": (1, LOOKS, H, W),
    "memory_keys": (1, 4, 5, N),
    "memory_values": (1, 4, 4 * SLOTS, N),
    "memory_known": (1, 4, SLOTS),
    "memory_last_key": (1, 5, N),
    "memory_last_look": (1, 3, N),
    "memory_pointers": (1, SLOTS, 3),
    "memory_areas": (1, SLOTS),
    "masks": (1, SLOTS, H, W),
    "entry": (1, 4),
    **dict.fromkeys(("kept", "taught", "active", "age_s"), (1, SLOTS)),
    "filled": (1, 4),
}
OUTPUTS = {
    "probabilities": (1, 1 + SLOTS, H, W),
    "presence": (1, SLOTS),
    "quality": (1, SLOTS),
    **{f"next_{name[7:]}": shape for name, shape in SHAPES.items() if name.startswith("memory_")},
}


class Scribe:
    """An engine that notes its inputs; each state comes out one greater, in buffers that the next call overwrites."""

    name = "scribe"

    def __init__(self) -> None:
        self.inputs = tuple(TensorSpec(name, shape, "float32") for name, shape in SHAPES.items())
        self.outputs = tuple(TensorSpec(name, shape, "float32") for name, shape in OUTPUTS.items())
        self.calls: list[dict[str, NDArray]] = []
        self.probabilities: list[NDArray[np.float32]] = []  # to be given, in turn
        self._out = {name: np.zeros(shape, np.float32) for name, shape in OUTPUTS.items()}

    def __call__(self, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
        assert {name: array.shape for name, array in arrays.items()} == SHAPES
        self.calls = [*self.calls[-3:], {name: array.copy() for name, array in arrays.items()}]
        for name, out in self._out.items():
            out[:] = arrays[f"memory_{name[5:]}"] + 1 if name.startswith("next_") else 0
        self._out["probabilities"][:, 0] = 1
        if self.probabilities:
            self._out["probabilities"][0] = self.probabilities.pop(0)
        return self._out

    def close(self) -> None:
        self.calls = []


class Told:
    """A memory carrier whose frames come at 30 fps, and what its engine was told last."""

    def __init__(self, buckets: int = 2) -> None:
        self.engine = Scribe()
        self.carrier = MemoryCarrier(self.engine, buckets)
        self.i = 0

    def frame(self, *slots: int, is_good: bool = True, is_key: bool = False, step_ns: int = PERIOD_NS) -> Carried:
        """Carry to the next frame, in which these slots hold a thing each."""
        carried = self.carrier.carry(features(), self.i)
        self.carrier.keep(kept(self.carrier.slots, *slots, is_good=is_good, is_key=is_key, seen_ns=self.i))
        self.i += step_ns
        return carried

    def written(self) -> dict[str, NDArray]:
        """What the next call is told, by bucket 0."""
        self.engine.calls = []
        self.carrier.carry(features(), self.i)
        return self.engine.calls[0]


def kept(count: int, *slots: int, is_good: bool = True, is_key: bool = False, seen_ns: int = 0) -> Kept:
    masks, active = np.zeros((count, H, W), np.float32), np.zeros(count, bool)
    for k, slot in enumerate(slots):
        masks[slot, :, k], active[slot] = 1, True
    taught = np.where(active, 0.15, 0).astype(np.float32)
    return Kept(masks, active, taught, np.full(count, seen_ns, np.int64), is_good, is_key)


def entries(told: dict[str, NDArray]) -> list[float]:
    return told["entry"][0].tolist()


# -- entries -------------------------------------------------------------------------------------------------------


def test_before_anything_is_kept_nothing_is_written():
    told = Told()
    told.carrier.carry(features(), 0)
    first = told.engine.calls[0]
    assert not any(first[name].any() for name in first if name not in ("keys", "fine4", "kept"))
    assert (first["kept"] == 1).all()


def test_every_frame_becomes_the_last_one():
    told = Told()
    for is_good in (True, False, False):
        told.frame(0, is_good=is_good)
        assert told.written()["entry"][0, LAST] == 1


def test_a_recent_frame_is_written_every_160_ms():
    told, written = Told(), []
    for _ in range(16):
        told.frame(0)
        written.append(entries(told.written())[RECENT])
    assert [i for i, w in enumerate(written) if w] == [0, 5, 10, 15]


def test_a_doubtful_frame_is_no_recent_one():
    told = Told()
    told.frame(0, is_good=False)
    assert told.written()["entry"][0, RECENT] == 0
    told.frame(0)
    assert told.written()["entry"][0, RECENT] == 1


def test_key_frames_take_turns():
    told, places = Told(), []
    for _ in range(4):
        told.frame(0, is_key=True)
        places.append(int(told.written()["entry"][0, OLD_KEY:].argmax()) + OLD_KEY)
    assert places == [OLD_KEY, NEW_KEY, OLD_KEY, NEW_KEY]


def test_a_pinned_frame_is_replaced_by_no_key_frame():
    told = Told()
    told.frame(0, is_key=True)
    told.carrier.pin(1, np.ones((H, W), np.float32), 0)
    assert told.written()["entry"][0, OLD_KEY] == 1
    for _ in range(4):
        told.frame(0, 1, is_key=True)
        assert entries(told.written())[OLD_KEY:] == [0, 1]


def test_a_second_prompts_frame_leaves_the_first_ones():
    told = Told()
    told.frame(0, is_key=True)
    mask = np.ones((H, W), np.float32)
    told.carrier.pin(1, mask, 0)
    assert entries(told.written())[OLD_KEY:] == [1, 0]
    told.frame(0, 1)
    told.carrier.pin(2, mask, 0)
    assert entries(told.written())[OLD_KEY:] == [0, 1]
    for _ in range(3):
        told.frame(0, 1, 2, is_key=True)
        assert entries(told.written())[OLD_KEY:] == [0, 0]


def test_a_third_prompts_frame_takes_the_place_of_the_oldest_and_one_told_again_its_own():
    told, places = Told(), []
    told.frame(0)
    for slot in (1, 2, 1, 3):
        told.carrier.pin(slot, np.ones((H, W), np.float32), 0)
        places.append(int(np.argmax(entries(told.written())[OLD_KEY:])) + OLD_KEY)
        told.frame(0, 1, 2, 3)
    assert places == [OLD_KEY, NEW_KEY, OLD_KEY, NEW_KEY]


def test_the_frame_of_a_prompt_that_has_ended_may_be_replaced():
    told = Told()
    told.frame(0, is_key=True)
    told.carrier.pin(1, np.ones((H, W), np.float32), 0)
    told.frame(0, 1)
    places = []
    for _ in range(4):
        told.frame(0, is_key=True)
        places.append(int(np.argmax(entries(told.written())[OLD_KEY:])) + OLD_KEY)
    assert sorted(set(places)) == [OLD_KEY, NEW_KEY]


def test_filled_says_which_entries_hold_a_frame():
    told = Told()
    told.frame(0, is_good=False)
    assert told.written()["filled"][0].tolist() == [1, 0, 0, 0]
    told.frame(0, is_key=True)
    assert told.written()["filled"][0].tolist() == [1, 1, 1, 0]
    told.carrier.reset()
    told.frame(0)
    assert told.written()["filled"][0].tolist() == [1, 1, 0, 0]


# -- slots ---------------------------------------------------------------------------------------------------------


def test_the_kept_masks_are_told_with_their_ages():
    told = Told()
    told.frame(0, 3)
    written = told.written()
    assert written["active"][0].tolist() == [1, 0, 0, 1] + [0] * 12
    assert (written["masks"][0, 0, :, 0] == 1).all()
    assert (written["masks"][0, 3, :, 1] == 1).all()
    np.testing.assert_allclose(written["age_s"][0, :4], PERIOD_NS / 1e9)


def test_a_slot_is_said_to_be_wiped_once_and_before_it_is_used_again():
    told = Told()
    told.frame(3)
    told.carrier.carry(features(), told.i)
    told.carrier.forget(3)
    told.carrier.keep(kept(32, 3))
    first = told.written()
    assert np.flatnonzero(first["kept"][0] == 0).tolist() == [3]
    assert first["active"][0, 3] == 1
    told.frame(3)
    assert (told.written()["kept"] == 1).all()


def test_a_slot_forgotten_in_an_idle_bucket_is_wiped_when_that_is_used():
    told = Told()
    told.frame(0)
    told.carrier.forget(20)
    told.frame(0)
    told.frame(0, 20)
    told.carrier.carry(features(), told.i)
    assert np.flatnonzero(told.engine.calls[-1]["kept"][0] == 0).tolist() == [4]


def test_a_prompt_is_a_thing_of_the_frame_kept_last():
    told = Told()
    told.frame(0)
    mask = np.zeros((H, W), np.float32)
    mask[: H // 2] = 1
    told.carrier.forget(1)
    told.carrier.pin(1, mask, told.i - PERIOD_NS)
    written = told.written()
    assert (written["masks"][0, 1] == mask).all()
    assert not (written["masks"][0, 0] * mask).any()
    assert written["masks"][0, 0, H // 2 :, 0].all()
    assert (written["active"][0, :2] == 1).all()
    assert written["taught"][0, 1] == 1
    assert written["filled"][0, OLD_KEY] == 1


# -- buckets -------------------------------------------------------------------------------------------------------


def test_one_bucket_is_asked_until_a_second_is_needed():
    told = Told()
    for slots, calls in (((), 1), ((0, 15), 1), ((0, 16), 1), ((0, 16), 2)):
        told.engine.calls = []
        assert told.frame(*slots).masks.shape == (32, H, W)
        assert len(told.engine.calls) == calls


def test_a_bucket_without_things_is_asked_no_more():
    told = Told()
    told.frame(0, 16)
    told.frame(0)
    told.engine.calls = []
    told.frame(0)
    told.frame(0)
    assert len(told.engine.calls) == 2


def test_a_bucket_that_comes_into_use_knows_the_frames_that_the_first_one_knows():
    told = Told()
    for _ in range(3):
        told.frame(0)
    told.frame(0, 16)
    told.carrier.carry(features(), told.i)
    first, second = told.engine.calls[-2:]
    for name in ("memory_keys", "memory_last_key", "memory_last_look"):
        np.testing.assert_array_equal(second[name], first[name])


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(logits - logits.max(0))
    return e / e.sum(0)


@pytest.mark.parametrize("spread", [1, 5])
def test_two_buckets_add_up_to_one_softmax_over_all(spread: float):
    rng = np.random.default_rng(0)
    background = rng.normal(0, spread, (1, H, W))
    things = rng.normal(0, spread, (32, H, W))
    told = Told()
    told.frame(0, 16)
    told.engine.probabilities = [
        softmax(np.concatenate((background, part))).astype(np.float32) for part in (things[:16], things[16:])
    ]
    wanted = softmax(np.concatenate((background, things)))[1:]
    np.testing.assert_allclose(told.frame(0, 16).masks, wanted, atol=1e-5)


def test_what_is_carried_outlives_the_next_call_of_the_engine():
    told = Told(buckets=1)
    told.engine.probabilities = [np.full((17, H, W), 1 / 17, np.float32)]
    carried = told.frame(0)
    for buffer in told.engine._out.values():
        buffer[:] = 0
    np.testing.assert_allclose(carried.masks, 1 / 17)


# -- state ---------------------------------------------------------------------------------------------------------


def test_the_state_that_comes_out_goes_in_again():
    told = Told()
    for expected in range(4):
        told.frame(0)
        assert (told.engine.calls[-1]["memory_values"] == expected).all()
    told.carrier.reset()
    told.frame(0)
    assert not told.engine.calls[-1]["memory_values"].any()


def arrays_of(carrier: MemoryCarrier) -> list[tuple[tuple[int, ...], str]]:
    return [(a.shape, a.dtype.str) for b in carrier._buckets for a in (*b.state.values(), *b.write.values(), b.seen_ns)]


def test_its_arrays_are_the_same_ones_after_a_long_time():
    told = Told()
    told.frame(0, 16)
    before = arrays_of(told.carrier)
    places = [a.ctypes.data for b in told.carrier._buckets for a in (*b.state.values(), *b.write.values())]
    for i in range(500):
        told.carrier.forget(i % 32)
        told.frame(i % 32, (i + 7) % 32, is_key=i % 5 == 0)
        if i % 50 == 0:
            told.carrier.pin(i % 32, np.ones((H, W), np.float32), told.i)
    assert arrays_of(told.carrier) == before
    assert [a.ctypes.data for b in told.carrier._buckets for a in (*b.state.values(), *b.write.values())] == places


def test_features_of_another_network_are_refused_by_name():
    told = Told()
    other = replace(features(), fine8=np.zeros((7, H // 2, W // 2), np.float32))
    with pytest.raises(ModelError, match="fine8"):
        told.carrier.carry(other, 0)


@pytest.mark.parametrize("lacking", ["memory_areas", "kept", "keys"])
def test_a_graph_that_is_no_memory_reader_is_refused(lacking: str):
    engine = Scribe()
    engine.inputs = tuple(spec for spec in engine.inputs if spec.name != lacking)
    with pytest.raises(ModelError, match="not one of a memory reader"):
        MemoryCarrier(engine)


def test_the_graph_knows_a_thing_in_the_very_frame_in_which_its_slot_was_wiped():
    """Else a prompt's pinned frame says nothing of the prompted thing for ever."""
    torch = pytest.importorskip("torch")
    from perception.training.networks.memory import MemoryReader, Write, empty_memory

    reader = MemoryReader().eval()
    before = empty_memory(1, 64, 128)
    before = before._replace(known=torch.ones_like(before.known), values=torch.ones_like(before.values))
    flags = torch.ones(1, SLOTS)
    wiped = flags.clone()
    wiped[0, 2] = 0
    entry = torch.tensor([[1.0, 0, 1, 0]])
    masks, cells = torch.zeros(1, SLOTS, H, W), torch.zeros(1, SLOTS, 4, H // 2, W // 2)
    with torch.inference_mode():
        after = reader.remember(cells, before, Write(masks, entry, wiped, flags, flags, flags, entry))
    assert after.known[0, :, 2].tolist() == [1, 0, 1, 0]
    assert not after.values[0, 8:12].any()


# -- both carriers -------------------------------------------------------------------------------------------------


def textured(shift: int = 0) -> Features:
    """Features in which every cell can be told from every other, moved to the right by whole cells of 1/16."""
    rng = np.random.default_rng(0)
    planes = [rng.normal(size=(c, H // s, W // s)).astype(np.float32) for c, s in ((LOOKS, 4), (2, 4), (8, 2), (2, 1))]
    moved = [np.roll(p, shift * (4 // s), 2) for p, s in zip(planes, (4, 4, 2, 1), strict=True)]
    return Features(**dict(zip(FEATURES, moved, strict=True)))


def carriers() -> list[Carrier]:
    return [AffinityCarrier(slots=4), MemoryCarrier(Scribe(), buckets=1)]


@pytest.mark.parametrize("carrier", carriers(), ids=["affinity", "memory"])
def test_a_carrier_says_a_probability_for_every_slot_and_cell(carrier: Carrier):
    count = carrier.slots
    given = features() if isinstance(carrier, MemoryCarrier) else textured()
    for i in range(3):
        carried = carrier.carry(given, i * PERIOD_NS)
        assert carried.masks.shape == (count, H, W)
        assert (carried.presence.shape, carried.quality.shape) == ((count,), (count,))
        assert carried.masks.min() >= 0
        assert carried.masks.sum(0).max() <= 1 + 1e-4
        carrier.keep(kept(count, 0, 2))
    carrier.forget(0)
    carrier.pin(0, kept(count, 0).masks[0], PERIOD_NS)
    carrier.reset()
    assert not carrier.carry(given, 0).masks.any()


def test_affinity_carries_a_mask_where_the_features_go():
    carrier = AffinityCarrier(slots=4)
    carrier.carry(textured(), 0)
    masks = np.zeros((4, H, W), np.float32)
    masks[1, 4:12, 8:16] = 1
    one = replace(kept(4), masks=masks, active=np.arange(4) == 1)
    carrier.keep(one)
    np.testing.assert_allclose(carrier.carry(textured(), 1).masks, masks, atol=0.2)
    carrier.keep(one)
    moved = carrier.carry(textured(shift=1), 2).masks
    np.testing.assert_allclose(moved[:, :, 4:], np.roll(masks, 4, 2)[:, :, 4:], atol=0.2)  # what came in is unknown


def test_affinity_forgets_what_a_slot_held():
    carrier = AffinityCarrier(slots=4)
    carrier.carry(textured(), 0)
    carrier.keep(kept(4, 0, 1))
    carrier.forget(0)
    masks = carrier.carry(textured(), 1).masks
    assert not masks[0].any()
    assert masks[1].max() > 0.5
