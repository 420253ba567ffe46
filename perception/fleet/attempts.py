"""Tasks on their way to workers that may die: each is tried twice."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from perception.fleet.judge import Verdict
from perception.fleet.task import Task

MOST_TRIES = 2
MOST_GIVEN = 4  # to workers of which some were dead already, or died as they took it up


class Attempts:
    """The tasks that wait for a worker."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = deque(tasks)
        self._tries: Counter[str] = Counter()
        self._given: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Task | None:
        """The next one; None where none waits."""
        return self._waiting.popleft() if self._waiting else None

    def lost(self, task: Task, why: str, has_begun: bool = True) -> Verdict | None:
        """Its worker died: it waits again, first in the row, or there is a verdict because it was tried enough.

        Args:
            has_begun: the worker had taken it up; else its death may have been of something else.
        """
        path = task.drive.path
        self._tries[path] += has_begun
        self._given[path] += 1
        if self._tries[path] < MOST_TRIES and self._given[path] < MOST_GIVEN:
            self._waiting.appendleft(task)
            return None
        return Verdict(task.drive, "failed", f"its worker died {self._given[path]} times: {why}")
