"""The progress bar of every long command, on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Count(MofNCompleteColumn):
    """What is done, of how many; of a number that nobody knows, what is done alone."""

    def render(self, task: Task) -> Text:
        return Text(f"{int(task.completed)}", "progress.download") if task.total is None else super().render(task)


class _Bar(Progress):
    """Begins with its first task: where an error comes before, it would be an empty line beside that."""

    def start(self) -> None:
        if self.tasks:
            super().start()

    def stop(self) -> None:
        if self.live.is_started:
            super().stop()

    def add_task(self, *wishes: Any, **more: Any) -> TaskID:
        added = super().add_task(*wishes, **more)
        self.start()
        return added


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), _Count(), TimeRemainingColumn())
    return _Bar(*columns, console=Console(stderr=True))


def lines_of(bar: Progress) -> Callable[[str, int, int], None]:
    """A progress function (what, done, of how many) that gives each `what` a line of the bar; of 0: nobody knows."""
    tasks: dict[str, TaskID] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=None)
        bar.update(tasks[what], completed=done, total=total or None)

    return progress


class Phases:
    """Progress of several phases on one bar; training keeps its own line while a validation shows another."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.tasks: dict[tuple[str, int], TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        key = (what.split()[0], total)
        if key not in self.tasks:
            self.tasks[key] = self.bar.add_task(what, total=total, completed=done)
        self.bar.update(self.tasks[key], description=what, completed=done)
        if done >= total and key[0] != "loss":
            self.bar.remove_task(self.tasks.pop(key))
