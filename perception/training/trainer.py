"""The training loop: one run in one folder, which can be killed at any time and goes on exactly where it was."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import torch

from perception.errors import ConfigError, ModelError, PerceptionError
from perception.evaluation.segmentation import Confusion
from perception.training.batches import Batch, Mixture
from perception.training.checkpoint import About, SaveError, load_checkpoint, save_checkpoint
from perception.training.config import VALIDATION, TrainingConfig
from perception.training.datasets import Dataset, open_dataset
from perception.training.label_set import Codes
from perception.training.learner import Learner
from perception.training.objective import Objective
from perception.training.records import LOG, Records
from perception.training.resuming import require_same_run, warn_of_changes
from perception.training.saving import BEST, LAST, Best, Saver
from perception.training.sizes import require_shapes, require_sizes
from perception.training.teacher import require_taught
from perception.training.validation import validate

log = logging.getLogger(__name__)

RANDOM = "random."
Progress = Callable[[str, int, int], None]  # what, done, of how many
_LOST = 50  # steps in a row without a usable gradient: the run has diverged


class Trainer:
    """Network, average, optimiser and data of one run.

    Raises:
        ConfigError, ModelError: a data set, the teacher or a combination of settings is wrong.
    """

    def __init__(self, config: TrainingConfig, base: Path, run: Path, device: torch.device) -> None:
        self.config, self.base, self.run, self.device = config, base, run, device
        self.step, self.best = 0, Best(lambda: self.save(BEST))
        self.saver = Saver(run, config.checkpoint, self.save)
        self._is_between_steps, self._is_validating = True, False
        torch.manual_seed(config.seed)
        self._open_data()
        self.learner = Learner(config, base, device, self.objective)

    def _open_data(self) -> None:
        codes = Codes(self.config.classes)
        sets = [open_dataset(n, d, codes, self.config.things, self.base) for n, d in self.config.data.items()]
        self.mixture = Mixture(sets, self.config)
        self.validation: Dataset | None = None
        if self.config.validation:
            things = self.config.things
            self.validation = open_dataset(VALIDATION, self.config.validation, codes, things, self.base)
        every = [*sets, *([self.validation] if self.validation else [])]
        self.meanings = {dataset.name: codes.fingerprint(dataset.table) for dataset in every}
        meaning = torch.from_numpy(codes.meaning()).to(self.device)
        self.objective = Objective(self.config.loss, meaning, self.config.teacher)

    def try_sizes(self) -> None:
        """Raise ConfigError where the network does not take the sizes of training and validation."""
        require_sizes(self.learner.network, self.config, self.learner.frozen)

    def check(self, progress: Progress) -> None:
        """Try the teacher and read every file of every data set once.

        Raises:
            ConfigError: files are wrong, or the teacher or a picture to validate on has a size that does not fit.
        """
        if self.learner.teacher and self.config.teacher:
            require_taught(self.learner.teacher, self.config.teacher, self.config.crop)
        also = [self.validation] if self.validation else []
        shapes = self.mixture.check(also, lambda done, total: progress("checking the data sets", done, total))
        if self.config.validation and not self.config.validation.size:
            require_shapes(self.learner.average.network, shapes[VALIDATION])

    def start(self) -> None:
        """Take the start weights that the configuration names; raises ConfigError where it freezes random ones."""
        if not self.config.start:
            if self.learner.frozen:
                key = "only" if self.config.optimizer.only else "frozen_stages"
                raise ConfigError(f"optimizer.{key}: weights to freeze have to come from somewhere: --start FILE")
            return
        images = self.mixture.batch(0).images.to(self.device)
        self.learner.start(self.base / self.config.start, images)

    def resume(self) -> None:
        """Go on from the folder's last checkpoint.

        Raises:
            ModelError: it is broken. ConfigError: it is of another configuration, or the data sets have changed.
        """
        path = self.run / LAST
        tensors, about = load_checkpoint(path)
        require_same_run(path, about, self.config, self._sizes(), self.meanings)
        warn_of_changes(path, about, self.config)
        state = about.state
        try:
            self.learner.restore(tensors, state, path)
            torch.set_rng_state(tensors[f"{RANDOM}cpu"])
            if self.device.type == "cuda" and f"{RANDOM}cuda" in tensors:
                torch.cuda.set_rng_state(tensors[f"{RANDOM}cuda"], self.device)
            self.best.kept, self.best.step = state["best"], state.get("validated", -1)
            self._is_validating = state.get("is_validating", False)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise ModelError(f"{path}: no state to go on from ({error!r}); use it with --start instead") from None
        self.step = about.step
        self.best.miou = math.nan if about.miou is None else about.miou

    def save(self, name: str = LAST) -> None:
        """Write a checkpoint into the run's folder; BEST holds the averaged weights only. Raises SaveError."""
        tensors = self.learner.averaged()
        if name == LAST:
            tensors |= self.learner.tensors()
            tensors[f"{RANDOM}cpu"] = torch.get_rng_state()
            if self.device.type == "cuda":
                tensors[f"{RANDOM}cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(self.run / name, tensors, self._about(self._state() if name == LAST else {}))

    def _about(self, state: dict[str, Any]) -> About:
        config = self.config
        about = About(network=config.network, classes=config.classes, things=config.things, step=self.step, state=state)
        miou = None if math.isnan(self.best.miou) else self.best.miou
        return msgspec.structs.replace(about, miou=miou, config=msgspec.to_builtins(config))

    def _state(self) -> dict[str, Any]:
        state = {"best": self.best.kept, "validated": self.best.step, "is_validating": self._is_validating}
        return state | self.learner.state() | {"samples": self._sizes(), "meanings": self.meanings}

    def _sizes(self) -> dict[str, int]:
        return {dataset.name: len(dataset) for dataset in self.mixture.datasets}

    def train(self, progress: Progress, asked_to_stop: Callable[[], bool] = lambda: False) -> bool:
        """Run to the last step, or until asked to stop; True when the run is complete.

        The state is saved either way, and after any error between two steps, out of a validation for one. An error
        before anything was learnt leaves no run, so that a mended configuration may begin in the folder.

        Raises:
            ConfigError: a file of a data set is wrong. SaveError: the disk stayed full at the end.
            PerceptionError: the training has diverged.
        """
        own = [name for name in (LAST, LOG) if not (self.run / name).exists()]
        records: Records | None = None
        try:
            if self.step == 0 and LAST in own:
                self.saver.try_now()  # so that there is something to go on from as soon as there is a log
            records = self._records()
            self._loop(records, progress, asked_to_stop)
        except Exception:  # a file that went bad since the check, or whatever it is, takes nothing with it
            self._leave(own, records)
            raise
        try:
            self.saver.at_last(self.step, asked_to_stop)
            self._keep_best_that_waits()
        finally:
            records.flush()
        return self.step >= self.config.steps

    def _records(self) -> Records:
        names = [name for name, weight in self.config.loss.semantic.items() if weight]
        return Records(self.run, self.config.classes, names, self.step, self.mixture.epoch_steps)

    def _leave(self, own: Sequence[str], records: Records | None) -> None:
        """Save what there is after an error; `own`: files that this training began."""
        if self.step == 0 and LAST in own:  # nothing was learnt
            with contextlib.suppress(OSError):
                for name in own:
                    (self.run / name).unlink(missing_ok=True)
            return
        if self._is_between_steps:
            self.saver.try_now()
        if records:
            records.flush()

    def _keep_best_that_waits(self) -> None:
        """Write the best weights that a full disk refused at the last validation, and that they are written."""
        if self.best.waits(self.step) and self.best.keep("make room; --resume writes the best weights then"):
            with contextlib.suppress(SaveError):  # the file that is there lacks nothing but this
                self.save()

    def _loop(self, records: Records, progress: Progress, asked_to_stop: Callable[[], bool]) -> None:
        config = self.config
        if self._is_validating:  # an error broke it off
            self._validate_if_due(records, progress)
        with closing(self.mixture.batches(self.step, config.steps)) as batches:
            for batch in batches:
                self._is_between_steps = False
                values = self._train_step(batch.to(self.device))
                self._is_between_steps = True
                records.add(self.step, values)
                progress(f"loss {values['loss']:.3f}  rate {values['learning_rate']:.2e}", self.step, config.steps)
                has_validated = self._validate_if_due(records, progress)
                if asked_to_stop():
                    break
                if has_validated or self.saver.is_due(self.step):
                    self.saver.try_now()

    def _train_step(self, batch: Batch) -> dict[str, float]:
        values = self.learner.learn(batch, self.step)
        if self.learner.guard.refused_in_a_row >= _LOST:
            raise PerceptionError(
                f"{self.run}: no usable gradient for {_LOST} steps, at step {self.step}: the training has diverged; "
                "start again with a lower optimizer.learning_rate"
            )
        self.step += 1
        return values

    def _validate_if_due(self, records: Records, progress: Progress) -> bool:
        """Write a row of the log where one is due, with a score where a validation is; True after a validation."""
        config = self.config.validation
        every = (config.every_steps if config else 0) or self.mixture.epoch_steps
        is_end = self.step == self.config.steps
        is_due = config is not None and (is_end or self.step % every == 0)
        confusion: Confusion | None = None
        try:
            if is_due:
                self._is_validating = True
                confusion = self._validated(progress)
        finally:  # a validation that breaks off leaves the row its losses
            if is_due or is_end or self.step % self.config.log_steps == 0:
                records.write(confusion)
        self._is_validating = False
        return is_due

    def _validated(self, progress: Progress) -> Confusion:
        """The score of the averaged weights, which are kept where they are the best."""
        assert self.validation
        assert self.config.validation
        size, classes, what = self.config.validation.size, len(self.config.classes), f"validating at step {self.step}"
        network, autocast = self.learner.average.network, self.learner.autocast
        confusion = validate(network, self.validation, size, classes, autocast, lambda i, n: progress(what, i, n))
        self.best.take(confusion.mean_iou(), self.step)
        return confusion
