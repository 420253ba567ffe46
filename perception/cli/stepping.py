"""The keys that drive a replay on a terminal: the next frame, play on, pause, quit."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from perception.errors import ConfigError
from perception.sources.replay import ReplaySource

if TYPE_CHECKING:
    from perception.node import Node
    from perception.sources.pace import Pace

KEYS = "Enter or space: the next frame; p: play on, or pause; q: quit"

_SLICE_S = 0.05
_OFF = b"\0"  # _POSIX_VDISABLE
_LFLAG, _CC = 3, 6  # places in what tcgetattr gives


def require_terminal() -> None:
    """Raises ConfigError when nobody can press a key."""
    if not (sys.stdin and sys.stdin.isatty()):
        raise ConfigError("--step: needs a terminal to press keys on: start it in one, or leave --step out")


@contextmanager
def stepping(node: Node) -> Iterator[None]:
    """Hold the drive at its first frame and let keys drive it; the terminal is as before when the drive has ended.

    Raises:
        ConfigError: the source is live.
    """
    source = node.source
    if not isinstance(source, ReplaySource):
        raise ConfigError("--step: a live source can't be held: give a recorded drive, or leave --step out")
    source.pace.pause()
    print(KEYS, file=sys.stderr)
    left = threading.Event()
    with _keys_at_once(sys.stdin.fileno()) as restore:

        def listen() -> None:
            # Restored as soon as the drive ends: a second Ctrl-C ends the process without any clean-up.
            try:
                _listen(node, source, left)
            finally:
                restore()

        thread = threading.Thread(target=listen, name="keys", daemon=True)
        thread.start()
        try:
            yield
        finally:
            left.set()
            thread.join()


def _listen(node: Node, source: ReplaySource, left: threading.Event) -> None:
    fd = sys.stdin.fileno()
    while not (left.is_set() or node.pulse.stopping or source.status().state == "ended"):
        if not select.select([fd], [], [], _SLICE_S)[0]:
            continue
        pressed = os.read(fd, 64)
        if not pressed or b"q" in pressed.lower():  # nothing: the terminal is gone
            node.stop("q was pressed" if pressed else "the terminal is gone")
            return
        for key in pressed.decode("latin-1").lower():
            _press(key, source.pace)


def _press(key: str, pace: Pace) -> None:
    if key in "\r\n ":
        pace.step()
    elif key == "p" and pace.is_paused:
        pace.resume()
    elif key == "p":
        pace.pause()


@contextmanager
def _keys_at_once(fd: int) -> Iterator[Callable[[], None]]:
    """Keys come without Enter and without an echo. Ctrl-C works as before; keys that would stop us halfway do not."""
    before = termios.tcgetattr(fd)
    now = termios.tcgetattr(fd)
    now[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
    for key in (termios.VQUIT, termios.VSUSP):
        now[_CC][key] = _OFF
    now[_CC][termios.VMIN], now[_CC][termios.VTIME] = 1, 0

    def restore() -> None:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    termios.tcsetattr(fd, termios.TCSADRAIN, now)
    try:
        yield restore
    finally:
        restore()
