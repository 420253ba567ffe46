"""Projection and ground plane: round trips, conventions, and calibration files that are wrong."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception import geometry
from perception.errors import ConfigError
from perception.geometry import Camera, load_camera, mounted

FRONT = Path(__file__).parent.parent / "calibration" / "front.toml"


def _camera(
    pitch: float = 0.05, yaw: float = 0.0, roll: float = 0.0, distortion: tuple[float, ...] = (0.0,) * 5
) -> Camera:
    return Camera(
        name="test",
        width=1280,
        height=720,
        K=np.array([[900.0, 0.0, 630.0], [0.0, 910.0, 350.0], [0.0, 0.0, 1.0]]),
        T_vehicle_from_camera=mounted((1.2, 0.3, 1.5), roll, pitch, yaw),
        distortion=np.array(distortion),
    )


angles = st.floats(-0.3, 0.3)
columns, rows = st.floats(0, 1279), st.floats(0, 719)
small = st.floats(-0.04, 0.04)


@given(columns, rows, st.floats(0.5, 200.0), angles, angles, angles, small, small)
def test_projecting_an_unprojected_pixel_gives_it_back(
    u: float, v: float, depth: float, pitch: float, yaw: float, roll: float, k1: float, k2: float
) -> None:
    camera = _camera(pitch, yaw, roll, (k1, k2, 0.001, -0.001, 0.0))
    pixel, found = camera.project(camera.position + camera.rays([u, v]) * depth)
    assert pixel == pytest.approx([u, v], abs=1e-4)
    assert found == pytest.approx(depth)


LENSES = {  # f [px], width, height, distortion
    "webcam 85": (700.0, 1280, 720, (-0.30, 0.09, 0.0, 0.0, 0.0)),
    "KITTI": (984.0, 1392, 512, (-0.3728755, 0.2037299, 0.002219027, 0.001383707, -0.07233722)),
    "wide 110": (450.0, 1280, 720, (-0.25, 0.05, 0.0, 0.0, -0.004)),
    "action": (1100.0, 1920, 1080, (-0.28, 0.11, 0.0, 0.0, -0.02)),
    "pincushion": (900.0, 1280, 720, (0.12, -0.03, 0.002, -0.001, 0.01)),
}


def _lens(name: str) -> Camera:
    f, width, height, distortion = LENSES[name]
    K = np.array([[f, 0.0, width / 2], [0.0, f, height / 2], [0.0, 0.0, 1.0]])
    return Camera("lens", width, height, K, mounted((1.5, 0.0, 1.4), pitch=0.05), np.array(distortion))


def _pixels(camera: Camera) -> NDArray[np.float64]:
    """(n, 2) all over the image, corners included."""
    u, v = np.meshgrid(np.linspace(-0.5, camera.width - 0.5, 65), np.linspace(-0.5, camera.height - 0.5, 33))
    return np.stack([u, v], axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("name", LENSES)
def test_what_a_pixel_sees_is_seen_by_that_pixel_or_by_none(name: str) -> None:
    camera = _lens(name)
    pixels = _pixels(camera)
    rays = camera.rays(pixels)
    back, _ = camera.project(camera.position + rays * 5)
    seen = np.isfinite(rays).all(axis=1)
    assert back[seen] == pytest.approx(pixels[seen], abs=2e-3)
    assert np.isnan(rays[~seen]).all()
    assert np.isfinite(camera.rays(camera.K[:2, 2])).all()
    assert seen.mean() > 0.65  # the wide lens: its formula has no corners


@pytest.mark.parametrize("name", LENSES)
def test_opencv_projects_and_undistorts_alike(name: str) -> None:
    camera = _lens(name)
    pixels = _pixels(camera)
    turn = camera.T_vehicle_from_camera[:3, :3]
    rays = camera.rays(pixels)
    seen = np.isfinite(rays).all(axis=1)
    points = camera.position + rays[seen] * 7.0
    theirs = cv2.projectPoints(points, cv2.Rodrigues(turn.T)[0], -turn.T @ camera.position, camera.K, camera.distortion)
    assert camera.project(points)[0] == pytest.approx(theirs[0][:, 0], abs=1e-6)
    # OpenCV's own iteration has converged where what it gives is projected to where it began
    criteria = (cv2.TERM_CRITERIA_MAX_ITER | cv2.TERM_CRITERIA_EPS, 200, 1e-13)
    flat = cv2.undistortPoints(pixels[:, None], camera.K, camera.distortion, criteria=criteria)[:, 0]
    far = np.c_[flat, np.ones(len(flat))]
    again = cv2.projectPoints(far, np.zeros(3), np.zeros(3), camera.K, camera.distortion)[0][:, 0]
    inner = (np.linalg.norm(again - pixels, axis=1) < 1e-6) & (np.linalg.norm(flat, axis=1) < 0.7)
    assert inner.mean() > 0.2
    assert (rays @ turn)[inner, :2] == pytest.approx(flat[inner], abs=1e-6)


@pytest.mark.parametrize("name", LENSES)
def test_the_directions_are_those_of_all_steps_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = _lens(name)
    pixels = _pixels(camera)
    rays = camera.rays(pixels)
    assert camera.rays(pixels.reshape(33, 65, 2)).reshape(-1, 3) == pytest.approx(rays, abs=0, nan_ok=True)
    monkeypatch.setattr(geometry, "_SETTLED", -1.0)
    assert camera.rays(pixels) == pytest.approx(rays, abs=1e-9, nan_ok=True)


def test_no_more_steps_are_taken_than_the_lens_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    step = geometry._newton_step

    def counted(xy: NDArray[np.float64], *more: NDArray[np.float64]) -> NDArray[np.float64]:
        moved.append(len(xy))
        return step(xy, *more)

    monkeypatch.setattr(geometry, "_newton_step", counted)
    camera = _lens("pincushion")
    pixels = _pixels(camera)
    assert np.isfinite(camera.rays(pixels)).all()
    assert len(moved) < 8
    moved.clear()
    camera.rays(np.r_[pixels, [[np.nan, 3.0]]])  # of no direction, at once
    assert len(moved) < 8


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e308])
@pytest.mark.parametrize("place", range(5))
def test_a_distortion_that_is_no_number_gives_no_direction_and_no_pixel(place: int, wrong: float) -> None:
    distortion = [0.1, 0.0, 0.0, 0.0, 0.0]
    distortion[place] = wrong
    camera = _camera(distortion=tuple(distortion))
    assert np.isnan(camera.rays([100.0, 100.0])[:2]).any()
    if not math.isfinite(wrong):
        assert np.isnan(camera.project([8.0, 1.0, 0.5])[0]).any()


radials = st.floats(-0.4, 0.4)


@given(radials, radials, st.floats(-0.1, 0.1), small, small, columns, rows)
def test_no_distortion_gives_a_pixel_a_direction_of_another(
    k1: float, k2: float, k3: float, p1: float, p2: float, u: float, v: float
) -> None:
    camera = _camera(distortion=(k1, k2, p1 / 10, p2 / 10, k3))
    ray = camera.rays([u, v])
    if np.isfinite(ray).all():
        assert camera.project(camera.position + ray * 9)[0] == pytest.approx([u, v], abs=2e-3)
    else:
        assert np.isnan(ray).all()


@given(radials, radials, st.floats(-0.1, 0.1))
def test_a_place_further_out_is_seen_further_out_or_not_at_all(k1: float, k2: float, k3: float) -> None:
    camera = _camera(pitch=0.0, distortion=(k1, k2, 0.0, 0.0, k3))
    turn = camera.T_vehicle_from_camera[:3, :3]
    aside = np.stack([np.linspace(0.0, 4.0, 400), np.zeros(400), np.ones(400)], axis=-1)
    seen = camera.project(camera.position + aside @ turn.T * 3)[0][:, 0]
    shown = np.isfinite(seen)
    assert (np.diff(seen[shown]) > 0).all()
    assert bool(shown.all()) or not shown[int(np.argmin(shown)) :].any()  # what is once out of the picture stays so


@given(st.floats(4, 150), st.floats(-30, 30), angles, angles)
def test_ground_undoes_projection_of_places_on_the_road(x: float, y: float, pitch: float, yaw: float) -> None:
    camera = _camera(pitch, yaw)
    pixel, depth = camera.project([x, y, 0.0])
    if depth > 0.5:
        assert camera.ground(pixel) == pytest.approx([x, y], rel=1e-6, abs=1e-6)


@given(columns, rows, st.integers(64, 3000), st.integers(64, 3000))
def test_a_scaled_camera_sees_the_same_place_at_the_scaled_pixel(u: float, v: float, width: int, height: int) -> None:
    camera = _camera()
    scaled = camera.scaled(width, height)
    moved = ((u + 0.5) * width / 1280 - 0.5, (v + 0.5) * height / 720 - 0.5)
    assert scaled.rays(moved) == pytest.approx(camera.rays([u, v]), abs=1e-9)


def test_left_and_near_are_left_and_low_in_the_image() -> None:
    (near, left), _ = _camera().project([[6.0, 0.3, 0.0], [20.0, 5.0, 0.0]])
    assert near[0] == pytest.approx(630.0)
    assert near[1] > 500
    assert left[0] < 630


def test_what_is_behind_the_camera_has_no_pixel() -> None:
    pixel, depth = _camera().project([-5.0, 0.0, 1.0])
    assert np.isnan(pixel).all()
    assert depth < 0


def test_above_the_horizon_there_is_no_ground() -> None:
    camera = _camera(pitch=0.05)
    row = camera.horizon_row()
    assert np.isnan(camera.ground([630.0, row - 1])).all()
    assert np.isfinite(camera.ground([630.0, row + 1])).all()


def test_signs_of_pitch_yaw_and_roll() -> None:
    assert _camera(pitch=0.1).rays([630.0, 350.0])[2] < 0
    assert _camera(yaw=0.1, pitch=0.0).rays([630.0, 350.0])[1] > 0
    assert _camera(roll=0.1, pitch=0.0).rays([700.0, 350.0])[2] < 0


def test_posed_pitches_and_lifts() -> None:
    camera = _camera(pitch=0.03).posed(pitch_rad=0.02, rise_m=0.1)
    assert camera.pitch_rad == pytest.approx(0.05)
    assert camera.height_m == pytest.approx(1.6)


def test_content_hash_is_about_numbers_and_not_about_the_name() -> None:
    first = load_camera(FRONT)
    assert first.content_hash == load_camera(FRONT).content_hash
    assert len(first.content_hash) == 16
    assert first.scaled(640, 360).content_hash != first.content_hash
    assert first.posed(pitch_rad=1e-9).content_hash != first.content_hash


def test_the_shipped_calibration_means_what_its_comments_say() -> None:
    camera = load_camera(FRONT)
    assert (camera.name, camera.width, camera.height) == ("front", 1280, 720)
    assert camera.pitch_rad == pytest.approx(math.radians(2.0))
    assert camera.height_m == pytest.approx(1.4)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fx = 1000.0", "fz = 1000.0", "fz"),
        ("fx = 1000.0", 'fx = "wide"', "lens.fx"),
        ("fx = 1000.0", "fx = -3.0", "lens.fx"),
        ("fx = 1000.0", "fx = inf", "finite"),
        ("width = 1280", "width = 0", "width"),
        ('name = "front"', 'name = "Front Camera"', "name"),
        ("position = [1.5, 0.0, 1.4]", "position = [1.5, 0.0]", "mount.position"),
        ("position = [1.5, 0.0, 1.4]", "position = [1.5, 0.0, -1.4]", "above the ground"),
        ("[lens]", "[lens", "toml"),
    ],
)
def test_a_wrong_calibration_is_refused_with_its_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "front.toml"
    path.write_text(FRONT.read_text().replace(old, new))
    with pytest.raises(ConfigError) as error:
        load_camera(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_calibration_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        load_camera(tmp_path / "no.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        load_camera(tmp_path / "bytes.toml")
