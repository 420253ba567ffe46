"""The training loop of the memory reader: one run in one folder, which can be killed and goes on with --resume."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from perception.errors import ModelError, PerceptionError
from perception.training.averaging import WeightAverage
from perception.training.checkpoint import AVERAGED, SaveError, part, restore
from perception.training.networks.memory import MemoryReader
from perception.training.optimizer import SpikeGuard, optimizer_tensors, restore_optimizer
from perception.training.propagator.checkpoint import ReaderRun, load_reader_run, save_reader_run
from perception.training.propagator.features import EncodedClip
from perception.training.propagator.log import Log
from perception.training.propagator.rollout import Sequence as Batch
from perception.training.propagator.rollout import rollout_loss
from perception.training.propagator.sequences import SequenceSampler, whole

log = logging.getLogger(__name__)

LAST = "last.safetensors"
READER, OPTIMIZER, NORMS = "reader.", "optimizer.", "guard.norms"
WARMUP, CLIP, LOG_STEPS, SAVE_S = 50, 1.0, 25, 120.0
SKIP_ABOVE = 20.0  # a gradient norm above it, and far above what it was lately, is garbage
VALIDATION_FRAMES = 8
_LOST = 50
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    steps: int = 3000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    average: float = 0.998
    seed: int = 0


class ReaderTrainer:
    """Reader, average and optimiser of one run.

    Args:
        clips: to train on, and `validation` to score on; of different drives and pictures.

    Raises:
        ConfigError: no clip shows any object.
    """

    def __init__(
        self, settings: Settings, run: Path, clips: Sequence[EncodedClip], validation: Sequence[EncodedClip]
    ) -> None:
        self.settings, self.run, self.validation = settings, run, validation
        self.sampler = SequenceSampler(clips, settings.seed)
        torch.manual_seed(settings.seed)
        self.reader = MemoryReader(clips[0].channels)
        self.average = WeightAverage(self.reader, settings.average)
        self.optimizer = torch.optim.AdamW(
            self.reader.parameters(), settings.learning_rate, (0.9, 0.98), weight_decay=settings.weight_decay
        )
        self.guard = SpikeGuard(SKIP_ABOVE)
        self.step = 0

    def start(self, reader: MemoryReader, path: Path) -> None:
        """Begin with the weights of another run. Raises ModelError where it was trained on other features."""
        self._require_channels(reader.channels, path)
        self.reader.load_state_dict(reader.state_dict())
        self.average = WeightAverage(self.reader, self.settings.average)

    def resume(self) -> None:
        """Go on from the folder's last checkpoint. Raises ModelError where it is broken."""
        path = self.run / LAST
        tensors, step, channels = load_reader_run(path)
        self._require_channels(channels, path)
        restore(self.reader, part(tensors, READER), path)
        restore(self.average.network, part(tensors, AVERAGED), path)
        try:
            restore_optimizer(self.optimizer, part(tensors, OPTIMIZER))
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise ModelError(f"{path}: no optimiser to go on with ({error!r}); use it with --start instead") from None
        # Without the norms before, the first gradient after a resume would be believed whatever it is.
        if NORMS in tensors:
            refused, *self.guard.norms = tensors[NORMS].tolist()
            self.guard.refused_in_a_row = int(refused)
        self.step = step

    def _require_channels(self, channels: tuple[int, ...], path: Path) -> None:
        if channels != self.reader.channels:
            raise ModelError(
                f"{path}: reads features of {channels} channels, the network gives {self.reader.channels}; "
                "train a memory for this network from the start"
            )

    def save(self) -> None:
        """Raises SaveError where the disk is full; the checkpoint before it stays whole."""
        tensors = {f"{READER}{k}": t for k, t in self.reader.state_dict().items()}
        tensors |= {f"{AVERAGED}{k}": t for k, t in self.average.network.state_dict().items()}
        tensors |= {f"{OPTIMIZER}{k}": t for k, t in optimizer_tensors(self.optimizer).items()}
        tensors[NORMS] = torch.tensor([self.guard.refused_in_a_row, *self.guard.norms], dtype=torch.float64)
        save_reader_run(self.run / LAST, ReaderRun(tensors, self.step, self.reader.channels))

    def train(self, progress: Progress, asked_to_stop: Callable[[], bool]) -> bool:
        """Run to the last step or until asked to stop; True when complete.

        Raises:
            SaveError: the disk is full at the end. PerceptionError: the training has diverged.
        """
        saved, rows = time.monotonic(), Log(self.run / "log.csv", self.step)
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.sampler.batch, self.step)
            while self.step < self.settings.steps and not asked_to_stop():
                batch = coming.result()
                coming = ahead.submit(self.sampler.batch, self.step + 1)
                values = self._train_step(batch)
                shown = f"loss {values['loss']:.3f}  IoU {values.get('iou', math.nan):.3f}"
                progress(shown, self.step, self.settings.steps)
                rows.add(values)
                if self.step % LOG_STEPS == 0 or self.step == self.settings.steps:
                    rows.write(self.step)
                if time.monotonic() - saved > SAVE_S:
                    self._try_to_save()
                    saved = time.monotonic()
        try:
            self.save()
        except SaveError as error:
            from_where = "from the last checkpoint" if (self.run / LAST).exists() else "with its clips from the start"
            raise SaveError(f"{error}; make room and go on {from_where} with --resume") from None
        finally:
            rows.flush()
        return self.step >= self.settings.steps

    def _try_to_save(self) -> None:
        try:
            self.save()
        except SaveError as error:
            log.warning("%s; training goes on and tries again in %g s", error, SAVE_S)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        settings = self.settings
        # by the step alone, so that a resumed run draws what an unbroken one would
        torch.manual_seed(settings.seed + 1000 * self.step)
        rate = settings.learning_rate * min(1.0, (self.step + 1) / WARMUP)
        rate *= 0.5 * (1 + math.cos(math.pi * self.step / settings.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, values = rollout_loss(self.reader, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.reader.parameters(), CLIP))
        if self.guard.accepts(norm):
            self.optimizer.step()
        elif self.guard.refused_in_a_row >= _LOST:
            raise PerceptionError(
                f"{self.run}: no usable gradient for {_LOST} steps, at step {self.step}: the training has diverged; "
                "begin again with a lower --learning-rate"
            )
        self.step += 1
        self.average.update(self.reader, self.step)
        return values | {"loss": float(loss.detach()), "learning_rate": rate}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Means of the parts of the loss, of the IoU and of the share of hidden objects known as hidden."""
        found: dict[str, list[float]] = {}
        torch.manual_seed(self.settings.seed)
        for clip in self.validation:
            _, values = rollout_loss(self.average.network, whole(clip, VALIDATION_FRAMES))  # type: ignore[arg-type]
            for name, value in values.items():
                found.setdefault(name, []).append(value)
        return {name: statistics.fmean(v) for name, v in found.items()}
