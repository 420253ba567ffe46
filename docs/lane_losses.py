"""What each loss does to a thin, rare class: `python docs/lane_losses.py CAMVID --out docs`.

The same small network learns lane marking or not from the same start and the same batches, once with each loss, and is
scored on the validation pictures. Writes lane_losses.csv and lane_losses.png and prints a table. CAMVID holds train/
and val/, each with images/ and labels/.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.cli.progress import progress_bar
from perception.opencv import cv2
from perception.training.config import CLASSES, ValidationConfig
from perception.training.datasets import IGNORE, open_dataset
from perception.training.label_set import Codes
from perception.training.losses import (
    Loss,
    boundary_loss,
    cross_entropy,
    dice_cross_entropy,
    dice_loss,
    focal_loss,
    hausdorff_loss,
    ohem_cross_entropy,
)
from perception.training.losses.distance import signed_distance

SIZE = (180, 240)  # h, w of every picture [px]
CROP = (128, 160)
BATCH = 4
LEARNING_RATE = 3e-3
FAR = 3.0  # [px] from the nearest true lane pixel's border
THRESHOLDS = np.arange(0.05, 0.96, 0.05).round(2)

CHECKS = 4  # times that a run is scored on its way


def with_dice_ce(weight: float, far: Loss) -> Loss:
    return lambda logits, target: dice_cross_entropy(logits, target) + weight * far(logits, target)


STUDIED: dict[str, Loss] = {
    "ce": cross_entropy,
    "ce, lane x 10": partial(cross_entropy, class_weight=torch.tensor([1.0, 10.0])),
    "ohem": ohem_cross_entropy,
    "focal": focal_loss,
    "dice": dice_loss,
    "dice+ce": dice_cross_entropy,
    "boundary": boundary_loss,
    "dice+ce + 0.01 boundary": with_dice_ce(0.01, boundary_loss),
    "hausdorff": hausdorff_loss,
    "dice+ce + 0.0001 hausdorff": with_dice_ce(0.0001, hausdorff_loss),
    "dice+ce + 0.001 hausdorff": with_dice_ce(0.001, hausdorff_loss),
}
COLOURS = (
    "#8c8c8c", "#3b3b3b", "#1f77b4", "#17a2b8", "#2ca02c", "#8fbc2b",
    "#f5a623", "#d9480f", "#e58ad0", "#9b4fc4", "#5b2a86",
)  # fmt: skip

Row = dict[str, str | float]


class Pictures(NamedTuple):
    images: NDArray[np.uint8]  # (n, h, w, 3) RGB
    labels: NDArray[np.uint8]  # (n, h, w) 1 lane marking, 0 anything else, or IGNORE


def read(folder: Path) -> Pictures:
    config = ValidationConfig(label_set="camvid12", folder=str(folder))
    dataset = open_dataset(folder.name, config, Codes(CLASSES), things=(), base=Path())
    images, labels = [], []
    for i in range(len(dataset)):
        image, label, _ = dataset.read(i)
        lane = np.where(label == IGNORE, IGNORE, label == CLASSES.index("lane marking")).astype(np.uint8)
        images.append(cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_AREA))
        labels.append(cv2.resize(lane, SIZE[::-1], interpolation=cv2.INTER_NEAREST))
    return Pictures(np.stack(images), np.stack(labels))


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) float32 in [-1, 1], channels last."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class LaneNetwork(nn.Module):
    """A narrow encoder and decoder with skips at every scale, 0.15 M parameters; logits at full size."""

    def __init__(self) -> None:
        super().__init__()
        self.at1 = conv(3, 8)
        self.at2 = nn.Sequential(conv(8, 16, 2), conv(16, 16))
        self.at4 = nn.Sequential(conv(16, 32, 2), conv(32, 32))
        self.at8 = nn.Sequential(conv(32, 64, 2), conv(64, 64, dilation=2), conv(64, 64, dilation=4))
        self.up = nn.ModuleList((conv(64 + 32, 32), conv(32 + 16, 16), conv(16 + 8, 8)))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.at1(x)
        x2 = self.at2(x1)
        x4 = self.at4(x2)
        y = self.at8(x4)
        for up, skip in zip(self.up, (x4, x2, x1), strict=True):
            y = up(torch.cat((F.interpolate(y, skip.shape[-2:], mode="bilinear", align_corners=False), skip), 1))
        return self.head(y)


def batches(pictures: Pictures, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Random crops, half of them mirrored; the same for every loss."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        images, labels = [], []
        for i in rng.choice(len(pictures.images), BATCH, replace=False):
            y, x = (int(rng.integers(full - part + 1)) for full, part in zip(SIZE, CROP, strict=True))
            turn = int(rng.choice((-1, 1)))
            images.append(pictures.images[i, y : y + CROP[0], x : x + CROP[1]][:, ::turn])
            labels.append(pictures.labels[i, y : y + CROP[0], x : x + CROP[1]][:, ::turn])
        yield to_input(np.stack(images)), torch.from_numpy(np.stack(labels).astype(np.int64))


def train(pictures: Pictures, loss: Loss, steps: int, seed: int) -> Iterator[LaneNetwork]:
    """Yields the network after every step: AdamW with a poly schedule."""
    torch.manual_seed(seed)
    net = LaneNetwork().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    for images, labels in batches(pictures, steps, seed):
        value = loss(net(images), labels)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
        yield net


@torch.no_grad()
def predict(net: LaneNetwork, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, h, w) probability of lane marking."""
    net.eval()
    parts = [net(to_input(images[i : i + 8])).softmax(1)[:, 1].numpy() for i in range(0, len(images), 8)]
    net.train()
    return np.concatenate(parts)


def iou(probability: NDArray[np.float32], labels: NDArray[np.uint8], threshold: float = 0.5) -> float:
    said, true = (probability > threshold) & (labels != IGNORE), labels == 1
    return float(np.sum(said & true) / np.sum(said | true))


def score(probability: NDArray[np.float32], labels: NDArray[np.uint8]) -> Row:
    """All pixels of all pictures together; `far` is the share of false lane pixels more than 3 px from any true one."""
    true, valid = labels == 1, labels != IGNORE
    said = (probability > 0.5) & valid
    tp, fp, fn = (int(np.sum(x)) for x in (said & true, said & ~true, ~said & true))
    false = said & ~true
    far = sum(int(np.sum(f & ((signed_distance(t, ~t) > FAR) | ~t.any()))) for f, t in zip(false, true, strict=True))
    row: Row = {"iou": tp / (tp + fp + fn), "precision": tp / max(tp + fp, 1), "recall": tp / (tp + fn)}
    row |= {"thickness": (tp + fp) / (tp + fn), "far": far / max(fp, 1)}
    row["rest_iou"] = (int(valid.sum()) - tp - fp - fn) / (int(valid.sum()) - tp)
    at = {t: iou(probability, labels, t) for t in THRESHOLDS}
    best = max(at, key=lambda t: at[t])
    return row | {"best_iou": at[best], "best_threshold": best} | {f"iou above {t:.2f}": v for t, v in at.items()}


def train_and_score(
    loss: Loss, seed: int, steps: int, sets: tuple[Pictures, Pictures], advance: Callable[[], None]
) -> Row:
    """Scores after the last step, with the IoU on the way there."""
    pictures, validation = sets
    checks = {steps * i // CHECKS for i in range(1, CHECKS + 1)}
    row: Row = {}
    for step, net in enumerate(train(pictures, loss, steps, seed), 1):
        if step in checks:
            probability = predict(net, validation.images)
            row[f"iou after {step}"] = iou(probability, validation.labels)
            if step == steps:
                row = score(probability, validation.labels) | row
        advance()
    return row


def study(camvid: Path, steps: int, seeds: int) -> Iterator[Row]:
    """One row for each seed and loss."""
    sets = read(camvid / "train"), read(camvid / "val")
    with progress_bar() as bar:
        task = bar.add_task("", total=len(STUDIED) * seeds * steps)
        for seed, (name, loss) in itertools.product(range(seeds), STUDIED.items()):
            bar.update(task, description=f"{name}, seed {seed}")
            row = train_and_score(loss, seed, steps, sets, partial(bar.advance, task))
            yield {"loss": name, "seed": seed} | {k: round(float(v), 4) for k, v in row.items()}


def mean(rows: list[dict[str, str]], name: str, column: str) -> float:
    """Of one loss, over the seeds."""
    return float(np.mean([float(row[column]) for row in rows if row["loss"] == name]))


def curve(rows: list[dict[str, str]], name: str, prefix: str) -> tuple[list[float], list[float]]:
    """The numbers at the end of the columns that begin so, and the means there."""
    columns = [column for column in rows[0] if column.startswith(prefix)]
    return [float(column.removeprefix(prefix)) for column in columns], [mean(rows, name, c) for c in columns]


def plot_plane(axes: Axes, rows: list[dict[str, str]]) -> None:
    """Precision over recall: each run a small dot, each loss a large one, on lines of equal IoU and of equal area."""
    recall, precision = np.meshgrid(np.linspace(0.01, 1, 200), np.linspace(0.01, 1, 200))
    lines = axes.contour(recall, precision, 1 / (1 / recall + 1 / precision - 1), np.arange(0.1, 1, 0.1), colors="#ddd")
    axes.clabel(lines, fmt="IoU %.1f", fontsize=7, colors="#999")
    for area in (0.5, 1, 2):
        axes.plot((0, min(1, area)), (0, min(1, 1 / area)), color="#bbb", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"area x {area}", (min(1, area) * 0.97, min(1, 1 / area) * 0.97), ha="right", fontsize=7, color="#999"
        )
    for name, colour in zip(STUDIED, COLOURS, strict=True):
        mine = [row for row in rows if row["loss"] == name]
        x, y = ([float(row[key]) for row in mine] for key in ("recall", "precision"))
        axes.scatter(x, y, s=14, color=colour, zorder=3)
        axes.scatter(np.mean(x), np.mean(y), s=90, color=colour, alpha=0.75, linewidth=0, zorder=4)
    axes.set(xlabel="recall", ylabel="precision", title="as trained (probability above 0.5)")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def plot(rows: list[dict[str, str]], path: Path) -> None:
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11})
    figure, (plane, thresholds, steps) = plt.subplots(1, 3, figsize=(16, 5.6), layout="constrained")
    plot_plane(plane, rows)
    for name, colour in zip(STUDIED, COLOURS, strict=True):
        style = {"color": colour, "linewidth": 2, "label": name}
        thresholds.plot(*curve(rows, name, "iou above "), **style)
        steps.plot(*curve(rows, name, "iou after "), marker="o", markersize=3, **style)
    thresholds.set(xlabel="lane where the probability is above", ylabel="IoU of lane marking", title="other thresholds")
    steps.set(xlabel="training steps", ylabel="IoU of lane marking", title="on the way (probability above 0.5)")
    for axes in (thresholds, steps):
        axes.set_ylim(0, None)
        axes.grid(color="#eee")
    figure.legend(*steps.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=110)


def print_table(rows: list[dict[str, str]]) -> None:
    columns = ("iou", "precision", "recall", "thickness", "far", "rest_iou", "best_iou", "best_threshold")
    print("| loss |", " | ".join(columns), "|\n" + "|---" * (len(columns) + 1) + "|")
    for name in STUDIED:
        print(f"| {name} |", " | ".join(f"{mean(rows, name, column):.3f}" for column in columns), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out / "lane_losses.csv"
    with path.open("w", newline="") as file:
        for row in study(options.camvid, options.steps, options.seeds):
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
            file.flush()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    plot(rows, options.out / "lane_losses.png")
    print_table(rows)


if __name__ == "__main__":
    main()
