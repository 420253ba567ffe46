"""Cars as small lofted bodies: shapes, paints and everything that is stuck on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered.canvas import Sprite
from perception.drives.rendered.textures import Colour, Field, jitter

_PAINTS: tuple[Colour, ...] = (
    (196, 198, 200), (226, 227, 228), (40, 42, 46), (110, 114, 118), (150, 30, 34), (38, 62, 112),
    (70, 84, 78), (164, 150, 124), (24, 26, 30), (84, 88, 94), (190, 120, 40), (60, 96, 130),
)  # fmt: skip
GLASS: Colour = (40, 48, 56)
TRIM: Colour = (30, 31, 33)
HEADLAMP: Colour = (250, 248, 236)  # these two shine; nothing else has just their colour
BRAKE_LAMP: Colour = (176, 26, 28)

# Stations from front to rear: x, body width, belt height, top height, roof width; fractions of the half length, half
# width and height. The top is the bonnet, the roof or the boot.
_SHAPES: dict[str, tuple[tuple[float, float, float, float, float], ...]] = {
    "hatch": (
        (1.0, 0.80, 0.40, 0.45, 0.70), (0.95, 0.92, 0.47, 0.53, 0.80), (0.75, 0.98, 0.54, 0.59, 0.84),
        (0.42, 1.0, 0.59, 0.65, 0.84), (0.05, 1.0, 0.62, 0.96, 0.70), (-0.15, 1.0, 0.62, 1.0, 0.71),
        (-0.20, 1.0, 0.62, 1.0, 0.71), (-0.62, 1.0, 0.64, 0.97, 0.70), (-0.70, 1.0, 0.64, 0.95, 0.70),
        (-0.93, 0.96, 0.66, 0.70, 0.76), (-1.0, 0.90, 0.45, 0.52, 0.74),
    ),
    "sedan": (
        (1.0, 0.80, 0.40, 0.46, 0.70), (0.95, 0.92, 0.48, 0.54, 0.80), (0.75, 0.98, 0.55, 0.60, 0.84),
        (0.38, 1.0, 0.60, 0.66, 0.84), (0.08, 1.0, 0.62, 0.96, 0.68), (-0.12, 1.0, 0.62, 1.0, 0.69),
        (-0.17, 1.0, 0.62, 1.0, 0.69), (-0.44, 1.0, 0.64, 0.96, 0.68), (-0.66, 1.0, 0.65, 0.70, 0.80),
        (-0.93, 0.96, 0.63, 0.68, 0.80), (-1.0, 0.90, 0.46, 0.52, 0.76),
    ),
    "suv": (
        (1.0, 0.84, 0.44, 0.50, 0.76), (0.96, 0.95, 0.52, 0.58, 0.84), (0.72, 1.0, 0.57, 0.63, 0.86),
        (0.40, 1.0, 0.60, 0.67, 0.86), (0.12, 1.0, 0.62, 0.97, 0.76), (-0.12, 1.0, 0.62, 1.0, 0.77),
        (-0.17, 1.0, 0.62, 1.0, 0.77), (-0.68, 1.0, 0.63, 0.98, 0.76), (-0.78, 1.0, 0.63, 0.97, 0.76),
        (-0.96, 0.97, 0.64, 0.70, 0.82), (-1.0, 0.92, 0.48, 0.55, 0.80),
    ),
    "van": (
        (1.0, 0.84, 0.34, 0.40, 0.78), (0.96, 0.96, 0.40, 0.46, 0.86), (0.78, 1.0, 0.46, 0.52, 0.88),
        (0.48, 1.0, 0.52, 0.90, 0.84), (0.36, 1.0, 0.52, 0.97, 0.86), (0.10, 1.0, 0.52, 1.0, 0.88),
        (0.06, 1.0, 0.95, 1.0, 0.88), (-0.60, 1.0, 0.95, 1.0, 0.88), (-0.98, 1.0, 0.95, 0.99, 0.88),
        (-0.99, 1.0, 0.55, 0.98, 0.88), (-1.0, 0.98, 0.50, 0.96, 0.88),
    ),
    "bus": (
        (1.0, 0.94, 0.34, 0.96, 0.90), (0.99, 0.98, 0.36, 0.98, 0.92), (0.90, 1.0, 0.40, 1.0, 0.94),
        (0.86, 1.0, 0.40, 1.0, 0.94), (0.46, 1.0, 0.42, 1.0, 0.94), (0.43, 1.0, 0.42, 1.0, 0.94),
        (0.03, 1.0, 0.42, 1.0, 0.94), (0.0, 1.0, 0.42, 1.0, 0.94), (-0.5, 1.0, 0.42, 1.0, 0.94),
        (-0.96, 1.0, 0.42, 1.0, 0.94), (-1.0, 0.97, 0.42, 0.98, 0.92),
    ),
}  # fmt: skip
_SIZES = {
    "hatch": (4.0, 1.76, 1.47),
    "sedan": (4.6, 1.82, 1.45),
    "suv": (4.55, 1.88, 1.7),
    "van": (5.2, 1.98, 2.1),
    "bus": (10.5, 2.5, 3.0),
}
_GLAZED = {
    "hatch": (3, 9),
    "sedan": (3, 8),
    "suv": (3, 9),
    "van": (2, 5),
    "bus": (0, 10),
}  # stations between which there is glass
_SOLID = {
    "hatch": (5, 8),
    "sedan": (5,),
    "suv": (5,),
    "van": (),
    "bus": (3, 5),
}  # pillars: segments whose sides are not glass


@dataclass(frozen=True, slots=True, eq=False)
class _Face:
    points: Field  # (n, 3) body frame: x forward, y left, z up [m]
    normal: Field  # (3,) outwards
    colour: Colour
    gloss: float
    side: int = 0  # +1 or -1 when it sticks out on the left or right


@dataclass(frozen=True, slots=True, eq=False)
class CarModel:
    """One kind of car in one paint."""

    length_m: float
    width_m: float
    height_m: float
    vertices: Field  # (n, 3) all faces' corners
    starts: NDArray[np.int32]  # first corner of each face, and the end
    normals: Field
    middles: Field
    colours: Field
    gloss: Field
    layers: NDArray[np.int32]  # 0 paint, 1 glass, 2 what is stuck on it
    sides: NDArray[np.int32]  # see _Face
    seen: dict[tuple[int, bool], Sprite] = field(default_factory=dict)  # far views by angle step and braking


def build_car(rng: np.random.Generator, kind: str | None = None) -> CarModel:
    """A car at random; `kind` is one of hatch, sedan, suv, van, bus."""
    kind = kind or str(rng.choice(list(_SHAPES), p=[0.38, 0.3, 0.22, 0.1, 0.0]))
    length, width, height = (size * rng.uniform(0.96, 1.05) for size in _SIZES[kind])
    coat = jitter(rng, _PAINTS[rng.integers(0, len(_PAINTS))], 10.0)
    rings = _rings(kind, length, width, height)
    body = _body(kind, rings, coat)
    extras = _details(rings, length, width, height, rng, coat)
    faces = body + extras
    counts = [len(face.points) for face in faces]
    return CarModel(
        length_m=length,
        width_m=width,
        height_m=height,
        vertices=np.concatenate([face.points for face in faces]).astype(np.float32),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        normals=np.array([face.normal for face in faces], np.float32),
        middles=np.array([face.points.mean(axis=0) for face in faces], np.float32),
        colours=np.array([face.colour for face in faces], np.float32),
        gloss=np.array([face.gloss for face in faces], np.float32),
        layers=np.array([int(face.colour == GLASS) for face in body] + [2] * len(extras), np.int32),
        sides=np.array([face.side for face in faces], np.int32),
    )


def _rings(kind: str, length: float, width: float, height: float) -> Field:
    """(stations, 7, 3) half outlines on the left, from sill to roof middle."""
    rings = []
    for x, wide, belt, top, roof in _SHAPES[kind]:
        half = width / 2 * wide
        z = np.array([0.14, 0.24, 0.24 + 0.5 * (belt - 0.24), belt - 0.03, belt, top, top + 0.012]) * height
        y = np.array([0.9, 0.98, 1.0, 0.97, 0.94, roof, 0.0]) * half
        y[5] = min(y[5], width / 2 * roof)
        tuck = np.array([0.06, 0.0, 0.0, 0.0, 0.02, 0.03, 0.0]) * (abs(x) > 0.985)
        rings.append(np.stack([(x - np.sign(x) * tuck) * length / 2, y, z], axis=1))
    return np.array(rings, np.float32)


def _face(points: Field, colour: Colour, gloss: float, inside: Field) -> _Face:
    a, b = points[2] - points[0], points[-1] - points[1]
    normal = np.cross(a, b)
    normal = normal / max(1e-9, float(np.linalg.norm(normal)))
    if float(normal @ (points.mean(axis=0) - inside)) < 0:
        normal = -normal
    return _Face(points, normal.astype(np.float32), colour, gloss)


def _body(kind: str, rings: Field, coat: Colour) -> list[_Face]:
    faces = []
    begin, end = _GLAZED[kind]
    for i in range(len(rings) - 1):
        inside = np.array([(rings[i, 0, 0] + rings[i + 1, 0, 0]) / 2, 0, rings[:, 4, 2].mean() * 0.8], np.float32)
        rise = float(rings[i : i + 2, 5, 2].mean() - rings[i : i + 2, 4, 2].mean())
        steep = abs(float(rings[i, 5, 2] - rings[i + 1, 5, 2])) > 0.12 * float(rings[..., 2].max())
        for j in range(6):
            glass = begin <= i < end and ((j == 4 and i not in _SOLID[kind] and rise > 0.06) or (j == 5 and steep))
            colour, gloss = (GLASS, 0.3) if glass else (TRIM, 0.05) if j == 0 else (coat, 0.22)
            if j == 5:
                over = np.array([rings[i, 5], rings[i + 1, 5], rings[i + 1, 5] * (1, -1, 1), rings[i, 5] * (1, -1, 1)])
                faces.append(_face(over.astype(np.float32), colour, gloss, inside))
                continue
            quad = np.array([rings[i, j], rings[i + 1, j], rings[i + 1, j + 1], rings[i, j + 1]])
            faces += [_face(quad * (1, side, 1), colour, gloss, inside) for side in (1.0, -1.0)]
    for ring, way in ((rings[0], 1.0), (rings[-1], -1.0)):
        outline = np.concatenate([ring, ring[::-1] * (1, -1, 1)]).astype(np.float32)
        faces.append(_Face(outline, np.array([way, 0, 0.1], np.float32), coat, 0.15))
    return faces


def _plate(
    x: float, y: tuple[float, float], z: tuple[float, float], way: float, colour: Colour, gloss: float = 0.1
) -> _Face:
    points = [(x, y[0], z[0]), (x, y[1], z[0]), (x, y[1], z[1]), (x, y[0], z[1])]
    return _Face(np.array(points, np.float32), np.array([way, 0, 0.05], np.float32), colour, gloss)


def _details(
    rings: Field, length: float, width: float, height: float, rng: np.random.Generator, coat: Colour
) -> list[_Face]:
    front, rear, w = length / 2 + 0.01, -length / 2 - 0.01, width / 2
    low, mid, high = 0.2 * height, 0.34 * height, 0.43 * height
    dull: Colour = (coat[0] * 0.5, coat[1] * 0.5, coat[2] * 0.5)
    plate: Colour = (236, 236, 230) if rng.random() < 0.6 else (232, 204, 70)
    faces = [
        _plate(front, (-0.5 * w, 0.5 * w), (low + 0.02, mid), 1, TRIM),
        _plate(front, (-0.22 * w, 0.22 * w), (mid * 0.8, mid * 0.8 + 0.12), 1, plate),
        _plate(rear, (-0.82 * w, 0.82 * w), (0.15 * height, low + 0.05), -1, TRIM),
        _plate(rear, (-0.24 * w, 0.24 * w), (mid, mid + 0.12), -1, plate),
        _plate(rear, (-0.8 * w, 0.8 * w), (low + 0.06, low + 0.09), -1, dull),
    ]
    if height > 1.9:
        faces.append(_plate(rear, (-0.72 * w, 0.72 * w), (0.56 * height, 0.86 * height), -1, GLASS, 0.5))
        if height > 2.6:
            faces.append(_plate(front, (-0.86 * w, 0.86 * w), (0.42 * height, 0.86 * height), 1, GLASS, 0.5))
    for side in (-1.0, 1.0):
        faces += _lamps(side, (front, rear, w), (mid, high))
        faces += _side_details(rings, side, length, width, height, coat)
    return faces


def _lamps(side: float, place: tuple[float, float, float], z: tuple[float, float]) -> list[_Face]:
    (front, rear, w), (mid, high) = place, z
    inner, outer, left, right = (side * share * w for share in (0.44, 0.77, 0.62, 0.83))
    edge, border = side * 0.03, side * 0.045
    bowl = _plate(front - 0.008, (inner - edge, outer + edge), (mid - 0.01, high + 0.01), 1, (92, 98, 104), 0.3)
    lamp = _plate(front - 0.004, (inner + border, outer - border), (mid + 0.02, high - 0.02), 1, HEADLAMP, 0.0)
    case = _plate(rear + 0.004, (side * 0.58 * w, side * 0.86 * w), (mid, high + 0.08), -1, (112, 18, 22), 0.2)
    brake = _plate(rear, (left, right), (mid + 0.07, high + 0.03), -1, BRAKE_LAMP, 0.1)
    back = _plate(rear, (left, right), (mid + 0.02, mid + 0.06), -1, (214, 206, 196), 0.1)
    return [bowl, lamp, case, brake, back]


def _disc(x: float, y: float, r: float, corners: int, middle: float) -> Field:
    angles = np.arange(corners) * 2 * np.pi / corners
    return np.stack([x + r * np.cos(angles), np.full(corners, y), middle + r * np.sin(angles)], axis=1).astype(
        np.float32
    )


def _side_details(rings: Field, side: float, length: float, width: float, height: float, coat: Colour) -> list[_Face]:
    y = side * (width / 2 + 0.004)
    normal = np.array([0, side, 0.0], np.float32)
    faces = []
    wheel = 0.32 if height < 2.6 else 0.47
    for x in (0.31 * length, -0.3 * length):
        arch = np.maximum(_disc(x, y, wheel + 0.07, 20, wheel), (-99, -99, 0.15)).astype(np.float32)
        faces.append(_Face(arch, normal, (18, 18, 19), 0.0))
        for r, corners, out, colour in (
            (1.0, 20, 0.004, (28, 28, 29)),
            (0.66, 16, 0.008, (150, 152, 155)),
            (0.2, 8, 0.012, (70, 71, 73)),
        ):
            faces.append(_Face(_disc(x, y + side * out, wheel * r, corners, wheel), normal, colour, 0.05))
        for turn in range(5):
            wedge = _disc(x, y + side * 0.01, wheel * 0.6, 20, wheel)[[4 * turn, 4 * turn + 1, 4 * turn + 2]]
            hub = np.array([[x, y + side * 0.01, wheel]], np.float32)
            faces.append(_Face(np.concatenate([wedge, hub * 0.75 + wedge[1:2] * 0.25]), normal, (64, 65, 68), 0.0))
    seam: Colour = (coat[0] * 0.55, coat[1] * 0.55, coat[2] * 0.55)
    belt = float(rings[5, 3, 2])
    for x in (0.2 * length, -0.03 * length, -0.22 * length):
        seam_points = [(x, y, 0.26 * height), (x + 0.02, y, 0.26 * height), (x + 0.02, y, belt), (x, y, belt)]
        faces.append(_Face(np.array(seam_points, np.float32), normal, seam, 0.0))
    mirror = [
        (0.17 * length, y + side * 0.16, belt),
        (0.17 * length, y, belt),
        (0.17 * length, y, belt + 0.14),
        (0.17 * length, y + side * 0.16, belt + 0.14),
    ]
    faces.append(_Face(np.array(mirror, np.float32), np.array([-1, 0, 0.1], np.float32), TRIM, 0.0, int(side)))
    faces.append(_Face(np.array(mirror, np.float32), np.array([1, 0, 0.1], np.float32), seam, 0.0, int(side)))
    return faces
