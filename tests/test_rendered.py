"""The rendered drive: the same bytes again, truth that agrees with the picture, and a world that keeps its ids."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from perception.drives.rendered import CLASS_NAMES, RenderedDrive, RenderedFrame, nominal_camera, write_training_frames
from perception.errors import ConfigError
from perception.geometry import load_camera

SIZE = (320, 180)
CAR, PEDESTRIAN, BICYCLIST = (CLASS_NAMES.index(name) for name in ("car", "pedestrian", "bicyclist"))


@pytest.fixture(scope="module")
def moments() -> list[RenderedFrame]:
    return list(RenderedDrive(0, *SIZE, fps=10.0).at(range(0, 300, 10)))


def test_equal_seeds_give_equal_bytes() -> None:
    first, second = (list(RenderedDrive(3, *SIZE, frames=4)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.image.tobytes() == b.image.tobytes()
        assert a.truth is not None
        assert b.truth is not None
        assert a.truth.instances.tobytes() == b.truth.instances.tobytes()


def test_seeds_differ() -> None:
    a, b = (next(iter(RenderedDrive(seed, *SIZE))).image for seed in (1, 2))
    assert np.abs(a.astype(int) - b).mean() > 10


def test_start_gives_the_frames_that_iterating_gives() -> None:
    whole = list(islice(RenderedDrive(4, *SIZE), 12))
    late = next(iter(RenderedDrive(4, *SIZE, start=11)))
    assert late.index == 11
    assert late.image.tobytes() == whole[11].image.tobytes()


def test_without_truth_the_picture_is_the_same() -> None:
    a = next(iter(RenderedDrive(5, *SIZE)))
    b = next(iter(RenderedDrive(5, *SIZE, truth=False)))
    assert b.truth is None
    assert a.image.tobytes() == b.image.tobytes()


def test_frames_ends_it_and_stamps_count_from_zero() -> None:
    frames = list(RenderedDrive(0, *SIZE, fps=25.0, frames=3))
    assert [frame.stamp_ns for frame in frames] == [0, 40_000_000, 80_000_000]
    assert frames[0].image.shape == (180, 320, 3)
    assert frames[0].image.dtype == np.uint8
    assert frames[0].image.flags.c_contiguous


def test_the_camera_is_the_shipped_calibration() -> None:
    file = load_camera(Path(__file__).parent.parent / "calibration" / "front.toml")
    assert file.content_hash == nominal_camera().content_hash == RenderedDrive(0).camera.content_hash
    assert RenderedDrive(0, *SIZE).camera.K[0, 0] == pytest.approx(250.0)


def test_labels_are_classes_and_all_of_them_turn_up() -> None:
    found: set[int] = set()
    for seed in (0, 1, 2, 6, 9, 11):
        for frame in RenderedDrive(seed, *SIZE, fps=10.0).at((20, 90, 160)):
            assert frame.truth is not None
            found |= set(np.unique(frame.truth.labels).tolist())
    assert found == set(range(len(CLASS_NAMES)))


def test_instances_are_where_their_class_is(moments: list[RenderedFrame]) -> None:
    for frame in moments:
        assert frame.truth is not None
        thing = np.isin(frame.truth.labels, (CAR, PEDESTRIAN, BICYCLIST))
        assert np.array_equal(thing, frame.truth.instances > 0)
        for actor in frame.truth.actors:
            mine = frame.truth.instances == actor.actor_id
            assert np.count_nonzero(mine) == actor.visible_px <= actor.amodal_px
            assert (frame.truth.labels[mine] == actor.class_id).all()
            x0, y0, x1, y1 = actor.box_xyxy
            assert np.count_nonzero(mine[y0:y1, x0:x1]) == actor.visible_px


def test_ids_keep_their_class_and_some_are_hidden_and_come_back(moments: list[RenderedFrame]) -> None:
    classes: dict[int, int] = {}
    hidden_then_seen, hidden = 0, set()
    for frame in moments:
        assert frame.truth is not None
        for actor in frame.truth.actors:
            assert classes.setdefault(actor.actor_id, actor.class_id) == actor.class_id
            if actor.visible_px == 0:
                hidden.add(actor.actor_id)
            elif actor.actor_id in hidden:
                hidden.remove(actor.actor_id)
                hidden_then_seen += 1
    assert set(classes.values()) >= {CAR, PEDESTRIAN}
    assert hidden_then_seen > 0


def test_a_pedestrian_stands_where_the_truth_says(moments: list[RenderedFrame]) -> None:
    checked = 0
    for frame in moments:
        assert frame.truth is not None
        for actor in frame.truth.actors:
            x0, _, x1, y1 = actor.box_xyxy
            if actor.class_id != PEDESTRIAN or actor.amodal_px < 60 or x0 == 0 or x1 == 320 or y1 == 180:
                continue
            pixel, _ = frame.truth.camera.project([*actor.ground_xy, 0.0])
            assert x0 - 1 <= pixel[0] <= x1 + 1
            assert abs(pixel[1] - y1) < 0.15 * (y1 - actor.box_xyxy[1]) + 2
            checked += 1
    assert checked > 10


def test_paint_on_the_road_is_brighter_than_the_road(moments: list[RenderedFrame]) -> None:
    marking, road = CLASS_NAMES.index("lane marking"), CLASS_NAMES.index("road")
    brighter = 0
    for frame in moments:
        assert frame.truth is not None
        near = slice(110, 180)
        light, labels = frame.image[near].mean(axis=2), frame.truth.labels[near]
        brighter += light[labels == marking].mean() > light[labels == road].mean() + 15
    assert brighter > 0.9 * len(moments)


def test_the_ego_drives_and_gives_way(moments: list[RenderedFrame]) -> None:
    truths = [frame.truth for frame in moments if frame.truth is not None]
    travelled = [truth.ego.x for truth in truths]
    assert all(b >= a for a, b in pairwise(travelled))
    assert travelled[-1] - travelled[0] > 50
    near = [a.ground_xy for truth in truths for a in truth.actors if abs(a.ground_xy[1]) < 0.8 and truth.ego.speed > 2]
    assert all(x > 4.0 or x < 0.0 for x, _ in near)


@pytest.mark.parametrize("wrong", [{"width": 10}, {"fps": 0.0}, {"seed": -1}, {"frames": -1}, {"height": 9000}])
def test_what_can_not_be_rendered_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RenderedDrive(**wrong)


def test_training_frames_are_written_as_triples(tmp_path: Path) -> None:
    assert list(write_training_frames(tmp_path, 3, [1000, 1001], 160, 90)) == [1, 2, 3]
    for name in ("images", "labels", "instances"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["000000.png", "000001.png", "000002.png"]
    labels = cv2.imread(str(tmp_path / "labels" / "000002.png"), cv2.IMREAD_UNCHANGED)
    instances = cv2.imread(str(tmp_path / "instances" / "000002.png"), cv2.IMREAD_UNCHANGED)
    assert labels is not None
    assert instances is not None
    assert (labels.shape, labels.dtype) == ((90, 160), np.uint8)
    assert instances.dtype == np.uint16


def test_training_frames_need_seeds_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no seeds"):
        list(write_training_frames(tmp_path, 1, [], 160, 90))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        list(write_training_frames(tmp_path / "file", 1, [1], 160, 90))


def test_more_frames_than_the_seeds_have_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1801 frames of 2 seeds: at most 900 of each; take 3 seeds or more"):
        next(write_training_frames(tmp_path / "none", 1801, [1, 2], 160, 90))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("where", ["images", "labels", "instances"])
def test_a_picture_that_can_not_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / where / "000000.png").mkdir(parents=True)
    with pytest.raises(ConfigError, match=rf"{where}/000000.png: can't be written \(is a directory\)"):
        next(write_training_frames(tmp_path, 1, [1], 160, 90))
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_ends_it_with_one_line(tmp_path: Path) -> None:
    """A limit on the size of files says the same as a full disk does, another error of write()."""
    code = (
        "import resource, sys; from perception.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        f"sys.argv = ['perception', 'render', {str(tmp_path)!r}, '--frames', '2']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"perception: {tmp_path}/images/000000.png: can't be written (file too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [(64, 36), (64, 400), (240, 400), (400, 64), (96, 64)])
def test_tall_and_small_formats_are_rendered(size: tuple[int, int]) -> None:
    shown: set[int] = set()
    for seed in (1, 1419):
        for frame in RenderedDrive(seed, *size, fps=2.0).at((0, 9, 25)):
            assert frame.truth is not None
            assert frame.image.shape == (size[1], size[0], 3)
            assert frame.truth.labels.max() < len(CLASS_NAMES)
            shown |= set(frame.truth.labels[0].tolist())
    assert CLASS_NAMES.index("sky") in shown


def test_a_drive_that_is_over_gives_its_memory_back_at_once():
    """A cycle would keep each pass's pictures, 100 MB and more, until the collector happens to come by."""
    from perception.drives.rendered.drive import nominal_camera
    from perception.drives.rendered.scene import Scene
    from perception.drives.rendered.style import draw_style

    gc.collect()
    gc.disable()
    try:
        scene = Scene(draw_style(0), nominal_camera().scaled(160, 90), 0)
        scene.pose(0, "walk", "side", 0)
        gone = weakref.ref(scene)
        del scene
        assert gone() is None
    finally:
        gc.enable()
