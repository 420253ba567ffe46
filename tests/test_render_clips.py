"""Clips rendered into one folder: by several renders, one after another or at once, and after one was cut short."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from perception.drives.rendered import write_clips
from perception.errors import ConfigError
from tests.published import eventually

FOLDERS = ("images", "labels", "instances")


def render(
    root: Path, *seeds: int, seconds: float = 0.2, fps: float = 10.0, size: tuple[int, int] = (64, 64)
) -> Generator[int, None, None]:
    return write_clips(root, seconds, fps, seeds, *size)


def known(root: Path) -> Any:
    return json.loads((root / "clips.json").read_text())


def there(root: Path) -> list[list[str]]:
    return [sorted(path.name for path in (root / name).iterdir()) for name in FOLDERS]


def test_clips_are_known_one_by_one_and_others_come_beside_them(tmp_path: Path) -> None:
    steps = render(tmp_path, 3, 4)
    assert [next(steps) for _ in range(3)] == [1, 2, 3]
    assert list(known(tmp_path)["clips"]) == ["000003"]
    steps.close()
    list(render(tmp_path, 5))
    assert (known(tmp_path)["fps"], list(known(tmp_path)["clips"])) == (10.0, ["000003", "000005"])


def test_two_renders_at_once_list_the_clips_of_both(tmp_path: Path) -> None:
    first, second = render(tmp_path, 1), render(tmp_path, 2)
    for steps in (first, second):
        next(steps)
    for steps in (first, second):
        list(steps)
    assert list(known(tmp_path)["clips"]) == ["000001", "000002"]


def test_processes_at_once_list_the_clips_of_all(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tests.test_render_clips import render\n"
    code += "list(render(Path(sys.argv[1]), *map(int, sys.argv[2:]), seconds=0.1))"
    seeds = [range(first, first + 3) for first in (10, 20)]
    works = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *map(str, some)]) for some in seeds]
    assert [work.wait(120) for work in works] == [0, 0]
    assert sorted(known(tmp_path)["clips"]) == [f"{seed:06d}" for some in seeds for seed in some]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_was_cut_short_goes_on_when_it_is_repeated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = render(tmp_path, 3, 4)
    assert [next(steps) for _ in range(3)] == [1, 2, 3]
    steps.close()
    assert there(tmp_path) == [["000003"]] * 3
    finished = (tmp_path / "images" / "000003" / "000001.jpg").stat().st_mtime_ns
    caplog.set_level(logging.INFO)
    assert list(render(tmp_path, 3, 4)) == [2, 3, 4]
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: there already, and kept: 000003"]
    assert (tmp_path / "images" / "000003" / "000001.jpg").stat().st_mtime_ns == finished
    assert list(known(tmp_path)["clips"]) == ["000003", "000004"]


def test_ctrl_c_leaves_the_finished_clips_alone(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & has it ignored
    code += "from perception.cli import main; main()"
    words = ["render", tmp_path, "--clips=2", "--first-seed=700", "--seconds=1", "--fps=60", "--width=64"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words), "--height=64"], stderr=subprocess.PIPE
    ) as process:
        assert eventually(lambda: (tmp_path / "images" / "000701" / "000000.jpg").exists(), 120)
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode > 0
    assert there(tmp_path) == [["000700"]] * 3
    assert list(known(tmp_path)["clips"]) == ["000700"]


def test_a_render_that_was_killed_goes_on_when_it_is_repeated(tmp_path: Path) -> None:
    words = ["render", tmp_path, "--clips=2", "--first-seed=700", "--seconds=0.5", "--fps=60", "--width=64"]
    command = [sys.executable, "-m", "perception.cli", *map(str, words), "--height=64"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        assert eventually(lambda: (tmp_path / "images" / "000701" / "000000.jpg").exists(), 120)
        process.kill()
    (tmp_path / ".000700.making").touch()  # as one that is killed after it has listed its clip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "there already, and kept: 000700" in done.stderr
    assert there(tmp_path) == [["000700", "000701"]] * 3
    assert sorted(known(tmp_path)["clips"]) == ["000700", "000701"]
    assert not list(tmp_path.glob(".*.making"))


def test_an_error_leaves_nothing_of_its_clip(tmp_path: Path) -> None:
    """A limit on the size of files says the same as a full disk does."""
    code = "import resource, sys; from pathlib import Path; from tests.test_render_clips import render\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); list(render(Path(sys.argv[1]), 3))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "000003/000000.jpg: can't be written (file too large)" in done.stderr
    assert there(tmp_path) == [[]] * 3
    assert list(render(tmp_path, 3)) == [1, 2]


def test_all_clips_in_the_way_are_named_and_left_alone(tmp_path: Path) -> None:
    list(render(tmp_path, 3, 4, 5))
    (tmp_path / "labels" / "000004" / "000001.png").unlink()
    (tmp_path / "images" / "000006").mkdir()  # by hand: no render leaves it without its mark
    with pytest.raises(ConfigError, match="not finished, or not of 2 frames: 000004, 000006; remove them from"):
        next(render(tmp_path, 3, 4, 5, 6, 7))
    with pytest.raises(ConfigError, match="not of 3 frames: 000003, 000005; remove them"):
        next(render(tmp_path, 3, 5, seconds=0.3))
    assert there(tmp_path)[0] == ["000003", "000004", "000005", "000006"]


def test_a_clip_that_another_render_makes_is_left_to_it(tmp_path: Path) -> None:
    first, second = render(tmp_path, 1, 2), render(tmp_path, 3, 2)
    next(second)
    for _ in range(3):
        next(first)
    next(second)
    with pytest.raises(ConfigError, match="another render makes clip 000002"):
        next(second)
    list(first)
    assert list(known(tmp_path)["clips"]) == ["000001", "000003", "000002"]


def test_clips_of_another_rate_or_size_go_elsewhere(tmp_path: Path) -> None:
    list(render(tmp_path, 3))
    with pytest.raises(ConfigError, match="have 10 fps, not 20"):
        next(render(tmp_path, 6, fps=20.0))
    for seed in (3, 6):
        with pytest.raises(ConfigError, match="clip 000003 has pictures of 64x64, not 96x64; render into another"):
            next(render(tmp_path, seed, size=(96, 64)))
    (tmp_path / "clips.json").write_text("{")
    with pytest.raises(ConfigError, match="render into another folder"):
        next(render(tmp_path, 6))
    assert there(tmp_path)[0] == ["000003"]


def test_of_two_rates_at_once_the_first_that_is_done_stays(tmp_path: Path) -> None:
    slow, quick = render(tmp_path, 1), render(tmp_path, 2, fps=20.0)
    for steps in (slow, quick):
        next(steps)
    list(quick)
    with pytest.raises(ConfigError, match="have 20 fps, not 10"):
        list(slow)
    assert (list(known(tmp_path)["clips"]), there(tmp_path)) == (["000002"], [["000002"]] * 3)
