"""The parent's side of a build: starts the child, hears of its progress, ends it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from perception.engines.building import News, Order
from perception.engines.cache import PlanCache, PlanKey
from perception.engines.plan import Progress
from perception.errors import DeviceError, ModelError

_KEPT = 4096  # bytes of the child's stderr
_WORDS = 300  # characters of it that an error repeats
_POLL_S = 0.1
_TERM_S = 1.0


class Cancelled(Exception):
    """The build was asked to end."""


def build_in_child(
    order: Order, cache: PlanCache, key: PlanKey, progress: Progress, cancelled: Callable[[], bool] = lambda: False
) -> None:
    """Have a child build what is ordered, and wait for it.

    Args:
        key: of what is ordered, whose leftovers are removed after a build that was killed.
        cancelled: asked ten times a second; True ends the child.

    Raises:
        ModelError: the build failed or its process died, with the reason or the last words on its stderr.
        DeviceError: the accelerator failed; later it may work.
        Cancelled: it was.
    """
    child = _Child(order)
    try:
        error = child.follow(progress, cancelled)
    finally:
        child.close()
        cache.clean(key)
    if error:
        raise error


class _Child:
    """A process group of its own: a Ctrl-C of the terminal is the parent's to handle."""

    def __init__(self, order: Order) -> None:
        read, write = os.pipe()
        argv = [sys.executable, "-m", "perception.engines.building", msgspec.json.encode(order).decode(), str(write)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, pass_fds=(write,), start_new_session=True,
                env=environment,
            )  # fmt: skip
        except OSError as error:
            os.close(read)
            raise ModelError(f"the build can't be started: {error.strerror}") from None
        finally:
            os.close(write)
        assert self._process.stdout is not None
        self._pipe, self._stderr = read, self._process.stdout.fileno()
        self._words, self._rest = b"", b""
        os.set_blocking(self._stderr, False)

    def follow(self, progress: Progress, cancelled: Callable[[], bool]) -> ModelError | DeviceError | None:
        """Until the child ends; its error, None where it has built."""
        while True:
            ready, _, _ = select.select([self._pipe, self._stderr], [], [], _POLL_S)
            if cancelled():
                raise Cancelled
            if self._stderr in ready:
                self._hear()
            if self._pipe in ready:
                data = os.read(self._pipe, 65536)
                if not data:
                    return self._how_it_died()
                for news in self._lines(data):
                    if news.ended:
                        return _error_of(news)
                    progress(news.what, news.done, news.of)
            elif self._stderr in ready and self._process.poll() is not None:
                return self._how_it_died()

    def _lines(self, data: bytes) -> list[News]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [msgspec.json.decode(line, type=News) for line in lines]

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._stderr, 65536)
            self._words = (self._words + data)[-_KEPT:]
            if not data:
                time.sleep(_POLL_S)  # at its end it is always ready

    def _how_it_died(self) -> ModelError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TERM_S)
        self._hear()
        code = self._process.returncode
        how = f"by signal {signal.Signals(-code).name}" if code and code < 0 else f"with exit code {code}"
        lines = [line for line in self._words.decode("utf-8", "replace").splitlines() if line.strip()]
        words = " ".join(" ".join(lines[-3:]).split())[-_WORDS:]
        return ModelError(f"the build's process ended {how}" + (f": {words}" if words else ""))

    def close(self) -> None:
        """End the whole group, and wait for it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_TERM_S)
        self._process.wait()
        os.close(self._pipe)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _error_of(news: News) -> ModelError | DeviceError | None:
    if not news.error:
        return None
    return DeviceError(news.error) if news.is_device else ModelError(news.error)
