"""The ground as the camera sees it: the paved texture through one warp per band of distance."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from perception.drives.rendered.canvas import View
from perception.drives.rendered.pavement import HALF_M, Sheet
from perception.drives.rendered.textures import Field, Image
from perception.drives.rendered.truth import MARKING, ROAD, SIDEWALK, TREE

_FAR_M = 600.0
_FOLD_M = 5.0  # beyond the texture its outermost metres are mirrored
_CLASSES = (TREE, SIDEWALK, ROAD, MARKING)
_MARKING_BONUS = 1.6  # a marking wins a texel below one half, so that thin lines reach far


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Per image row below the horizon: distance and the affine way from column to place in the street."""

    first: int
    x: Field  # distance ahead of the vehicle's origin [m]
    s: Field  # along the road at column cx [m]
    s_step: Field  # [m per pixel]
    d: Field  # across the road at column cx, left positive [m]
    d_step: Field


class Ground:
    """Draws z = 0 from a ladder of coarser copies, so that the distance neither glitters nor blurs."""

    def __init__(self, sheet: Sheet) -> None:
        self._levels = _ladder(sheet)

    def draw(self, view: View) -> None:
        """Fill image and labels below the horizon."""
        rows = _rows(view)
        reach = (rows.x - view.camera.position[0]).astype(np.float64)
        footprint = np.maximum(reach, 0.1) ** 2 / (view.camera.K[1, 1] * view.camera.height_m)
        wanted = np.clip(np.log2(footprint / self._levels[0].along), 0, len(self._levels) - 1).astype(int)
        for index in np.unique(wanted):
            mine = np.flatnonzero(wanted == index)
            self._band(view, rows, slice(int(mine[0]), int(mine[-1]) + 1), self._levels[index])
        _haze(view, rows)

    def _band(self, view: View, rows: _Rows, part: slice, level: Sheet) -> None:
        u = np.arange(view.width, dtype=np.float32) - np.float32(view.camera.K[0, 2])
        d = rows.d[part, None] + rows.d_step[part, None] * u
        if max(abs(float(d[0, 0])), abs(float(d[0, -1])), abs(float(d[-1, 0])), abs(float(d[-1, -1]))) > HALF_M - 0.1:
            d = _fold(d)
        columns = (HALF_M - d) * np.float32(1 / level.across) - np.float32(0.5)
        s = rows.s[part] % np.float32(level.along * level.labels.shape[0])
        lines = (s[:, None] + rows.s_step[part, None] * u) * np.float32(1 / level.along) - np.float32(0.5)
        out = slice(rows.first + part.start, rows.first + part.stop)
        cv2.remap(level.image, columns, lines, cv2.INTER_LINEAR, dst=view.image[out], borderMode=cv2.BORDER_WRAP)
        if view.labels is not None:
            near = (cv2.INTER_NEAREST, cv2.BORDER_WRAP)
            cv2.remap(level.labels, columns, lines, near[0], dst=view.labels[out], borderMode=near[1])


def _fold(d: Field) -> Field:
    over = np.maximum(np.abs(d) - np.float32(HALF_M - 0.2), 0) % np.float32(2 * _FOLD_M)
    inward = np.minimum(over, 2 * _FOLD_M - over)
    limited = np.clip(d, -(HALF_M - 0.2), HALF_M - 0.2)
    return (limited - np.sign(d) * inward).astype(np.float32)


def _rows(view: View) -> _Rows:
    camera, (ex, ey, heading), style = view.camera, view.ego, view.style
    first = max(0, int(np.ceil(camera.horizon_row() + 0.6)))
    v = np.arange(first, view.height, dtype=np.float64)
    rays = camera.rays(np.stack([np.full_like(v, camera.K[0, 2]), v], axis=-1))
    depth = np.minimum(camera.height_m / np.maximum(-rays[:, 2], 1e-6), _FAR_M)
    x = camera.position[0] + rays[:, 0] * depth
    y_step = -depth / camera.K[0, 0]
    cos, sin = np.cos(heading), np.sin(heading)
    wx, wy = ex + x * cos, ey + x * sin
    slope = np.gradient(np.asarray(style.road_y(wx), np.float64), wx) if len(wx) > 1 else np.zeros_like(wx)
    d = wy - np.asarray(style.road_y(wx))
    return _Rows(
        first=first,
        x=x.astype(np.float32),
        s=(wx % view.period).astype(np.float32),
        s_step=(-y_step * sin).astype(np.float32),
        d=d.astype(np.float32),
        d_step=(y_step * (cos + slope * sin)).astype(np.float32),
    )


def _haze(view: View, rows: _Rows) -> None:
    clear = np.exp(-rows.x / view.style.haze_m).astype(np.float32)
    last = min(len(clear), int(np.searchsorted(clear, 0.94)) + 1)
    top = 0
    while top < last:  # row by row at the horizon, then in groups of rows that differ too little to be seen
        bottom = min(last, top + 1 + top // 8)
        part = view.image[rows.first + top : rows.first + bottom]
        weight = float(clear[top:bottom].mean())
        cv2.addWeighted(part, weight, view.haze[: part.shape[0]], 1 - weight, 0, part)
        top = bottom


def _ladder(sheet: Sheet) -> list[Sheet]:
    votes = [(sheet.labels == index).astype(np.uint8) * 255 for index in _CLASSES]
    ladder = [sheet]
    for level in range(1, 8):
        last = ladder[-1]
        rows, cols = last.labels.shape[0] // 2, last.labels.shape[1] // (2 if level % 2 == 0 else 1)
        image = cv2.resize(last.image, (cols, rows), interpolation=cv2.INTER_AREA)
        votes = [cv2.resize(vote, (cols, rows), interpolation=cv2.INTER_AREA) for vote in votes]
        ladder.append(Sheet(image, _elect(votes), last.along * 2, last.across * last.labels.shape[1] / cols))
    return ladder


def _elect(votes: list[Image]) -> Image:
    weighed = [*votes[:-1], np.minimum(votes[-1] * np.float32(_MARKING_BONUS), 255).astype(np.uint8)]
    return np.asarray(_CLASSES, np.uint8)[np.argmax(weighed, axis=0)]
