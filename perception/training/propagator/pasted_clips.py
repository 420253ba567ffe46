"""Clips out of single pictures: the picture moves as a camera would move it, cut-out things cross in front of it.

Real texture where no video has ids (the static stage of Oh et al. 2019, STM, section 3.4; of Cheng et al. 2021,
STCN, section 5.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.training.datasets import Dataset, Sample
from perception.training.instances import renumbered
from perception.training.propagator.clip import SIZE, Clip, largest_first, small_ids
from perception.training.targets import UNKNOWN

LEAST_CUTOUT = 500  # [px] smaller things are blurred when they are enlarged
LEAST_PX = 20
FILLED = 0.85  # a fresh random shape is followed in this share of the cases, else it only hides
_BACKGROUND = 1000  # ids of things of the picture itself start above those of cut-outs


@dataclass(frozen=True, eq=False)
class Cutout:
    """One thing on its own."""

    image: NDArray[np.uint8]  # (h, w, 3)
    mask: NDArray[np.uint8]  # (h, w) 0..255


def cutouts_of(sample: Sample) -> list[Cutout]:
    """The whole things of a picture."""
    found = []
    for number in np.unique(sample.instances):
        if number in (0, UNKNOWN):
            continue
        mask = sample.instances == number
        if int(mask.sum()) < LEAST_CUTOUT:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        if rows[0] == 0 or columns[0] == 0 or rows[-1] + 1 == mask.shape[0] or columns[-1] + 1 == mask.shape[1]:
            continue  # cut by the border: it would be seen to be cut
        found.append(Cutout(sample.image[window].copy(), mask[window].astype(np.uint8) * 255))
    return found


def random_shape(image: NDArray[np.uint8], rng: np.random.Generator) -> Cutout:
    """A blob of the picture's own texture: a thing of no class."""
    side = int(rng.integers(40, 160))
    h, w = image.shape[:2]
    y, x = int(rng.integers(0, max(1, h - side))), int(rng.integers(0, max(1, w - side)))
    patch = image[y : y + side, x : x + side]
    side_y, side_x = patch.shape[:2]
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(0.25, 0.5, 9)
    corners = 0.5 + radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
    mask = np.zeros((side_y, side_x), np.uint8)
    cv2.fillPoly(mask, [np.round(corners * (side_x, side_y)).astype(np.int32)], 255)
    return Cutout(patch.copy(), np.asarray(cv2.GaussianBlur(mask, (5, 5), 0), np.uint8))


@dataclass(frozen=True)
class Motion:
    """Place, size and turn of something in each frame of a clip, changing smoothly."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    scale: NDArray[np.float64]
    angle: NDArray[np.float64]  # [degrees]

    def matrix(self, t: int, middle: tuple[float, float]) -> NDArray[np.float64]:
        """(2, 3) from pixels around `middle` to the frame."""
        matrix = np.asarray(cv2.getRotationMatrix2D(middle, float(self.angle[t]), float(self.scale[t])), np.float64)
        matrix[:, 2] += (self.x[t] - middle[0], self.y[t] - middle[1])
        return matrix


def random_motion(
    frames: int, at: tuple[float, float], step: float, grow: float, turn: float, rng: np.random.Generator
) -> Motion:
    """A walk with nearly constant velocity; `step` [px a frame], `grow` [share a frame], `turn` [degrees a frame]."""
    speed = rng.normal(0, step, 2) + np.cumsum(rng.normal(0, 0.15 * step, (frames, 2)), 0)
    place = np.array(at) + np.cumsum(speed, 0) - speed[0]
    t = np.arange(frames)
    scale = np.exp(rng.normal(0, grow) * t)
    return Motion(place[:, 0], place[:, 1], scale, np.asarray(rng.normal(0, turn) * t, np.float64))


def pasted_clip(sample: Sample, cutouts: Sequence[Cutout], frames: int, slots: int, rng: np.random.Generator) -> Clip:
    """One picture in motion with three to eight things pasted over it, that hide it and one another.

    Args:
        cutouts: to choose from; may be empty, then only random shapes are pasted.
    """
    camera = random_motion(frames, (SIZE[0] / 2, SIZE[1] / 2), 3.0, 0.012, 0.25, rng)
    things = _things(sample.image, cutouts, frames, rng)
    numbers = np.where(sample.instances == UNKNOWN, np.uint16(0), renumbered(sample.instances, _BACKGROUND + 1))
    images, maps = [], []
    for t in range(frames):
        image, ids = _moved(sample.image, numbers, camera, t)
        for k, (cutout, motion, is_followed) in enumerate(things, 1):
            _paste(image, ids, cutout, motion, t, k if is_followed else 0)
        images.append(_exposed(image, rng))
        maps.append(small_ids(ids))
    period = float(rng.choice((1 / 30, 1 / 15, 1 / 10)))
    stamps = (period * np.arange(frames)).astype(np.float32)
    return Clip(np.stack(images), largest_first(np.stack(maps), slots, LEAST_PX), stamps)


def _things(
    image: NDArray[np.uint8], cutouts: Sequence[Cutout], frames: int, rng: np.random.Generator
) -> list[tuple[Cutout, Motion, bool]]:
    things = []
    for _ in range(int(rng.integers(3, 9))):
        is_shape = not cutouts or rng.random() < 0.3
        cutout = random_shape(image, rng) if is_shape else cutouts[int(rng.integers(len(cutouts)))]
        wanted = float(np.exp(rng.uniform(np.log(24), np.log(260))))  # its longer side [px]
        cutout = _sized(cutout, min(2.0, wanted / max(cutout.mask.shape)))
        if rng.random() < 0.5:
            cutout = Cutout(cutout.image[:, ::-1].copy(), cutout.mask[:, ::-1].copy())
        at = (float(rng.uniform(0, SIZE[0])), float(rng.uniform(0.2, 1.0) * SIZE[1]))
        step = float(rng.choice((1.5, 5.0, 11.0)))
        motion = random_motion(frames, at, step, 0.025, 1.5 if is_shape else 0.4, rng)
        things.append((cutout, motion, not is_shape or rng.random() < FILLED))
    return things


def _sized(cutout: Cutout, factor: float) -> Cutout:
    size = tuple(max(6, round(side * factor)) for side in cutout.mask.shape[::-1])
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return Cutout(*(np.asarray(cv2.resize(a, size, interpolation=way), np.uint8) for a in (cutout.image, cutout.mask)))


def _moved(image: NDArray, numbers: NDArray[np.uint16], camera: Motion, t: int) -> tuple[NDArray, NDArray[np.uint16]]:
    """The picture, a little enlarged so that its borders stay outside, as the camera sees it at t."""
    h, w = image.shape[:2]
    matrix = camera.matrix(t, (w / 2, h / 2)).astype(np.float64)
    fit = 1.12 * max(SIZE[0] / w, SIZE[1] / h)
    matrix[:, :2] *= fit
    matrix[:, 2] = (camera.x[t], camera.y[t]) - matrix[:, :2] @ (w / 2, h / 2)
    moved = cv2.warpAffine(image, matrix, SIZE, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    ids = cv2.warpAffine(numbers, matrix, SIZE, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(moved), np.asarray(ids, np.uint16)


def _paste(image: NDArray, ids: NDArray[np.uint16], cutout: Cutout, motion: Motion, t: int, number: int) -> None:
    h, w = cutout.mask.shape
    matrix = motion.matrix(t, (w / 2, h / 2))
    x, y = matrix[:, 2]
    reach = int(motion.scale[t] * float(np.hypot(h, w))) + 2  # only a window of the frame is touched
    x0, y0 = max(0, int(motion.x[t]) - reach), max(0, int(motion.y[t]) - reach)
    x1, y1 = min(SIZE[0], int(motion.x[t]) + reach), min(SIZE[1], int(motion.y[t]) + reach)
    if x0 >= x1 or y0 >= y1:
        return
    matrix[:, 2] = (x - x0, y - y0)
    size = (x1 - x0, y1 - y0)
    alpha = np.asarray(cv2.warpAffine(cutout.mask, matrix, size, flags=cv2.INTER_LINEAR), np.float32)[..., None] / 255
    colour = cv2.warpAffine(cutout.image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    window = image[y0:y1, x0:x1]
    window[:] = (window * (1 - alpha) + np.asarray(colour, np.float32) * alpha + 0.5).astype(np.uint8)
    ids[y0:y1, x0:x1][alpha[..., 0] > 0.5] = number


def _exposed(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A little brightness and noise of its own, as a camera's gain control makes them."""
    noise = rng.normal(0, 2.0, image.shape[:2])[..., None]
    return np.clip(image * rng.uniform(0.97, 1.03) + noise, 0, 255).astype(np.uint8)


def all_cutouts(datasets: Sequence[Dataset], most: int, rng: np.random.Generator) -> list[Cutout]:
    """Whole things out of as many pictures as it takes, at most `most`."""
    found: list[Cutout] = []
    places = [(d, i) for d in datasets for i in range(len(d))]
    for j in rng.permutation(len(places)):
        if len(found) >= most:
            break
        dataset, i = places[int(j)]
        found += cutouts_of(dataset.read(i))
    return found[:most]
