"""The command line as a user meets it: what works exits 0; what a user can mend is one line and exit code 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from perception.cli import main
from perception.client import subscribe
from tests.fakes import tiny_model

COMMAND = [sys.executable, "-m", "perception.cli"]


def perception(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str, str]:
    """Run a command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["perception", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def say(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: perception(capsys, monkeypatch, *words)


def refused(result: tuple[int, str, str]) -> str:
    """The one line that a refusal says."""
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("perception: ")]
    assert (code, len(lines)) == (2, 1), err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "replay",
        "watch",
        "prompt",
        "check",
        "keys",
        "doctor",
        "models",
        "bench",
        "render",
        "train",
        "evaluate",
        "export",
        "train-memory",
        "export-memory",
    ],
)
def test_every_command_explains_itself(say, command):
    code, out, _ = say(command, "--help")
    assert code == 0
    assert "Usage: perception" in out


def test_replay_of_pictures_runs_to_its_end(say, tmp_path, picture_drive):
    model = tiny_model(tmp_path, form="labels")
    endpoint = f"ipc://{tmp_path}/s/front"
    code, _, err = say(
        "replay", picture_drive, "--fast", "--model", model, "-e", endpoint, "--save", tmp_path / "out", "--every", 5
    )
    assert code == 0, err
    assert "20 frames" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "000000.png",
        "000005.png",
        "000010.png",
        "000015.png",
    ]


def test_a_part_of_a_drive_is_played_at_another_speed(say, tmp_path, picture_drive):
    model = tiny_model(tmp_path, form="labels")
    words = ["--model", model, "-e", f"ipc://{tmp_path}/s/front", "--save", tmp_path / "out", "--every", 1]
    code, _, err = say("replay", picture_drive, "--from", 0.1, "--to", 0.3, "--speed", 10, *words)
    assert code == 0, err
    assert [int(p.stem) for p in sorted((tmp_path / "out").iterdir())] == list(range(3, 9))


def test_check_names_model_and_topics(say, tmp_path):
    tiny_model(tmp_path)
    path = tmp_path / "a.toml"
    path.write_text("version = 1\n[model]\npath = 'tiny.onnx'\n")
    code, out, _ = say("check", path)
    assert code == 0
    assert "front/road, front/lane, front/pedestrian" in out


def test_models_describes_a_users_model(say, tmp_path):
    code, out, _ = say("models", tiny_model(tmp_path))
    assert code == 0
    assert "32x16 RGB NCHW" in out


def test_doctor_reports_every_topic(say):
    _, out, _ = say("doctor", "--port", 0)
    assert all(topic in out for topic in ("machine", "packages", "engines", "speed", "gpu", "cameras", "ports"))


@pytest.mark.parametrize("port", [99999, -5])
def test_doctor_refuses_a_port_that_can_not_be(say, port):
    code, _, err = say("doctor", "--port", port)
    assert (code, "Invalid value for '--port'" in err) == (2, True)


def test_keys_are_private_and_never_overwritten(say, tmp_path):
    code, out, _ = say("keys", tmp_path / "k", "server")
    assert code == 0
    assert "server.secret" in out
    assert (tmp_path / "k" / "server.secret").stat().st_mode & 0o777 == 0o600
    assert "is there already" in refused(say("keys", tmp_path / "k", "server"))


def bad_drive(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "drive.mp4"
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("this is no video\n" * 100)
        case "empty folder":
            path.mkdir()
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "empty folder"])
def test_a_drive_that_is_none_is_refused(say, tmp_path, kind):
    assert "drive.mp4" in refused(say("replay", bad_drive(tmp_path, kind), "-e", f"ipc://{tmp_path}/s/front"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "/proc/none"], "name a folder for recordings with --out"),
        (["--out", "file"], "file: it is no folder"),
        (["--frames", "none", "--exact"], "exact needs the pictures"),
        (["--frames", "bmp"], "'jpeg', 'png'"),
    ],
)
def test_a_recording_that_can_not_be_made_is_refused(say, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, _, err = say("record", "rendered:", *options)
    assert (code, says in err) == (2, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "none"], "none: no such file"),
        (["--engine", "cuda"], "engine"),
        (["-t", "raod"], "known: "),
        (["-e", "tcp://127.0.0.1:99999"], "99999"),
        (["-e", "tcp://0.0.0.0:5601"], "0.0.0.0"),
        (["-e", "nonsense"], "nonsense"),
        (["--launch", "none.toml"], "none.toml: no such file"),
        (["--save", "/proc/none"], "/proc/none"),
        (["--from", "5", "--to", "2"], "from 5 to 2 s is empty"),
        (["--to", "0"], "--to 0 is not after --from 0"),
        (["--from", "60"], "no frame from 60 s: its last one is at 0.633 s"),
        (["--fast", "--speed", "2"], "as fast as possible has no speed"),
        (["--step"], "--step: needs a terminal"),
        (["--mode", "exact", "--step"], "--step is for subscribers"),
        (["--out", "result", "--speed", "2"], "--speed is for subscribers"),
        (["--slower", "2"], "--slower asks what if: say --mode what-if too"),
    ],
)
def test_a_wrong_option_is_refused(say, picture_drive, options, says):
    assert says in refused(say("replay", picture_drive, *options))


def test_credentials_never_reach_the_terminal(say):
    code, out, err = say("replay", "ftp://user:hunter2@host/x")
    assert code == 2
    assert "hunter2" not in out + err


def test_watching_nobody_ends_with_a_clear_word(say):
    code, _, err = say("watch", "front/road", "-e", "tcp://127.0.0.1:9", "--seconds", "0.3")
    assert "Traceback" not in err
    assert code in (0, 2)


@pytest.fixture
def node(tmp_path, picture_drive):
    """A node in a process of its own that loops over the pictures; gives the process and its endpoint."""
    model = tiny_model(tmp_path, form="labels")
    endpoint = f"ipc://{tmp_path}/s/front"
    words = ["replay", str(picture_drive), "--loop", "--model", str(model), "-e", endpoint, "--engine", "onnxruntime"]
    process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True)
    try:
        with subscribe(endpoint, "front/road", timeout_s=30) as masks:
            next(iter(masks))
        yield process, endpoint, words
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_within_a_second_with_its_last_word(node, number):
    process, endpoint, _ = node
    with subscribe(endpoint, "front/health", latest=False, timeout_s=10) as messages:
        states = (m.health().state for m in messages)
        assert next(states) == "running"
        start = time.monotonic()
        process.send_signal(number)
        assert "stopping" in states
    assert process.wait(5) == 0
    assert time.monotonic() - start < 2.0  # one second is asked; CI machines are shared


def test_a_second_node_on_the_endpoint_is_refused_and_the_first_unharmed(node):
    process, endpoint, words = node
    second = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert "s/front" in second.stderr
    assert "Traceback" not in second.stderr
    assert process.poll() is None
    with subscribe(endpoint, "front/road", timeout_s=10) as masks:
        next(iter(masks))


def test_the_password_of_a_camera_is_not_shown_while_it_is_waited_for(tmp_path):
    launch = tmp_path / "l.toml"
    model = tiny_model(tmp_path, form="labels")
    launch.write_text(
        'version = 1\n[source]\nurl = "rtsp://user:hunter2@127.0.0.1:9/[x]"\n'
        f'[model]\npath = "{model}"\nengine = "onnxruntime"\n[publish]\nendpoints = ["ipc://{tmp_path}/s/front"]\n'
    )
    process = subprocess.Popen([*COMMAND, "run", str(launch)], stderr=subprocess.PIPE, text=True)
    with subscribe(f"ipc://{tmp_path}/s/front", "front/health", timeout_s=30) as health:
        next(iter(health))
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=30)[1]
    assert "127.0.0.1:9/[x]" in told
    assert "hunter2" not in told


def test_after_a_kill_the_node_starts_on_the_same_endpoint(node):
    process, endpoint, words = node
    process.kill()
    process.wait()
    again = subprocess.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL)
    try:
        with subscribe(endpoint, "front/road", timeout_s=30) as masks:
            next(iter(masks))
    finally:
        again.terminate()
        assert again.wait(10) == 0


def test_the_running_node_never_imports_torch(tmp_path, picture_drive):
    code = (
        "import sys\nfrom perception.cli import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "assert 'torch' not in sys.modules\nassert 'onnx' not in sys.modules\n"
    )
    words = [
        "replay",
        str(picture_drive),
        "--fast",
        "--model",
        str(tiny_model(tmp_path)),
        "-e",
        f"ipc://{tmp_path}/s/front",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 0, done.stderr
