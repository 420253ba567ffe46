"""Which engine the background works on next, and when it looks again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perception.serving.candidate import Candidate
from perception.serving.rungs import Size

FIRST_FRAME_S = 0.05  # between two looks for the first frame, whose size decides what is built
AGAIN_S = 1.0  # for what is due by now: a call that hung has just returned, or another is being built
NOTHING_S = 60.0  # where nothing is left to do but what somebody else will say


@dataclass(frozen=True, slots=True)
class Work:
    """What to do for an engine: build it, or open what is there."""

    candidate: Candidate
    is_build: bool


def due(candidates: Sequence[Candidate], size: Size | None, now_s: float, can_build: bool = True) -> Work | None:
    """What to work on: the best that needs no build, else the worst that does, for it is there first.

    Args:
        candidates: best first.
        size: width and height of the camera's frames [px], None before the first.
        can_build: nothing else is built now.
    """
    waiting = [c for c in _better(candidates) if c.state in ("waiting", "failed") and not _wait_s(c, now_s)]
    if size is None or not waiting:
        return None
    ready = next((c for c in waiting if not _needs_build(c, size)), None)
    if ready:
        return Work(ready, is_build=False)
    return Work(waiting[-1], is_build=True) if can_build else None


def pause_s(candidates: Sequence[Candidate], size: Size | None, now_s: float) -> float:
    """Until a candidate is due, or the first frame may have come [s]; the end of a build is told otherwise."""
    if size is None:
        return FIRST_FRAME_S
    waits = [_wait_s(c, now_s) or AGAIN_S for c in _better(candidates) if c.state in ("waiting", "failed")]
    return max(0.01, min(waits, default=NOTHING_S))


def _better(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Those above the one that serves or is offered."""
    stands = [c.state in ("serving", "ready") for c in candidates]
    return candidates[: stands.index(True)] if True in stands else candidates


def _needs_build(candidate: Candidate, size: Size) -> bool:
    try:
        return candidate.rung.needs_build(size)
    except Exception:  # of files and drivers, too
        return False  # it will say so when it is lifted


def _wait_s(candidate: Candidate, now_s: float) -> float:
    """Until it may be tried again: not while a call of its last try still hangs."""
    hangs = candidate.standing is not None and candidate.standing.is_busy
    return max(candidate.backoff.left_s(now_s), 1.0 if hangs else 0.0)
