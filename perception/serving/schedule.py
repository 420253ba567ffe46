"""Which engine the background works on next, and when it looks again."""

from __future__ import annotations

from collections.abc import Sequence

from perception.serving.candidate import Candidate
from perception.serving.rungs import Size

FIRST_FRAME_S = 0.05  # between two looks for the first frame, whose size decides what is built
NOTHING_S = 60.0  # where nothing is left to do but what somebody else will say


def due(candidates: Sequence[Candidate], size: Size | None, now_s: float) -> Candidate | None:
    """What to work on: the best that needs no build, else the worst that does, for it is there first.

    Args:
        candidates: best first.
        size: width and height of the camera's frames [px], None before the first.
    """
    waiting = [c for c in _better(candidates) if c.state in ("waiting", "failed") and not _wait_s(c, now_s)]
    if size is None or not waiting:
        return None
    ready = [c for c in waiting if not _needs_build(c, size)]
    return ready[0] if ready else waiting[-1]


def pause_s(candidates: Sequence[Candidate], size: Size | None, now_s: float) -> float:
    """Until a candidate is due, or the first frame may have come [s]."""
    if size is None:
        return FIRST_FRAME_S
    waits = [_wait_s(c, now_s) for c in _better(candidates) if c.state == "failed"]
    return max(0.01, min(waits)) if waits else NOTHING_S


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
