"""`perception record` as a user meets it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from tests.fakes import tiny_model
from tests.test_cli import say  # noqa: F401 (a fixture)

DOCS = Path(__file__).parent.parent / "docs" / "drives.md"
NOISE = """
import os, sys, time
sys.stdout.buffer.write(b"YUV4MPEG2 W64 H32 F30:1 Ip C420jpeg\\n")
while True:
    sys.stdout.buffer.write(b"FRAME\\n" + os.urandom(64 * 32 * 3 // 2))
    sys.stdout.flush()
    time.sleep(0.003)
"""
RENDERED = "rendered:?seed=1&frames=12&width=128&height=72"


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    """A launch file: the rendered drive through a tiny network."""
    return launch_of(tmp_path, RENDERED)


def launch_of(folder: Path, url: str) -> Path:
    tiny_model(folder, form="labels")
    path = folder / "launch.toml"
    path.write_text(
        f'version = 1\n[source]\nurl = "{url}"\n[model]\npath = "tiny.onnx"\nengine = "onnxruntime"\nthreads = 1\n'
        f'[publish]\nendpoints = ["ipc://{folder}/socket/front"]\n[record]\nleast_free_gb = 0.0\n'
    )
    return path


def test_a_recorded_drive_is_whole_and_as_long_as_it_was(say, launch, tmp_path):  # noqa: F811
    assert say("record", launch, "-o", tmp_path / "drives")[0] == 0
    (drive,) = (tmp_path / "drives").iterdir()
    assert [path.name for path in drive.iterdir()] == ["0000.mcap"]
    code, out, _ = say("drive", "check", drive)
    assert code == 0, out
    found = json.loads(say("drive", "info", drive, "--json")[1])
    assert found["seconds"] == pytest.approx(11 / 30, abs=1e-3)
    assert (found["states"], found["frames"]["stepped"]) == (1, 12)


@pytest.mark.parametrize("ring", [(), ("--ring", "5")])
def test_a_camera_that_is_not_there_is_no_recording(say, tmp_path, ring):  # noqa: F811
    launch = launch_of(tmp_path, "/dev/video4242?fps=30")
    code, _, err = say("record", launch, "-o", tmp_path / "drives", "--seconds", "0.3", *ring)
    told = [line for line in err.splitlines() if line.startswith("perception: ")]
    assert code == 3, err
    assert len(told) == 1
    assert "no frame came: /dev/video4242: no such device" in told[0]
    assert "complete" not in err
    assert not list((tmp_path / "drives").iterdir())


def test_a_command_that_gives_no_frame_is_no_recording(say, tmp_path):  # noqa: F811
    launch = launch_of(tmp_path, "exec:true")
    code, _, err = say("record", launch, "-o", tmp_path / "drives", "--seconds", "1")
    assert code == 3, err
    assert "no frame came: the command ended with exit code 0" in err


def test_the_walk_through_of_the_documentation_works_as_written(say, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera.py").write_text(NOISE)  # of which a JPEG shows the network other things
    launch_of(tmp_path, f"exec:{sys.executable} {tmp_path}/camera.py")
    block = DOCS.read_text().split("```")[1]
    lines = [line.partition("#")[0].strip() for line in block.strip().splitlines()]
    assert [line.split()[1] for line in lines] == ["record", "drive", "replay", "compare", "replay", "test"]
    for line in lines:
        drive = next((tmp_path / "drives").iterdir()).name if (tmp_path / "drives").exists() else ""
        words = line.removeprefix("perception ").replace("front-TIME", drive)
        words = words.replace("camera:0", "launch.toml --seconds 1")
        if words.startswith("test"):
            assert say(*shlex.split(words), "--accept")[0] == 0
        code, out, err = say(*shlex.split(words))
        assert code == 0, f"{line}\n{out}\n{err}"
