from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.build import build_node, check_launch, topics_of
from perception.config import Launch, SourceConfig, read_launch
from perception.errors import ConfigError
from perception.labels import ClassTable
from tests.fakes import tiny_model
from tests.recorded_run import people_camera, reach
from tests.test_node import running

LAUNCH_FILES = sorted((Path(__file__).parent.parent / "launch").glob("*.toml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "launch.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda p: p.name)
def test_every_launch_file_of_the_repository_is_valid(path):
    assert read_launch(path).camera == "front"


def test_a_launch_file_needs_nothing_but_its_version(tmp_path):
    assert read_launch(write(tmp_path, "version = 1")) == Launch(version=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "version = 1"),
        ("version = 2", "version 2 is not one"),
        ("version = 1\n[modl]\n", "unknown key 'modl'; did you mean 'model'"),
        ("version = 1\n[model]\nengin = 'auto'", "unknown key 'model.engin'; did you mean 'engine'"),
        ("version = 1\n[model]\nthreads = 'two'", "model.threads: Expected `int`"),
        ("version = 1\n[model]\nengine = 'cuda'", "model.engine"),
        ("version = 1\n[source]\nstall_s = nan", "source.stall_s"),
        ("version = 1\ncamera = 'a/b'", "camera"),
        ("version = 1\nversion = 1", "launch.toml"),
        ("version = 1\n[publish]\nendpoints = []", "publish.endpoints"),
        ("\x00", "launch.toml"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path, text, says):
    with pytest.raises(ConfigError) as error:
        read_launch(write(tmp_path, text))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_launch(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a directory"):
        read_launch(tmp_path)


def test_a_huge_file_is_not_read(tmp_path):
    with pytest.raises(ConfigError, match="1 MiB"):
        read_launch(write(tmp_path, "#" * (1 << 21)))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "launch.toml"
    path.write_bytes(b"version = 1\n" + data)
    with contextlib.suppress(ConfigError):
        read_launch(path)


def test_deep_nesting_is_refused(tmp_path):
    with pytest.raises(ConfigError):
        read_launch(write(tmp_path, "version = 1\nx = " + "[" * 20000))


def test_paths_start_in_the_files_own_folder(tmp_path):
    launch = read_launch(write(tmp_path, "version = 1\ncalibration = 'front.toml'\n[model]\npath = 'm.onnx'"))
    assert launch.calibration == str(tmp_path / "front.toml")
    assert launch.model.path == str(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("d2.mp4", "{}/d2.mp4"),
        ("frames/?fps=25&from=1", "{}/frames?fps=25&from=1"),
        ("bag/?topic=/cam//image_raw", "{}/bag?topic=/cam//image_raw"),
        ("../drives/a.mcap", "{}/../drives/a.mcap"),
        ("cam.fifo", "{}/cam.fifo"),
        ("file:d2.mp4", "{}/d2.mp4"),
        ("file://d%202.mp4", "{}/d 2.mp4"),
        ("file:///d2.mp4", "/d2.mp4"),
        ("10:15:00.mcap", "{}/10:15:00.mcap"),
        ("cam-10:15.mcap", "{}/cam-10:15.mcap"),  # as a scheme would be written, but it is there
    ],
)
def test_a_source_that_is_a_path_starts_in_the_files_own_folder(tmp_path, url, found):
    (tmp_path / "cam-10:15.mcap").touch()
    assert read_launch(write(tmp_path, f"version = 1\n[source]\nurl = '{url}'")).source.url == found.format(tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "0",
        "/dev/video0",
        "/drives/d2.mp4",
        "camera:0",
        "V4L2:///dev/video0?width=640",
        "rtsp://host/x",
        "rtsps://host/x",
        "http://host/x",
        "https://host/x",
        "gst:videotestsrc",
        "exec:cat x.y4m",
        "rendered:?seed=1",
        "ftp://host/x",
    ],
)
def test_a_source_that_is_no_path_stays_as_it_is(tmp_path, url):
    assert read_launch(write(tmp_path, f"version = 1\n[source]\nurl = '{url}'")).source.url == url


TABLE = ClassTable(("sky", "road", "car"), frozenset({"car"}), {"road": ("road",)})


def test_groups_of_things_become_positions_and_stuff_becomes_bits():
    launch = Launch(version=1, topics=("road", "vehicle"), groups={"vehicle": ("car",)})
    assert [(t.name, t.form) for t in topics_of(launch, TABLE)] == [("road", "bits"), ("vehicle", "positions")]


def test_an_unknown_topic_names_the_known_ones():
    with pytest.raises(ConfigError, match="known: panoptic, road"):
        topics_of(Launch(version=1, topics=("raod",)), TABLE)


def test_a_group_of_an_unknown_class_names_the_models_classes():
    with pytest.raises(ConfigError, match=r"groups\.bike.*sky, road, car"):
        topics_of(Launch(version=1, topics=("bike",), groups={"bike": ("bicycle",)}), TABLE)


def test_a_calibration_of_another_shape_is_refused(launch):
    path = Path(__file__).parent.parent / "calibration" / "front.toml"  # 1280x720; the drive is 64x32
    with pytest.raises(ConfigError, match="made for 1280x720, the source gives 64x32"):
        build_node(msgspec.structs.replace(launch, calibration=str(path)))


def test_a_live_camera_of_another_shape_is_refused_at_its_first_frame(launch, tmp_path):
    launch = calibrated_camera(launch, tmp_path, "1280x720")
    node = build_node(launch, on_scene=lambda _: node.stop("a frame was taken"))
    try:
        with pytest.raises(ConfigError, match="made for 1280x720, the source gives 64x32: calibrate") as error:
            node.run()
        assert node.pulse.stopping == str(error.value)
        assert node.pulse.frames == 0
    finally:
        node.close()


def test_a_live_camera_of_the_calibrations_shape_runs(launch, tmp_path):
    node = build_node(calibrated_camera(launch, tmp_path, "1280x640"))
    with running(node):
        reach(node, 3)


def calibrated_camera(launch: Launch, folder: Path, size: str) -> Launch:
    """A live camera of 64x32 and the calibration of one of another size."""
    front, (width, height) = Path(__file__).parent.parent / "calibration" / "front.toml", size.split("x")
    text = front.read_text().replace("width = 1280", f"width = {width}").replace("height = 720", f"height = {height}")
    (folder / "front.toml").write_text(text)
    (folder / "camera.py").write_text(people_camera(0.01, walks=False))
    source = SourceConfig(url=f"exec:{sys.executable} {folder}/camera.py")
    return msgspec.structs.replace(launch, source=source, calibration=str(folder / "front.toml"))


def test_check_resolves_model_and_topics(tmp_path):
    tiny_model(tmp_path)
    launch = read_launch(write(tmp_path, "version = 1\n[model]\npath = 'tiny.onnx'"))
    assert [t.name for t in check_launch(launch).topics] == ["road", "lane", "pedestrian"]
