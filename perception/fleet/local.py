"""Tasks in this process, and in several: workers with a model loaded each, one of which may die."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait

from perception.fleet.attempts import Attempts
from perception.fleet.judge import Verdict, run_task
from perception.fleet.task import Progress, Stages, Task

_TELL_S = 0.2
_JOIN_S = 5.0


def in_process(tasks: Sequence[Task], progress: Progress) -> Generator[Verdict]:
    """One after the other."""
    with contextlib.closing(Stages()) as stages:
        for task in tasks:
            yield run_task(task, stages, progress)


def in_pool(tasks: Sequence[Task], jobs: int, progress: Progress) -> Generator[Verdict]:
    """In `jobs` processes, in the order in which they are done. A drive whose worker dies gets another worker once.

    Closing the generator ends the workers, in the middle of a drive too.
    """
    attempts = Attempts(tasks)
    workers = [_Worker() for _ in range(min(jobs, len(tasks)))]
    try:
        while True:
            for worker in workers:
                if worker.task is None and (task := attempts.take()):
                    worker.give(task)
            busy = {worker.pipe: worker for worker in workers if worker.task}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = next(w for w in workers if w.pipe is pipe)
                verdict = worker.hear(progress)
                if worker.is_lost and worker.task:
                    verdict = attempts.lost(worker.task, worker.why(), worker.has_begun)
                    worker.end()
                    workers.remove(worker)
                    workers += [_Worker()] if len(attempts) else []
                if verdict:
                    yield verdict
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process of its own."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # engines' threads do not outlive a fork
        self.pipe, theirs = context.Pipe()
        self.task: Task | None = None
        self.is_lost = self.has_begun = False
        self._process = context.Process(target=_serve, args=(theirs,), name="replay", daemon=True)
        self._process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        self.task, self.has_begun = task, False
        try:
            self.pipe.send(task)
        except OSError:  # it died idle: hear() says so
            self.is_lost = True

    def hear(self, progress: Progress) -> Verdict | None:
        """What it says: a verdict, or how far it is."""
        try:
            told = self.pipe.recv()
        except (EOFError, OSError):
            self.is_lost = True
            return None
        if isinstance(told, Verdict):
            self.task = None
            return told
        self.has_begun = True
        if told:
            progress(*told)
        return None

    def why(self) -> str:
        self._process.join(_JOIN_S)
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def end(self) -> None:
        self.task = None
        self._process.kill()
        self._process.join(_JOIN_S)
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    """A worker: tasks in, verdicts out, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it, who ends this process
    told_s = 0.0

    def progress(what: str, done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= _TELL_S:
            told_s = time.monotonic()
            pipe.send((what, done, total))

    with contextlib.closing(Stages()) as stages, contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            pipe.send(())  # taken up
            pipe.send(run_task(task, stages, progress))
