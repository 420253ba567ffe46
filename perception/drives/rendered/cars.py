"""Cars in true perspective: face by face when they are near, one kept picture per angle when they are far."""

from __future__ import annotations

import math
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered.canvas import Sprite, View
from perception.drives.rendered.car_bodies import BRAKE_LAMP, HEADLAMP, TRIM, CarModel
from perception.drives.rendered.textures import Field, Image, pyramid
from perception.drives.rendered.truth import CAR

_FAR_M = 28.0  # beyond this a car is drawn once per angle
_STEP_RAD = math.radians(4.0)
_NEAR_M = 0.4


def draw_car(
    view: View, model: CarModel, xy: NDArray[np.float64], yaw: float, actor: int, braking: bool = False
) -> None:
    """Paint one car whose footprint's middle is at xy and which points along `yaw`, both in the vehicle frame."""
    sight = xy - view.camera.position[:2]
    distance = float(np.hypot(*sight))
    reach = (model.length_m + model.width_m) / 2 + 0.6
    if abs(sight[1]) - reach > (sight[0] + reach) * view.width / view.camera.K[0, 0] * 0.5:
        return  # beside the image
    if distance < 90.0:
        _shadow(view, model, xy, yaw, distance)
    if distance > _FAR_M:
        # Far away the view of a car depends on nothing but the angle at which it is seen: one picture per angle.
        angle = yaw - math.atan2(float(sight[1]), float(sight[0]))
        key = (round(angle / _STEP_RAD) % round(2 * math.pi / _STEP_RAD), braking)
        if key not in model.seen:
            model.seen[key] = _portrait(view, model, key[0] * _STEP_RAD, braking)
        view.sprite(model.seen[key], np.array([*xy, 0.0]), CAR, actor)
        return
    turn = _turned(yaw)
    polygons = _polygons(view, model, model.vertices @ turn.T + (*xy, 0.0))
    if not any(len(polygon) for polygon in polygons):
        return
    corners = np.concatenate(polygons)
    low, high = np.floor(corners.min(axis=0)) - 1, np.ceil(corners.max(axis=0)) + 2
    roi = (max(0, int(low[0])), max(0, int(low[1])), min(view.width, int(high[0])), min(view.height, int(high[1])))
    if roi[2] <= roi[0] or roi[3] <= roi[1]:
        return
    ray = model.middles @ turn.T + (*xy, 0.0) - view.camera.position
    polygons = [polygon - roi[:2] for polygon in polygons]
    patch = _patch(view, model, (polygons, ray, turn), (roi[2] - roi[0], roi[3] - roi[1]), braking)
    view.blend(patch, roi, CAR, actor, 1.0, distance)


def _polygons(view: View, model: CarModel, points: Field) -> list[Field]:
    """The faces' outlines in pixels; what is beside or behind the camera is cut off."""
    near = view.camera.position[0] + _NEAR_M
    faces = [points[begin:end] for begin, end in pairwise(model.starts)]
    if points[:, 0].min() <= near:
        faces = [face if face[:, 0].min() > near else _cut(face, near) for face in faces]
    pixels = view.pixels(np.concatenate(faces))[0]
    return np.split(pixels, np.cumsum([len(face) for face in faces])[:-1])


def _cut(face: Field, near: float) -> Field:
    """The part of a polygon that lies beyond x = near; may be empty."""
    kept: list[Field] = []
    for a, b in zip(face, np.roll(face, -1, axis=0), strict=True):
        if a[0] > near:
            kept.append(a)
        if (a[0] > near) != (b[0] > near):
            kept.append(a + (b - a) * (near - a[0]) / (b[0] - a[0]))
    return np.array(kept).reshape(-1, 3)


def _turned(yaw: float) -> NDArray[np.float64]:
    cos, sin = math.cos(yaw), math.sin(yaw)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _portrait(view: View, model: CarModel, angle: float, braking: bool) -> Sprite:
    """The car as seen from _FAR_M away at eye height."""
    turn = _turned(angle)
    points = model.vertices @ turn.T + (_FAR_M, 0.0, -view.camera.height_m)
    focal = 26.0 * _FAR_M * view.width / 1280
    pixels = np.stack([-points[:, 1], -points[:, 2]], axis=1) / points[:, :1] * focal
    half = np.ceil(np.abs(pixels[:, 0]).max()) + 1
    foot = view.camera.height_m / _FAR_M * focal
    top = np.floor(pixels[:, 1].min()) - 1
    size = (int(2 * half), int(np.ceil(foot - top)))
    ray = model.middles @ turn.T + (_FAR_M, 0.0, -view.camera.height_m)
    polygons = np.split(pixels + np.array([half, -top]), model.starts[1:-1])
    patch = _patch(view, model, (polygons, ray, turn), size, braking)
    return Sprite(pyramid(patch), size[0] * _FAR_M / focal, size[1] * _FAR_M / focal)


def _patch(view: View, model: CarModel, seen: tuple[list[Field], Field, Field],
           size: tuple[int, int], braking: bool) -> Image:  # fmt: skip
    """(h, w, 4) the car alone; `seen` is its faces' pixels, the rays to them from the eye, and its turn."""
    polygons, ray, turn = seen
    normals = model.normals @ turn.T
    eye_y = float((model.middles[0] - ray[0] @ turn)[1])
    behind = (model.sides != 0) & (model.sides * eye_y < model.width_m / 2)  # what sticks out on the far side
    layers = np.where(behind, -1, model.layers)
    front = np.flatnonzero((normals * ray).sum(axis=1) < 0)
    order = front[np.lexsort((-np.hypot(ray[front, 0], ray[front, 1]), layers[front]))]
    colours = _lit(view, model, normals, ray, braking)
    finer = 2 if size[0] * size[1] < 60_000 else 1
    patch = np.zeros((size[1] * finer, size[0] * finer, 4), np.uint8)
    smooth = False
    for index in order:
        if not len(polygons[index]):
            continue
        part = np.round(((polygons[index] + 0.5) * finer - 0.5) * 16).astype(np.int32)
        if layers[index] > 0 and not smooth:
            patch, smooth = _smooth(patch), True
        cv2.fillPoly(patch, [part], colours[index], cv2.LINE_8, 4)
        if model.layers[index] == 1:
            cv2.polylines(patch, [part], True, (*TRIM, 255.0), max(1, size[0] * finer // 200), cv2.LINE_8, 4)
    return cv2.resize(patch, size, interpolation=cv2.INTER_AREA) if finer == 2 else patch


def _smooth(patch: Image) -> Image:
    """Let the paint's shades run into each other, so that a faceted body looks curved; the outline stays."""
    width = 2 * (patch.shape[1] // 56) + 1
    soft = cv2.blur(patch, (width, width))
    alpha = np.ascontiguousarray(soft[..., 3])
    full = cv2.divide(soft, cv2.merge([alpha] * 4), scale=255)
    return cv2.copyTo(full, np.ascontiguousarray(patch[..., 3]))


def _lit(
    view: View, model: CarModel, normals: NDArray[np.float64], ray: NDArray[np.float64], braking: bool
) -> list[tuple[float, float, float, float]]:
    sun = np.array(view.style.sun)
    direct = {"sun": 0.5, "cloud": 0.3, "overcast": 0.1, "dusk": 0.25}[view.style.weather]
    light = 0.62 + 0.24 * normals[:, 2] + direct * np.maximum(0, normals @ sun) - 0.12 * direct
    away = ray / np.linalg.norm(ray, axis=1, keepdims=True)
    mirrored = away - 2 * (away * normals).sum(axis=1, keepdims=True) * normals
    sky = np.clip(mirrored[:, 2] * 2.2 + 0.25, 0.0, 1.0) * model.gloss
    spark = np.maximum(0, mirrored @ sun) ** 24 * model.gloss * direct * 2
    base = model.colours * light[:, None]
    mixed = base * (1 - sky[:, None]) + np.array(view.style.haze) * sky[:, None] + 255 * spark[:, None]
    bright = (model.colours == HEADLAMP).all(axis=1) | (braking & (model.colours == BRAKE_LAMP).all(axis=1))
    mixed = np.where(bright[:, None], np.maximum(mixed, model.colours * 1.35), mixed)
    return [(float(r), float(g), float(b), 255.0) for r, g, b in np.clip(mixed, 0, 255)]


def soft_box(margin: float) -> Image:
    """(48, 48) shadow of a box, 255 in the middle, fading over `margin` of its size at the edges."""
    edge = np.clip(np.minimum(np.arange(48), np.arange(48)[::-1]) / (48 * margin), 0, 1)
    smooth = edge * edge * (3 - 2 * edge)
    return (smooth[:, None] * smooth[None] * 255).astype(np.uint8)


_SOFT = soft_box(0.22)


def _shadow(view: View, model: CarModel, xy: NDArray[np.float64], yaw: float, distance: float) -> None:
    half_l, half_w = model.length_m / 2 + 0.35, model.width_m / 2 + 0.35
    flat = np.array([[half_l, half_w], [half_l, -half_w], [-half_l, -half_w], [-half_l, half_w]])
    corners = flat @ _turned(yaw)[:2, :2].T + xy
    view.darken(corners, 0.72, _SOFT)
    if view.style.weather in ("sun", "cloud") and distance < 50.0:
        offset = -np.array(view.style.sun[:2]) / view.style.sun[2] * model.height_m * 0.5
        view.darken(corners + np.clip(offset, -2.0, 2.0), 0.42 if view.style.weather == "sun" else 0.2, _SOFT)
