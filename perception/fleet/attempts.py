"""Tasks on their way to workers that may die: each is tried twice."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from perception.fleet.judge import Verdict
from perception.fleet.task import Task

MOST_TRIES = 2


class Attempts:
    """The tasks that wait for a worker."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = deque(tasks)
        self._tries: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> Task | None:
        """The next one; None where none waits."""
        return self._waiting.popleft() if self._waiting else None

    def lost(self, task: Task, why: str) -> Verdict | None:
        """Its worker died: it waits again, first in the row, or there is a verdict because it was tried enough."""
        self._tries[task.drive.path] += 1
        if self._tries[task.drive.path] < MOST_TRIES:
            self._waiting.appendleft(task)
            return None
        return Verdict(task.drive, "failed", f"its worker died {MOST_TRIES} times: {why}")
