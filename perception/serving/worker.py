"""A thread that an accelerator's calls are made in, so that one which never returns can be left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from perception.engines.child_build import Cancelled
from perception.errors import DeviceError, PerceptionError

T = TypeVar("T")


class _Call:
    __slots__ = ("done", "error", "run", "value")

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run, self.done = run, threading.Event()
        self.value: Any = None
        self.error: BaseException | None = None


class Worker:
    """Runs what it is given, one after the other, in one daemon thread: CUDA contexts belong to a thread.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._now: _Call | None = None  # the call that was given last
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """A call is not done yet."""
        return self._now is not None and not self._now.done.is_set()

    def __call__(self, run: Callable[[], T], timeout_s: float | None = None) -> T:
        """What `run` returns or raises.

        Raises:
            DeviceError: it did not return in time (it still runs), or raised what is not one of our errors.
            Cancelled: as it is.
        """
        call = self._put(run)
        if not call.done.wait(timeout_s):
            raise DeviceError(f"no answer within {timeout_s:.2f} s")
        if call.error is None:
            return call.value
        if isinstance(call.error, PerceptionError | Cancelled):
            raise call.error
        words = " ".join(str(call.error).split())[:200]
        raise DeviceError(f"{type(call.error).__name__}: {words}" if words else type(call.error).__name__)

    def offer(self, run: Callable[[], object]) -> bool:
        """Have it run some time, if there is nothing else to run; whether there was not."""
        if self.is_busy:
            return False
        self._put(run)
        return True

    def close(self, last: Callable[[], object] = lambda: None, timeout_s: float = 2.0) -> bool:
        """Run a last call, and end; whether it did in time. Left to itself it ends when its calls have."""
        self._put(last)
        self._calls.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, run: Callable[[], Any]) -> _Call:
        self._now = call = _Call(run)
        self._calls.put(call)
        return call

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.value = call.run()
            except BaseException as error:
                call.error = error
            call.run = _nothing  # and let go of what it holds
            call.done.set()


def _nothing() -> None: ...
