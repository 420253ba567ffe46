"""House fronts, roofs, walls and fences as textures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from perception.drives.rendered.style import Style
from perception.drives.rendered.textures import Colour, Image, grain, jitter, noise, numbers, paint, pyramid, shade

_WALLS: tuple[Colour, ...] = (
    (158, 92, 72), (134, 78, 62), (196, 182, 156), (214, 206, 192), (178, 170, 160),
    (150, 148, 146), (206, 188, 140), (128, 118, 108), (226, 222, 214), (172, 140, 116), (110, 120, 130),
)  # fmt: skip
_SIGNS: tuple[Colour, ...] = (
    (36, 62, 104), (140, 34, 38), (38, 84, 62), (222, 214, 196), (48, 46, 48), (196, 150, 60), (120, 120, 122),
    (88, 48, 70),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Facade:
    """A front with its plain side wall and its roof."""

    front: tuple[Image, ...]
    side: tuple[Image, ...]
    gable: tuple[Image, ...]  # the side without windows
    roof: tuple[Image, ...]
    length_m: float
    height_m: float
    pitched: bool


def build_facade(style: Style, rng: np.random.Generator, scale: float) -> Facade:
    """One house front; `scale` is pixels per metre."""
    city = style.place == "city"
    floors = int(rng.integers(3, 8)) if city else int(rng.integers(1, 4))
    floor_m, bay_m = float(rng.uniform(2.9, 3.6)), float(rng.uniform(2.2, 4.2))
    bays = int(rng.integers(3, 9)) if city else int(rng.integers(2, 5))
    wall = jitter(rng, _WALLS[rng.integers(0, len(_WALLS))], 12.0)
    size = (round(floors * floor_m * scale), round(bays * bay_m * scale))
    image = _wall(rng, wall, size, scale)
    _windows(image, style, rng, wall, (floors, bays))
    if city and rng.random() < 0.75:
        _shops(image, rng, size[0] // floors, bays)
    _finish(image, rng, wall)
    side = _wall(rng, shade(wall, 0.92), (size[0], round(8 * scale)), scale)
    gable = pyramid(side.copy())
    if rng.random() < 0.4:
        _windows(side, style, rng, wall, (floors, 2))
    roof_tone = jitter(rng, ((120, 70, 54), (84, 82, 84), (104, 92, 82))[rng.integers(0, 3)], 10.0)
    roof = paint(
        roof_tone,
        grain(rng, (128, 256)) * 7,
        np.where(np.arange(128) % 8 < 2, -18.0, 0)[:, None] + np.zeros((128, 256)),
    )
    return Facade(pyramid(image), pyramid(side), gable, pyramid(roof), bays * bay_m, floors * floor_m, not city)


def _wall(rng: np.random.Generator, tone: Colour, size: tuple[int, int], scale: float) -> Image:
    layers = [noise(rng, size, (5, 7)) * 5, grain(rng, size) * 4]
    if rng.random() < 0.45:
        course = max(2, round(0.22 * scale))
        rows, cols = np.arange(size[0])[:, None], np.arange(size[1])[None]
        joints = (rows % course == 0) | ((cols + (rows // course % 2) * course) % (2 * course) == 0)
        layers.append(np.where(joints, -13.0, 0.0).astype(np.float32))
    drips = noise(rng, size, (3, 60)) * np.linspace(1, 5, size[0], dtype=np.float32)[:, None]
    return paint(tone, *layers, drips)


def _windows(image: Image, style: Style, rng: np.random.Generator, wall: Colour, grid: tuple[int, int]) -> None:
    floors, bays = grid
    ch, cw = image.shape[0] / floors, image.shape[1] / bays
    wide, high = rng.uniform(0.34, 0.78), rng.uniform(0.42, 0.66)
    frame = (236.0, 236.0, 232.0) if rng.random() < 0.6 else shade(wall, 0.45)
    sill, lit_share = shade(wall, 1.18), 0.35 if style.weather == "dusk" else 0.03
    bars = int(rng.integers(0, 3))
    for floor in range(floors):
        for bay in range(bays):
            x0, y0 = int((bay + 0.5 - wide / 2) * cw), int((floor + 0.22) * ch)
            x1, y1 = int((bay + 0.5 + wide / 2) * cw), int((floor + 0.22 + high) * ch)
            lit = rng.random() < lit_share
            _window(image, (x0, y0, x1, y1), rng, frame, lit, bars)
            cv2.rectangle(image, (x0 - 2, y1), (x1 + 2, y1 + max(1, int(ch * 0.03))), sill, -1)
            cv2.line(image, (x0, y0), (x1, y0), shade(wall, 0.55), max(1, int(ch * 0.02)))


def _window(
    image: Image, box: tuple[int, int, int, int], rng: np.random.Generator, frame: Colour, lit: bool, bars: int
) -> None:
    x0, y0, x1, y1 = box
    h, w = y1 - y0, x1 - x0
    if h < 4 or w < 4:
        return
    top, bottom = ((255, 214, 140), (240, 180, 100)) if lit else ((112, 128, 146), (44, 52, 62))
    glass = np.linspace(0, 1, h, dtype=np.float32)[:, None, None] ** rng.uniform(0.5, 1.6)
    pane = numbers(top) * (1 - glass) + numbers(bottom) * glass
    pane = np.repeat(pane, w, axis=1) * rng.uniform(0.7, 1.15)
    if rng.random() < 0.4:
        curtain = int(w * rng.uniform(0.12, 0.3))
        for part in (slice(0, curtain), slice(w - curtain, w)):
            pane[:, part] = pane[:, part] * 0.35 + numbers(jitter(rng, (176.0, 170.0, 160.0), 24.0)) * 0.6
    image[y0:y1, x0:x1] = np.clip(pane, 0, 255)
    thick = max(1, round(w * 0.05))
    cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), frame, thick)
    for bar in range(1, bars + 1):
        x = x0 + w * bar // (bars + 1)
        cv2.line(image, (x, y0), (x, y1), frame, thick)
    if bars:
        cv2.line(image, (x0, y0 + h // 3), (x1, y0 + h // 3), frame, thick)


def _shops(image: Image, rng: np.random.Generator, floor_px: int, bays: int) -> None:
    h, w = image.shape[:2]
    top = h - floor_px
    image[top:] = numbers(jitter(rng, (86.0, 80.0, 76.0), 24.0, 0.3))
    for bay in range(bays):
        x0, x1 = w * bay // bays + floor_px // 14, w * (bay + 1) // bays - floor_px // 14
        _window(
            image, (x0, top + floor_px // 3, x1, h - floor_px // 10), rng, (60.0, 60.0, 62.0), rng.random() < 0.4, 1
        )
        if rng.random() < 0.7:
            sign = jitter(rng, _SIGNS[rng.integers(0, len(_SIGNS))], 12.0)
            cv2.rectangle(image, (x0, top + floor_px // 12), (x1, top + floor_px // 4), sign, -1)
            for letter in range(x0 + floor_px // 6, x1 - floor_px // 5, max(3, floor_px // 11)):
                glyph = (letter + floor_px // 18, top + floor_px // 5)
                cv2.rectangle(
                    image, (letter, top + floor_px // 8), glyph, shade(sign, 0.3 if np.mean(sign) > 120 else 2.5), -1
                )


def _finish(image: Image, rng: np.random.Generator, wall: Colour) -> None:
    h = image.shape[0]
    cv2.rectangle(image, (0, 0), (image.shape[1], max(2, h // 60)), shade(wall, rng.uniform(0.6, 1.25)), -1)
    foot = np.linspace(1.0, 0.8, max(1, h // 8), dtype=np.float32)[:, None, None]
    image[h - foot.shape[0] :] = (image[h - foot.shape[0] :] * foot).astype(np.uint8)
    for edge in (slice(0, 3), slice(image.shape[1] - 3, image.shape[1])):
        image[:, edge] = (image[:, edge] * 0.7).astype(np.uint8)


def build_fence(rng: np.random.Generator, scale: float) -> tuple[tuple[Image, ...], float, float]:
    """A solid run of boards, wall, hedge-like slats or guard rail: texture, its length and height [m]."""
    height = float(rng.uniform(0.8, 1.9))
    size = (round(height * scale), round(4.0 * scale))
    if rng.random() < 0.65:
        tone = jitter(rng, ((134, 100, 70), (190, 184, 172), (92, 84, 74), (70, 92, 76))[rng.integers(0, 4)], 14.0)
        step = max(3, round(rng.uniform(0.1, 0.2) * scale))
        boards = np.repeat(rng.normal(0, 10, size[1] // step + 1), step)[: size[1]].astype(np.float32)
        boards[::step] -= 45
        image = paint(tone, np.broadcast_to(boards, size), grain(rng, size) * 5, noise(rng, size, (3, 80)) * 5)
        rail = max(1, size[0] // 14)
        for at in (size[0] // 6, size[0] * 4 // 5):
            image[at : at + rail] = (image[at : at + rail] * 0.75).astype(np.uint8)
    else:
        image = _wall(rng, jitter(rng, (168, 150, 134), 16.0), size, scale)
        image[: max(1, size[0] // 10)] = np.uint8(185)
    return pyramid(image), 4.0, height
