"""One slot between two threads: the newest item replaces an older one that was not taken."""

from __future__ import annotations

import threading
import time
from typing import Generic, TypeVar

T = TypeVar("T")

_SLICE_S = 0.05


class Latest(Generic[T]):
    """Hands the newest item from one thread to another; `dropped + taken == put` once the slot is empty.

    All methods may be called from any thread, and `close` from a signal handler too.
    """

    def __init__(self) -> None:
        # An RLock, because a signal handler may close while its own thread is inside take().
        self._changed = threading.Condition(threading.RLock())
        self._item: T | None = None
        self._closed = False
        self._error: BaseException | None = None
        self.dropped = 0

    def put(self, item: T) -> T | None:
        """Offer an item. It replaces one that was not taken; after `close` it is dropped. Never blocks for long.

        Gives back what is dropped, None where nothing is.
        """
        with self._changed:
            if self._closed:
                self.dropped += 1
                return item
            dropped, self._item = self._item, item
            self.dropped += dropped is not None
            self._changed.notify()
        return dropped

    def take(self, timeout_s: float | None = None) -> T | None:
        """The newest item, waited for at most `timeout_s`; None once closed and empty.

        Raises TimeoutError when nothing came, and the error that `close` was given.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._item is None and not self._closed:
                left_s = _SLICE_S if end is None else end - time.monotonic()
                if left_s <= 0:
                    raise TimeoutError(f"nothing new for {timeout_s} s")
                # In slices: a close() by a signal handler just before the wait begins would wake nobody.
                self._changed.wait(min(left_s, _SLICE_S))
            item, self._item = self._item, None
        if item is None and self._error is not None:
            raise self._error
        return item

    def close(self, error: BaseException | None = None) -> None:
        """End it: `take` gives what is still in the slot, then raises `error` or gives None. The first close counts."""
        with self._changed:
            if not self._closed:
                self._closed, self._error = True, error
            self._changed.notify_all()
