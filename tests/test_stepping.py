"""`perception replay --step` on a real terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import tiny_model
from tests.source_fakes import wait_until

FLAGS = 3  # in what tcgetattr gives


class Terminal:
    """A replay whose keys we press; it saves a picture of each frame that it has published."""

    def __init__(self, folder: Path, drive: Path) -> None:
        self._pictures = folder / "out"
        self._keyboard, self._line = pty.openpty()
        self.before = termios.tcgetattr(self._line)
        words = [sys.executable, "-m", "perception.cli", "replay", str(drive), "--step", "--fast", "--engine"]
        words += ["onnxruntime", "--model", str(tiny_model(folder, form="labels")), "-e", f"ipc://{folder}/s/front"]
        words += ["--save", str(self._pictures), "--every", "1"]
        self.process = subprocess.Popen(
            words, stdin=self._line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    @property
    def settings(self) -> list:
        return termios.tcgetattr(self._line)

    @property
    def shown(self) -> int:
        return len(list(self._pictures.glob("*.png")))

    def press(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def wait_until_held(self) -> None:
        wait_until(lambda: not self.settings[FLAGS] & termios.ICANON, "keys are taken at once", 30)
        assert not self.settings[FLAGS] & termios.ECHO
        assert self.shown == 0

    def leave(self) -> tuple[int, str]:
        """The exit code and what was said, once it has ended by itself."""
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._keyboard)
        os.close(self._line)


@pytest.fixture
def terminal(tmp_path: Path, picture_drive: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path, picture_drive)
    try:
        yield opened
    finally:
        opened.close()


def test_enter_and_space_show_the_next_frame_and_p_plays_on(terminal: Terminal) -> None:
    terminal.wait_until_held()
    for count, key in enumerate((b"\r", b" ", b"\n"), 1):
        terminal.press(key)
        wait_until(lambda n=count: terminal.shown == n, f"{count} frames")
    terminal.press(b"xp")
    code, said = terminal.leave()
    assert (code, terminal.shown) == (0, 20)
    assert "Enter or space: the next frame; p: play on, or pause; q: quit" in said
    assert terminal.settings == terminal.before


def test_q_quits(terminal: Terminal) -> None:
    terminal.wait_until_held()
    terminal.press(b"  q")
    code, said = terminal.leave()
    assert code == 0
    assert "q was pressed" in said
    assert terminal.shown <= 2
    assert terminal.settings == terminal.before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_terminal_is_as_before_after_a_signal(terminal: Terminal, how: signal.Signals) -> None:
    terminal.wait_until_held()
    terminal.process.send_signal(how)
    wait_until(lambda: terminal.settings == terminal.before, "restored")
    terminal.leave()
    assert terminal.settings == terminal.before


def test_without_a_terminal_it_is_refused(tmp_path: Path, picture_drive: Path) -> None:
    words = [sys.executable, "-m", "perception.cli", "replay", str(picture_drive), "--step"]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == (
        "perception: --step: needs a terminal to press keys on: start it in one, or leave --step out\n"
    )
