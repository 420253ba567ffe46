"""Tasks in this process, and in several: workers with a model loaded each, one of which may die."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait

from perception.fleet.attempts import Attempts
from perception.fleet.judge import Verdict, run_task
from perception.fleet.task import Progress, Stages, Task

SILENT_S = 3600.0  # hashing a large drive and building a plan for an accelerator take minutes, without a word
_TELL_S = 0.2
_JOIN_S = 5.0


def in_process(tasks: Sequence[Task], progress: Progress) -> Generator[Verdict]:
    """One after the other."""
    with contextlib.closing(Stages()) as stages:
        for task in tasks:
            yield run_task(task, stages, progress)


def in_pool(tasks: Sequence[Task], jobs: int, progress: Progress, silent_s: float = SILENT_S) -> Generator[Verdict]:
    """In `jobs` processes, in the order in which they are done. A drive whose worker dies gets another worker once; one
    that says nothing for `silent_s` seconds, not even that a frame is done, is taken for dead.

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
            wait(list(busy), max(0.0, min(w.heard_s for w in busy.values()) + silent_s - time.monotonic()))
            for worker in busy.values():
                verdict = worker.hear(progress, silent_s)
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
        self.heard_s = 0.0  # when it was heard of last [s, monotonic]
        self.is_lost = self.has_begun = False
        self._hangs = ""
        self._process = context.Process(target=_serve, args=(theirs, *_log_style()), name="replay", daemon=True)
        self._process.start()
        theirs.close()

    def give(self, task: Task) -> None:
        self.task, self.has_begun, self.heard_s = task, False, time.monotonic()
        try:
            self.pipe.send(task)
        except OSError:  # it died idle: hear() says so
            self.is_lost = True

    def hear(self, progress: Progress, silent_s: float) -> Verdict | None:
        """What it says, if anything: a verdict, or how far it is."""
        try:
            if not self.pipe.poll():
                if time.monotonic() - self.heard_s >= silent_s:
                    self.is_lost, self._hangs = True, f"no word from it for {silent_s / 60:.0f} min"
                return None
            told = self.pipe.recv()
        except (EOFError, OSError):
            self.is_lost = True
            return None
        self.heard_s = time.monotonic()
        if isinstance(told, Verdict):
            self.task = None
            return told
        self.has_begun = True
        if told:
            progress(*told)
        return None

    def why(self) -> str:
        if self._hangs:
            return self._hangs
        self._process.join(_JOIN_S)
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def end(self) -> None:
        self.task = None
        self._process.kill()
        self._process.join(_JOIN_S)
        self.pipe.close()


def _log_style() -> tuple[int, logging.Formatter | None]:
    """Level and format of this process's log, so that its workers' lines look the same; None where it has none."""
    root = logging.getLogger()
    return root.level, next((h.formatter for h in root.handlers if type(h) is logging.StreamHandler), None)


def _serve(pipe: Connection, level: int, formatter: logging.Formatter | None) -> None:
    """A worker: tasks in, verdicts out, until the other side is gone."""
    if formatter:
        handler = logging.StreamHandler()
        handler.setFormatter(formatter)
        logging.basicConfig(level=level, handlers=[handler])
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
