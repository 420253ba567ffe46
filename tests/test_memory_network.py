from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from torch import Tensor  # noqa: E402

from perception.training.networks.memory import (  # noqa: E402
    ENTRIES,
    KEY,
    POINTER,
    SLOTS,
    SUBCELLS,
    Carried,
    Encoded,
    Memory,
    MemoryReader,
    Write,
    empty_memory,
)
from perception.training.propagator.export import INPUTS, OUTPUTS, ReaderGraph, example, probabilities  # noqa: E402
from perception.training.propagator.rollout import rollout_loss, soft_masks  # noqa: E402
from tests.memory_fakes import sequence_of, walking_ids  # noqa: E402

SIZE = (32, 64)  # height, width of the masks
CELLS = (SIZE[0] // 16) * (SIZE[1] // 16)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def reader() -> MemoryReader:
    torch.manual_seed(3)
    return MemoryReader().eval()


def seen(b: int = 1, seed: int = 0) -> Encoded:
    g = torch.Generator().manual_seed(seed)
    h, w = SIZE
    channels = ((96, 16), (128, 16), (32, 8), (24, 4))
    return Encoded(*(torch.rand(b, c, h // s, w // s, generator=g) for c, s in channels))


def masks(b: int = 1, seed: int = 1) -> Tensor:
    """Soft masks of all slots; a cell belongs to its objects once only."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, SLOTS + 1, (b, SIZE[0] // 2, SIZE[1] // 2), generator=g)
    return soft_masks(ids)


def filled_memory(b: int = 1, seed: int = 2) -> Memory:
    """Every field holds something, as after many steps."""
    g = torch.Generator().manual_seed(seed)
    memory = Memory(*(torch.rand(t.shape, generator=g) for t in empty_memory(b, *SIZE)))
    return memory._replace(known=(memory.known > 0.3).float())


def write(b: int = 1, **changes: Tensor) -> Write:
    """Every slot holds an object; the frame before becomes the last frame's entry; all entries are filled."""
    ones, last = torch.ones(b, SLOTS), torch.zeros(b, ENTRIES)
    last[:, 0] = 1
    usual = Write(masks(b), last, ones, 0.2 * ones, ones, 0.1 * ones, torch.ones(b, ENTRIES))
    return usual._replace(**changes)


@torch.no_grad()
def step(reader: MemoryReader, memory: Memory, w: Write, frame: Encoded | None = None) -> tuple[Carried, Memory]:
    return reader(frame or seen(w.masks.shape[0]), memory, w)


def test_a_step_gives_probabilities_and_a_state_of_the_shapes_that_are_promised(reader):
    carried, memory = step(reader, empty_memory(2, *SIZE), write(2))
    assert carried.logits.shape == (2, 1 + SLOTS, SIZE[0] // 4, SIZE[1] // 4)
    torch.testing.assert_close(carried.probabilities, carried.logits.softmax(1))
    assert carried.presence.shape == carried.quality.shape == (2, SLOTS)
    assert [t.shape for t in memory] == [t.shape for t in empty_memory(2, *SIZE)]
    assert memory.keys.shape == (2, KEY, ENTRIES, CELLS)
    assert memory.values.shape == (2, SLOTS * SUBCELLS, ENTRIES, CELLS)
    assert memory.last_look.shape == (2, POINTER, CELLS)


def permuted(memory: Memory, order: Tensor) -> Memory:
    values = memory.values.unflatten(1, (SLOTS, SUBCELLS))[:, order].flatten(1, 2)
    known, pointers, areas = memory.known[:, :, order], memory.pointers[:, order], memory.areas[:, order]
    return memory._replace(values=values, known=known, pointers=pointers, areas=areas)


def test_slots_are_alike(reader):
    """Objects in other slots are carried to the same masks in those slots: any slot learns from all."""
    order = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(0))
    memory = filled_memory()
    active = (torch.arange(SLOTS) % 3 > 0).float()[None]
    usual = write(active=active, age_s=torch.rand(1, SLOTS), taught=torch.rand(1, SLOTS))
    by_slot = ("masks", "kept", "taught", "active", "age_s")
    other = usual._replace(**{name: getattr(usual, name)[:, order] for name in by_slot})
    carried, left = step(reader, memory, usual)
    moved, left_moved = step(reader, permuted(memory, order), other)
    with_background = torch.cat((torch.tensor([0]), 1 + order))
    torch.testing.assert_close(moved.logits, carried.logits[:, with_background], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.presence, carried.presence[:, order], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(moved.quality, carried.quality[:, order], atol=1e-4, rtol=1e-4)
    for name, a, b in zip(Memory._fields, left_moved, permuted(left, order), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)


@torch.no_grad()
def test_an_entry_that_did_not_know_an_object_does_not_dilute_what_the_others_say_of_it(reader):
    memory = filled_memory()
    filled = torch.ones(1, ENTRIES)
    key = reader.encode(seen())[0]
    memory = memory._replace(known=torch.ones_like(memory.known))
    strange = memory.known.clone()
    strange[:, 1] = 0
    without = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    told, mass = reader.read(key, memory._replace(known=strange), filled)
    wanted, whole = reader.read(key, memory, without)
    torch.testing.assert_close(told, wanted, atol=5e-3, rtol=5e-3)
    assert (mass < whole).all()  # but less of the memory speaks
    torch.testing.assert_close(whole, torch.ones_like(whole), atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_entry_that_holds_no_frame_says_nothing(reader):
    memory = filled_memory()._replace(known=torch.ones(1, ENTRIES, SLOTS))
    key, filled = reader.encode(seen())[0], torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    told, _ = reader.read(key, memory, filled)
    other = memory.values.clone()
    other[:, :, 1:3] = 1
    same, _ = reader.read(key, memory._replace(values=other), filled)
    torch.testing.assert_close(told, same)


@torch.no_grad()
def test_what_is_read_is_a_softmax_of_similarities_over_all_that_is_remembered(reader):
    """STCN's equation 3 in float64, cell by cell; values are as a picture of 64 numbers would be remembered."""
    memory, key = filled_memory()._replace(known=torch.ones(1, ENTRIES, SLOTS)), reader.encode(seen())[0]
    told, _ = reader.read(key, memory, torch.tensor([[1.0, 1.0, 0.0, 1.0]]))
    query, scale = key.flatten(2)[0].double(), float(reader.sharpness.exp()) / KEY**0.5
    logits, values = [], []
    for entry in (0, 1, 3):
        role = min(entry, 2)
        remembered = memory.keys[0, :, entry].double() + reader.role[role].double()[:, None]
        distance = (remembered[:, :, None] - query[:, None]).square().sum(0) - query.square().sum(0)
        logits.append(float(reader.role_bias[role]) - scale * distance)
        values.append(memory.values[0, :, entry].double())
    wanted = torch.cat(values, 1) @ torch.cat(logits).softmax(0)
    torch.testing.assert_close(told[0].double(), wanted, atol=2e-3, rtol=2e-3)


@torch.no_grad()
def test_half_precision_still_tells_apart_what_is_nearly_alike(reader):
    """Keys as long as trained ones (|k|^2 near 90): 2 k q - k^2 alone, rounded, moves a tenth of the weight."""
    g = torch.Generator().manual_seed(3)
    key = 1.2 * torch.randn(1, KEY, CELLS, generator=g)
    keys = torch.stack([key + 0.3 * torch.randn(key.shape, generator=g) for _ in range(ENTRIES)], 2)
    memory, filled = filled_memory()._replace(keys=keys), torch.ones(1, ENTRIES)
    weights = reader._weights(key, memory, filled)
    with torch.autocast("cpu", torch.bfloat16):
        half = reader._weights(key, memory, filled)
    assert (half - weights).abs().sum(2).mean() / 2 < 0.02


def test_a_slot_that_goes_to_another_object_is_wiped(reader):
    kept = torch.ones(1, SLOTS)
    kept[0, 4] = 0
    memory = filled_memory()
    _, left = step(reader, memory, write(kept=kept, taught=torch.zeros(1, SLOTS)))
    past = left.values.unflatten(1, (SLOTS, SUBCELLS))[:, :, :, 1:]  # entry 0 is the frame that was written
    assert not past[:, 4].any()
    assert not left.known[:, 1:, 4].any()
    assert not left.pointers[:, 4].any()
    assert not left.areas[:, 4].any()
    others = torch.arange(SLOTS) != 4
    assert torch.equal(past[:, others], memory.values.unflatten(1, (SLOTS, SUBCELLS))[:, others, :, 1:])
    assert torch.equal(left.pointers[:, others], memory.pointers[:, others])


def test_the_new_owner_of_a_slot_is_known_in_the_frame_that_it_is_born_in(reader):
    kept = torch.ones(1, SLOTS)
    kept[0, 4] = 0
    told = write(kept=kept, taught=torch.ones(1, SLOTS))
    _, left = step(reader, filled_memory(), told)
    _, usual = step(reader, filled_memory(), told._replace(kept=torch.ones(1, SLOTS)))
    assert left.known[0, 0, 4] == 1
    assert torch.equal(left.known[:, 0], usual.known[:, 0])
    for name in ("values", "keys"):
        assert torch.equal(getattr(left, name)[:, :, 0], getattr(usual, name)[:, :, 0])
    assert torch.equal(left.pointers, usual.pointers)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_pointer_takes_as_much_from_a_frame_as_it_is_taught(reader, share):
    memory = filled_memory()
    _, left = step(reader, memory, write(taught=torch.full((1, SLOTS), share)))
    _, fresh = step(reader, memory, write(taught=torch.ones(1, SLOTS)))
    torch.testing.assert_close(left.pointers, memory.pointers * (1 - share) + fresh.pointers * share)
    torch.testing.assert_close(left.areas, memory.areas * (1 - share) + fresh.areas * share)


def test_the_frame_before_is_written_where_it_is_told_and_nowhere_else(reader):
    memory, w = filled_memory(), write(active=(torch.arange(SLOTS) < 5).float()[None])
    _, left = step(reader, memory, w._replace(entry=torch.tensor([[1.0, 0.0, 1.0, 0.0]])))
    halves = torch.nn.functional.avg_pool2d(w.masks, 2)
    for entry in (0, 2):
        assert torch.equal(left.keys[:, :, entry], memory.last_key)
        assert torch.equal(left.known[:, entry], w.active)
        back = torch.nn.functional.pixel_shuffle(left.values[:, :, entry].unflatten(2, (2, 4)), 2)
        assert torch.equal(back, halves)
    for entry in (1, 3):
        assert torch.equal(left.keys[:, :, entry], memory.keys[:, :, entry])
        assert torch.equal(left.values[:, :, entry], memory.values[:, :, entry])
        assert torch.equal(left.known[:, entry], memory.known[:, entry])


def test_the_first_step_writes_nothing_but_the_frame_itself(reader):
    zeros = torch.zeros(1, SLOTS)
    nothing = Write(torch.zeros(1, SLOTS, SIZE[0] // 4, SIZE[1] // 4), torch.zeros(1, ENTRIES), zeros + 1, zeros, zeros,
                    zeros, torch.zeros(1, ENTRIES))  # fmt: skip
    _, left = step(reader, empty_memory(1, *SIZE), nothing)
    key, look, _ = reader.encode(seen())
    assert torch.equal(left.last_key, key.flatten(2))
    assert torch.equal(left.last_look, look.flatten(2))
    assert not any(t.any() for t in (left.keys, left.values, left.known, left.pointers, left.areas))
    torch.testing.assert_close(look.norm(dim=1), torch.ones_like(look[:, 0]))


def test_a_memory_of_nothing_gives_background(reader):
    zeros = torch.zeros(1, SLOTS)
    nothing = write(masks=torch.zeros_like(masks()), active=zeros, filled=torch.zeros(1, ENTRIES))
    carried, _ = step(reader, empty_memory(1, *SIZE), nothing)
    assert (probabilities(carried)[0][:, 0] > 0.9999).all()


def test_a_slot_without_an_object_has_no_share_of_any_pixel(reader):
    active = (torch.arange(SLOTS) < 3).float()[None]
    carried, _ = step(reader, filled_memory(), write(active=active))
    shares = probabilities(carried)[0]
    assert shares[:, 4:].max() < 1e-6
    assert shares[:, 1:4].max() > 1e-3
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))


def test_what_is_remembered_stays_in_range_over_many_steps(reader):
    memory = empty_memory(1, *SIZE)
    told = write(masks=masks(seed=9))
    for t in range(12):
        entry = torch.tensor([[1.0, float(t % 3 == 0), float(t == 0), float(t % 4 == 1)]])
        carried, memory = step(reader, memory, told._replace(entry=entry), seen(seed=t))
        shares, presence, quality = probabilities(carried)
        told = told._replace(masks=shares[:, 1:])
        for name, t_ in {"values": memory.values, "shares": shares, "presence": presence, "quality": quality}.items():
            assert t_.min() >= 0, name
            assert t_.max() <= 1, name
        assert set(memory.known.unique().tolist()) <= {0.0, 1.0}
        assert memory.pointers.norm(dim=2).max() <= 1 + 1e-5
        assert all(torch.isfinite(t_).all() for t_ in memory)


def test_a_batch_gives_what_its_clips_give_alone(reader):
    memory, told, frames = filled_memory(2), write(2), seen(2)
    both, left = step(reader, memory, told, frames)
    for i in range(2):
        alone = [type(x)(*(t[i : i + 1] for t in x)) for x in (memory, told, frames)]
        one, kept = step(reader, alone[0], alone[1], alone[2])  # type: ignore[arg-type]
        torch.testing.assert_close(one.logits, both.logits[i : i + 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.presence, both.presence[i : i + 1], atol=1e-4, rtol=1e-4)
        for a, b in zip(kept, left, strict=True):
            torch.testing.assert_close(a, b[i : i + 1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_graph_is_the_module_with_probabilities(reader):
    inputs = example(reader, SIZE, torch.Generator().manual_seed(1))
    assert len(inputs) == len(INPUTS)
    out = dict(zip(OUTPUTS, ReaderGraph(reader)(*inputs), strict=True))
    carried, memory = reader(Encoded(*inputs[:4]), Memory(*inputs[4:11]), Write(*inputs[11:]))
    assert torch.equal(out["probabilities"], carried.logits.softmax(1))
    for name, tensor in zip(Memory._fields, memory, strict=True):
        assert torch.equal(out[f"next_{name}"], tensor)


def test_every_parameter_learns():
    torch.manual_seed(0)
    reader = MemoryReader()
    for seed in range(2):  # which entries are written is drawn
        torch.manual_seed(seed)
        loss, _ = rollout_loss(reader, sequence_of(walking_ids(7), b=2))
        loss.backward()
    dead = [name for name, p in reader.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_features_of_other_networks_can_be_read():
    reader = MemoryReader((16, 8, 24, 12))
    h, w = SIZE
    frame = Encoded(*(torch.rand(1, c, h // s, w // s) for c, s in ((16, 16), (8, 16), (24, 8), (12, 4))))
    assert step(reader, empty_memory(1, *SIZE), write(), frame)[0].logits.shape == (1, 1 + SLOTS, h // 4, w // 4)
