"""The street from above: asphalt, kerbs, sidewalks, grass, markings, stains and shadows of one block, as a texture."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from perception.drives.rendered.style import PERIOD_M, Style
from perception.drives.rendered.textures import Colour, Image, grain, jitter, noise, paint, shade
from perception.drives.rendered.truth import MARKING, ROAD, SIDEWALK, TREE

HALF_M = 22.0  # the texture shows this much on both sides of the road's middle
JUNCTION = (104.0, 114.0)  # where a crossing street lies in the block [m]
ZEBRA = (97.0, 100.2)


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """A texture seen from above: rows go forward along the road, columns from left to right."""

    image: Image
    labels: Image
    along: float  # [m per row]
    across: float  # [m per column]

    def box(self, s0: float, s1: float, d0: float, d1: float) -> tuple[slice, slice]:
        """Rows and columns of the rectangle s0..s1 along the road and d0..d1 (left positive) across it [m]."""
        rows = slice(max(0, round(s0 / self.along)), max(0, round(s1 / self.along)))
        left, right = (HALF_M - max(d0, d1)) / self.across, (HALF_M - min(d0, d1)) / self.across
        begin = max(0, round(left))
        return rows, slice(begin, max(begin + 1, round(right)))


def pave(style: Style, rng: np.random.Generator, finest: float) -> Sheet:
    """Paint one period of the street; `finest` is the width of a column [m], a row is twice that."""
    shape = (round(PERIOD_M / (2 * finest)), round(2 * HALF_M / finest))
    sheet = Sheet(_grass(style, rng, shape), np.full(shape, TREE, np.uint8), 2 * finest, finest)
    _sidewalks(sheet, style, rng)
    _asphalt(sheet, style, rng)
    _markings(sheet, style, rng)
    if style.weather in ("sun", "cloud", "dusk"):
        _shadows(sheet, style, rng)
    return sheet


def _grass(style: Style, rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    tone: Colour = (94.0, 112.0, 62.0) if rng.random() < 0.75 else (128.0, 122.0, 78.0)
    rough = noise(rng, shape, (60, 24)) * 8 + noise(rng, shape, (400, 160)) * 9 + grain(rng, shape) * 11
    return paint(jitter(rng, tone, 12.0), rough)


def _sidewalks(sheet: Sheet, style: Style, rng: np.random.Generator) -> None:
    tone = jitter(rng, (150.0, 147.0, 142.0), 16.0, 0.2)
    kerb = jitter(rng, (172.0, 170.0, 166.0), 14.0, 0.15)
    slab = float(rng.choice([0.5, 0.8, 1.2, 2.0]))
    yard = 6.0 if style.place == "city" else 0.0
    for side in (-1, 1):
        if style.sidewalk_m:
            edges = (style.walk_inner, style.walk_outer + yard)
            area = sheet.box(0, PERIOD_M, side * edges[0], side * edges[1])
            _slabs(sheet, area, tone, slab, rng)
            sheet.labels[area] = SIDEWALK
        if style.place != "rural" or style.sidewalk_m:
            area = sheet.box(0, PERIOD_M, side * style.road_half, side * (style.road_half + 0.17))
            shape = sheet.labels[area].shape
            sheet.image[area] = paint(kerb, grain(rng, shape) * 7, noise(rng, shape, (200, 2)) * 8)
            sheet.image[area[0].start : area[0].stop : max(2, round(1.0 / sheet.along)), area[1]] //= 2
            sheet.labels[area] = SIDEWALK


def _slabs(sheet: Sheet, area: tuple[slice, slice], tone: Colour, slab: float, rng: np.random.Generator) -> None:
    shape = sheet.labels[area].shape
    step_s, step_d = max(2, round(slab / sheet.along)), max(2, round(slab / sheet.across))
    cells = rng.normal(0, 5, (shape[0] // step_s + 1, shape[1] // step_d + 1)).astype(np.float32)
    tiles = np.kron(cells, np.ones((step_s, step_d), np.float32))[: shape[0], : shape[1]]
    tiles[::step_s] -= 16
    tiles[:, ::step_d] -= 16
    dirt = noise(rng, shape, (50, 3)) * 7
    sheet.image[area] = paint(tone, tiles, dirt, grain(rng, shape) * 6)


def _asphalt(sheet: Sheet, style: Style, rng: np.random.Generator) -> None:
    area = sheet.box(0, PERIOD_M, -style.road_half, style.road_half)
    tone = jitter(rng, (112.0, 112.0, 112.0), 18.0, 0.1)
    road = _road_surface(sheet, style, rng, tone, sheet.labels[area].shape)
    if style.place == "rural" and not style.sidewalk_m:
        _ragged(sheet, area, road, rng)
    else:
        sheet.image[area], sheet.labels[area] = road, ROAD
    if not style.junction:
        return
    for side in (-1, 1):
        crossing = sheet.box(*JUNCTION, side * style.road_half, side * HALF_M)
        shape = sheet.labels[crossing].shape
        sheet.image[crossing] = paint(tone, noise(rng, shape, (8, 30)) * 6, grain(rng, shape) * 8)
        sheet.labels[crossing] = ROAD


def _ragged(sheet: Sheet, area: tuple[slice, slice], road: Image, rng: np.random.Generator) -> None:
    rows, cols = sheet.labels[area].shape
    wobble = (noise(rng, (rows, 2), (90, 2)) * 0.035 + noise(rng, (rows, 2), (640, 2)) * 0.03) / sheet.across
    column = np.arange(cols, dtype=np.float32)
    keep = (column[None] > wobble[:, :1] + 0.2 / sheet.across) & (
        column[None] < cols - wobble[:, 1:] - 0.2 / sheet.across
    )
    sheet.image[area] = np.where(keep[..., None], road, sheet.image[area])
    sheet.labels[area] = np.where(keep, ROAD, sheet.labels[area]).astype(np.uint8)


def _road_surface(sheet: Sheet, style: Style, rng: np.random.Generator, tone: Colour, shape: tuple[int, int]) -> Image:
    cols = shape[1]
    d = np.abs(style.road_half - (np.arange(cols, dtype=np.float32) + 0.5) * sheet.across)
    in_lane = (d % style.lane_m) / style.lane_m - 0.5
    worn = np.where(d < style.lanes * style.lane_m, np.cos(in_lane * 4 * np.pi) * -5 * rng.uniform(0.3, 1.5), 0)
    gutter = -14 * np.exp(-(style.road_half - d) / 0.35)
    profile = np.broadcast_to((worn + gutter).astype(np.float32), shape)
    surface = paint(
        tone,
        profile,
        noise(rng, shape, (10, 5)) * 5,
        noise(rng, shape, (90, 50)) * 4,
        grain(rng, shape) * rng.uniform(5, 11),
    )
    _patches(surface, sheet, rng, tone)
    _cracks(surface, sheet, rng)
    return surface


def _patches(surface: Image, sheet: Sheet, rng: np.random.Generator, tone: Colour) -> None:
    rows, cols = surface.shape[:2]
    for _ in range(rng.integers(2, 16)):
        size = (round(rng.uniform(0.6, 9) / sheet.along), round(rng.uniform(0.5, 2.6) / sheet.across))
        top, left = rng.integers(0, max(1, rows - size[0])), rng.integers(0, max(1, cols - size[1]))
        spot = surface[top : top + size[0], left : left + size[1]]
        gain = rng.uniform(0.78, 1.14)
        spot[:] = np.clip(spot * np.float32(gain), 0, 255).astype(np.uint8)
    for _ in range(rng.integers(1, 6)):
        middle = (int(rng.integers(0, cols)), int(rng.integers(0, rows)))
        for radius, light in ((0.33, 0.6), (0.28, 0.86), (0.2, 0.7), (0.13, 0.88)):
            axes = (max(1, round(radius / sheet.across)), max(1, round(radius / sheet.along)))
            cv2.ellipse(surface, middle, axes, 0, 0, 360, shade(tone, light), -1, cv2.LINE_AA)
    stains = np.zeros((rows, cols), np.uint8)
    for _ in range(rng.integers(6, 40)):
        middle = (int(rng.integers(0, cols)), int(rng.integers(0, rows)))
        axes = (
            max(1, round(rng.uniform(0.08, 0.5) / sheet.across)),
            max(1, round(rng.uniform(0.1, 1.6) / sheet.along)),
        )
        cv2.ellipse(stains, middle, axes, 0, 0, 360, int(rng.integers(10, 38)), -1)
    surface[:] = cv2.subtract(surface, cv2.merge([cv2.blur(stains, (9, 9))] * 3))


def _cracks(surface: Image, sheet: Sheet, rng: np.random.Generator) -> None:
    rows, cols = surface.shape[:2]
    for _ in range(rng.integers(2, 18)):
        along = rng.random() < 0.5
        steps = rng.normal(0, (0.5 if along else 1.6, 1.6 if along else 0.4), (14, 2)) + (
            (0, 1.2) if along else (1.0, 0)
        )
        points = np.cumsum(steps, axis=0) * (0.4 / sheet.across, 0.4 / sheet.along)
        points += (rng.uniform(0, cols), rng.uniform(0, rows))
        cv2.polylines(surface, [points.astype(np.int32)], False, (56, 56, 58), 1, cv2.LINE_AA)


def _markings(sheet: Sheet, style: Style, rng: np.random.Generator) -> None:
    mask = np.zeros_like(sheet.labels)
    yellow = np.zeros_like(mask)
    dash, gap = ((3.0, 5.0), (2.0, 2.0), (4.0, 4.0), (4.0, 12.0))[rng.integers(0, 4)]
    thick = float(rng.uniform(0.1, 0.17))
    middle = yellow if style.yellow else mask
    _line(sheet, middle, 0.0, thick, None if style.marking != "dashed" else (dash, gap), style.marking == "double")
    for side in (-1, 1):
        for lane in range(1, style.lanes):
            _line(sheet, mask, side * lane * style.lane_m, thick, (dash, gap), False)
        if style.edge_lines:
            _line(sheet, mask, side * (style.lanes * style.lane_m + 0.05), thick, None, False)
    if style.junction:
        mask[sheet.box(JUNCTION[0] - 0.3, JUNCTION[1] + 0.3, -HALF_M, HALF_M)] = 0
        yellow[sheet.box(JUNCTION[0] - 0.3, JUNCTION[1] + 0.3, -HALF_M, HALF_M)] = 0
    if style.zebra:
        _zebra(sheet, style, mask, yellow, rng)
    if rng.random() < 0.6:
        _arrow(sheet, style, mask, 70.0)
    wear = np.clip(
        rng.uniform(0.72, 0.98) + noise(rng, mask.shape, (160, 200)) * rng.uniform(0.03, 0.16),
        0.35,
        1,
    )
    whitest = rng.uniform(205, 245)
    for drawn, colour in ((mask, (whitest, whitest, whitest * 0.98)), (yellow, (226.0, 178.0, 60.0))):
        on = drawn > 0
        blend = wear[on][:, None].astype(np.float32)
        sheet.image[on] = (sheet.image[on] * (1 - blend) + np.asarray(colour, np.float32) * blend).astype(np.uint8)
        sheet.labels[on] = MARKING


def _line(sheet: Sheet, mask: Image, d: float, thick: float, dash: tuple[float, float] | None, double: bool) -> None:
    for offset in (-thick, thick) if double else (0.0,):
        edges = (d + offset - thick / 2, d + offset + thick / 2)
        if dash is None:
            mask[sheet.box(0, PERIOD_M, *edges)] = 255
            continue
        for start in np.arange(0.0, PERIOD_M - 0.01, dash[0] + dash[1]):
            mask[sheet.box(start, start + dash[0], *edges)] = 255


def _zebra(sheet: Sheet, style: Style, mask: Image, yellow: Image, rng: np.random.Generator) -> None:
    clear = sheet.box(ZEBRA[0] - 1.2, ZEBRA[1] + 0.8, -HALF_M, HALF_M)
    mask[clear], yellow[clear] = 0, 0
    bar = float(rng.uniform(0.4, 0.6))
    for d in np.arange(-style.road_half + 0.3, style.road_half - bar, 2 * bar):
        mask[sheet.box(*ZEBRA, d, d + bar)] = 255
    for side in (-1, 1):
        stop = ZEBRA[0] - 1.6 if side == style.side else ZEBRA[1] + 1.2
        mask[sheet.box(stop, stop + 0.4, side * 0.2, side * style.lanes * style.lane_m)] = 255


def _arrow(sheet: Sheet, style: Style, mask: Image, at: float) -> None:
    d = style.side * style.lane_m * 0.5
    outline = [(0, -0.08), (2.6, -0.08), (2.6, -0.32), (4.2, 0), (2.6, 0.32), (2.6, 0.08), (0, 0.08)]
    points = [((HALF_M - (d + y)) / sheet.across, (at + x) / sheet.along) for x, y in outline]
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255)


def _shadows(sheet: Sheet, style: Style, rng: np.random.Generator) -> None:
    """What stands beside the street throws its shadow on it; shape is loose, the sun's side is right."""
    shape = sheet.labels.shape
    dark = np.zeros(shape, np.float32)
    side = 1 if style.sun[1] > 0 else -1
    reach = float(np.clip(7.0 * abs(style.sun[1]) / style.sun[2], 0.5, 13.0))
    if style.place != "rural":
        s = 0.0
        while s < PERIOD_M:
            length, deep = rng.uniform(6, 26), style.walk_outer - reach * rng.uniform(0.4, 1.0)
            dark[sheet.box(s, s + length, side * deep, side * HALF_M)] = 1.0
            s += length + float(rng.choice([0.0, rng.uniform(2, 8)]))
    for _ in range(rng.integers(0, 9)):
        middle = (
            (HALF_M - side * rng.uniform(-2, style.walk_outer)) / sheet.across,
            rng.uniform(0, PERIOD_M) / sheet.along,
        )
        for _ in range(14):
            spot = (
                round(middle[0] + rng.normal(0, 1.1) / sheet.across),
                round(middle[1] + rng.normal(0, 1.3) / sheet.along),
            )
            axes = (round(rng.uniform(0.4, 1.2) / sheet.across), round(rng.uniform(0.4, 1.3) / sheet.along))
            cv2.ellipse(dark, spot, axes, 0, 0, 360, 1.0, -1)
    size = 2 * round(0.12 / sheet.across) + 1
    depth = {"sun": 0.5, "cloud": 0.22, "dusk": 0.25}[style.weather]
    light = 1.0 - depth * cv2.GaussianBlur(dark, (size, size), 0)
    sheet.image[:] = (sheet.image * light[..., None]).astype(np.uint8)
