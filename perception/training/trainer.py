"""The training loop: one run in one folder, which can be killed at any time and goes on exactly where it was."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from perception.errors import ConfigError, ModelError, PerceptionError
from perception.evaluation.segmentation import Confusion
from perception.training.averaging import WeightAverage
from perception.training.batches import Batch, Mixture
from perception.training.checkpoint import (
    AVERAGED,
    NETWORK,
    About,
    SaveError,
    load_checkpoint,
    part,
    restore,
    save_checkpoint,
)
from perception.training.config import VALIDATION, TrainingConfig
from perception.training.datasets import Dataset, open_dataset
from perception.training.label_set import Codes
from perception.training.networks import build_network
from perception.training.objective import Objective
from perception.training.optimizer import (
    SpikeGuard,
    build_optimizer,
    freeze,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from perception.training.records import Records
from perception.training.resuming import require_same_run
from perception.training.saving import BEST, LAST, Saver
from perception.training.schedule import learning_rate
from perception.training.sizes import require_picture, require_sizes
from perception.training.start import start_from
from perception.training.teacher import Teacher, open_teacher
from perception.training.validation import validate

log = logging.getLogger(__name__)

OPTIMIZER, RANDOM = "optimizer.", "random."
Progress = Callable[[str, int, int], None]  # what, done, of how many
_LOST = 50  # steps in a row without a usable gradient: the run has diverged


class Trainer:
    """Network, average, optimiser and data of one run.

    Raises:
        ConfigError, ModelError: a data set, the teacher or a combination of settings is wrong.
    """

    def __init__(self, config: TrainingConfig, base: Path, run: Path, device: torch.device) -> None:
        self.config, self.base, self.run, self.device = config, base, run, device
        self.step, self.best, self.miou = 0, -1.0, math.nan
        self.saver = Saver(run, config.checkpoint, self.save)
        self._is_between_steps, self._is_validating = True, False
        torch.manual_seed(config.seed)
        self._open_data()
        self.network = self._built()
        self.frozen = freeze(self.network, config.optimizer)
        self.average = WeightAverage(self.network, config.average)
        self.optimizer = build_optimizer(self.network, config.optimizer)
        self.guard = SpikeGuard(config.optimizer.skip_above)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.teacher: Teacher | None = None
        if config.teacher:
            self.teacher = open_teacher(config.teacher, base, config.classes).to(device)

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

    def _built(self) -> nn.Module:
        network = build_network(self.config.network, len(self.config.classes))
        network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        require_sizes(network, self.config)
        return network

    def check(self, progress: Progress) -> None:
        """Read every file of every data set once; raises ConfigError where some are wrong, or of a wrong size."""
        also = [self.validation] if self.validation else []
        self.mixture.check(also, lambda done, total: progress("checking the data sets", done, total))
        if self.validation and self.config.validation:
            require_picture(self.average.network, self.validation, self.config.validation.size)

    def start(self) -> None:
        """Take the start weights that the configuration names; raises ConfigError where it freezes random ones."""
        if not self.config.start:
            if self.frozen:
                key = "only" if self.config.optimizer.only else "frozen_stages"
                raise ConfigError(f"optimizer.{key}: weights to freeze have to come from somewhere: --start FILE")
            return
        start_from(
            self.network, self.base / self.config.start, self.config, self.mixture.batch(0).images.to(self.device)
        )
        self.average = WeightAverage(self.network, self.config.average)

    def resume(self) -> None:
        """Go on from the folder's last checkpoint.

        Raises:
            ModelError: it is broken. ConfigError: it is of another configuration, or the data sets have changed.
        """
        path = self.run / LAST
        tensors, about = load_checkpoint(path)
        require_same_run(path, about, self.config, self._sizes(), self.meanings)
        restore(self.network, part(tensors, NETWORK), path)
        restore(self.average.network, part(tensors, AVERAGED), path)
        state = about.state
        try:
            restore_optimizer(self.optimizer, part(tensors, OPTIMIZER))
            torch.set_rng_state(tensors[f"{RANDOM}cpu"])
            if self.device.type == "cuda" and f"{RANDOM}cuda" in tensors:
                torch.cuda.set_rng_state(tensors[f"{RANDOM}cuda"], self.device)
            self.scaler.load_state_dict(state["scaler"])
            self.guard.norms, self.guard.refused = state["norms"], state["refused"]
            self.guard.refused_in_a_row, self.best = state["refused_in_a_row"], state["best"]
            self._is_validating = state.get("is_validating", False)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise ModelError(f"{path}: no state to go on from ({error!r}); use it with --start instead") from None
        self.step = about.step
        self.miou = math.nan if about.miou is None else about.miou

    def save(self, name: str = LAST) -> None:
        """Write a checkpoint into the run's folder; BEST holds the averaged weights only. Raises SaveError."""
        tensors = {f"{AVERAGED}{key}": t for key, t in self.average.network.state_dict().items()}
        if name == LAST:
            tensors |= {f"{NETWORK}{key}": t for key, t in self.network.state_dict().items()}
            tensors |= {f"{OPTIMIZER}{key}": t for key, t in optimizer_tensors(self.optimizer).items()}
            tensors[f"{RANDOM}cpu"] = torch.get_rng_state()
            if self.device.type == "cuda":
                tensors[f"{RANDOM}cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(self.run / name, tensors, self._about(self._state() if name == LAST else {}))

    def _about(self, state: dict[str, Any]) -> About:
        config = self.config
        about = About(network=config.network, classes=config.classes, things=config.things, step=self.step, state=state)
        miou = None if math.isnan(self.miou) else self.miou
        return msgspec.structs.replace(about, miou=miou, config=msgspec.to_builtins(config))

    def _state(self) -> dict[str, Any]:
        guard = self.guard
        state: dict[str, Any] = {"best": self.best, "samples": self._sizes(), "meanings": self.meanings}
        return state | {
            "scaler": self.scaler.state_dict(),
            "norms": guard.norms,
            "refused": guard.refused,
            "refused_in_a_row": guard.refused_in_a_row,
            "is_validating": self._is_validating,
        }

    def _sizes(self) -> dict[str, int]:
        return {dataset.name: len(dataset) for dataset in self.mixture.datasets}

    def train(self, progress: Progress, asked_to_stop: Callable[[], bool] = lambda: False) -> bool:
        """Run to the last step, or until asked to stop; True when the run is complete.

        The state is saved either way, and after any error between two steps, out of a validation for one.

        Raises:
            ConfigError: a file of a data set is wrong. SaveError: the disk stayed full at the end.
            PerceptionError: the training has diverged.
        """
        if self.step == 0 and not (self.run / LAST).exists():
            self.saver.try_now()  # so that there is something to go on from as soon as there is a log
        try:
            self._loop(progress, asked_to_stop)
        except Exception:  # a file that went bad since the check, or whatever it is, takes nothing with it
            if self._is_between_steps:
                self.saver.try_now()
            raise
        self.saver.at_last(self.step, asked_to_stop)
        return self.step >= self.config.steps

    def _loop(self, progress: Progress, asked_to_stop: Callable[[], bool]) -> None:
        config = self.config
        names = [name for name, weight in config.loss.semantic.items() if weight]
        records = Records(self.run, config.classes, names, self.step, self.mixture.epoch_steps)
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

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the network's forward pass."""
        dtype = torch.float16 if self.config.precision == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.precision != "float32")

    def _train_step(self, batch: Batch) -> dict[str, float]:
        self.network.train()
        for module in self.frozen:
            module.eval()
        rate = learning_rate(self.config.optimizer, self.step, self.config.steps)
        set_rate(self.optimizer, rate)
        kept = [buffer.clone() for buffer in self.network.buffers()]
        with self.autocast():
            prediction = self.network(batch.images)
        parts = self.objective(prediction, batch, self._taught(batch))
        loss = torch.stack(list(parts.values())).sum()
        if not loss.requires_grad:
            raise ConfigError("optimizer.only: no loss reaches the parts that are to learn; weigh one in [loss]")
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        norm = self._step_optimizer()
        if not math.isfinite(norm):  # the batch norms may have seen the garbage too
            for buffer, before in zip(self.network.buffers(), kept, strict=True):
                buffer.copy_(before)
        self.step += 1
        self.average.update(self.network, self.step)
        values = {"loss": float(loss.detach()), "learning_rate": rate, "gradient_norm": norm}
        return values | {"skipped": self.guard.refused} | {k: float(v.detach()) for k, v in parts.items()}

    def _taught(self, batch: Batch) -> Tensor | None:
        if self.teacher is None:
            return None
        with self.autocast():
            return self.teacher(batch.images)

    def _step_optimizer(self) -> float:
        """Clip and apply the gradient unless it is garbage; its norm before. Raises PerceptionError on divergence."""
        self.scaler.unscale_(self.optimizer)
        clip = self.config.optimizer.clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip))
        if self.guard.accepts(norm):
            self.scaler.step(self.optimizer)
        elif self.guard.refused_in_a_row >= _LOST:
            raise PerceptionError(
                f"{self.run}: no usable gradient for {_LOST} steps, at step {self.step}: the training has diverged; "
                "start again with a lower optimizer.learning_rate"
            )
        self.scaler.update()
        return norm

    def _validate_if_due(self, records: Records, progress: Progress) -> bool:
        """Write a row of the log where one is due, with a score where a validation is; True after a validation."""
        config = self.config.validation
        every = (config.every_steps if config else 0) or self.mixture.epoch_steps
        is_end = self.step == self.config.steps
        confusion: Confusion | None = None
        if config and self.validation and (is_end or self.step % every == 0):
            classes, what = len(self.config.classes), f"validating at step {self.step}"
            network, self._is_validating = self.average.network, True
            confusion = validate(
                network, self.validation, config.size, classes, self.autocast, lambda i, n: progress(what, i, n)
            )
            self._keep_if_best(confusion)
            self._is_validating = False
        if confusion or is_end or self.step % self.config.log_steps == 0:
            records.write(confusion)
        return confusion is not None

    def _keep_if_best(self, confusion: Confusion) -> None:
        self.miou = confusion.mean_iou()
        before = f"best before {100 * self.best:.2f}" if self.best >= 0 else "the first"
        log.info("step %d: validation mIoU %.2f (%s)", self.step, 100 * self.miou, before)
        if self.miou > self.best:
            beaten, self.best = self.best, self.miou
            try:
                self.save(BEST)
            except SaveError as error:
                self.best = beaten
                log.warning("%s; the best weights are not kept this time", error)
