"""A flag that ends a source, safe to set from a signal handler."""

from __future__ import annotations

import time

_SLICE_S = 0.02


class Stop:
    """Once set it stays set. It holds no lock: a handler that sets an Event while its own thread waits on it hangs."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def sleep(self, duration_s: float) -> bool:
        """Sleep for `duration_s` or until set, whichever is first; True when set."""
        end = time.monotonic() + duration_s
        while not self.is_set:
            left_s = end - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(left_s, _SLICE_S))
        return self.is_set
