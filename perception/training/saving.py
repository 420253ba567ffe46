"""When the state of a run is saved, and what becomes of it on a full disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from perception.training.checkpoint import SaveError
from perception.training.config import CheckpointConfig

log = logging.getLogger(__name__)

LAST, BEST = "last.safetensors", "best.safetensors"
_RETRY_S = 5.0


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
