"""When the state of a run is saved, and what becomes of it on a full disk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

from perception.training.checkpoint import SaveError
from perception.training.config import CheckpointConfig

log = logging.getLogger(__name__)

LAST, BEST = "last.safetensors", "best.safetensors"
_RETRY_S = 5.0


class Best:
    """The weights that validated best.

    Args:
        save: writes them; raises SaveError.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save
        self.miou, self.step = math.nan, -1  # of the last validation
        self.kept = -1.0  # mIoU of those in the file; below 0: there are none

    def take(self, miou: float, step: int) -> None:
        """Write the weights that have just been validated if they are the best, or warn that it can't be done."""
        self.miou, self.step = miou, step
        before = f"best before {100 * self.kept:.2f}" if self.kept >= 0 else "the first"
        log.info("step %d: validation mIoU %.2f (%s)", step, 100 * miou, before)
        if self.waits(step):
            self.keep("the best weights are not kept this time")

    def waits(self, step: int) -> bool:
        """Whether the weights, those of `step`, are the best but not in the file: the disk was full."""
        return self.step == step and self.miou > self.kept

    def keep(self, otherwise: str) -> bool:
        """Write the weights; False, with a warning that ends in `otherwise`, where it can't be done."""
        try:
            self._save()
        except SaveError as error:
            log.warning("%s; %s", error, otherwise)
            return False
        self.kept = self.miou
        return True


class Saver:
    """Writes a run's last.safetensors.

    Args:
        save: does it; raises SaveError.
    """

    def __init__(self, run: Path, config: CheckpointConfig, save: Callable[[], None]) -> None:
        self._run, self._config, self._save = run, config, save
        self._saved = time.monotonic()

    def is_due(self, step: int) -> bool:
        """By the time since the last try, or by the number of steps."""
        every = self._config
        by_time = every.every_minutes and time.monotonic() - self._saved >= 60 * every.every_minutes
        return bool(by_time or (every.every_steps and step % every.every_steps == 0))

    def try_now(self) -> None:
        """Save, or warn that it can't be done."""
        try:
            self._save()
        except SaveError as error:
            log.warning("%s; training goes on and tries again at the next checkpoint", error)
        self._saved = time.monotonic()

    def at_last(self, step: int, asked_to_stop: Callable[[], bool]) -> None:
        """Save, waiting for room where the disk is full: until then the run lives in memory only. Raises SaveError."""
        until = time.monotonic() + (0 if asked_to_stop() else self._config.wait_s)
        while True:
            try:
                return self._save()
            except SaveError as error:
                if time.monotonic() + _RETRY_S > until or asked_to_stop():
                    raise SaveError(f"{error}; {self._what_is_left()}") from None
                log.warning("%s; step %d waits in memory for room", error, step)
                time.sleep(_RETRY_S)

    def _what_is_left(self) -> str:
        if (self._run / LAST).exists():
            return "make room and go on from the last checkpoint with --resume"
        best = self._run / BEST
        start = f", from the best weights with --start {best}" if best.exists() else ""
        return f"none was written before: make room and begin again in another folder with --run{start}"
