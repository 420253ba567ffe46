"""The background's side of serving: builds engines, opens them, holds them against the reference, and offers them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from perception.engines.child_build import Cancelled
from perception.errors import DeviceError, ModelError, PerceptionError
from perception.serving.candidate import Candidate
from perception.serving.gate import Reference, answers_of, judge
from perception.serving.ladder import Ladder
from perception.serving.report import IN_FLIGHT, Comparison, Report
from perception.serving.rungs import Patience, Refused, Size, Standing
from perception.serving.schedule import due, pause_s
from perception.serving.worker import Worker
from perception.types import Panoptic

log = logging.getLogger(__name__)

STRIKES = 2  # frames in a row that an engine sees otherwise, and it is demoted
MOST_FAILURES = 3  # to build or load an engine, after which it is not tried again
MISSING = ("failed", "refused")  # states of an engine that was asked for by name and can't be had
NICENESS = 10  # of the thread that runs the reference beside the frames
_CLOSE_S = 5.0
_AFTER_BUG_S = 1.0


@dataclass
class Promoter:
    """One thread that works on one engine at a time, and one for the reference. Implements `ladder.Watcher`.

    Args:
        ladder: whose bottom serves until something better is ready.
        candidates: best first.
        reference: what engines are held against.
        classes: the model's, in index order.
        frame_size: width and height of the camera's frames [px], None before the first.
    """

    ladder: Ladder
    candidates: list[Candidate]
    reference: Reference
    classes: tuple[str, ...]
    frame_size: Callable[[], Size | None]
    patience: Patience = field(default_factory=Patience)
    clock: Callable[[], float] = time.monotonic
    _ended: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _to_close: list[Standing] = field(default_factory=list)

    _checks: Worker | None = None
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """Work in the background from now on."""
        self._thread = threading.Thread(target=self._run, name="engines", daemon=True)
        self.ladder.watcher = self
        self._thread.start()

    def pin(self, size: Size) -> None:
        """Have the best one serve now, if it is built and passes. Raises ModelError where it can't."""
        candidate = self.candidates[0]
        try:
            if candidate.rung.needs_build(size):
                raise ModelError(
                    f"{candidate.rung.name} is not built for this model, this machine and frames of "
                    f"{size[0]}x{size[1]}; run perception build, or name another engine"
                )
            self._lift(candidate, size)
        except (Refused, DeviceError) as error:
            raise ModelError(f"{candidate.rung.name} can't serve: {error}") from None
        self.ladder.settle()
        candidate.state = "serving"

    @property
    def checks(self) -> Worker:
        """The reference's thread."""
        if self._checks is None:
            self._checks = Worker("conformance")
            self._checks.offer(lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS))
        return self._checks

    def close(self) -> None:
        """End builds and threads. Twice is fine."""
        with self._changed:
            was_ended, self._ended = self._ended, True
            self._changed.notify_all()
        if was_ended:
            return
        if self._thread:
            self._thread.join(_CLOSE_S)
        offered, serving = self.ladder.take_back(), self.ladder.serving
        self.ladder.watcher = None
        standings = [*self._to_close, *([offered] if offered else [])]
        for standing in [*standings, *([serving] if serving is not self.ladder.bottom else [])]:
            if candidate := self._of(standing):
                candidate.rung.settled()
            standing.close()
        self.checks.close(self.reference.close)

    # What the ladder tells, from the frame's thread

    def fell(self, standing: Standing, reason: str) -> None:
        if candidate := self._of(standing):
            candidate.demotions += 1
            self._failed(candidate, reason)
        self.left(standing)

    def took(self, standing: Standing) -> None:
        if candidate := self._of(standing):
            candidate.backoff.served(self.clock())
            self._say(candidate, "serving")

    def left(self, standing: Standing) -> None:
        with self._changed:
            candidate = self._of(standing)
            if candidate and candidate.state in ("serving", "ready"):
                candidate.state, candidate.reason = "waiting", "a better engine serves"
            self._to_close.append(standing)
            self._changed.notify_all()

    def settled(self, standing: Standing) -> None:
        if candidate := self._of(standing):
            candidate.rung.settled(has_served=True)

    @property
    def has_time(self) -> bool:
        return not self.checks.is_busy

    def sampled(self, standing: Standing, image: NDArray[np.uint8], seen: Panoptic) -> None:
        self.checks.offer(lambda: self._check(standing, image, seen))

    def _check(self, standing: Standing, image: NDArray[np.uint8], seen: Panoptic) -> None:
        """In the reference's thread: hold one frame against it."""
        candidate = self._of(standing)
        if candidate is None or self.ladder.serving is not standing:
            return
        try:
            comparison = Comparison(self.classes)
            comparison.add(self.reference.open().model(image), seen)
        except PerceptionError as error:
            log.warning("no engine can be checked in flight: %s", error)
            return
        failures = [*comparison.failures(IN_FLIGHT)]
        candidate.strikes = candidate.strikes + 1 if failures else 0
        if failures:
            log.warning("%s, frame in flight: %s", candidate.rung.name, "; ".join(failures))
        if candidate.strikes >= STRIKES:
            self.ladder.demote(standing, f"drifts from the reference: {failures[0]}")
        elif failures:
            self.ladder.check_soon()

    # The thread

    def _run(self) -> None:
        while not self._is_ended():
            try:
                self._work()
            except Cancelled:
                return
            except Exception:  # nothing would be built, tried again or closed any more
                log.exception("the thread of engines goes on")
                with self._changed:
                    self._changed.wait(_AFTER_BUG_S)

    def _work(self) -> None:
        """On what is due, or wait for it. Raises Cancelled."""
        self._close_left()
        size, now = self.frame_size(), self.clock()
        candidate = due(self.candidates, size, now)
        if candidate is None or size is None:
            with self._changed:
                if not self._ended and not self._to_close:
                    self._changed.wait(pause_s(self.candidates, size, now))
            return
        try:
            self._lift(candidate, size)
        except Cancelled:
            raise
        except Refused as error:
            self._refuse(candidate, str(error))
        except (ModelError, DeviceError) as error:
            self._try_again(candidate, error)
        except Exception as error:  # of files, drivers or a bug in an engine: it must not take the ladder away
            log.exception("%s", candidate.rung.name)
            self._try_again(candidate, ModelError(f"{type(error).__name__}: {error}"))

    def _is_ended(self) -> bool:
        return self._ended

    def _close_left(self) -> None:
        with self._changed:
            left, self._to_close = self._to_close, []
        for standing in left:
            if candidate := self._of(standing):
                candidate.rung.settled()
            if not standing.close():
                log.warning("%s does not answer; it is left behind", standing.opened.name)

    def _lift(self, candidate: Candidate, size: Size) -> None:
        """Raises Refused, ModelError, DeviceError, Cancelled."""
        rung = candidate.rung

        def progress(what: str, done: int, of: int) -> None:
            candidate.state, candidate.reason = "building", ""
            candidate.what, candidate.done, candidate.of = what, done, of

        rung.prepare(size, progress, self._is_ended)
        self._say(candidate, "opening")
        worker = Worker(rung.name)
        try:
            standing = self._tested(candidate, worker, size)
        except BaseException:
            worker.close()
            raise
        if self._is_ended():
            rung.settled()
            standing.close()
            raise Cancelled
        self._promote(candidate, standing)

    def _tested(self, candidate: Candidate, worker: Worker, size: Size) -> Standing:
        rung = candidate.rung
        opened = worker(rung.open, self.patience.open_s)
        standing = Standing(opened, worker, self.patience)
        try:
            if opened.model.mask_size != self.ladder.bottom.opened.model.mask_size:
                raise Refused(f"its masks are {opened.model.mask_size}, not those of {self.ladder.bottom.opened.name}")
            self._say(candidate, "testing")
            wanted = self.checks(lambda: self.reference.answers(size))
            got = worker(lambda: answers_of(opened, size, wanted), self.patience.open_s)
            standing.note("network", got.times_s)
            report = judge(got, wanted, self.classes, rung.precision)
            candidate.step_ms, candidate.report = round(report.step_ms, 3), report
            rung.judged(report)
            self._require(report)
        except BaseException:
            rung.settled()
            standing.close()
            raise
        return standing

    def _require(self, report: Report) -> None:
        """Raises Refused for a report that says so, DeviceError for an engine that is no gain now."""
        if not report.passed:
            raise Refused("; ".join(report.failures))
        if reason := self.ladder.too_slow("network", report.step_ms / 1e3):
            raise DeviceError(reason)

    def _promote(self, candidate: Candidate, standing: Standing) -> None:
        candidate.standing, candidate.strikes, candidate.failures = standing, 0, 0
        self._say(candidate, "ready")
        missed = [i for i, c in enumerate(self.candidates) if c.demotions or (c.is_wanted and c.state in MISSING)]
        mends = self.candidates.index(candidate) <= min(missed, default=len(self.candidates))
        if before := self.ladder.offer(standing, mends):
            self.left(before)

    def _failed(self, candidate: Candidate, reason: str) -> None:
        wait_s = candidate.backoff.failed(self.clock())
        self._say(candidate, "failed", f"{reason}; tried again in {wait_s:g} s")
        log.warning("%s: %s", candidate.rung.name, candidate.reason)

    def _try_again(self, candidate: Candidate, error: PerceptionError) -> None:
        """Later; but a graph that can't be built or loaded is not built for ever."""
        candidate.failures += isinstance(error, ModelError)
        if candidate.failures >= MOST_FAILURES:
            self._refuse(candidate, f"{error}; tried {candidate.failures} times")
        else:
            self._failed(candidate, str(error))
            self._say_missing(candidate)

    def _refuse(self, candidate: Candidate, reason: str) -> None:
        self._say(candidate, "refused", reason)
        log.warning("%s is refused: %s", candidate.rung.name, reason)
        self._say_missing(candidate)

    def _say_missing(self, candidate: Candidate) -> None:
        """An engine that was asked for by name, and does not come, is missed in every message."""
        if candidate.is_wanted and not self.ladder.fallen:
            self.ladder.fallen = f"{candidate.rung.name}: {candidate.reason}; {self.ladder.engine} serves"

    def _say(self, candidate: Candidate, state: str, reason: str = "") -> None:
        with self._changed:
            candidate.state, candidate.reason, candidate.what, candidate.done, candidate.of = state, reason, "", 0, 0
            self._changed.notify_all()

    def _of(self, standing: Standing) -> Candidate | None:
        return next((c for c in self.candidates if c.standing is standing), None)
