"""Night and rain, drawn over daylight pictures: not how they are, but what they do to colours, contrast and edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2

Image = NDArray[np.uint8]
Plane = NDArray[np.float32]


def night(image: Image, rng: np.random.Generator) -> Image:
    """A picture after dark, (h, w, 3) uint8 RGB: the headlights' pool, lamps with halos, little colour, much noise.

    The sky and what is bright in it go dark first (a night has no light from above), the ground before the car is
    lit, and the camera's gain leaves noise in what remains.
    """
    h, w = image.shape[:2]
    x = (image.astype(np.float32) / 255) ** 2.2
    grey = x.mean(2, keepdims=True)
    x = grey + np.float32(rng.uniform(0.35, 0.75)) * (x - grey)
    x = x / (1 + 2 * x)  # highlights of the day's sun would glow by night
    light = np.float32(rng.uniform(0.05, 0.14)) * _falling_light(h, w, rng) + _headlights(h, w, rng)
    cast = np.array([1.0, rng.uniform(0.78, 0.95), rng.uniform(0.5, 1.05)], np.float32)  # sodium to white lamps
    x = x * light[..., None] * cast
    x = x * np.clip(np.float32(rng.uniform(0.02, 0.07)) / max(1e-6, float(x.mean())), 0.5, 8)  # automatic exposure
    x = x + _lamps(h, w, rng)
    noise = rng.normal(0, 1, x.shape).astype(np.float32) * np.sqrt(np.maximum(x, 0) * 0.002 + 0.00002)
    x = np.clip(x + noise * np.float32(rng.uniform(0.5, 1.5)), 0, 1) ** np.float32(1 / 2.2)
    return (x * 255).astype(np.uint8)


def _falling_light(h: int, w: int, rng: np.random.Generator) -> Plane:
    """(h, w) street light: darkest above, about 1 from the horizon down."""
    horizon = rng.uniform(0.3, 0.5) * h
    rows = 1 / (1 + np.exp(-(np.arange(h, dtype=np.float32) - horizon) / (0.12 * h)))
    return np.repeat(0.12 + 0.88 * rows[:, None], w, 1).astype(np.float32)


def _headlights(h: int, w: int, rng: np.random.Generator) -> Plane:
    """(h, w) the car's own light: a wide pool on the ground, brightest a little before the horizon."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    across = (x - w * rng.uniform(0.42, 0.58)) / (w * rng.uniform(0.22, 0.4))
    down = (y - h * rng.uniform(0.66, 0.8)) / (h * rng.uniform(0.16, 0.26))
    return (np.float32(rng.uniform(0.25, 0.7)) * np.exp(-(across**2) - down**2)).astype(np.float32)


def _lamps(h: int, w: int, rng: np.random.Generator) -> Plane:
    """(h, w, 3) linear light of lamps around and above the horizon, each a core in a wide halo."""
    glow = np.zeros((h, w, 3), np.float32)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    for _ in range(rng.integers(0, 7)):
        cy, cx = h * rng.uniform(0.15, 0.55), w * rng.uniform(0, 1)
        core = max(0.8, h * rng.uniform(0.002, 0.009))
        r2 = (y - cy) ** 2 + (x - cx) ** 2
        shape = np.exp(-r2 / (2 * core**2)) + 0.15 / (1 + r2 / (4 * core) ** 2) * np.exp(-r2 / (0.2 * h) ** 2)
        colour = np.array(
            [(1.0, 0.75, 0.4), (1.0, 0.95, 0.85), (1.0, 0.15, 0.1)][rng.choice(3, p=[0.5, 0.35, 0.15])], np.float32
        )
        glow += np.float32(rng.uniform(0.4, 1.2)) * shape[..., None] * colour
    return glow


def rain(image: Image, rng: np.random.Generator) -> Image:
    """A picture in rain, (h, w, 3) uint8 RGB: grey veil, a wet shining ground, streaks, drops that blur the lens."""
    h, w = image.shape[:2]
    x = image.astype(np.float32) / 255
    grey = x.mean(2, keepdims=True)
    x = grey + np.float32(rng.uniform(0.4, 0.8)) * (x - grey)
    x = _wet_ground(x, rng)
    veil = np.float32(rng.uniform(0.1, 0.4)) * np.float32(rng.uniform(0.5, 0.75))
    x = x * np.float32(rng.uniform(0.5, 0.75)) + veil * np.array([0.95, 0.98, 1.0], np.float32)
    x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.2)).astype(np.float32)
    streaks = _streaks(h, w, rng)[..., None]
    x = x * (1 - 0.5 * streaks) + np.float32(rng.uniform(0.35, 0.6)) * streaks
    x = _drops(x, rng)
    return (np.clip(x, 0, 1) * 255).astype(np.uint8)


def _wet_ground(x: Plane, rng: np.random.Generator) -> Plane:
    """Darkens the lower part and lays a dim, smeared reflection of what stands above it over it."""
    h = x.shape[0]
    horizon = int(h * rng.uniform(0.42, 0.55))
    ground = x[horizon:]
    mirrored = cv2.resize(x[:horizon][::-1], (x.shape[1], h - horizon))
    mirrored = cv2.GaussianBlur(mirrored, (0, 0), sigmaX=0.006 * h, sigmaY=0.06 * h)
    share = np.float32(rng.uniform(0.08, 0.3)) * np.linspace(0.4, 1, h - horizon, dtype=np.float32)[:, None, None]
    out = x.copy()
    out[horizon:] = ground * (1 - share) * np.float32(rng.uniform(0.75, 0.95)) + mirrored * share
    return out


def _streaks(h: int, w: int, rng: np.random.Generator) -> Plane:
    """(h, w) in [0, 1]: falling drops as short, nearly upright, soft lines of one slant."""
    mask = np.zeros((h, w), np.float32)
    slant = rng.uniform(-0.25, 0.25)
    for _ in range(int(h * w * rng.uniform(0.0004, 0.0016))):
        length = h * rng.uniform(0.02, 0.07)
        y, x = rng.uniform(-length, h), rng.uniform(0, w)
        end = (round(x + slant * length), round(y + length))
        cv2.line(mask, (round(x), round(y)), end, rng.uniform(0.1, 0.6), 1, cv2.LINE_AA)
    return np.clip(cv2.GaussianBlur(mask, (0, 0), 0.6), 0, 1).astype(np.float32)


def _drops(x: Plane, rng: np.random.Generator) -> Plane:
    """Some round places look as through a drop on the glass: strongly blurred and a little brighter."""
    h, w = x.shape[:2]
    mask = np.zeros((h, w), np.float32)
    for _ in range(rng.integers(0, 9)):
        centre = (int(rng.uniform(0, w)), int(rng.uniform(0, h)))
        cv2.circle(mask, centre, max(2, int(h * rng.uniform(0.008, 0.03))), 1.0, -1, cv2.LINE_AA)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.5)[..., None]
    through = cv2.GaussianBlur(x, (0, 0), 0.02 * h)
    return (x * (1 - mask) + (0.9 * through + 0.07) * mask).astype(np.float32)
