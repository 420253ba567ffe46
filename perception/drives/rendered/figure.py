"""A drawing of a body from shaded, rounded parts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered.canvas import Sprite
from perception.drives.rendered.props import cut_out
from perception.drives.rendered.textures import Colour, Image, numbers

Point = tuple[float, float]


@dataclass
class Figure:
    """A drawing in metres: x right of the middle, y up from the ground; parts are shaded as round bodies."""

    scale: float
    width_m: float
    height_m: float
    light: Point
    rgb: Image = field(init=False)
    alpha: Image = field(init=False)

    def __post_init__(self) -> None:
        shape = (round(self.height_m * self.scale), round(self.width_m * self.scale))
        self.rgb, self.alpha = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)

    def _pixels(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        x = (points[:, 0] + self.width_m / 2) * self.scale
        y = (self.height_m - points[:, 1]) * self.scale
        return np.round(np.stack([x, y], axis=1) * 16).astype(np.int32)

    def limb(self, a: Point, b: Point, wide_a: float, wide_b: float, colour: Colour) -> None:
        """A tapered, round-ended limb between two joints; widths are diameters [m]."""
        turn = math.atan2(b[1] - a[1], b[0] - a[0])
        first = turn + np.linspace(np.pi / 2, 1.5 * np.pi, 9)
        second = turn + np.linspace(-np.pi / 2, np.pi / 2, 9)
        ring_a = np.stack([a[0] + wide_a / 2 * np.cos(first), a[1] + wide_a / 2 * np.sin(first)], axis=1)
        ring_b = np.stack([b[0] + wide_b / 2 * np.cos(second), b[1] + wide_b / 2 * np.sin(second)], axis=1)
        self.body(np.concatenate([ring_a, ring_b]), colour)

    def ball(self, middle: Point, rx: float, ry: float, colour: Colour) -> None:
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.body(np.stack([middle[0] + rx * np.cos(angles), middle[1] + ry * np.sin(angles)], axis=1), colour)

    def body(self, outline: NDArray[np.float64], colour: Colour) -> None:
        """Any closed shape, shaded as if it bulged towards the viewer."""
        points = self._pixels(np.asarray(outline, np.float64))
        low, high = np.maximum(points.min(axis=0) // 16 - 2, 0), points.max(axis=0) // 16 + 3
        part = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
        mask = np.zeros(self.alpha[part].shape, np.uint8)
        if not mask.size:
            return
        cv2.fillPoly(mask, [points - (low * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        bulge = np.sqrt(cv2.distanceTransform(mask, cv2.DIST_L2, 3))
        bulge = cv2.GaussianBlur(bulge, (5, 5), 0)
        gx, gy = cv2.Sobel(bulge, cv2.CV_32F, 1, 0, ksize=3), cv2.Sobel(bulge, cv2.CV_32F, 0, 1, ksize=3)
        lit = np.clip(0.88 + 0.1 * (gx * self.light[0] + gy * self.light[1]), 0.45, 1.28)
        colours = np.clip(numbers(colour) * lit[..., None], 0, 255)
        weight = mask[..., None].astype(np.float32) / 255
        self.rgb[part] = (self.rgb[part] * (1 - weight) + colours * weight).astype(np.uint8)
        self.alpha[part] = np.maximum(self.alpha[part], mask)

    def wire(self, points: list[Point], thick: float, colour: Colour, closed: bool = False) -> None:
        """Thin tubes: bicycle frame and wheels."""
        pixels = [self._pixels(np.array(points))]
        width = max(1, round(thick * self.scale))
        cv2.polylines(self.rgb, pixels, closed, colour, width + 1, cv2.LINE_8, 4)
        cv2.polylines(self.alpha, pixels, closed, 255, width, cv2.LINE_AA, 4)

    def sprite(self, opaque: int = 128) -> Sprite:
        # Cropped evenly around the foot: hundreds of poses are kept.
        used = np.flatnonzero(self.alpha.any(axis=0))
        middle = self.alpha.shape[1] // 2
        half = min(middle, int(max(middle - used[0], used[-1] + 1 - middle)) + 1)
        part = slice(middle - half, middle + half)
        weave = np.random.default_rng(7).standard_normal(self.alpha.shape, np.float32)
        folds = cv2.GaussianBlur(weave, (0, 0), self.scale / 45) * np.float32(
            self.scale / 45 * 0.12
        ) + weave * np.float32(0.03)
        np.clip(self.rgb * (1.0 + folds[..., None]), 0, 255, out=self.rgb, casting="unsafe")
        return cut_out(self.rgb[:, part], self.alpha[:, part], 2 * half / self.scale, self.height_m, opaque)
