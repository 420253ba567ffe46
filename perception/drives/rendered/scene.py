"""Everything that a seed's drive is painted with, and the painting of one moment, far to near."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered import people, riders
from perception.drives.rendered.backdrop import Backdrop
from perception.drives.rendered.blocks import CARS, KINDS, PEOPLE, Parked, Placed, Walker
from perception.drives.rendered.canvas import Sprite, View
from perception.drives.rendered.car_bodies import build_car
from perception.drives.rendered.cars import draw_car, soft_box
from perception.drives.rendered.facades import build_facade, build_fence
from perception.drives.rendered.ground import Ground
from perception.drives.rendered.pavement import pave
from perception.drives.rendered.props import build_bush, build_lamp, build_sign, build_tree
from perception.drives.rendered.style import Style
from perception.drives.rendered.traffic import VIEW_M, Driver, Traffic
from perception.drives.rendered.truth import BICYCLIST, BUILDING, FENCE, PEDESTRIAN, POLE, SIGN, TREE
from perception.drives.rendered.wardrobe import draw_person
from perception.geometry import Camera

_DEPTH_M = 9.0  # of a house
_SOFT = soft_box(0.4)
_MOST_POSES = 600  # kept drawn


class Scene:
    """The wardrobe of one drive."""

    def __init__(self, style: Style, camera: Camera, seed: int) -> None:
        self._style = style
        rng = np.random.default_rng([seed, 2])
        ratio = camera.width / 1280
        self.backdrop = Backdrop(style, camera, rng)
        self.ground = Ground(pave(style, rng, 0.025 / ratio))
        self._fronts = [build_facade(style, rng, 36 * ratio) for _ in range(6)]
        self._fences = [build_fence(rng, 60 * ratio) for _ in range(2)]
        self._trees = [build_tree(style, rng, 44 * ratio) for _ in range(KINDS)]
        self._bushes = [build_bush(style, rng, 60 * ratio) for _ in range(KINDS)]
        self._lamps = [build_lamp(style, rng, 44 * ratio) for _ in range(2)]
        self._signs = [build_sign(rng, 70 * ratio) for _ in range(KINDS)]
        self._cars = [build_car(rng, "bus"), *(build_car(rng) for _ in range(CARS - 1))]
        self._people = [draw_person(rng) for _ in range(PEOPLE)]
        self._light = (-0.8 if style.sun[1] > 0 else 0.8, -0.45)
        self._scale = 130 * ratio
        self._poses: OrderedDict[tuple[int, str, str, int], Sprite] = OrderedDict()

    @property
    def front_lengths(self) -> tuple[float, ...]:
        return tuple(front.length_m for front in self._fronts)

    def pose(self, which: int, mode: str, view: str, step: int) -> Sprite:
        """A person in a phase of his walk or ride, drawn once while he is about."""
        key = (which, mode, view, step)
        if key not in self._poses:
            self._poses[key] = self._draw_pose(*key)
            if len(self._poses) > _MOST_POSES:
                self._poses.popitem(last=False)
        self._poses.move_to_end(key)
        return self._poses[key]

    def _draw_pose(self, which: int, mode: str, view: str, step: int) -> Sprite:
        person, phase, light, scale = self._people[which], step / people.PHASES, self._light, self._scale
        if mode == "ride":
            if view == "side":
                return riders.pose_rider(person, phase, light, scale)
            return riders.pose_rider_front(person, phase, light, scale, view == "away")
        if view == "side":
            return people.pose_side(person, phase, mode == "stand", light, scale)
        return people.pose_front(person, phase, mode == "stand", light, scale, view == "away")

    def paint(self, view: View, traffic: Traffic) -> None:
        """Fill the view with this moment."""
        self.backdrop.draw(view)
        self.ground.draw(view)
        placed = [thing for block in traffic.blocks.values() for thing in block.placed]
        houses = [thing for thing in placed if thing.kind == "house"]
        for thing in sorted(houses, key=lambda thing: -thing.s):
            self._house(view, thing)
        others = [thing for thing in placed if thing.kind != "house"]
        parked = [car for block in traffic.blocks.values() for car in block.parked]
        things: list[Placed | Walker | Parked | Driver] = [*others, *parked, *traffic.walkers(), *traffic.drivers]
        places = self.places(view, np.array([(thing.s, thing.d) for thing in things]))
        reach = np.hypot(places[:, 0] - view.camera.position[0], places[:, 1])
        for index in np.argsort(-reach):
            if -3.0 < places[index, 0] < VIEW_M:
                self._thing(view, things[index], places[index], float(reach[index]))

    def places(self, view: View, street: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) places s, d in the street -> (n, 2) vehicle places."""
        y = np.asarray(self._style.road_y(street[:, 0])) + street[:, 1]
        return view.to_vehicle(np.stack([street[:, 0], y], axis=1))

    def _thing(
        self, view: View, thing: Placed | Walker | Parked | Driver, at: NDArray[np.float64], reach: float
    ) -> None:
        match thing:
            case Placed():
                self._stand(view, thing, at, reach)
            case Walker():
                self._walker(view, thing, at, reach)
            case Parked():
                self._car(view, thing.which, thing.actor_id, thing.s, at, thing.turned, False)
            case Driver():
                self._car(view, thing.which, thing.actor_id, thing.s, at, thing.way < 0, thing.braking)

    def _car(
        self, view: View, which: int, actor: int, s: float, at: NDArray[np.float64], turned: bool, braking: bool
    ) -> None:
        yaw = math.atan(self._style.road_slope(s)) - view.ego[2] + (math.pi if turned else 0.0)
        draw_car(view, self._cars[which], at, yaw, actor, braking)

    def _house(self, view: View, thing: Placed) -> None:
        front = self._fronts[thing.which]
        side = math.copysign(1.0, thing.d)
        near, far = thing.s, thing.s + front.length_m
        corners = self.places(view, np.array([(s, thing.d + e * side) for s in (near, far) for e in (0.0, _DEPTH_M)]))
        if corners[:, 0].max() < 1.0 or corners[:, 0].min() > VIEW_M:
            return
        top = front.height_m
        a, a_back, b, b_back = (np.array([*corner, 0.0]) for corner in corners)
        up, rise = np.array([0, 0, top]), np.array([0, 0, 0.32 * _DEPTH_M])
        sunny = {"sun": 0.34, "cloud": 0.18, "overcast": 0.0, "dusk": 0.2}[self._style.weather]
        gain = 0.84 + sunny * max(0.0, -side * self._style.sun[1])
        end_gain = 0.78 + sunny * max(0.0, -self._style.sun[0])
        if front.pitched:
            ridge_a, ridge_b = (a + a_back) / 2 + up + rise, (b + b_back) / 2 + up + rise
            gable = np.array([a_back + up + rise, a + up + rise, a + up, a_back + up])
            view.quad(gable, front.gable, BUILDING, end_gain, np.array([a_back + up, ridge_a, a + up]))
            view.quad(np.array([ridge_a, ridge_b, b + up, a + up]), front.roof, BUILDING, gain)
        if thing.open_end:
            view.quad(np.array([a_back + up, a + up, a, a_back]), front.side, BUILDING, end_gain)
        view.quad(np.array([a + up, b + up, b, a]), front.front, BUILDING, gain)

    def _stand(self, view: View, thing: Placed, at: NDArray[np.float64], reach: float) -> None:
        foot = np.array([*at, 0.0])
        match thing.kind:
            case "tree":
                if reach < 45.0:
                    self._drop_shadow(view, at, 1.6, 0.3)
                view.sprite(self._trees[thing.which], foot, TREE, mirror=bool(int(thing.s) % 2))
            case "bush":
                view.sprite(self._bushes[thing.which], foot, TREE, mirror=bool(int(thing.s) % 2))
            case "lamp":
                view.sprite(self._lamps[thing.which], foot, POLE, mirror=thing.d < 0)
            case "sign":
                post, plate, height = self._signs[thing.which]
                view.sprite(post, foot, POLE)
                view.sprite(plate, foot + np.array([-0.02, 0.0, height]), SIGN)
            case _:
                self._fence(view, thing)

    def _fence(self, view: View, thing: Placed) -> None:
        texture, length, height = self._fences[thing.which]
        ends = self.places(view, np.array([(thing.s, thing.d), (thing.s + length, thing.d)]))
        a, b = (np.array([*end, 0.0]) for end in ends)
        up = np.array([0, 0, height])
        view.quad(np.array([a + up, b + up, b, a]), texture, FENCE, 0.95)

    def _walker(self, view: View, walker: Walker, at: NDArray[np.float64], reach: float) -> None:
        crossing = (walker.mode in ("cross", "lurk") and walker.delay <= 0) or walker.mode == "lurk"
        waits = walker.mode == "cross" and (walker.delay > 0 or not walker.triggered)
        dx, dy = (0.0, walker.across) if crossing else (walker.speed, 0.0)
        mode = "stand" if waits else walker.mode
        sight = math.atan2(at[1], max(0.1, at[0] - view.camera.position[0]))
        forward = dx * math.cos(sight) + dy * math.sin(sight)
        left = dy * math.cos(sight) - dx * math.sin(sight)
        facing = "side" if abs(left) > abs(forward) * 0.55 else "away" if forward > 0 else "towards"
        sprite = self.pose(walker.which, mode, facing, int(walker.phase * people.PHASES) % people.PHASES)
        if reach < 45.0:
            self._drop_shadow(view, at, 0.42 if mode != "ride" else 0.6, 0.55)
            self._cast_shadow(view, at, sprite.height_m)
        label = BICYCLIST if mode == "ride" else PEDESTRIAN
        view.sprite(sprite, np.array([*at, 0.0]), label, walker.actor_id, mirror=facing == "side" and left > 0)

    def _drop_shadow(self, view: View, at: NDArray[np.float64], radius: float, depth: float) -> None:
        square = np.array([[radius, radius], [radius, -radius], [-radius, -radius], [-radius, radius]])
        view.darken(square + at, depth, _SOFT)

    def _cast_shadow(self, view: View, at: NDArray[np.float64], height: float) -> None:
        depth = {"sun": 0.42, "cloud": 0.2}.get(self._style.weather)
        if depth is None:
            return
        away = -np.array(self._style.sun[:2]) / max(0.35, self._style.sun[2]) * height
        across = np.array([-away[1], away[0]]) / max(1e-6, float(np.hypot(*away))) * 0.26
        view.darken(np.array([at + away + across, at + away - across, at - across, at + across]), depth, _SOFT)
