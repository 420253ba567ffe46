"""What a node holds of all this."""

from __future__ import annotations

import numpy as np

from perception.serving.candidate import Candidate
from perception.serving.ladder import Ladder, ServedModel
from perception.serving.promoter import Promoter
from perception.serving.rungs import Size
from perception.types import Scene
from perception.wire import EngineRow


class Serving:
    """A model served by the best engine that works, and how that goes.

    Args:
        model: gives the pipeline what the ladder's engine sees.
    """

    def __init__(self, ladder: Ladder, promoter: Promoter, model: ServedModel) -> None:
        self.ladder, self.promoter, self.model = ladder, promoter, model
        self._from_start = ladder.engine

    @property
    def engine(self) -> str:
        """The name of the one that serves."""
        return self.ladder.engine

    @property
    def engines(self) -> str:
        """The names of all that may serve in this run: what a recording says of it."""
        above = [] if self.ladder.is_pinned else [candidate.rung.name for candidate in self.promoter.candidates]
        return " or ".join([self.engine, *above])

    @property
    def fallen(self) -> str:
        """Why a worse one serves than should; "" where the best does."""
        return self.ladder.fallen

    @property
    def reason(self) -> str:
        """Why this one serves."""
        if self.ladder.is_pinned:
            return "it was named; nothing else serves in this run"
        if self.fallen:
            return self.fallen
        above = next((c for c in self.promoter.candidates if c.state not in ("serving", "refused")), None)
        best = self.promoter.candidates[0]
        if best.state == "serving":
            return "the best of this machine; it agrees with the reference"
        if above is None or above.state == "failed":
            return f"{best.rung.name} is {best.state}: {best.reason}"
        return f"{above.rung.name} is {above.state}"

    def begin(self) -> None:
        """Let the background begin, where anything may change."""
        if not self.ladder.is_pinned:
            self.promoter.begin()

    def expect(self, size: Size) -> None:
        """Frames of this size will come; 0, 0 where nobody knows. Raises ModelError where the pinned can't serve."""
        if self.ladder.is_pinned and all(size):
            self.model.take(np.zeros((size[1], size[0], 3), np.uint8))

    def settle(self) -> None:
        """Between two frames."""
        self.ladder.settle()

    def mark(self, scene: Scene) -> Scene:
        """A scene as it may be published."""
        return self.ladder.mark(scene)

    def rows(self) -> tuple[EngineRow, ...]:
        """Every engine of the ladder, best first, as health tells them."""
        bottom, state = self.ladder.bottom, "serving" if self.ladder.serving is self.ladder.bottom else "ready"
        usual_s = bottom.usual_s()
        last = EngineRow(self._from_start, state, step_ms=round(1e3 * usual_s, 3) if usual_s else 0.0)
        return (*(_row(candidate, self.promoter) for candidate in self.promoter.candidates), last)

    def close(self) -> None:
        """End builds and threads; the bottom is the pipeline's to close."""
        self.promoter.close()


def _row(candidate: Candidate, promoter: Promoter) -> EngineRow:
    standing = candidate.standing if candidate.state == "serving" else None
    usual_s = standing.usual_s() if standing else None
    return EngineRow(
        name=candidate.rung.name,
        state=candidate.state,
        reason=candidate.reason,
        what=candidate.what,
        done=candidate.done,
        of=candidate.of,
        step_ms=round(1e3 * usual_s, 3) if usual_s else candidate.step_ms,
        demotions=candidate.demotions,
        retry_s=round(candidate.backoff.left_s(promoter.clock()), 1) if candidate.state == "failed" else 0.0,
    )
