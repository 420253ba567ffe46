"""How long to leave an engine alone that has failed."""

from __future__ import annotations

FIRST_S, MOST_S, FORGIVEN_S = 2.0, 300.0, 60.0


class Backoff:
    """Twice as long after each failure, from the start again after a minute of good service. It has no clock.

    Args:
        first_s, most_s: the shortest and the longest wait [s].
        forgiven_s: of service, after which a failure is the first again [s].
    """

    def __init__(self, first_s: float = FIRST_S, most_s: float = MOST_S, forgiven_s: float = FORGIVEN_S) -> None:
        self._first_s, self._most_s, self._forgiven_s = first_s, most_s, forgiven_s
        self._wait_s, self._due_s, self._served_from_s = 0.0, 0.0, float("inf")

    def served(self, now_s: float) -> None:
        """It serves from now on."""
        self._served_from_s = now_s

    def failed(self, now_s: float) -> float:
        """How long to wait from now on [s]."""
        was_good = now_s - self._served_from_s >= self._forgiven_s
        self._wait_s = self._first_s if was_good or not self._wait_s else min(self._most_s, 2 * self._wait_s)
        self._due_s, self._served_from_s = now_s + self._wait_s, float("inf")
        return self._wait_s

    def left_s(self, now_s: float) -> float:
        """Until it may be tried again [s]; 0 when it may."""
        return max(0.0, self._due_s - now_s)
