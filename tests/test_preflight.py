"""`perception check` refuses what `perception run` refuses, in the same words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from perception.errors import PerceptionError
from perception.keys import make_keys
from tests.fakes import tiny_model
from tests.test_cli import perception, refused

ROOT = Path(__file__).parent.parent


@pytest.fixture
def say(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: perception(capsys, monkeypatch, *words)


@pytest.fixture
def write(tmp_path, picture_drive):
    """Write a launch file that a node can be started with, but for these changes; the pictures lie beside it."""
    tiny_model(tmp_path, form="labels")

    def written(topics: list[str] | None = None, **changes: dict[str, Any]) -> Path:
        tables: dict[str, dict[str, Any]] = {
            "model": {"path": "tiny.onnx", "engine": "onnxruntime"},
            "source": {"url": "drive", "realtime": False},
            "publish": {"endpoints": [f"ipc://{tmp_path}/s/front"]},
            "control": {"endpoint": ""},
        }
        tables |= {name: tables.get(name, {}) | change for name, change in changes.items()}
        lines = ["version = 1", *([f"topics = {json.dumps(topics)}"] if topics else [])]
        for name, keys in tables.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        path = tmp_path / "launch.toml"
        path.write_text("\n".join(lines))
        return path

    return written


def test_what_is_right_is_good_and_runs(say, write):
    path = write()
    code, out, err = say("check", path)
    assert (code, "good" in out) == (0, True), err
    assert say("run", path)[0] == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": {"url": "camera:x"}}, "'x' names no camera"),
        ({"source": {"url": "rtsp://"}}, "not an address"),
        ({"source": {"url": "v4l2:///dev/video0?widht=3"}}, "unknown option 'widht'"),
        ({"source": {"url": "rendered:?sede=1"}}, "unknown option 'sede'"),
        ({"source": {"url": "none.mp4"}}, "none.mp4: no such file"),
        ({"source": {"url": "ftp://host/x"}}, "unknown form ftp"),
        ({"source": {"url": "exec:no-such-program -"}}, "no program 'no-such-program'"),
        ({"source": {"begin_s": 5.0, "end_s": 2.0}}, "from 5 to 2 s is empty"),
        ({"source": {"url": "camera:0", "begin_s": 5.0}}, "a live source has no begin"),
        ({"publish": {"endpoints": ["udp://x"]}}, "endpoint 'udp://x'"),
        ({"publish": {"endpoints": ["tcp://0.0.0.0:5601"]}}, "open to the network without encryption"),
        ({"publish": {"endpoints": ["tcp://127.0.0.1:5677", "tcp://127.0.0.1:5677"]}}, "given twice"),
        ({"publish": {"endpoints": ["ipc:///tmp/front"]}}, "/tmp is open to other users"),
        ({"control": {"endpoint": "bogus"}}, "endpoint 'bogus'"),
        ({"control": {"endpoint": "tcp://0.0.0.0:5602"}}, "open to the network without encryption"),
        ({"topics": ["health"], "groups": {"health": ["person"]}}, "'front/health' is there already"),
        ({"groups": {"car": ["cart"]}}, "groups.car: no class 'cart'"),
        ({"model": {"engine": "tensorrt"}}, "ensor"),
        ({"model": {"engine": "onnxruntime-cuda"}}, "CUDA"),
        ({"tracking": {"kind": "memory"}}, "tracking.kind = 'memory'"),
    ],
)
def test_what_run_refuses_check_refuses_with_the_same_line(say, write, changes, says):
    path = write(**changes)
    told = refused(say("check", path))
    assert says in told
    assert refused(say("run", path)) == told


def test_a_client_whose_key_is_none_is_refused_by_both(say, write, tmp_path):
    make_keys(tmp_path / "keys", "server")
    (tmp_path / "keys" / "clients").mkdir()
    (tmp_path / "keys" / "clients" / "planner.public").write_text("no key")
    path = write(**{"publish.curve": {"secret": "keys/server.secret", "clients": "keys/clients"}})
    told = refused(say("check", path))
    assert "planner.public holds no key" in told
    assert refused(say("run", path)) == told


def test_a_camera_that_is_absent_is_good_with_a_note(say, write):
    for url in ("camera:63", "v4l2:///dev/video63?width=640", "/dev/video63"):
        code, out, err = say("check", write(source={"url": url}))
        assert (code, "/dev/video63 is not here now" in out) == (0, True), err


def test_an_engine_that_is_absent_serves_no_recording_to_be_repeated(say, write):
    path = write(source={"url": "camera:63"}, model={"engine": "onnxruntime-cuda"}, record={"exact": True})
    assert "model.engine" in refused(say("check", path))
    path = write(source={"url": "camera:63"}, model={"engine": "onnxruntime-cuda"})
    code, out, _ = say("check", path)
    assert (code, "not here" in out) == (0, True)


def test_credentials_of_a_source_are_not_shown(say, write):
    code, out, err = say("check", write(source={"url": "rtsp://user:hunter2@host:554/x"}))
    assert (code, "hunter2" in out + err, "rtsp://" in out) == (0, False, True)


def test_check_binds_nothing_and_makes_nothing(say, write, tmp_path):
    path = write(record={"folder": "kept"})
    before = sorted(p.name for p in tmp_path.iterdir())
    assert say("check", path)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir() if "home" not in p.name) == before


@pytest.mark.parametrize("name", ["demo", "robot", "container"])
def test_every_shipped_launch_file_that_needs_no_keys_is_good(say, name):
    code, out, err = say("check", ROOT / "launch" / f"{name}.toml")
    assert (code, "good" in out) == (0, True), err


def test_the_vehicles_launch_file_lacks_nothing_but_its_keys(say, tmp_path):
    for name in ("launch", "calibration"):
        (tmp_path / name).mkdir()
    (tmp_path / "launch/vehicle.toml").write_text((ROOT / "launch/vehicle.toml").read_text())
    (tmp_path / "calibration/front.toml").write_text((ROOT / "calibration/front.toml").read_text())
    path = tmp_path / "launch/vehicle.toml"
    assert "keys/server.secret" in refused(say("check", path))
    make_keys(tmp_path / "launch/keys", "server")
    make_keys(tmp_path / "launch/keys/clients", "planner")
    code, out, err = say("check", path)
    assert (code, "(CURVE)" in out) == (0, True), err


def test_only_groups_that_the_model_has_replay_a_recording(launch):
    """Of recordings that were made before, a group that no topic names is not asked."""
    import msgspec

    from perception.build import check_launch, check_node

    strange = msgspec.structs.replace(launch, groups={"car": ("cart",)})
    assert check_launch(strange).topics
    with pytest.raises(PerceptionError, match=r"groups\.car"):
        check_node(strange)


def test_the_folder_of_an_ipc_endpoint_may_be_another_users(say, write, tmp_path):
    """A vehicle's file is checked by who sets it up: only what any user can see of the folder counts."""
    (tmp_path / "s").mkdir(mode=0o700)
    assert say("check", write())[0] == 0
    os.chmod(tmp_path / "s", 0o755)
    path = write()
    assert refused(say("check", path)) == refused(say("run", path))
