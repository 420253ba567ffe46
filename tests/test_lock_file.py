from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from perception.lock_file import hold


def test_a_file_is_held_once(tmp_path):
    held = hold(tmp_path / "lock")
    with pytest.raises(BlockingIOError, match=r"another process holds .*lock"):
        hold(tmp_path / "lock")
    held.close()
    hold(tmp_path / "lock").close()


def test_a_process_that_is_killed_lets_go_to_one_that_waits(tmp_path):
    holder, waiter = process(HOLDS, tmp_path / "lock"), process(WAITS, tmp_path / "lock")
    with holder, waiter:
        assert said(holder) == "held"
        assert waiter.stdin
        waiter.stdin.close()  # it may ask now
        holder.kill()
        assert said(waiter) == "held"


HOLDS = "held = hold(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
WAITS = "sys.stdin.read(); held = hold(Path(sys.argv[1]), waits=True); print('held', flush=True)"
IMPORTS = "import sys; from pathlib import Path; from perception.lock_file import hold; "


def process(code: str, lock: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", IMPORTS + code, str(lock)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        hold(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
