from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.training.augment import augmented, class_mixed, random_colour, random_crop  # noqa: E402
from perception.training.config import AugmentConfig  # noqa: E402
from perception.training.datasets import Sample  # noqa: E402
from perception.training.label_set import IGNORE  # noqa: E402
from perception.training.looks import night, rain  # noqa: E402
from perception.training.targets import UNKNOWN  # noqa: E402


def sample(h: int = 60, w: int = 80) -> Sample:
    """A bright square of label 1 and instance 300 on dark ground."""
    image = np.zeros((h, w, 3), np.uint8)
    image[20:40, 30:50] = 255
    square = image[..., 0] > 0
    return Sample(image, square.astype(np.uint8), np.where(square, 300, 0).astype(np.uint16))


def street() -> np.ndarray:
    """Bright sky above a grey road with a white line."""
    image = np.full((90, 120, 3), 110, np.uint8)
    image[:40] = (150, 190, 240)
    image[40:, 58:62] = 230
    return image


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.5, 1.5), st.floats(1.0, 2.0))
def test_crops_keep_picture_labels_and_instances_together(seed, low, factor):
    out = random_crop(sample(), (48, 64), (low, low * factor), (-0.2, 0.2), np.random.default_rng(seed))
    inside = out.labels != IGNORE
    assert ((out.instances == 300) == (out.labels == 1)).all()
    assert np.mean((out.image[..., 0] > 127)[inside] == out.labels[inside]) > 0.95


def test_beyond_the_picture_nothing_is_known():
    out = random_crop(sample(), (128, 128), (0.5, 0.5), (0.0, 0.0), np.random.default_rng(0))
    assert np.mean(out.labels != IGNORE) == pytest.approx(30 * 40 / 128**2, rel=0.05)
    assert (out.instances[out.labels == IGNORE] == 0).all()


def test_the_same_generator_gives_the_same_sample():
    config = AugmentConfig(night=0.5, rain=0.5)
    for seed in range(4):
        a, b = (augmented(sample(), (48, 48), (0.7, 1.4), config, np.random.default_rng(seed)) for _ in range(2))
        assert all((x == y).all() for x, y in zip(a, b, strict=True))


def test_a_flip_mirrors_everything():
    plain = dict.fromkeys(("saturation", "contrast", "brightness", "tint"), (1.0, 1.0))
    never = AugmentConfig(flip=0.0, aspect=(0.0, 0.0), log_gamma=(0.0, 0.0), blur=0.0, noise=0.0, **plain)
    always = AugmentConfig(flip=1.0, aspect=(0.0, 0.0), log_gamma=(0.0, 0.0), blur=0.0, noise=0.0, **plain)
    a, b = (augmented(sample(), (60, 80), (1.0, 1.0), c, np.random.default_rng(1)) for c in (never, always))
    assert (a.labels == b.labels[:, ::-1]).all()
    assert (a.instances == b.instances[:, ::-1]).all()
    assert np.abs(a.image.astype(int) - b.image[:, ::-1]).max() <= 1


def patchwork(seed: int) -> Sample:
    """Patches of 8 x 8 px of four labels, IGNORE among them; label 1 is a thing, whose extent is sometimes unknown."""
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.choice(np.array([0, 1, 2, IGNORE], np.uint8), (4, 4)), np.ones((8, 8), np.uint8))
    numbers = np.kron(rng.choice(np.array([1, 2, UNKNOWN], np.uint16), (4, 4)), np.ones((8, 8), np.uint16))
    return Sample(rng.integers(0, 256, (32, 32, 3), np.uint8), labels, np.where(labels == 1, numbers, 0))


@pytest.mark.parametrize("seed", range(8))
def test_a_mixed_sample_shows_whole_classes_of_one_over_the_other(seed):
    under, over = patchwork(seed), patchwork(seed + 100)
    out = class_mixed(under, over, np.random.default_rng(seed))
    taken = (out.image == over.image).all(2)
    assert ((out.image == under.image).all(2) | taken).all()
    assert (out.labels == np.where(taken, over.labels, under.labels)).all()
    shown = set(np.unique(over.labels[taken]))
    assert 0 < len(shown) <= (len(set(np.unique(over.labels)) - {IGNORE}) + 1) // 2
    assert IGNORE not in shown
    assert taken[np.isin(over.labels, list(shown))].all()


@pytest.mark.parametrize("seed", range(8))
def test_things_of_both_samples_stay_apart_and_unknown_ones_unknown(seed):
    under, over = patchwork(seed), patchwork(seed + 100)
    out = class_mixed(under, over, np.random.default_rng(seed))
    taken = (out.image == over.image).all(2)
    assert ((out.instances == UNKNOWN) == (np.where(taken, over.instances, under.instances) == UNKNOWN)).all()
    ids = [set(np.unique(out.instances[place])) - {0, UNKNOWN} for place in (taken, ~taken)]
    assert not ids[0] & ids[1]


@pytest.mark.parametrize(("under", "over"), [(65000, 537), (40000, 25535), (65534, 65534)])
def test_large_instance_numbers_stay_apart_too(under, over):
    labels = np.array([[0, 0, 0, 0]], np.uint8)
    image = np.zeros((1, 4, 3), np.uint8)
    below = Sample(image, labels, np.array([[1, under, UNKNOWN, 0]], np.uint16))
    above = Sample(image, np.array([[IGNORE, IGNORE, IGNORE, 1]], np.uint8), np.full((1, 4), over, np.uint16))
    out = class_mixed(below, above, np.random.default_rng(0)).instances[0].tolist()
    assert len(set(out)) == 4
    assert out[2] == UNKNOWN
    assert 0 not in out


def test_a_sample_without_labels_lays_nothing_over_another():
    full = patchwork(0)
    empty = full._replace(labels=np.full_like(full.labels, IGNORE), instances=np.zeros_like(full.instances))
    assert class_mixed(patchwork(1), empty, np.random.default_rng(0)).labels.tolist() == patchwork(1).labels.tolist()


def test_colour_without_ranges_leaves_the_picture_alone():
    still = dict.fromkeys(("saturation", "contrast", "brightness", "tint"), (1.0, 1.0))
    config = AugmentConfig(log_gamma=(0.0, 0.0), blur=0.0, noise=0.0, **still)
    out = random_colour(street(), config, np.random.default_rng(0))
    assert np.abs(out.astype(int) - street()).max() <= 1


@pytest.mark.parametrize("seed", range(6))
def test_night_is_dark_above_and_lit_before_the_car(seed):
    out = night(street(), np.random.default_rng(seed))
    assert out.shape == (90, 120, 3)
    assert out.dtype == np.uint8
    assert out.mean() < 0.6 * street().mean()
    assert np.median(out[:15]) < np.median(out[60:75])  # by day the sky is the brighter one


@pytest.mark.parametrize("seed", range(6))
def test_rain_takes_colour_and_contrast_but_leaves_the_scene(seed):
    out = rain(street(), np.random.default_rng(seed)).astype(float)
    day = street().astype(float)
    assert np.ptp(out, 2).mean() < 0.8 * np.ptp(day, 2).mean()
    assert np.median(out[60:85, 59:61]) > np.median(out[60:85, 20:50])  # the line is still there
    assert out.std() < day.std()
