"""Random scale, crop, flip, colour, blur and noise, from one generator so that a seed repeats a run."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.training.datasets import IGNORE

Image = NDArray[np.uint8]


def random_crop(
    image: Image, labels: Image, size: tuple[int, int], scales: tuple[float, float], rng: np.random.Generator
) -> tuple[Image, Image]:
    """A window of `size` (h, w) of the image scaled by a log-uniform factor, with a little aspect change.

    The window is cut first and scaled after, which costs the same at every scale; outside the image the labels
    are IGNORE and the pixels grey.
    """
    h, w = size
    scale = float(np.exp(rng.uniform(*np.log(scales))))
    aspect = float(np.exp(rng.uniform(-0.1, 0.1)))
    sx, sy = scale * aspect, scale / aspect
    room_x, room_y = image.shape[1] * sx - w, image.shape[0] * sy - h
    x0 = rng.uniform(min(0.0, room_x), max(0.0, room_x))
    y0 = rng.uniform(min(0.0, room_y), max(0.0, room_y))
    matrix = np.array([[sx, 0, 0.5 * sx - 0.5 - x0], [0, sy, 0.5 * sy - 0.5 - y0]])
    interpolation = cv2.INTER_LINEAR if scale > 0.75 else cv2.INTER_AREA
    grey = (124, 116, 104)
    out = cv2.warpAffine(image, matrix, (w, h), flags=interpolation, borderValue=grey)
    out_labels = cv2.warpAffine(labels, matrix, (w, h), flags=cv2.INTER_NEAREST, borderValue=(IGNORE,))
    if rng.random() < 0.5:
        out, out_labels = out[:, ::-1], out_labels[:, ::-1]
    return np.ascontiguousarray(out).astype(np.uint8), np.ascontiguousarray(out_labels).astype(np.uint8)


def random_colour(image: Image, rng: np.random.Generator) -> Image:
    """Brightness, contrast, saturation, hue and gamma of other cameras and hours; sometimes blur and noise."""
    x = image.astype(np.float32) / 255
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    x = grey[..., None] + rng.uniform(0.5, 1.5) * (x - grey[..., None])
    mean = float(grey.mean())
    x = mean + rng.uniform(0.6, 1.4) * (x - mean)
    x = x * rng.uniform(0.65, 1.35) * rng.uniform(0.9, 1.1, 3).astype(np.float32)
    x = np.clip(x, 0, 1) ** np.float32(np.exp(rng.uniform(-0.3, 0.3)))
    if rng.random() < 0.2:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.5)).astype(np.float32)
    if rng.random() < 0.2:
        x = x + rng.normal(0, rng.uniform(0.005, 0.04), x.shape).astype(np.float32)
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)
