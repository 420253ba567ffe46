"""The background's side of serving: builds engines, opens them, holds them against the reference, and offers them."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from perception.engines.child_build import Cancelled
from perception.errors import DeviceError, ModelError, PerceptionError
from perception.serving.candidate import Candidate
from perception.serving.comparison import Comparison
from perception.serving.gate import Reference, answers_of, judge
from perception.serving.ladder import Ladder
from perception.serving.report import IN_FLIGHT, Report
from perception.serving.roll import Roll, Slow
from perception.serving.rungs import Patience, Refused, Size, Standing
from perception.serving.samples import Sample
from perception.serving.schedule import due, pause_s
from perception.serving.worker import Worker

log = logging.getLogger(__name__)

STRIKES = 2  # checked calls of a kind in a row that an engine answers otherwise, and it is demoted
NICENESS = 10  # of the thread that runs the reference beside the frames
_CLOSE_S = 5.0
_AFTER_BUG_S = 1.0


@dataclass
class Promoter:
    """One thread that opens and closes engines, one that builds them, and one for the reference.

    Implements `ladder.Watcher`.

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
    _to_close: list[Standing] = field(default_factory=list)
    _checks: Worker | None = None
    _thread: threading.Thread | None = None
    _builder: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._roll = Roll(self.candidates, self.ladder, self.clock)
        self._changed = self._roll.changed

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
        if builder := self._builder:
            builder.join(_CLOSE_S)
        offered, serving = self.ladder.take_back(), self.ladder.serving
        self.ladder.watcher = None
        standings = [*self._to_close, *([offered] if offered else [])]
        for standing in [*standings, *([serving] if serving is not self.ladder.bottom else [])]:
            if candidate := self._roll.of(standing):
                candidate.rung.settled()
            standing.close()
        self.checks.close(self.reference.close)
        for candidate in self.candidates:  # one that is being opened or tested now does not end the process, either
            candidate.rung.settled()

    # What the ladder tells, from the frame's thread

    def fell(self, standing: Standing, reason: str, is_missed: bool) -> None:
        if candidate := self._roll.of(standing):
            self._roll.fell(candidate, reason, is_missed)
        self.left(standing)

    def took(self, standing: Standing) -> None:
        if candidate := self._roll.of(standing):
            self._roll.took(candidate)

    def left(self, standing: Standing) -> None:
        with self._changed:
            candidate = self._roll.of(standing)
            if candidate and candidate.state in ("serving", "ready"):
                candidate.state, candidate.reason = "waiting", "a better engine serves"
            self._to_close.append(standing)
            self._changed.notify_all()

    def settled(self, standing: Standing) -> None:
        if candidate := self._roll.of(standing):
            candidate.rung.settled(has_served=True)

    @property
    def has_time(self) -> bool:
        return not self.checks.is_busy

    def sampled(self, standing: Standing, kind: str, sample: Sample) -> None:
        self.checks.offer(lambda: self._check(standing, kind, sample))

    def _check(self, standing: Standing, kind: str, sample: Sample) -> None:
        """In the reference's thread: hold one call against it."""
        candidate = self._roll.of(standing)
        if candidate is None or self.ladder.serving is not standing:
            return
        try:
            comparison = Comparison(self.classes)
            sample(self.reference.open(), comparison)
        except PerceptionError as error:
            log.warning("no engine can be checked in flight: %s", error)
            return
        failures = [*comparison.failures(IN_FLIGHT)]
        candidate.strikes[kind] = candidate.strikes.get(kind, 0) + 1 if failures else 0
        if failures:
            log.warning("%s, frame in flight: %s", candidate.rung.name, "; ".join(failures))
        if candidate.strikes[kind] >= STRIKES:
            self.ladder.demote(standing, f"drifts from the reference: {failures[0]}")
        elif failures:
            self.ladder.check_soon(kind)

    # The thread

    def _run(self) -> None:
        while not self._ended:
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
        can_build = self._builder is None
        work = due(self.candidates, size, now, can_build)
        if work is None or size is None:
            with self._changed:
                if not self._ended and not self._to_close and can_build == (self._builder is None):
                    self._changed.wait(pause_s(self.candidates, size, now))
        elif work.is_build:
            self._begin_build(work.candidate, size)
        else:
            self._roll.attempt(work.candidate, lambda: self._lift(work.candidate, size))

    def _begin_build(self, candidate: Candidate, size: Size) -> None:
        """In a thread of its own: it takes minutes, in which others fall, and must be tried again."""
        self._roll.say(candidate, "building")
        self._builder = threading.Thread(target=self._build, args=(candidate, size), name="build", daemon=True)
        try:
            self._builder.start()
        except RuntimeError as error:  # the machine has no room for a thread now
            self._builder = None
            self._roll.try_again(candidate, DeviceError(f"its build can't be begun: {error}"))

    def _build(self, candidate: Candidate, size: Size) -> None:
        def build() -> None:
            self._prepare(candidate, size)
            self._roll.say(candidate, "waiting")

        try:
            with contextlib.suppress(Cancelled):
                self._roll.attempt(candidate, build)
        finally:
            with self._changed:
                self._builder = None
                self._changed.notify_all()

    def _close_left(self) -> None:
        with self._changed:
            left, self._to_close = self._to_close, []
        for standing in left:
            if candidate := self._roll.of(standing):
                candidate.rung.settled()
            if not standing.close():
                log.warning("%s does not answer; it is left behind", standing.opened.name)

    def _prepare(self, candidate: Candidate, size: Size) -> None:
        """Raises Refused, ModelError, DeviceError, Cancelled."""
        heard_s, limit_s = self.clock(), self.patience.build_s

        def progress(what: str, done: int, of: int) -> None:
            nonlocal heard_s
            heard_s = self.clock() if of else math.inf  # where nobody can say how far it is, silence says nothing
            candidate.state, candidate.reason = "building", ""
            candidate.what, candidate.done, candidate.of = what, done, of

        try:
            candidate.rung.prepare(size, progress, lambda: self._ended or self.clock() - heard_s > limit_s)
        except Cancelled:
            if self._ended:
                raise
            raise ModelError(f"its build was ended, for it said nothing for {limit_s:g} s") from None

    def _lift(self, candidate: Candidate, size: Size) -> None:
        """Open what is built, test and offer it. Raises Refused, ModelError, DeviceError, Cancelled."""
        rung = candidate.rung
        self._prepare(candidate, size)
        self._roll.say(candidate, "opening")
        worker = Worker(rung.name)
        try:
            standing = self._tested(candidate, worker, size)
        except BaseException:
            worker.close()
            raise
        if self._ended:
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
            self._roll.say(candidate, "testing")
            wanted = self.checks(lambda: self.reference.answers(size, lambda: self._ended))
            got = worker(lambda: answers_of(opened, size, wanted, lambda: self._ended), self.patience.open_s)
            for kind, times_s in got.times_s.items():
                standing.note(kind, times_s)
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
        """Raises Refused for a report that says so, Slow for an engine that is no gain now."""
        if not report.passed:
            raise Refused("; ".join(report.failures))
        if reason := self.ladder.no_gain(report.step_ms / 1e3):
            raise Slow(reason)

    def _promote(self, candidate: Candidate, standing: Standing) -> None:
        candidate.standing, candidate.strikes, candidate.failures = standing, {}, 0
        self._roll.say(candidate, "ready")
        if before := self.ladder.offer(standing, self._roll.mends(candidate)):
            self.left(before)
