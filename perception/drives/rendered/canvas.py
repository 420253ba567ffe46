"""One frame while it is painted, far to near: image, labels and instances change together or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered.style import PERIOD_M, Style
from perception.drives.rendered.textures import Image
from perception.geometry import Camera

_NEAR_M = 0.6


@dataclass(frozen=True, slots=True)
class Drawn:
    """Where an actor's outline fell, hidden parts included."""

    box_xyxy: tuple[int, int, int, int]
    amodal_px: int


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """A flat cut-out: RGBA with colours already multiplied by alpha, and its half-size copies."""

    levels: tuple[Image, ...]
    width_m: float
    height_m: float
    opaque: int = 128  # alpha from which a pixel belongs to it; lower for thin things


@dataclass(eq=False)
class View:
    """The frame's buffers with the camera and vehicle pose that they are painted for."""

    style: Style
    camera: Camera
    ego: tuple[float, float, float]  # x, y, heading in the world
    image: Image
    haze: Image  # as big as the image, all haze
    labels: Image | None
    instances: NDArray[np.uint16] | None
    period: float = PERIOD_M
    drawn: dict[int, Drawn] = field(default_factory=dict)
    _matrix: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        turn = self.camera.T_vehicle_from_camera[:3, :3].T
        self._matrix = self.camera.K @ np.column_stack([turn, -turn @ self.camera.position])

    @property
    def width(self) -> int:
        return self.image.shape[1]

    @property
    def height(self) -> int:
        return self.image.shape[0]

    def to_vehicle(self, world_xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) world places -> the vehicle frame [m]."""
        ex, ey, heading = self.ego
        cos, sin = np.cos(heading), np.sin(heading)
        dx, dy = world_xy[:, 0] - ex, world_xy[:, 1] - ey
        return np.stack([dx * cos + dy * sin, dy * cos - dx * sin], axis=1)

    def pixels(self, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`Camera.project` for this camera, which has no distortion, and for points that are in front of it."""
        scaled = points @ self._matrix[:, :3].T + self._matrix[:, 3]
        depth = scaled[:, 2]
        return scaled[:, :2] / np.maximum(depth, 1e-3)[:, None], depth

    def clear(self, distance: float) -> float:
        """The share of a thing's light that reaches the camera through the haze."""
        return float(np.exp(-max(0.0, distance) / self.style.haze_m))

    def quad(self, corners: NDArray[np.float64], texture: tuple[Image, ...], label: int, gain: float = 1.0,
             outline: NDArray[np.float64] | None = None) -> None:  # fmt: skip
        """Paint a texture on a parallelogram: (4, 3) vehicle corners in the order of the texture's corners.

        Top left, top right, bottom right, bottom left; what is behind the camera is cut off. Only what is within
        `outline`, (n, 3) on the same plane, is painted when it is given; it is then skipped where it would be cut.
        """
        clipped = _clip(corners, self.camera.position[0] + _NEAR_M)
        if clipped is None:
            return
        corners, (begin, end) = clipped
        if outline is not None and end - begin < 1.0:
            return
        pixels = self.pixels(corners)[0]
        roi = _roi(pixels, self.width, self.height)
        if roi is None:
            return
        warped = _warped(texture, (begin, end), pixels - roi[:2], (roi[2] - roi[0], roi[3] - roi[1]))
        clear = self.clear(float(np.hypot(*corners[:, :2].mean(axis=0))))
        if clear < 0.98 or abs(gain - 1) > 0.02:
            haze = self.haze[: warped.shape[0], : warped.shape[1]]
            warped = cv2.addWeighted(warped, gain * clear, haze, 1 - clear, 0)
        self._fill(warped, (pixels if outline is None else self.pixels(outline)[0]) - roi[:2], roi, label)

    def _fill(self, colours: Image, outline: NDArray[np.float64], roi: tuple[int, int, int, int], label: int) -> None:
        part = (slice(roi[1], roi[3]), slice(roi[0], roi[2]))
        shape = np.round(np.clip(outline, -30000, 30000) * 16).astype(np.int32)
        mask = np.zeros(colours.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, shape, 255, cv2.LINE_8, 4)
        cv2.copyTo(colours, mask, self.image[part])
        if self.labels is not None and self.instances is not None:  # the same shape by the same rule
            cv2.fillConvexPoly(self.labels[part], shape, label, cv2.LINE_8, 4)
            cv2.fillConvexPoly(self.instances[part], shape, 0, cv2.LINE_8, 4)

    def sprite(self, sprite: Sprite, foot: NDArray[np.float64], label: int, actor: int = 0, gain: float = 1.0,
               mirror: bool = False) -> None:  # fmt: skip
        """Stand a cut-out upright on its foot's middle, (3,) in the vehicle frame, facing the camera."""
        u, v, depth = (float(value) for value in self._matrix[:, :3] @ foot + self._matrix[:, 3])
        if depth < _NEAR_M:
            return
        scale = float(self.camera.K[0, 0]) / depth
        w, h = sprite.width_m * scale, sprite.height_m * scale
        left, top = u / depth - w / 2, v / depth - h
        roi = (
            max(0, int(left)),
            max(0, int(top)),
            min(self.width, int(left + w) + 2),
            min(self.height, int(top + h) + 2),
        )
        if roi[2] <= roi[0] or roi[3] <= roi[1] or h < 1.0:
            return
        level = int(np.clip(np.log2(max(1.0, sprite.levels[0].shape[0] / h)), 0, len(sprite.levels) - 1))
        image = sprite.levels[level]
        sx, sy = w / image.shape[1], h / image.shape[0]
        matrix = np.array([[-sx if mirror else sx, 0, (left + w if mirror else left) - roi[0]], [0, sy, top - roi[1]]])
        matrix[:, 2] += 0.5 * np.array([matrix[0, 0], sy])
        patch = cv2.warpAffine(image, matrix, (roi[2] - roi[0], roi[3] - roi[1]), flags=cv2.INTER_LINEAR)
        self.blend(patch, roi, label, actor, gain, float(depth), sprite.opaque)

    def blend(self, rgba: Image, roi: tuple[int, int, int, int], label: int, actor: int, gain: float, distance: float,
              opaque: int = 128) -> None:  # fmt: skip
        """Lay an RGBA patch with premultiplied colours over the frame."""
        x0, y0, x1, y1 = roi
        clear = self.clear(distance)
        alpha = np.ascontiguousarray(rgba[..., 3])
        if clear > 0.97 and gain == 1.0:
            lit = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        else:
            matrix = np.eye(3, 4) * gain * clear
            matrix[:, 3] = np.array(self.style.haze) * (1 - clear) / 255.0
            lit = cv2.transform(rgba, matrix)
        cover = cv2.cvtColor(cv2.bitwise_not(alpha), cv2.COLOR_GRAY2RGB)
        part = self.image[y0:y1, x0:x1]
        cv2.add(cv2.multiply(part, cover, scale=1 / 255.0), lit, part)
        if self.labels is None or self.instances is None:
            return
        mask = cv2.threshold(alpha, opaque - 1, 255, cv2.THRESH_BINARY)[1]
        cv2.copyTo(np.full(alpha.shape, label, np.uint8), mask, self.labels[y0:y1, x0:x1])
        cv2.copyTo(np.full(alpha.shape, actor, np.uint16), mask, self.instances[y0:y1, x0:x1])
        if actor:
            self._note(actor, mask, roi)

    def _note(self, actor: int, mask: Image, roi: tuple[int, int, int, int]) -> None:
        count = cv2.countNonZero(mask)
        if count:
            x, y, w, h = cv2.boundingRect(mask)
            self.drawn[actor] = Drawn((roi[0] + x, roi[1] + y, roi[0] + x + w, roi[1] + y + h), count)

    def darken(self, corners: NDArray[np.float64], depth: float, softness: Image) -> None:
        """Throw a shadow on the ground: (4, 2) vehicle places of the corners of `softness`, 255 where fully dark."""
        points = np.concatenate([corners, np.zeros((4, 1))], axis=1)
        if points[:, 0].min() < self.camera.position[0] + 1.0:
            return
        pixels = self.pixels(points)[0]
        roi = _roi(pixels, self.width, self.height)
        if roi is None:
            return
        x0, y0, x1, y1 = roi
        h, w = softness.shape
        flat = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float32) - 0.5
        matrix = cv2.getPerspectiveTransform(flat, (pixels - (x0, y0)).astype(np.float32))
        dark = cv2.warpPerspective(softness, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR)
        light = cv2.convertScaleAbs(dark, alpha=depth, beta=0)
        light = cv2.cvtColor(cv2.bitwise_not(light), cv2.COLOR_GRAY2RGB)
        part = self.image[y0:y1, x0:x1]
        cv2.multiply(part, light, part, scale=1 / 255.0)


def _warped(
    texture: tuple[Image, ...], share: tuple[float, float], target: NDArray[np.float64], size: tuple[int, int]
) -> Image:
    """The part `share` of a texture's length, seen with its corners at (4, 2) `target`, in an image of `size`."""
    begin, end = share
    long = max(1.0, *np.hypot(*(target[[1, 2]] - target[[0, 3]]).T))
    level = int(np.log2(max(1.0, texture[0].shape[1] * (end - begin) / long)))
    image = texture[min(level, len(texture) - 1)]
    h, w = image.shape[:2]
    flat = np.array([[begin * w, 0], [end * w, 0], [end * w, h], [begin * w, h]], np.float32) - 0.5
    matrix = cv2.getPerspectiveTransform(flat, target.astype(np.float32))
    return cv2.warpPerspective(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _roi(pixels: NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int] | None:
    if not np.isfinite(pixels).all():
        return None
    low, high = np.floor(pixels.min(axis=0)), np.ceil(pixels.max(axis=0)) + 1
    x0, y0, x1, y1 = max(0, int(low[0])), max(0, int(low[1])), min(width, int(high[0])), min(height, int(high[1]))
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _clip(corners: NDArray[np.float64], near: float) -> tuple[NDArray[np.float64], tuple[float, float]] | None:
    """Cut a parallelogram along its first side at x = near; also says which part of that side is left."""
    x_begin, x_end = min(corners[0, 0], corners[3, 0]), min(corners[1, 0], corners[2, 0])
    if max(x_begin, x_end) <= near:
        return None
    if min(x_begin, x_end) > near:
        return corners, (0.0, 1.0)
    cut = (near - x_begin) / (x_end - x_begin)
    begin, end = (cut, 1.0) if x_begin < x_end else (0.0, cut)
    top, bottom = corners[1] - corners[0], corners[2] - corners[3]
    ends = [corners[0] + begin * top, corners[0] + end * top, corners[3] + end * bottom, corners[3] + begin * bottom]
    return np.array(ends), (begin, end)
