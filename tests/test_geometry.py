"""Projection and ground plane: round trips, conventions, and calibration files that are wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    pixel, found = camera.project(camera.unproject([u, v], depth))
    assert pixel == pytest.approx([u, v], abs=1e-4)
    assert found == pytest.approx(depth)


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
