"""What the memory is trained on: clips, their features, and the sequences cut out of them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra.numpy import arrays  # noqa: E402

from perception.errors import ConfigError, ModelError  # noqa: E402
from perception.training.checkpoint import SaveError  # noqa: E402
from perception.training.datasets import Sample  # noqa: E402
from perception.training.networks import NetworkConfig, build_network  # noqa: E402
from perception.training.networks.memory import SLOTS  # noqa: E402
from perception.training.propagator.clip import MASK_SIZE, SIZE, Clip, largest_first, small_ids  # noqa: E402
from perception.training.propagator.features import encode_clip, read_clip, window, write_clip  # noqa: E402
from perception.training.propagator.pasted_clips import Cutout, cutouts_of, pasted_clip  # noqa: E402
from perception.training.propagator.rendered_clips import rendered_clip  # noqa: E402
from perception.training.propagator.rollout import soft_masks  # noqa: E402
from perception.training.propagator.sequences import COLUMNS, SequenceSampler, whole  # noqa: E402
from perception.training.targets import UNKNOWN  # noqa: E402
from tests.memory_fakes import clip_of, walking_ids  # noqa: E402
from tests.training_fakes import no_file_beyond  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(things: int = 3) -> Sample:
    """Grey noise with bright boxes; one of them is a crowd."""
    rng = np.random.default_rng(5)
    image = rng.integers(60, 90, (176, 320, 3), np.uint8)
    instances = np.zeros((176, 320), np.uint16)
    for k in range(things):
        box = slice(40 + 20 * k, 90 + 20 * k), slice(20 + 90 * k, 70 + 90 * k)
        image[box], instances[box] = 150 + 30 * k, k + 1
    instances[150:170, 5:40] = UNKNOWN
    return Sample(image, np.zeros((176, 320), np.uint8), instances)


def box(colour: int, side: int = 60) -> Cutout:
    return Cutout(np.full((side, side, 3), colour, np.uint8), np.full((side, side), 255, np.uint8))


def pasted(seed: int, cutouts: tuple[Cutout, ...] = (), slots: int = SLOTS, frames: int = 3) -> Clip:
    return pasted_clip(picture(), cutouts, frames, slots, np.random.default_rng(seed))


def assert_same(a: Clip, b: Clip) -> None:
    assert np.array_equal(a.images, b.images)
    assert np.array_equal(a.ids, b.ids)
    assert np.array_equal(a.stamps_s, b.stamps_s)


@pytest.mark.parametrize("make", [pasted, lambda seed: rendered_clip(seed, 2, SLOTS)], ids=["pasted", "rendered"])
def test_the_same_number_gives_the_same_clip(make):
    clip = make(1)
    assert clip.images.shape[1:] == (SIZE[1], SIZE[0], 3)
    assert clip.ids.shape == (len(clip.images), MASK_SIZE[1], MASK_SIZE[0])
    assert (clip.images.dtype, clip.ids.dtype, clip.stamps_s.dtype) == (np.uint8, np.uint8, np.float32)
    assert (np.diff(clip.stamps_s) > 0).all()
    assert_same(clip, make(1))


def test_another_number_gives_another_clip():
    assert not np.array_equal(pasted(1).images, pasted(2).images)


@pytest.mark.parametrize("slots", [1, 4, SLOTS])
def test_ids_are_those_of_slots(slots):
    for seed in range(4):
        clip = pasted(seed, (box(255), box(0)), slots, frames=2)
        assert clip.ids.max() <= slots
        assert sorted(np.unique(clip.ids[clip.ids > 0])) == list(range(1, clip.ids.max() + 1))


def test_things_that_are_pasted_hide_one_another_and_the_picture():
    """Boxes of two colours: where two meet, ids follow what is in front, pixel for pixel away from the borders."""
    hidden = 0
    for seed in range(6):
        clip = pasted(seed, (box(255), box(0)), frames=6)
        bright = clip.images[:, ::2, ::2].mean(3)
        areas = np.stack([np.bincount(m.ravel(), minlength=SLOTS + 1)[1:] for m in clip.ids])
        for m, image in zip(clip.ids, bright, strict=True):
            for k in np.unique(m[m > 0]):
                of_one = image[m == k]
                # a box has one colour; where another lay over it with the ids of the lower one, it would have two
                if (of_one > 245).mean() > 0.5:
                    assert (of_one < 20).mean() < 0.02
        seen = areas.max(0) > 0
        hidden += int((areas[:, seen].min(0) < 0.5 * areas[:, seen].max(0)).sum())
    assert hidden >= 3


def test_a_crowd_is_no_object():
    sample = picture(things=0)
    clip = pasted_clip(sample, (), 2, SLOTS, np.random.default_rng(0))
    numbers = pasted_clip(
        sample._replace(instances=np.zeros_like(sample.instances)), (), 2, SLOTS, np.random.default_rng(0)
    )
    assert_same(clip, numbers)


def test_large_instance_numbers_are_ids_as_small_ones_are():
    sample = picture()
    large = np.where(np.isin(sample.instances, (1, 2, 3)), sample.instances + np.uint16(64535), sample.instances)
    a, b = (pasted_clip(s, (), 2, SLOTS, np.random.default_rng(0)) for s in (sample, sample._replace(instances=large)))
    assert_same(a, b)


def test_cutouts_are_whole_things():
    sample = picture()
    sample.instances[:60, :20] = 9  # cut by the border
    sample.instances[160:165, 300:305] = 8  # too small
    found = cutouts_of(sample)
    assert [c.mask.shape for c in found] == [(50, 50)] * 3
    assert all(
        (c.mask == 255).all() and (c.image == colour).all() for c, colour in zip(found, (150, 180, 210), strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint16, (3, 6, 8), elements=st.sampled_from([0, 3, 7, 900, 65535])), st.integers(1, 4))
def test_the_largest_objects_get_the_first_ids(maps, most):
    ids = largest_first(maps, most, 2)
    areas = {int(v): max(int((m == v).sum()) for m in maps) for v in np.unique(maps) if v}
    kept = sorted((v for v in areas if areas[v] >= 2), key=lambda v: -areas[v])[:most]
    assert ids.max(initial=0) == len(kept)
    given_to = [int(maps[ids == k + 1][0]) for k in range(len(kept))]
    assert [areas[v] for v in given_to] == [areas[v] for v in kept]
    for k, v in enumerate(given_to, 1):
        assert np.array_equal(ids == k, maps == v)


def test_small_ids_are_ids_of_the_large_map():
    large = np.random.default_rng(0).integers(0, 5, (352, 640)).astype(np.uint16) * 1000
    small = small_ids(large)
    assert small.shape == MASK_SIZE[::-1]
    assert np.array_equal(small, large[::2, ::2])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network(NetworkConfig(width=16), 11).eval()


def test_a_clip_through_the_encoder_comes_back_from_the_disk_as_it_was(network, tmp_path):
    clip = pasted(0, frames=1)
    encoded = encode_clip(network, clip)
    write_clip(encoded, tmp_path / "a.safetensors")
    back = read_clip(tmp_path / "a.safetensors")
    assert encoded.channels == back.channels == (96, 16, 32, 24)
    assert back.objects == clip.ids.max()
    assert all(torch.equal(encoded.features[name], tensor) for name, tensor in back.features.items())
    assert torch.equal(back.ids, torch.from_numpy(clip.ids))
    assert torch.equal(back.stamps_s, torch.from_numpy(clip.stamps_s))


def test_a_broken_clip_says_that_it_can_be_made_anew(tmp_path):
    path = tmp_path / "a.safetensors"
    write_clip(clip_of(walking_ids(2)), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"not a whole clip .*delete it"):
        read_clip(path)


def test_a_clip_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path):
    with no_file_beyond(1000), pytest.raises(SaveError, match="can't be written"):
        write_clip(clip_of(walking_ids(2)), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_window_cuts_features_and_ids_at_the_same_place():
    clip = clip_of(walking_ids(3))
    features, ids = window(clip, [2, 0], (10, 30))
    assert [f.fine4.shape for f in features] == [(1, 24, 4, 80)] * 2
    assert torch.equal(ids, clip.ids[[2, 0], :, 80:240])
    assert torch.equal(features[0].keys, clip.features["keys"][2:3, :, :, 10:30].float())


def sampler(seed: int = 0, **clip: int) -> SequenceSampler:
    return SequenceSampler([clip_of(walking_ids(10, **clip), seed=i) for i in range(3)], seed)


def test_a_batch_follows_from_seed_and_step_alone():
    one, other = sampler(), sampler()
    other.batch(7)
    a, b = one.batch(3), other.batch(3)
    assert all(torch.equal(x, y) for x, y in zip(a.masks, b.masks, strict=True))
    assert torch.equal(a.stamps_s, b.stamps_s)
    assert all(
        torch.equal(x, y) for f, g in zip(a.features, b.features, strict=True) for x, y in zip(f, g, strict=True)
    )
    c = sampler(seed=1).batch(3)
    assert (
        len(a.masks) != len(c.masks) or a.masks[0].shape != c.masks[0].shape or not torch.equal(a.masks[0], c.masks[0])
    )


def test_every_sequence_begins_with_an_object_in_its_window():
    """Also where some objects are left out, and where the window is half of the picture."""
    many = sampler(objects=2)
    widths = set()
    for step in range(60):
        batch = many.batch(step)
        widths.add(batch.masks[0].shape[3] // 4)
        assert (batch.masks[0].sum((1, 2, 3)) > 0).all()
        assert len(batch.features) == len(batch.masks) == batch.stamps_s.shape[1]
        assert (batch.stamps_s.diff() > 0).all()
    assert len(widths) == 3
    assert max(widths) == COLUMNS


def test_a_sequence_whose_object_comes_later_shows_it_then():
    late = sampler(objects=1, first=6)
    shown = [sum(float(m[i].sum()) for m in batch.masks) > 0 for batch in map(late.batch, range(40))
             for i in range(len(batch.masks[0]))]  # fmt: skip
    assert np.mean(shown) > 0.4  # the others lie before its time


def test_clips_without_objects_are_not_drawn():
    empty, full = clip_of(walking_ids(8, objects=0)), clip_of(walking_ids(8))
    assert SequenceSampler([empty, full], 0).clips == [full]
    with pytest.raises(ConfigError, match=r"no clip to train on shows any object; make more"):
        SequenceSampler([empty], 0)


def test_validation_takes_the_first_frames_as_they_are():
    clip = clip_of(walking_ids(5))
    sequence = whole(clip, 3)
    assert len(sequence.masks) == 3
    assert torch.equal(sequence.masks[1], soft_masks(clip.ids[1:2]))
    torch.testing.assert_close(sequence.stamps_s, torch.tensor([[0.0, 0.1, 0.2]]))
    assert len(whole(clip, 9).masks) == 5
