"""What learns in a run: the network, the average of its weights, the optimiser and a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perception.errors import ConfigError
from perception.training.averaging import WeightAverage
from perception.training.batches import Batch
from perception.training.checkpoint import AVERAGED, NETWORK, part, restore
from perception.training.config import TrainingConfig
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
from perception.training.schedule import learning_rate
from perception.training.start import start_from
from perception.training.teacher import Teacher, open_teacher

OPTIMIZER = "optimizer."


class Learner:
    """Network, average, optimiser and teacher.

    Args:
        base: where relative paths of `config` start.

    Raises:
        ConfigError, ModelError: the teacher or a combination of settings is wrong.
    """

    def __init__(self, config: TrainingConfig, base: Path, device: torch.device, objective: Objective) -> None:
        self.config, self.device, self.objective = config, device, objective
        network = build_network(config.network, len(config.classes))
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen = freeze(self.network, config.optimizer)
        self.average = WeightAverage(self.network, config.average)
        self.optimizer = build_optimizer(self.network, config.optimizer)
        self.guard = SpikeGuard(config.optimizer.skip_above)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.teacher: Teacher | None = None
        if config.teacher:
            self.teacher = open_teacher(config.teacher, base, config.classes).to(device)

    def start(self, path: Path, images: Tensor) -> None:
        """Take start weights; `images`: a batch as in training. Raises ConfigError, ModelError as `start_from`."""
        start_from(self.network, path, self.config, images)
        self.average = WeightAverage(self.network, self.config.average)

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, as a checkpoint has them."""
        return {f"{AVERAGED}{key}": t for key, t in self.average.network.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has beside the averaged weights to go on from."""
        tensors = {f"{NETWORK}{key}": t for key, t in self.network.state_dict().items()}
        return tensors | {f"{OPTIMIZER}{key}": t for key, t in optimizer_tensors(self.optimizer).items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint has beside tensors to go on from."""
        guard = self.guard
        refused = {"refused": guard.refused, "refused_in_a_row": guard.refused_in_a_row}
        return {"scaler": self.scaler.state_dict(), "norms": guard.norms, **refused}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any], path: Path) -> None:
        """Go on from what a checkpoint has; `path`: where it is from.

        Raises:
            ModelError: weights do not fit. KeyError, ValueError, IndexError, RuntimeError: the rest does not.
        """
        restore(self.network, part(tensors, NETWORK), path)
        restore(self.average.network, part(tensors, AVERAGED), path)
        restore_optimizer(self.optimizer, part(tensors, OPTIMIZER))
        self.scaler.load_state_dict(state["scaler"])
        self.guard.norms, self.guard.refused = state["norms"], state["refused"]
        self.guard.refused_in_a_row = state["refused_in_a_row"]

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the network's forward pass."""
        dtype = torch.float16 if self.config.precision == "float16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.config.precision != "float32")

    def learn(self, batch: Batch, step: int) -> dict[str, float]:
        """One step of the optimiser, the `step`-th from 0 on; the parts of the loss and more by name.

        Raises:
            ConfigError: nothing that is to learn has a loss.
        """
        self.network.train()
        for module in self.frozen:
            module.eval()
        rate = learning_rate(self.config.optimizer, step, self.config.steps)
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
        self.average.update(self.network, step + 1)
        values = {"loss": float(loss.detach()), "learning_rate": rate, "gradient_norm": norm}
        return values | {"skipped": self.guard.refused} | {k: float(v.detach()) for k, v in parts.items()}

    def _taught(self, batch: Batch) -> Tensor | None:
        if self.teacher is None:
            return None
        images = batch.images if batch.is_taught is None else batch.images[batch.is_taught]
        with self.autocast():
            return self.teacher(images.contiguous(memory_format=torch.channels_last))

    def _step_optimizer(self) -> float:
        """Clip and apply the gradient unless it is garbage; its norm before."""
        self.scaler.unscale_(self.optimizer)
        clip = self.config.optimizer.clip or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip))
        if self.guard.accepts(norm):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm
