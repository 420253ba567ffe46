"""Pedestrians: jointed figures, one picture per pose and side."""

from __future__ import annotations

import math

import numpy as np

from perception.drives.rendered.canvas import Sprite
from perception.drives.rendered.figure import Figure, Point
from perception.drives.rendered.textures import shade
from perception.drives.rendered.wardrobe import Person

PHASES = 12  # poses of one step


def bend_leg(hip: Point, thigh: float, shin: float, lengths: Point) -> tuple[Point, Point]:
    knee = (hip[0] + lengths[0] * math.sin(thigh), hip[1] - lengths[0] * math.cos(thigh))
    return knee, (knee[0] + lengths[1] * math.sin(shin), knee[1] - lengths[1] * math.cos(shin))


def pose_side(person: Person, phase: float, standing: bool, light: Point, scale: float) -> Sprite:
    """A walker who goes to the right; `phase` in [0, 1) is his step."""
    h, b = person.height_m, person.build
    figure = Figure(scale, 1.3, h * 1.03, light)
    swing = 0.0 if standing else 0.46
    angle = 2 * math.pi * phase
    hip: Point = (0.0, 0.53 * h + 0.008 * h * math.cos(2 * angle))
    shoulder: Point = (0.015 * h, 0.815 * h)
    for side, dim in ((1, 0.78), (-1, 1.0)):
        turn = angle if side == 1 else angle + math.pi
        _side_arm(figure, person, shoulder, -swing * math.sin(turn) * 0.8, dim) if side == 1 else None
        thigh = swing * math.sin(turn)
        bend = 0.06 if standing else 0.1 + 0.75 * max(0.0, math.cos(turn)) * (1 if math.sin(turn) < 0.9 else 0.5)
        knee, foot = bend_leg(hip, thigh, thigh - bend, (0.245 * h, 0.235 * h))
        trousers = shade(person.skin if person.skirt else person.legs, dim)
        figure.limb(knee, foot, 0.066 * h * b, 0.045 * h, trousers)
        figure.limb(hip, knee, 0.098 * h * b, 0.068 * h * b, trousers)
        figure.limb(
            (foot[0] - 0.01 * h, foot[1] - 0.01 * h),
            (foot[0] + 0.085 * h, foot[1] - 0.022 * h),
            0.04 * h,
            0.03 * h,
            shade(person.shoes, dim),
        )
    _torso(figure, person, hip, shoulder, 0.135 * h * b, 0.12 * h * b)
    if person.bag:
        figure.ball((-0.1 * h, 0.71 * h), 0.055 * h, 0.09 * h, person.bag)
    draw_head(figure, person, (0.028 * h, 0.93 * h), 1.0)
    _side_arm(figure, person, shoulder, -swing * math.sin(angle + math.pi) * 0.8, 1.06)
    return figure.sprite()


def _side_arm(figure: Figure, person: Person, shoulder: Point, angle: float, dim: float) -> None:
    h, b = person.height_m, person.build
    elbow, hand = bend_leg(shoulder, angle, angle + 0.3, (0.165 * h, 0.15 * h))
    figure.limb(shoulder, elbow, 0.062 * h * b, 0.05 * h * b, shade(person.top, dim * 0.96))
    figure.limb(elbow, hand, 0.05 * h * b, 0.036 * h, shade(person.top, dim * 0.94))
    figure.ball(hand, 0.022 * h, 0.026 * h, shade(person.skin, dim))


def _torso(figure: Figure, person: Person, hip: Point, shoulder: Point, wide: float, waist: float) -> None:
    h = person.height_m
    hem = hip[1] - person.coat * h - (0.12 * h if person.skirt else 0.0)
    flare = waist * (1.25 if person.skirt or person.coat > 0.05 else 1.0)
    if person.skirt:
        skirt = [
            (hip[0] - waist / 2, hip[1] + 0.06 * h),
            (hip[0] + waist / 2, hip[1] + 0.06 * h),
            (hip[0] + flare * 0.7, hem),
            (hip[0] - flare * 0.7, hem),
        ]
        figure.body(np.array(skirt), person.legs)
        hem = hip[1] - 0.02 * h
    y = shoulder[1]
    outline = [
        (shoulder[0] - wide * 0.2, y + 0.035 * h), (shoulder[0] + wide * 0.2, y + 0.035 * h),
        (shoulder[0] + wide * 0.46, y + 0.012 * h), (shoulder[0] + wide * 0.54, y - 0.06 * h),
        (hip[0] + waist * 0.5, hip[1] + 0.08 * h), (hip[0] + flare * 0.56, hem), (hip[0] - flare * 0.56, hem),
        (hip[0] - waist * 0.5, hip[1] + 0.08 * h), (shoulder[0] - wide * 0.54, y - 0.06 * h),
        (shoulder[0] - wide * 0.46, y + 0.012 * h),
    ]  # fmt: skip
    figure.limb(
        (shoulder[0], y), (shoulder[0] + 0.01 * h, y + 0.075 * h), 0.06 * h, 0.055 * h, shade(person.skin, 0.85)
    )
    figure.body(np.array(outline), person.top)


def draw_head(figure: Figure, person: Person, middle: Point, facing: float) -> None:
    """`facing` 1 looks right, 0 towards the viewer, -1 away from him."""
    h = person.height_m
    hair = shade(person.top, 0.7) if person.cap else person.hair
    figure.ball((middle[0] - (0.012 * h if facing > 0 else 0), middle[1] + 0.006 * h), 0.05 * h, 0.062 * h, hair)
    if facing >= 0:
        shift = 0.014 * h if facing > 0 else 0.0
        figure.ball((middle[0] + shift, middle[1] - 0.014 * h), 0.038 * h, 0.05 * h, person.skin)


def pose_front(person: Person, phase: float, standing: bool, light: Point, scale: float, away: bool) -> Sprite:
    """A walker who comes towards the viewer or goes away from him."""
    h, b = person.height_m, person.build
    figure = Figure(scale, 0.95, h * 1.03, light)
    angle = 2 * math.pi * phase
    lift = 0.0 if standing else 0.055 * h
    hip, shoulder = (0.0, 0.53 * h), (0.0, 0.815 * h)
    for side in (-1, 1):
        step = math.sin(angle + (math.pi if side == 1 else 0))
        up = lift * max(0.0, step)
        top, knee, foot = (
            (side * 0.042 * h * b, hip[1]),
            (side * 0.05 * h * b, 0.285 * h + up),
            (side * 0.048 * h * b, 0.05 * h + up * 1.2),
        )
        trousers = shade(person.skin if person.skirt else person.legs, 1.0 if step < 0 else 0.86)
        figure.limb(knee, foot, 0.068 * h * b, 0.05 * h, trousers)
        figure.limb(top, knee, 0.09 * h * b, 0.07 * h * b, trousers)
        figure.ball((foot[0] + side * 0.006 * h, foot[1] - 0.024 * h), 0.032 * h, 0.026 * h, person.shoes)
        swing = 0.0 if standing else 0.05 * h * step
        elbow, hand = (
            (side * 0.128 * h * b, 0.66 * h),
            (side * 0.128 * h * b + swing * 0.2, 0.52 * h + abs(swing) * 0.5),
        )
        figure.limb((side * 0.108 * h * b, 0.8 * h), elbow, 0.062 * h * b, 0.05 * h * b, shade(person.top, 0.93))
        figure.limb(elbow, hand, 0.05 * h * b, 0.038 * h, shade(person.top, 0.9))
        figure.ball(hand, 0.022 * h, 0.028 * h, person.skin)
    _torso(figure, person, hip, shoulder, 0.235 * h * b, 0.175 * h * b)
    if not away and person.coat > 0.05:
        figure.limb((0.0, 0.82 * h), (0.0, (0.53 - person.coat) * h), 0.012 * h, 0.012 * h, shade(person.top, 0.6))
        figure.limb((0.0, 0.83 * h), (0.0, 0.76 * h), 0.05 * h, 0.012 * h, shade(person.legs, 1.5))
    if person.bag and away:
        figure.ball((0.0, 0.71 * h), 0.085 * h, 0.1 * h, person.bag)
    draw_head(figure, person, (0.0, 0.93 * h), -1.0 if away else 0.0)
    return figure.sprite()
