"""Where a point of the world falls in the image, and what a pixel sees: pinhole projection and the ground plane.

Frames: the vehicle frame has x forward, y left, z up, its origin on the ground; the camera frame has x right,
y down, z along the optical axis. Lengths are metres. Pixel coordinates have (0, 0) in the middle of the top left
pixel, so that an image of width w covers -0.5 to w - 0.5.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.errors import ConfigError

_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # camera axes in a level, forward vehicle
_NEAR_M = 1e-6
_UNDISTORT_STEPS = 20
_SETTLED = 1e-12  # what more steps would not better, in focal lengths
_UNDISTORTED = 1e-6  # what may be left of a pixel's place, in focal lengths


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A pinhole camera with Brown-Conrady distortion on a vehicle; two are the same when `content_hash` is."""

    name: str
    width: int  # [px]
    height: int  # [px]
    K: NDArray[np.float64]  # (3, 3) [px]
    T_vehicle_from_camera: NDArray[np.float64]  # (4, 4) rigid [m]
    distortion: NDArray[np.float64] = field(default_factory=lambda: np.zeros(5))  # (5,) k1 k2 p1 p2 k3

    @property
    def position(self) -> NDArray[np.float64]:
        """(3,) centre of projection in the vehicle frame [m]."""
        return self.T_vehicle_from_camera[:3, 3]

    @property
    def height_m(self) -> float:
        """How far the camera is above the ground [m]."""
        return float(self.T_vehicle_from_camera[2, 3])

    @property
    def pitch_rad(self) -> float:
        """How far the optical axis looks down [rad]; negative looks up."""
        return math.asin(-max(-1.0, min(1.0, float(self.T_vehicle_from_camera[2, 2]))))

    @property
    def content_hash(self) -> str:
        """16 hex digits that change when any number that matters for projection does; the name does not."""
        numbers = np.concatenate([self.K.ravel(), self.distortion, self.T_vehicle_from_camera.ravel()])
        head = f"{self.width}x{self.height};".encode()
        return hashlib.sha256(head + np.ascontiguousarray(numbers + 0.0, "<f8").tobytes()).hexdigest()[:16]

    def scaled(self, width: int, height: int) -> Camera:
        """The same camera with its images resized to width x height [px]."""
        sx, sy = width / self.width, height / self.height
        resize = np.array([[sx, 0.0, (sx - 1.0) / 2.0], [0.0, sy, (sy - 1.0) / 2.0], [0.0, 0.0, 1.0]])
        return replace(self, width=width, height=height, K=resize @ self.K)

    def posed(self, *, pitch_rad: float = 0.0, rise_m: float = 0.0) -> Camera:
        """The same camera after the body pitched down by `pitch_rad` about the camera and rose by `rise_m`."""
        pose = self.T_vehicle_from_camera.copy()
        pose[:3, :3] = _rotation(0.0, pitch_rad, 0.0) @ pose[:3, :3]
        pose[2, 3] += rise_m
        return replace(self, T_vehicle_from_camera=pose)

    def project(self, points: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(..., 3) vehicle points [m] -> (..., 2) pixels and (...) depth along the axis [m].

        Pixels are NaN where the depth is not positive: what is behind the camera has no image. So are those beyond the
        angle from which on the distortion folds the picture back: the lens does not show them, its formula would.
        """
        in_camera = (np.asarray(points, np.float64) - self.position) @ self.T_vehicle_from_camera[:3, :3]
        depth = in_camera[..., 2]
        safe = np.where(depth > _NEAR_M, depth, np.nan)[..., None]
        xy = _distort(in_camera[..., :2] / safe, self.distortion)
        return xy @ self.K[:2, :2].T + self.K[:2, 2], depth

    def rays(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) pixels -> (..., 3) directions in the vehicle frame, of depth 1 along the optical axis.

        NaN for a pixel that this distortion makes of no direction, as at the corners beyond the edge of its picture.
        """
        flat = (np.asarray(pixels, np.float64) - self.K[:2, 2]) @ np.linalg.inv(self.K[:2, :2]).T
        xy = _undistort(flat, self.distortion)
        return np.concatenate([xy, np.ones_like(xy[..., :1])], axis=-1) @ self.T_vehicle_from_camera[:3, :3].T

    def ground(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """(..., 2) pixels -> (..., 2) x, y where they see the plane z = 0 [m]; NaN where they see none."""
        rays = self.rays(pixels)
        down = np.where(rays[..., 2] < -1e-9, -rays[..., 2], np.nan)
        return self.position[:2] + rays[..., :2] * (self.height_m / down)[..., None]

    def horizon_row(self) -> float:
        """The row in which the horizon crosses the image's principal column [px], roll and distortion left aside."""
        return float(self.K[1, 2] - self.K[1, 1] * math.tan(self.pitch_rad))


def mounted(position: ArrayLike, roll: float = 0.0, pitch: float = 0.0, yaw: float = 0.0) -> NDArray[np.float64]:
    """(4, 4) T_vehicle_from_camera of a camera at position [m], turned by angles [rad]; 0 looks level ahead.

    Pitch is positive when it looks down, yaw when it looks left, roll when it leans right.
    """
    pose = np.eye(4)
    pose[:3, :3] = _rotation(roll, pitch, yaw) @ _AXES
    pose[:3, 3] = position
    return pose


def _rotation(roll: float, pitch: float, yaw: float) -> NDArray[np.float64]:
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a), math.sin(a)) for a in (roll, pitch, yaw))
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    return about_z @ about_y @ about_x


def _distort(xy: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 2) in focal lengths; NaN from where on the picture folds back."""
    if not coefficients.any():
        return xy
    unfolded = (xy * xy).sum(axis=-1, keepdims=True) < _fold(coefficients)
    return _bent(np.where(unfolded, xy, np.nan), coefficients)


def _bent(xy: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    k1, k2, p1, p2, k3 = coefficients
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return np.stack(
        [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y],
        axis=-1,
    )


def _fold(coefficients: NDArray[np.float64]) -> float:
    """The least r^2 at which r * radial(r) no longer rises; inf where it always does, NaN where it is no number."""
    k1, k2, p1, p2, k3 = coefficients.tolist()  # Python's floats, of which one too large is inf without a warning
    slope = [1.0, 3 * k1, 5 * k2, 7 * k3]  # its derivative, in 1 / r^2, as k3 is mostly next to nothing
    if not np.isfinite([*slope, p1, p2]).all():
        return math.nan  # a camera made by hand: np.roots would raise
    roots = np.roots(slope)
    largest = max(roots[abs(roots.imag) <= 1e-9 * abs(roots)].real, default=0.0)
    return float(1.0 / largest) if largest > 1e-12 else math.inf  # beyond a million focal lengths there is no angle


def _undistort(xy: NDArray[np.float64], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `_distort` makes these of, by Newton's method; NaN for what it makes of nothing."""
    if not coefficients.any():
        return xy
    rim = math.sqrt(_fold(coefficients)) * (1.0 - 1e-9)
    target = xy.reshape(-1, 2)
    guess, found, going = target, np.empty_like(target), np.arange(len(target))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        missing = target - _bent(guess, coefficients)
        for _ in range(_UNDISTORT_STEPS):
            guess = guess + _newton_step(guess, missing, coefficients)
            guess = guess * np.minimum(1.0, rim / np.linalg.norm(guess, axis=-1, keepdims=True))
            missing = target[going] - _bent(guess, coefficients)
            unsettled = (np.abs(missing) > _SETTLED).any(axis=-1)  # NaN is not: it stays NaN
            if 2 * np.count_nonzero(unsettled) <= len(going):  # mostly those beyond the rim, which take all steps
                found[going] = guess
                going, guess, missing = going[unsettled], guess[unsettled], missing[unsettled]
                if not len(going):
                    break
        found[going] = guess
        left = np.linalg.norm(target - _bent(found, coefficients), axis=-1, keepdims=True)
    return np.where(left <= _UNDISTORTED, found, np.nan).reshape(xy.shape)


def _newton_step(
    xy: NDArray[np.float64], missing: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(..., 2) how far to move so that `_bent`, taken as linear here, moves by what is missing."""
    k1, k2, p1, p2, k3 = coefficients
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2.0 * (k1 + r2 * (2 * k2 + r2 * 3 * k3))  # of radial, over x or y
    xx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    xy_ = slope * x * y + 2 * p1 * x + 2 * p2 * y  # the derivatives are symmetric
    yy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    dx, dy = missing[..., 0], missing[..., 1]
    return np.stack([yy * dx - xy_ * dy, xx * dy - xy_ * dx], axis=-1) / (xx * yy - xy_ * xy_)[..., None]


_Size = Annotated[int, msgspec.Meta(ge=16, le=16384)]
_Focal = Annotated[float, msgspec.Meta(gt=0.0)]
_Triple = tuple[float, float, float]


class _Lens(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    fx: _Focal
    fy: _Focal
    cx: float
    cy: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)


class _Mount(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    position: _Triple
    roll_deg: float = 0.0
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    width: _Size
    height: _Size
    lens: _Lens
    mount: _Mount


def load_camera(path: str | Path) -> Camera:
    """Read `calibration/<name>.toml`; raises ConfigError that names the file, the key and what was expected."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: can't be read ({error.strerror}); name a calibration file that exists") from None
    return parse_camera(data, path)


def parse_camera(data: str | bytes, path: str | Path) -> Camera:
    """The camera that a calibration file describes; raises ConfigError that names `path`, the key and the rule."""
    try:
        file = msgspec.toml.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; see calibration/README.md") from None
    numbers = (file.lens.fx, file.lens.fy, file.lens.cx, file.lens.cy, *file.lens.distortion, *file.mount.position)
    angles = (file.mount.roll_deg, file.mount.pitch_deg, file.mount.yaw_deg)
    if not all(math.isfinite(number) for number in (*numbers, *angles)):
        raise ConfigError(f"{path}: a number is not finite; every number of a calibration must be")
    if file.mount.position[2] <= 0.0:
        raise ConfigError(f"{path}: mount.position z is {file.mount.position[2]}; it is above the ground [m], so > 0")
    lens = file.lens
    return Camera(
        name=file.name,
        width=file.width,
        height=file.height,
        K=np.array([[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]]),
        T_vehicle_from_camera=mounted(file.mount.position, *(math.radians(angle) for angle in angles)),
        distortion=np.array(lens.distortion),
    )
