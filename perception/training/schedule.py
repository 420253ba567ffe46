"""The learning rate of a step."""

from __future__ import annotations

import math

from perception.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up times the schedule: poly (Chen et al. 2017, section 4.1), half a cosine, or constant.

    Args:
        step: 0 .. steps - 1.
        steps: of the whole run; poly and cosine reach 0 there.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    done = step / steps
    if config.schedule == "poly":
        return config.learning_rate * warm * (1 - done) ** config.power
    if config.schedule == "cosine":
        return config.learning_rate * warm * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * warm
