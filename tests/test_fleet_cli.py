"""`perception test` as a user and a CI system meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.fleet_fakes import picture_drive, recording, three_drives, tiny_launch
from tests.test_cli import COMMAND, perception, refused


@pytest.fixture
def say(capsys, monkeypatch, tmp_path):
    """`perception test drives --against reference` in a folder with three drives and two models."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    three_drives(tmp_path / "drives")
    tiny_launch(tmp_path)
    words = ("test", "drives", "--against", "reference", "--launch", "launch.toml")
    return lambda *more: perception(capsys, monkeypatch, *words, *more)


def test_first_no_reference_then_accepted_then_the_same(say):
    assert [say()[0], say("--accept")[0], say()[0]] == [1, 0, 0]
    assert "3 same" in say()[1]


def test_a_change_is_named_and_reported(say, tmp_path):
    say("--accept")
    code, out, _ = say("--model", "blind.onnx", "--html", "a.html", "--json", "a.json", "--junit", "a.xml")
    assert code == 1
    assert "differs drives/tunnel.mcap" in out
    assert "IoU of pedestrian" in out
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["counts"] == {"differs": 3}
    assert {drive["model"] for drive in told["drives"]} == {"blind"}
    suite = ElementTree.parse(tmp_path / "a.xml").find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "3", "0")
    page = (tmp_path / "a.html").read_text()
    assert "3 of 3 drives differ" in page
    assert "data:image" in page


def test_accept_prints_old_and_new_figures(say):
    say("--accept")
    code, out, _ = say("--accept", "--model", "blind.onnx")
    assert code == 0
    assert "model tiny -> blind" in out
    assert "pedestrian: things 1 -> 0" in out


def test_a_drive_that_can_not_be_replayed_is_exit_code_3(say, tmp_path):
    say("--accept")
    (tmp_path / "drives" / "bad.mcap").write_text("not a recording")
    code, out, err = say("--junit", "a.xml")
    assert code == 3
    assert "1 failed, 3 same" in out
    assert err.count("failed: drives/bad.mcap") == 1
    assert ElementTree.parse(tmp_path / "a.xml").findall(".//error")


def test_shrink_prints_a_command_that_fails_too(say, tmp_path, capsys, monkeypatch):
    say("--accept")
    code, out, _ = say("--model", "blind.onnx", "--shrink", "--out", "found")
    assert code == 1
    command = next(line for line in out.splitlines() if "see it again" in line and "tunnel" in line)
    words = command.partition("perception ")[2].split()
    code, out, _ = perception(capsys, monkeypatch, *words)
    assert code == 1
    assert "differs found/shrunk-tunnel.mcap" in out


@pytest.mark.parametrize(
    "words",
    [
        ("--mode", "odd"),
        ("--level", "odd"),
        ("--on", "spark"),
        ("--shard", "3"),
        ("--shrink",),
        ("--shrink", "--accept", "--out", "o"),
        ("--html", "no/such/folder.html"),
        ("--json", "drives"),
        ("--launch", "none.toml"),
    ],
)
def test_a_wrong_option_is_one_line(say, words):
    assert refused(say(*words))


def test_results_are_kept_only_where_something_differs(say, tmp_path, monkeypatch):
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    say("--accept")
    say()
    assert not list(place.glob("perception-test-*"))
    _, _, err = say("--model", "blind.onnx")
    assert "results are kept in" in err
    assert len(list(place.glob("perception-test-*"))) == 1


def test_stopped_it_says_how_to_go_on_and_does(tmp_path):
    picture_drive(tmp_path / "drives" / "a")
    recording(tmp_path / "drives" / "long.mcap", 1200)
    tiny_launch(tmp_path)
    words = [*COMMAND, "test", "drives", "--against", "reference", "--launch", "launch.toml", "--out", "results"]
    root = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    told = {"cwd": tmp_path, "env": root, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # a shell that runs the tests in the background has its children ignore SIGINT
    heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    with subprocess.Popen(words, **told, preexec_fn=heeding) as process:
        assert process.stdout is not None
        assert "no reference drives/a" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "1 of 2 drives are done and kept; go on with: perception test drives" in err
    assert "Traceback" not in err
    assert [path.name.partition("-")[0] for path in (tmp_path / "results").iterdir()] == ["a"]
