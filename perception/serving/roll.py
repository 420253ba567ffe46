"""How the engines above the bottom stand, and which of them are missed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from perception.engines.child_build import Cancelled
from perception.errors import DeviceError, ModelError, PerceptionError
from perception.serving.candidate import Candidate
from perception.serving.ladder import Ladder
from perception.serving.rungs import Refused, Standing

log = logging.getLogger(__name__)

MOST_FAILURES = 3  # to build or load an engine, after which it is not tried again


class Slow(DeviceError):
    """The engine works, and is no gain over what serves."""


class Roll:
    """Says of each engine how it stands; callable from any thread.

    Args:
        candidates: best first; the list may grow.

    Attributes:
        changed: is notified of each change.
    """

    def __init__(self, candidates: list[Candidate], ladder: Ladder, clock: Callable[[], float]) -> None:
        self._candidates, self._ladder, self._clock = candidates, ladder, clock
        self.changed = threading.Condition()

    def of(self, standing: Standing) -> Candidate | None:
        """Whose it is."""
        return next((c for c in self._candidates if c.standing is standing), None)

    def say(self, candidate: Candidate, state: str, reason: str = "") -> None:
        with self.changed:
            candidate.state, candidate.reason, candidate.what, candidate.done, candidate.of = state, reason, "", 0, 0
            self.changed.notify_all()

    def attempt(self, candidate: Candidate, work: Callable[[], None]) -> None:
        """Do something for an engine, and say how it failed. Raises Cancelled."""
        try:
            work()
        except Cancelled:
            raise
        except Refused as error:
            self.refuse(candidate, str(error))
        except (ModelError, DeviceError) as error:
            self.try_again(candidate, error)
        except Exception as error:  # of files, drivers or a bug in an engine: it must not take the ladder away
            log.exception("%s", candidate.rung.name)
            self.try_again(candidate, ModelError(f"{type(error).__name__}: {error}"))

    def fell(self, candidate: Candidate, reason: str, is_missed: bool) -> None:
        """It has been left; messages say so where it is missed."""
        candidate.demotions += 1
        if is_missed:
            candidate.missed = self._ladder.fallen
        self.failed(candidate, reason)

    def failed(self, candidate: Candidate, reason: str) -> None:
        """Later it is tried again."""
        wait_s = candidate.backoff.failed(self._clock())
        self.say(candidate, "failed", f"{reason}; tried again in {wait_s:g} s")
        log.warning("%s: %s", candidate.rung.name, candidate.reason)

    def try_again(self, candidate: Candidate, error: PerceptionError) -> None:
        """Later; but a graph that can't be built or loaded is not built for ever."""
        candidate.failures += isinstance(error, ModelError)
        if candidate.failures >= MOST_FAILURES:
            self.refuse(candidate, f"{error}; tried {candidate.failures} times")
        elif isinstance(error, Slow):
            self.failed(candidate, str(error))
            self._forgive(candidate)
        else:
            self.failed(candidate, str(error))
            self._miss(candidate)

    def refuse(self, candidate: Candidate, reason: str) -> None:
        self.say(candidate, "refused", reason)
        log.warning("%s is refused: %s", candidate.rung.name, reason)
        self._miss(candidate)

    def mends(self, candidate: Candidate) -> bool:
        """It is as good as any that is missed."""
        missed = (i for i, c in enumerate(self._candidates) if c.missed)
        return self._candidates.index(candidate) <= min(missed, default=len(self._candidates))

    def took(self, candidate: Candidate) -> None:
        """It serves, and nothing that is worse is missed."""
        candidate.backoff.served(self._clock())
        for other in self._candidates[self._candidates.index(candidate) :]:
            self._forgive(other)
        self.say(candidate, "serving")

    def _forgive(self, candidate: Candidate) -> None:
        """It would not serve even if it worked: it is not missed any more, but a better one may be."""
        was, candidate.missed = candidate.missed, ""
        if was:
            self._ladder.mend(was, next((c.missed for c in self._candidates if c.missed), ""))

    def _miss(self, candidate: Candidate) -> None:
        """An engine that was asked for by name, and does not come, is missed in every message."""
        if candidate.is_wanted and not candidate.missed:
            candidate.missed = f"{candidate.rung.name}: {candidate.reason}; {self._ladder.engine} serves"
            self._ladder.mend("", candidate.missed)
