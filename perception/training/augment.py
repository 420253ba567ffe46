"""Random scale, crop, flip, colour, blur and noise, from one generator so that a seed repeats a run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.training.config import AugmentConfig
from perception.training.datasets import Sample
from perception.training.instances import renumbered
from perception.training.label_set import IGNORE
from perception.training.looks import night, rain
from perception.training.targets import UNKNOWN

Image = NDArray[np.uint8]
GREY = (124, 116, 104)  # beyond the picture; about 0 for a network that takes [-1, 1]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def augmented(
    sample: Sample,
    size: tuple[int, int],
    scales: tuple[float, float],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Sample:
    """A random window of `size` (h, w) in another light, and sometimes at night or in rain."""
    sample = random_crop(sample, size, scales, config.aspect, rng)
    if rng.random() < config.flip:
        sample = _flipped(sample)
    image = random_colour(sample.image, config, rng)
    if rng.random() < config.night:
        image = night(image, rng)
    if rng.random() < config.rain:
        image = rain(image, rng)
    return sample._replace(image=image)


def random_crop(
    sample: Sample,
    size: tuple[int, int],
    scales: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Sample:
    """A window of `size` (h, w) of the picture scaled by a log-uniform factor, with a little aspect change.

    One warp does both, which costs the same at every scale. Beyond the picture the labels are IGNORE, the
    instances 0 and the pixels grey. An instance that the window cuts keeps its number and so gets the centre of
    what is left of it.
    """
    h, w = size
    scale = float(np.exp(rng.uniform(*np.log(scales))))
    stretch = float(np.exp(rng.uniform(*aspect)))
    sx, sy = scale * stretch, scale / stretch
    room_x, room_y = sample.image.shape[1] * sx - w, sample.image.shape[0] * sy - h
    x0 = rng.uniform(min(0.0, room_x), max(0.0, room_x))
    y0 = rng.uniform(min(0.0, room_y), max(0.0, room_y))
    matrix = np.array([[sx, 0, 0.5 * sx - 0.5 - x0], [0, sy, 0.5 * sy - 0.5 - y0]])
    image = cv2.warpAffine(sample.image, matrix, (w, h), flags=cv2.INTER_LINEAR, borderValue=GREY)
    labels = cv2.warpAffine(sample.labels, matrix, (w, h), flags=cv2.INTER_NEAREST, borderValue=(IGNORE,))
    instances = cv2.warpAffine(sample.instances, matrix, (w, h), flags=cv2.INTER_NEAREST, borderValue=(0,))
    return Sample(image.astype(np.uint8), labels.astype(np.uint8), instances.astype(np.uint16))


def _flipped(sample: Sample) -> Sample:
    image, labels, instances = sample
    flip = np.ascontiguousarray
    return Sample(flip(image[:, ::-1]), flip(labels[:, ::-1]), flip(instances[:, ::-1]))


def class_mixed(under: Sample, over: Sample, rng: np.random.Generator) -> Sample:
    """`under` with what `over` shows of half of its labels laid over it (ClassMix, Olsson et al. 2021, on true labels).

    Both of one size. Things then stand where they never stood, so that the network can't learn a place by heart.
    Instances of both get new numbers; one of `under` that is partly covered stays one.
    """
    present = np.setdiff1d(over.labels, [IGNORE])
    if not len(present):
        return under
    taken = np.isin(over.labels, rng.permutation(present)[: (len(present) + 1) // 2])
    below = renumbered(under.instances)
    above = renumbered(over.instances, 1 + int(below[below != UNKNOWN].max(initial=0)))
    return Sample(
        np.where(taken[..., None], over.image, under.image),
        np.where(taken, over.labels, under.labels),
        np.where(taken, above, below),
    )


def random_colour(image: Image, config: AugmentConfig, rng: np.random.Generator) -> Image:
    """Saturation, contrast, brightness, tint and gamma of other cameras and hours; sometimes blur and noise."""
    x = image.astype(np.float32) / 255
    grey = x @ LUMA
    x = grey[..., None] + np.float32(rng.uniform(*config.saturation)) * (x - grey[..., None])
    mean = float(grey.mean())
    x = mean + np.float32(rng.uniform(*config.contrast)) * (x - mean)
    x = x * np.float32(rng.uniform(*config.brightness)) * rng.uniform(*config.tint, 3).astype(np.float32)
    x = np.clip(x, 0, 1) ** np.float32(np.exp(rng.uniform(*config.log_gamma)))
    if rng.random() < config.blur:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.5)).astype(np.float32)
    if rng.random() < config.noise:
        x = x + rng.normal(0, rng.uniform(0.005, 0.04), x.shape).astype(np.float32)
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)
