"""What a frame costs the default node on this machine's CPU: a look, not a benchmark (that is `perception bench`)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from statistics import median

from perception.build import build_model, build_pipeline, check_launch, tracking_kind
from perception.config import Launch, ModelConfig
from perception.drives.rendered import RenderedDrive
from perception.stopwatch import Stopwatch
from perception.types import Frame

TIMED, WARM_UP = 20, 5  # frames
SENT_MS = 2.0  # for scaling a camera's picture, and for coding and sending masks
_PERIOD_NS = 33_333_333


@dataclass(frozen=True, slots=True)
class FrameCost:
    """Medians of the parts of a frame [ms]."""

    what: str  # was measured
    kind: str  # of propagator
    look_ms: float  # the whole network
    skip_ms: float  # its encoder alone, of a frame that it skips
    follow_ms: float  # the propagator

    def rate_hz(self, network_every: int = 1, follows: bool = True) -> float:
        """Frames a second.

        Args:
            follows: False: things are associated by overlap alone, which costs next to nothing.
        """
        skipped = network_every - 1
        each_ms = SENT_MS + (self.follow_ms if follows else 0.0)
        return 1e3 * network_every / (self.look_ms + skipped * self.skip_ms + network_every * each_ms)


def cost_of_a_frame() -> FrameCost:
    """Of a rendered street. Raises PerceptionError where the default model or its engine can't be had."""
    launch = Launch(version=1, model=ModelConfig(network_every=2))  # so that there is an encoder
    checked, stopwatch = check_launch(launch), Stopwatch(kept=TIMED)
    with closing(build_model(checked.files, launch, stopwatch)) as model:
        pipeline = build_pipeline(model, checked, stopwatch)
        with closing(pipeline.propagator):
            image = next(iter(RenderedDrive(seed=0, frames=1, truth=False))).image
            frames = [Frame(i, i * _PERIOD_NS, "doctor", image) for i in range(WARM_UP + TIMED)]
            for frame in frames:
                with stopwatch("skip"):
                    pipeline.see(frame, False)
            for frame in frames:
                with stopwatch("look"):
                    seen = pipeline.see(frame, True)
                with stopwatch("follow"):
                    pipeline.follow(frame, *seen)
    kind, stages = tracking_kind(launch, checked.files), stopwatch.stages()
    look_ms, skip_ms, follow_ms = (median(stages[part]) for part in ("look", "skip", "follow"))
    return FrameCost(f"{checked.files.name} on {model.engine.name} with {kind}", kind, look_ms, skip_ms, follow_ms)
