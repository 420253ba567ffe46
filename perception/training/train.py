"""The training loop: mixed data sets, OHEM + Dice, AdamW with a poly schedule, an averaged copy that is kept."""

from __future__ import annotations

import copy
import csv
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from perception.errors import ConfigError
from perception.evaluation.segmentation import Confusion
from perception.training.batches import Batch, Mixture
from perception.training.datasets import CLASSES, Dataset, idd_lite, image_label_folder
from perception.training.losses import dice_loss, ohem_cross_entropy, set_cross_entropy
from perception.training.networks.deeplab import DeepLabV3Plus
from perception.training.networks.mobilenet import calibrate_batch_norm, load_imagenet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What decides a training run; the seed makes it repeatable on one machine."""

    steps: int = 4000
    counts: dict[str, int] = field(default_factory=lambda: {"camvid": 8, "idd-lite": 2, "rendered": 2})
    crop: tuple[int, int] = (352, 480)  # h, w [px]
    learning_rate: float = 1e-3
    backbone_factor: float = 0.5  # the pretrained part learns slower
    weight_decay: float = 0.02
    warmup: int = 100  # [steps]
    average: float = 0.998  # decay of the averaged weights
    seed: int = 0
    output_stride: int = 16
    last_stage: int = 6
    width: int = 128
    frozen: int = 2  # stem and so many backbone stages keep their ImageNet weights: 1.6 times the steps an hour
    bfloat16: bool = True
    validate_every: int = 250  # [steps]


SPIKE = 100.0  # gradient norms of this network stay below 10
SCALES = {"camvid": (0.6, 1.9), "idd-lite": (0.9, 2.4), "rendered": (0.6, 1.6)}


def open_datasets(camvid: Path, idd: Path | None, rendered: Path | None) -> dict[str, Dataset]:
    """The training sets by name; only those whose folder is given."""
    sets = {"camvid": image_label_folder(camvid / "train", "camvid")}
    if idd:
        sets["idd-lite"] = idd_lite(idd)
    if rendered:
        sets["rendered"] = image_label_folder(rendered, "rendered")
    return sets


def loss_of(net: DeepLabV3Plus, batch: Batch, bfloat16: bool) -> Tensor:
    """OHEM cross-entropy + 0.5 Dice on exact labels, set cross-entropy on coarse ones, 0.4 auxiliary at 1/8."""
    x = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits, auxiliary = net.forward_with_auxiliary(x)
    n, size = batch.exact, batch.labels.shape[-2:]
    logits = F.interpolate(logits.float().contiguous(), size, mode="bilinear", align_corners=False)
    small = batch.labels[:n, 4::8, 4::8]
    auxiliary = F.interpolate(auxiliary[:n].float(), small.shape[-2:], mode="bilinear", align_corners=False)
    loss = ohem_cross_entropy(logits[:n], batch.labels[:n]) + 0.5 * dice_loss(
        logits[:n, :, ::2, ::2], batch.labels[:n, ::2, ::2]
    )
    loss = loss + 0.4 * ohem_cross_entropy(auxiliary, small)
    if n < len(batch.labels):
        share = (len(batch.labels) - n) / len(batch.labels)
        loss = loss + share * set_cross_entropy(logits[n:], batch.labels[n:], batch.meaning)
    return loss


@torch.no_grad()
def validate(net: DeepLabV3Plus, dataset: Dataset) -> Confusion:
    """Predict every image at its own size and count; lane marking stays a class of its own."""
    net.eval()
    confusion = Confusion(len(CLASSES))
    for i in range(len(dataset)):
        image, labels = dataset.read(i)
        confusion.add(labels, predict(net, image))
    return confusion


@torch.no_grad()
def predict(net: DeepLabV3Plus, image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB -> (h, w) uint8 class indices, logits upsampled bilinearly before the argmax."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(127.5).sub(1)
    logits = net(x.contiguous(memory_format=torch.channels_last))
    full = F.interpolate(logits, image.shape[:2], mode="bilinear", align_corners=False)
    return full.argmax(1)[0].to(torch.uint8).numpy()


class Trainer:
    """One run in one folder: `last.pt` to go on from, `averaged.pt` the result, `log.csv` the curve."""

    def __init__(self, recipe: Recipe, datasets: dict[str, Dataset], run: Path) -> None:
        missing = [n for n, c in recipe.counts.items() if c and n not in datasets]
        if missing:
            raise ConfigError(
                f"data set {missing[0]!r} has {recipe.counts[missing[0]]} samples a batch but no folder given"
            )
        torch.manual_seed(recipe.seed)
        self.recipe, self.run, self.step = recipe, run, 0
        self.mixture = Mixture(datasets, recipe.counts, recipe.crop, SCALES, recipe.seed)
        self.net = DeepLabV3Plus(len(CLASSES), recipe.width, recipe.output_stride, recipe.last_stage)
        self.net = self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.net).eval()
        self.frozen = [self.net.backbone.stem, *self.net.backbone.stages[: recipe.frozen]] if recipe.frozen else []
        for module in self.frozen:
            module.requires_grad_(False)
        backbone = [p for p in self.net.backbone.parameters() if p.requires_grad]
        rest = [p for n, p in self.net.named_parameters() if not n.startswith("backbone.")]
        groups = [{"params": backbone, "factor": recipe.backbone_factor}, {"params": rest, "factor": 1.0}]
        self.optimizer = torch.optim.AdamW(groups, recipe.learning_rate, weight_decay=recipe.weight_decay)
        run.mkdir(parents=True, exist_ok=True)

    def start_from_imagenet(self, weights: Path) -> None:
        load_imagenet(self.net.backbone, weights)
        calibrate_batch_norm(self.net.backbone, self.mixture.batch(0).images)
        self.averaged.load_state_dict(self.net.state_dict())

    def resume(self) -> bool:
        path = self.run / "last.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return True

    def save(self) -> None:
        state = {"net": self.net.state_dict(), "averaged": self.averaged.state_dict(), "step": self.step}
        state |= {"optimizer": self.optimizer.state_dict(), "recipe": asdict(self.recipe)}
        partial = self.run / "last.pt.partial"
        torch.save(state, partial)
        partial.replace(self.run / "last.pt")

    def train(self, validation: Dataset | None, progress: Callable[[int, float], None]) -> None:
        """Run to the recipe's last step; on Ctrl-C the state is saved before the interrupt goes on."""
        try:
            for batch in self.mixture.batches(self.step, self.recipe.steps):
                loss = self._train_step(batch)
                progress(self.step, loss)
                if self.step % self.recipe.validate_every == 0 or self.step == self.recipe.steps:
                    self.save()
                    if validation:
                        self._record(loss, validate(self.averaged, validation))
        finally:
            self.save()

    def _train_step(self, batch: Batch) -> float:
        self.net.train()
        for module in self.frozen:
            module.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate() * group["factor"]
        loss = loss_of(self.net, batch, self.recipe.bfloat16)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0))
        if norm < SPIKE:  # bfloat16 convolutions on a CPU give a garbage gradient about once in 50 steps
            self.optimizer.step()
        self.step += 1
        self._update_average()
        return float(loss.detach())

    def _rate(self) -> float:
        """Linear warm-up, then the poly schedule with power 0.9 (Chen et al. 2017, section 4.1)."""
        warm = min(1.0, (self.step + 1) / self.recipe.warmup)
        return self.recipe.learning_rate * warm * (1 - self.step / self.recipe.steps) ** 0.9

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        for kept, new in zip(self.averaged.state_dict().values(), self.net.state_dict().values(), strict=True):
            if kept.dtype.is_floating_point:
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    def _record(self, loss: float, confusion: Confusion) -> None:
        iou = dict(zip(CLASSES, confusion.iou(), strict=True))
        row = {"step": self.step, "loss": round(loss, 4), "miou": round(confusion.mean_iou(), 4)}
        row |= {name: round(float(value), 4) for name, value in iou.items()}
        path = self.run / "log.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as f:
            writer = csv.DictWriter(f, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        log.info("step %d: %s", self.step, row)
