"""Bicyclists: rider and bicycle as one figure."""

from __future__ import annotations

import math

import numpy as np

from perception.drives.rendered.canvas import Sprite
from perception.drives.rendered.figure import Figure, Point
from perception.drives.rendered.people import draw_head
from perception.drives.rendered.textures import shade
from perception.drives.rendered.wardrobe import Person


def pose_rider(person: Person, phase: float, light: Point, scale: float) -> Sprite:
    """A bicyclist who rides to the right."""
    h = person.height_m
    figure = Figure(scale, 2.0, h + 0.15, light)
    black, r = (36.0, 36.0, 38.0), 0.34
    angles = np.linspace(0, 2 * np.pi, 40)
    for x in (-0.52, 0.54):
        figure.wire([(x + r * math.cos(a), r + r * math.sin(a)) for a in angles], 0.04, black, True)
        for spoke in range(6):
            a = spoke * math.pi / 6 - phase * 2
            figure.wire(
                [(x - r * math.cos(a), r - r * math.sin(a)), (x + r * math.cos(a), r + r * math.sin(a))],
                0.008,
                (120.0, 120.0, 120.0),
            )
    crank, seat, bars = (-0.05, 0.3), (-0.2, 0.92), (0.38, 0.98)
    for tube in (
        [(-0.52, r), crank, (0.36, 0.8), (-0.17, 0.8), (-0.52, r)],
        [crank, seat],
        [(0.54, r), bars, (0.46, 1.02)],
    ):
        figure.wire(tube, 0.045, person.bicycle)
    hip, shoulder = (seat[0] + 0.02, seat[1] + 0.07), (seat[0] + 0.3, seat[1] + 0.07 + 0.27 * h)
    for side, dim in ((0.0, 0.78), (math.pi, 1.0)):
        a = -2 * math.pi * phase + side
        foot = (crank[0] + 0.16 * math.cos(a), crank[1] + 0.05 + 0.16 * math.sin(a))
        knee = _knee(hip, foot, 0.25 * h, 0.25 * h)
        figure.limb(hip, knee, 0.095 * h, 0.068 * h, shade(person.legs, dim))
        figure.limb(knee, foot, 0.066 * h, 0.045 * h, shade(person.legs, dim))
        figure.limb(
            (foot[0] - 0.03, foot[1] - 0.02), (foot[0] + 0.13, foot[1] - 0.02), 0.06, 0.045, shade(person.shoes, dim)
        )
    figure.limb(hip, shoulder, 0.115 * h * person.build, 0.125 * h * person.build, person.top)
    if person.bag:
        figure.ball((shoulder[0] - 0.16, shoulder[1] - 0.12), 0.1, 0.18, person.bag)
    elbow = ((shoulder[0] + bars[0]) / 2 + 0.01, (shoulder[1] + bars[1]) / 2 - 0.06)
    figure.limb(shoulder, elbow, 0.058 * h, 0.048 * h, shade(person.top, 1.05))
    figure.limb(elbow, bars, 0.046 * h, 0.036 * h, shade(person.top, 1.0))
    draw_head(figure, person, (shoulder[0] + 0.1, shoulder[1] + 0.115 * h), 1.0)
    return figure.sprite(100)


def _knee(hip: Point, foot: Point, thigh: float, shin: float) -> Point:
    dx, dy = foot[0] - hip[0], foot[1] - hip[1]
    reach = min(math.hypot(dx, dy), thigh + shin - 1e-3)
    along = math.acos(max(-1.0, min(1.0, (thigh**2 + reach**2 - shin**2) / (2 * thigh * reach))))
    turn = math.atan2(dy, dx) + along
    return hip[0] + thigh * math.cos(turn), hip[1] + thigh * math.sin(turn)


def pose_rider_front(person: Person, phase: float, light: Point, scale: float, away: bool) -> Sprite:
    """A bicyclist seen from ahead or behind."""
    h = person.height_m
    figure = Figure(scale, 0.95, h + 0.15, light)
    figure.limb((0.0, 0.05), (0.0, 0.64), 0.055, 0.055, (36.0, 36.0, 38.0))
    figure.wire([(-0.28, 1.03), (0.28, 1.03)], 0.035, (60.0, 60.0, 62.0))
    figure.wire([(0.0, 0.6), (0.0, 1.03)], 0.05, person.bicycle)
    for side in (-1, 1):
        up = 0.15 * math.sin(2 * math.pi * phase + (math.pi if side == 1 else 0))
        hip, knee, foot = (side * 0.09, 0.95), (side * 0.15, 0.68 + up * 0.8), (side * 0.11, 0.32 + up)
        figure.limb(hip, knee, 0.16, 0.12, person.legs)
        figure.limb(knee, foot, 0.115, 0.08, shade(person.legs, 0.9))
        figure.ball((foot[0], foot[1] - 0.04), 0.05, 0.05, person.shoes)
        shoulder = (side * 0.105 * h * person.build, 1.4)
        figure.limb(shoulder, (side * 0.27, 1.03), 0.1, 0.065, shade(person.top, 0.94))
    torso = [(-0.12, 0.93), (0.12, 0.93), (0.125 * h, 1.38), (0.08 * h, 1.47), (-0.08 * h, 1.47), (-0.125 * h, 1.38)]
    figure.body(np.array(torso), person.top)
    draw_head(figure, person, (0.0, h - 0.1), -1.0 if away else 0.0)
    return figure.sprite(100)
