"""Trees, bushes, lamps, poles, signs: cut-outs that stand beside the street."""

from __future__ import annotations

import cv2
import numpy as np

from perception.drives.rendered.canvas import Sprite
from perception.drives.rendered.style import Style
from perception.drives.rendered.textures import Colour, Image, grain, jitter, noise, numbers, pyramid, shade


def cut_out(rgb: Image, alpha: Image, width_m: float, height_m: float, opaque: int = 128) -> Sprite:
    """A sprite from colours and alpha, (h, w, 3) and (h, w)."""
    multiplied = cv2.multiply(rgb, cv2.cvtColor(alpha, cv2.COLOR_GRAY2RGB), scale=1 / 255.0)
    return Sprite(pyramid(np.dstack([multiplied, alpha])), width_m, height_m, opaque)


def build_tree(style: Style, rng: np.random.Generator, scale: float) -> Sprite:
    """A broad-leaved or conical tree, lit from the sun's side."""
    high, wide = float(rng.uniform(5.0, 11.0)), 0.0
    conical = rng.random() < 0.2
    wide = high * float(rng.uniform(0.34, 0.42) if conical else rng.uniform(0.6, 0.85))
    h, w = round(high * scale), round(wide * scale)
    rgb, alpha = np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)
    bark = jitter(rng, (92, 76, 62), 12.0)
    _trunk(rgb, alpha, rng, bark)
    tone = jitter(
        rng, ((72, 98, 46), (58, 84, 44), (98, 110, 52), (132, 104, 48))[rng.choice(4, p=[0.4, 0.3, 0.2, 0.1])], 9.0
    )
    bottom = rng.uniform(0.62, 0.8) if not conical else 0.9
    _crown(rgb, alpha, rng, tone, (bottom, conical), style.sun[1] <= 0)
    return cut_out(_leafy(rgb, rng), _ragged(alpha, rng), wide, high, 110)


def _trunk(rgb: Image, alpha: Image, rng: np.random.Generator, bark: Colour) -> None:
    h, w = alpha.shape
    half = max(1.0, w * rng.uniform(0.02, 0.035))
    lean = rng.normal(0, w * 0.015)
    outline = np.array(
        [
            (w / 2 + lean - half * 0.6, h * 0.4),
            (w / 2 + lean + half * 0.6, h * 0.4),
            (w / 2 + half, h),
            (w / 2 - half, h),
        ]
    )
    cv2.fillPoly(alpha, [outline.astype(np.int32)], 255, cv2.LINE_AA)
    x = (np.arange(w, dtype=np.float32) - w / 2) / (half * 1.2)
    rgb[:] = np.clip(numbers(bark) * (1.0 - 0.4 * np.clip(x, -1, 1))[None, :, None], 0, 255).astype(np.uint8)
    for side in (-1, 1):
        start, end = (round(w / 2 + lean), round(h * 0.62)), (round(w / 2 + side * w * 0.25), round(h * 0.36))
        for picture, value in ((alpha, 255.0), (rgb, shade(bark, 0.8))):
            cv2.line(picture, start, end, value, max(1, round(half * 0.7)), cv2.LINE_AA)


def _crown(
    rgb: Image, alpha: Image, rng: np.random.Generator, tone: Colour, shape: tuple[float, bool], sun_right: bool
) -> None:
    h, w = alpha.shape
    bottom, conical = shape
    count = 260
    angle, radius = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count))
    cy = h * bottom * (0.5 + 0.43 * radius * np.sin(angle))
    spread = (cy / (h * bottom)) * 0.95 if conical else 0.86
    cx = w * (0.5 + 0.5 * spread * radius * np.cos(angle))
    lit = (1 - cy / (h * bottom)) * 0.6 + (cx / w if sun_right else 1 - cx / w) * 0.4
    order = np.argsort(lit + rng.normal(0, 0.22, count))
    for index in order:
        size = w * rng.uniform(0.035, 0.1) * (0.7 if conical else 1.0)
        at = (int(cx[index]), int(cy[index]))
        colour = shade(tone, 0.5 + 0.85 * float(lit[index]) + rng.normal(0, 0.08))
        axes = (max(1, round(size)), max(1, round(size * rng.uniform(0.5, 0.9))))
        turn = float(rng.uniform(0, 180))
        cv2.ellipse(rgb, at, axes, turn, 0, 360, colour, -1)
        cv2.ellipse(alpha, at, axes, turn, 0, 360, 255, -1)


def _leafy(rgb: Image, rng: np.random.Generator) -> Image:
    h, w = rgb.shape[:2]
    leaves = cv2.GaussianBlur(grain(rng, (h, w)), (0, 0), max(0.6, w / 260)) * np.float32(2.2)
    gain = 1.0 + 0.2 * leaves + 0.06 * noise(rng, (h, w), (12, 12))
    return np.clip(rgb * gain[..., None], 0, 255).astype(np.uint8)


def _ragged(alpha: Image, rng: np.random.Generator) -> Image:
    """Push the outline in and out by leaf-sized noise."""
    h, w = alpha.shape
    rough = cv2.GaussianBlur(grain(rng, (h, w)), (0, 0), max(0.7, w / 160))
    rough *= np.float32(46) / max(1e-6, float(rough.std()))
    soft = cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), max(0.8, w / 70))
    edge = np.clip((soft - 128 + rough) * 4 + 128, 0, 255) * (soft > 24)
    edge[int(h * 0.82) :] = alpha[int(h * 0.82) :]
    return edge.astype(np.uint8)


def build_bush(style: Style, rng: np.random.Generator, scale: float) -> Sprite:
    """A shrub of about a metre and a half."""
    high, wide = float(rng.uniform(0.9, 2.0)), float(rng.uniform(1.2, 3.0))
    h, w = round(high * scale), round(wide * scale)
    rgb, alpha = np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)
    _crown(rgb, alpha, rng, jitter(rng, (70, 92, 46), 12.0), (1.12, False), style.sun[1] <= 0)
    return cut_out(_leafy(rgb, rng), alpha, wide, high, 110)


def build_lamp(style: Style, rng: np.random.Generator, scale: float) -> Sprite:
    """A street lamp with its arm over the street, or a plain pole."""
    high = float(rng.uniform(5.5, 9.0))
    arm = float(rng.choice([0.0, rng.uniform(0.8, 2.0)], p=[0.25, 0.75]))
    wide = 2 * arm + 0.6
    h, w = round(high * scale), round(wide * scale)
    rgb, alpha = np.zeros((h, w, 3), np.uint8), np.zeros((h, w), np.uint8)
    tone = jitter(rng, ((112, 116, 118), (66, 74, 70), (134, 128, 118))[rng.integers(0, 3)], 10.0)
    thick = 0.085 * scale
    foot = np.array(
        [(w / 2 - thick, h), (w / 2 + thick, h), (w / 2 + thick * 0.6, h * 0.03), (w / 2 - thick * 0.6, h * 0.03)]
    )
    cv2.fillConvexPoly(alpha, (foot * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    if arm:
        tip = (round(w / 2 + arm * scale * 0.9), round(0.14 * scale + 1))
        cv2.line(alpha, (w // 2, round(h * 0.035)), tip, 255, max(1, round(0.09 * scale)), cv2.LINE_AA)
        cv2.ellipse(alpha, tip, (round(0.32 * scale), max(1, round(0.1 * scale))), 0, 0, 360, 255, -1, cv2.LINE_AA)
    x = (np.arange(w, dtype=np.float32) - w / 2) / thick
    rgb[:] = np.clip(numbers(tone) * (1 + 0.3 * np.clip(x if style.sun[1] < 0 else -x, -1, 1))[None, :, None], 0, 255)
    if arm and style.weather == "dusk":
        cv2.circle(
            rgb,
            (round(w / 2 + arm * scale * 0.9), round(0.16 * scale)),
            max(1, round(0.3 * scale)),
            (255, 236, 190),
            -1,
        )
    return cut_out(rgb, alpha, wide, high, 70)


def build_sign(rng: np.random.Generator, scale: float) -> tuple[Sprite, Sprite, float]:
    """A traffic sign or light: its post, its plate, and how high the plate's lower edge is [m]."""
    high, foot = float(rng.uniform(0.55, 0.95)), float(rng.uniform(1.9, 2.5))
    size = round(high * scale)
    rgb, alpha = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.uint8)
    kind = int(rng.integers(0, 5))
    c, r = size / 2, size / 2 - 1
    corners = {0: 48, 1: 3, 2: 4, 3: 48, 4: 4}[kind]
    phase = {1: -np.pi / 2, 2: np.pi / 4}.get(kind, 0.0)
    angles = np.arange(corners) * 2 * np.pi / corners + phase
    ring = np.stack([c + r * np.cos(angles), c + r * np.sin(angles)], axis=1)
    outer, inner = _sign_colours(kind)
    for picture, value, grow in ((alpha, 255.0, 1.0), (rgb, outer, 1.05), (rgb, inner, 0.76)):
        points = ((ring - c) * grow + c) * 16
        cv2.fillPoly(picture, [points.astype(np.int32)], value, cv2.LINE_AA, 4)
    _glyph(rgb, rng, size, (30.0, 30.0, 34.0) if np.mean(inner) > 150 else (240.0, 240.0, 240.0), kind)
    post_h, post_w = round((foot + high * 0.5) * scale), max(4, round(0.24 * scale))
    stem = np.zeros((post_h, post_w), np.uint8)
    half = max(1, round(0.04 * scale))
    stem[:, post_w // 2 - half : post_w // 2 + half] = 255
    grey = np.full((post_h, post_w, 3), rng.integers(110, 170), np.uint8)
    grey[:, post_w // 2 :] = (grey[:, post_w // 2 :] * 0.75).astype(np.uint8)
    return cut_out(grey, stem, post_w / scale, post_h / scale, 70), cut_out(rgb, alpha, high, high, 100), foot


def _sign_colours(kind: int) -> tuple[Colour, Colour]:
    red, blue, white, yellow = (196.0, 32.0, 36.0), (28.0, 78.0, 170.0), (236.0, 236.0, 236.0), (240.0, 196.0, 40.0)
    return {0: (red, white), 1: (red, white), 2: (white, blue), 3: (blue, blue), 4: (white, yellow)}[kind]


def _glyph(rgb: Image, rng: np.random.Generator, size: int, colour: Colour, kind: int) -> None:
    text = str(
        rng.choice({0: ["30", "50", "60", "40"], 1: ["!"], 2: ["P", "H", "i"], 3: ["<", ">", "^"], 4: ["!", "+"]}[kind])
    )
    scale, thick = size / (30.0 + 18.0 * len(text)), max(1, size // 11)
    (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    drop = size * (0.58 if kind == 1 else 0.5)
    cv2.putText(
        rgb,
        text,
        (round(size / 2 - w / 2), round(drop + h / 2)),
        cv2.FONT_HERSHEY_SIMPLEX,
        scale,
        colour,
        thick,
        cv2.LINE_AA,
    )
