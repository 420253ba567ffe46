"""Sky, clouds and what stands far away, as one wide picture that turns with the vehicle's heading."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered.canvas import View
from perception.drives.rendered.style import Style
from perception.drives.rendered.textures import Field, Image, grain, noise, numbers
from perception.drives.rendered.truth import BUILDING, SKY, TREE
from perception.geometry import Camera

_TURN_RAD = 0.6  # the picture reaches this far beyond the image on both sides
_ABOVE_RAD = 0.62


class Backdrop:
    """Fills all rows above the horizon."""

    def __init__(self, style: Style, camera: Camera, rng: np.random.Generator) -> None:
        focal = float(camera.K[0, 0])
        self._focal, self._margin = focal, round(_TURN_RAD * focal)
        shape = (round(_ABOVE_RAD * focal), camera.width + 2 * self._margin)
        image = _clouds(style, rng, shape, _gradient(style, shape, focal))
        self._labels = np.full(shape, SKY, np.uint8)
        _skyline(image, self._labels, style, rng, focal)
        self._image: Image = np.clip(image, 0, 255).astype(np.uint8)

    def draw(self, view: View) -> None:
        """Paint rows 0 to the horizon."""
        horizon = min(view.height, max(0, int(np.ceil(view.camera.horizon_row() + 0.6))))
        top = max(0, len(self._image) - horizon)
        bare = max(0, horizon - len(self._image))  # rows of a tall image that are above the picture
        turned = round(self._margin + np.clip(view.ego[2], -_TURN_RAD, _TURN_RAD) * -self._focal)
        part = (slice(top, top + horizon), slice(turned, turned + view.width))
        view.image[:bare] = self._image[0, part[1]]
        view.image[bare:horizon] = self._image[part]
        if view.labels is not None:
            view.labels[:bare] = SKY
            view.labels[bare:horizon] = self._labels[part]


def _gradient(style: Style, shape: tuple[int, int], focal: float) -> Field:
    zenith = {"sun": (78, 128, 205), "cloud": (110, 148, 200), "overcast": (178, 184, 192), "dusk": (86, 98, 150)}
    up = (shape[0] - np.arange(shape[0], dtype=np.float32)) / focal
    mix = np.clip(1 - np.exp(-up / 0.22), 0, 1)[:, None, None]
    sky = numbers(style.haze) * (1 - mix) + numbers(zenith[style.weather]) * mix
    sky = np.repeat(sky, shape[1], axis=1)
    if style.sun[0] > 0.2 and style.weather != "overcast":
        u = (np.arange(shape[1], dtype=np.float32) - shape[1] / 2) / focal + style.sun[1] / style.sun[0]
        v = up - style.sun[2] / style.sun[0]
        glow = np.exp(-np.sqrt(u[None] ** 2 + v[:, None] ** 2) / 0.16)[..., None]
        sky += glow * numbers([120, 105, 70])
    return sky.astype(np.float32)


def _clouds(style: Style, rng: np.random.Generator, shape: tuple[int, int], sky: Field) -> Field:
    field = sum(
        (noise(rng, shape, (3 * 2**k, 4 * 2**k)) * np.float32(0.55**k) for k in range(6)), np.zeros(shape, np.float32)
    )
    up = (shape[0] - np.arange(shape[0], dtype=np.float32))[:, None] / shape[0]
    amount = {"sun": rng.uniform(-1.0, 0.1), "cloud": rng.uniform(0.1, 0.8), "overcast": 1.2, "dusk": -0.1}[
        style.weather
    ]
    cover = np.clip((field + amount) * 0.8, 0, 1) * np.clip(up * 3.5, 0.12, 1)
    body = numbers({"overcast": (196, 198, 202), "dusk": (222, 164, 150)}.get(style.weather, (240, 241, 244)))
    under = np.clip(field * 0.35, 0, 1)[..., None] * numbers((52, 48, 40))
    return (sky * (1 - cover[..., None]) + (body - under) * cover[..., None]).astype(np.float32)


def _skyline(image: Field, labels: NDArray[np.uint8], style: Style, rng: np.random.Generator, focal: float) -> None:
    h, w = labels.shape
    haze = numbers(style.haze)
    if style.place != "rural" or rng.random() < 0.4:
        for _ in range(round(w / focal * rng.uniform(4, 22))):
            wide, high = rng.uniform(0.02, 0.09) * focal, rng.uniform(0.008, 0.055) * focal
            left, colour = int(rng.uniform(0, w)), np.float32(rng.uniform(70, 170, 3) * 0.3 + rng.uniform(60, 130))
            area = (slice(h - round(high), h), slice(left, left + max(1, round(wide))))
            image[area] = colour * 0.4 + haze * 0.6
            step = max(2, round(focal * 0.004))
            image[area[0].start + step // 2 : h : step, area[1]] -= 9
            labels[area] = BUILDING
    bumps = noise(rng, (2, w), (2, 90))[0] * 0.005 + noise(rng, (2, w), (2, 420))[0] * 0.0016
    height = np.maximum(0, (bumps + noise(rng, (2, w), (2, 9))[0] * 0.006 + rng.uniform(0.006, 0.022)) * focal)
    rows = np.arange(h)[:, None]
    wood = rows >= h - height[None, :]
    leaf = numbers((62, 80, 52)) + grain(rng, (h, w))[..., None] * 7 + noise(rng, (h, w), (40, 300))[..., None] * 6
    image[wood] = (leaf * 0.55 + haze * 0.45)[wood]
    labels[wood] = TREE
    image[:] = cv2.GaussianBlur(image, (3, 3), 0)
