"""What a cheap camera makes of the painted frame: softness, exposure, tone, vignette, noise."""

from __future__ import annotations

import cv2
import numpy as np

from perception.drives.rendered.style import Style
from perception.drives.rendered.textures import Image

_BANK_PX = 96


class Sensor:
    """Turns a frame into what the camera delivers. Stateless: equal frame and index give equal bytes."""

    def __init__(self, style: Style, width: int, height: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 5])
        self._style = style
        self._size = (width, height)
        shape = (height + _BANK_PX, width + _BANK_PX, 3)
        base = rng.standard_normal((*shape[:2], 1), np.float32) * 0.8 + rng.standard_normal(shape, np.float32) * 0.6
        grainy = base * style.noise
        self._up = np.clip(np.round(grainy), 0, 255).astype(np.uint8)
        self._down = np.clip(np.round(-grainy), 0, 255).astype(np.uint8)
        y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        falloff = 1.0 - style.vignette * np.clip((x * x + y * y * 0.6) / 1.6, 0, 1) ** 1.3
        self._brightest = max(style.cast)
        self._vignette = cv2.merge([(falloff * 255 * gain / self._brightest).astype(np.uint8) for gain in style.cast])
        self._seed = seed

    def expose(self, image: Image, index: int, speed: float) -> Image:
        """A new (h, w, 3) image."""
        style, (width, height) = self._style, self._size
        sigma = style.softness * max(0.55, width / 1280)
        soft = cv2.GaussianBlur(image, (3, 3), sigma)
        if speed > 4.0:
            rim = width // 7
            for part in (soft[height // 4 :, :rim], soft[height // 4 :, width - rim :]):
                part[:] = cv2.blur(part, (2 * round(width / 640) + 1, 1))
        level = float(np.mean(soft[:: max(1, height // 45), :: max(1, width // 80)]))
        toned = cv2.LUT(soft, self._curve(level))
        cv2.multiply(toned, self._vignette, toned, scale=1 / 255.0)
        mixed = (index * 2654435761 + self._seed * 40503) & 0xFFFFFFFF
        dx, dy = (mixed >> 8) % _BANK_PX, (mixed >> 18) % _BANK_PX
        window = (slice(dy, dy + height), slice(dx, dx + width))
        cv2.add(toned, self._up[window], toned)
        return cv2.subtract(toned, self._down[window], toned)

    def _curve(self, level: float) -> Image:
        style = self._style
        gain = style.exposure * (122.0 / max(30.0, level)) ** 0.5
        value = np.arange(256, dtype=np.float32) / 255.0 * gain * self._brightest
        bent = 0.38 + (value - 0.38) * style.contrast
        rolled = np.where(bent > 0.8, 0.8 + 0.2 * np.tanh((bent - 0.8) / 0.2), bent)
        return (np.clip(rolled, 0.0, 1.0) * 255).astype(np.uint8)
