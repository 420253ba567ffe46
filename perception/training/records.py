"""What a run leaves to look at: log.csv, TensorBoard events and curves.png, all in its folder."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from perception.evaluation.segmentation import Confusion

log = logging.getLogger(__name__)

PARTS = ("auxiliary", "coarse", "distillation", "centre", "offset")
Row = dict[str, float | int | str]


class Records:
    """Rows of means over the steps since the last row, and the score where the row is a validation.

    A disk that is full costs rows, with a warning, never the run.

    Args:
        run: the folder; a log.csv there keeps its rows up to `step`.
        losses: names of the semantic losses.
    """

    def __init__(self, run: Path, classes: Sequence[str], losses: Sequence[str], step: int, epoch_steps: int) -> None:
        self.classes, self.epoch_steps, self.step = tuple(classes), epoch_steps, step
        self._path, self._picture = run / "log.csv", run / "curves.png"
        self.columns = ("step", "epoch", "seconds_per_step", "learning_rate", "loss", *losses, *PARTS)
        self.columns += ("gradient_norm", "skipped", "miou", *self.classes)
        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)
        self._rows = [row for row in _read(self._path) if int(row["step"]) <= step]
        self._write_all()
        self._sums: dict[str, list[float]] = {}
        self._last = time.monotonic()

    def __enter__(self) -> Records:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._events.close()
        except OSError as problem:
            log.warning("tensorboard: %s", problem)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take in one step that has just ended; `values` by column name."""
        self.step = step
        now = time.monotonic()
        for name, value in {"seconds_per_step": now - self._last, **values}.items():
            self._sums.setdefault(name, []).append(value)
        self._last = now

    def write(self, confusion: Confusion | None = None) -> None:
        """A row of what was added since the last one; with a score, the curves are drawn anew too."""
        row = self._means()
        if confusion is not None:
            row["miou"] = round(confusion.mean_iou(), 5)
            row |= {name: round(float(v), 5) for name, v in zip(self.classes, confusion.iou(), strict=True)}
        self._rows.append({name: str(value) for name, value in row.items()})
        try:
            with self._path.open("a", newline="") as f:
                csv.DictWriter(f, self.columns, restval="").writerow(row)
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(_tag(name, self.classes), value, self.step)
            if confusion is not None:
                self._events.flush()
                draw_curves(self._rows, self.classes, self._picture)
        except OSError as error:
            log.warning("%s: this row is not written: %s", self._path, error)
        self._last = time.monotonic()  # a validation and its curves are no part of a step

    def _means(self) -> dict[str, float]:
        row: dict[str, float] = {"step": self.step, "epoch": round(self.step / self.epoch_steps, 3)}
        row |= {name: float(f"{np.mean(v):.6g}") for name, v in self._sums.items()}
        self._sums = {}
        return row

    def _write_all(self) -> None:
        try:
            with self._path.open("w", newline="") as f:
                writer = csv.DictWriter(f, self.columns, restval="", extrasaction="ignore")
                writer.writeheader()
                writer.writerows(self._rows)
        except OSError as error:
            log.warning("%s: can't be written: %s", self._path, error)


def _read(path: Path) -> list[dict[str, str]]:
    """Rows of a log; a last one that a crash cut off, or a file that is no log, gives none."""
    if not path.is_file():
        return []
    with path.open(newline="", errors="replace") as f:
        return [row for row in csv.DictReader(f) if (row.get("step") or "").isdigit() and None not in row.values()]


def _tag(name: str, classes: Sequence[str]) -> str:
    if name == "miou" or name in classes:
        return f"validation/{name}"
    return f"training/{name}"


def draw_curves(rows: Sequence[Mapping[str, str]], classes: Sequence[str], path: Path) -> None:
    """Loss with its parts, learning rate, mean IoU and IoU per class against the step, as PNG."""
    figure = Figure(figsize=(14, 8))
    figure.subplots_adjust(0.06, 0.06, 0.98, 0.95, 0.12, 0.14)
    losses, rates, means, single = figure.subplots(2, 2, sharex=True).flat
    skip = {"step", "epoch", "seconds_per_step", "learning_rate", "gradient_norm", "skipped", "miou", *classes}
    for name in dict.fromkeys(name for row in rows for name, value in row.items() if value != "" and name not in skip):
        losses.plot(*_curve(rows, name), label=name, linewidth=2 if name == "loss" else 1)
    rates.plot(*_curve(rows, "learning_rate"), color="black")
    means.plot(*_curve(rows, "miou"), color="black", marker=".")
    for i, name in enumerate(classes):
        single.plot(*_curve(rows, name), label=name, color=f"C{i % 10}", linestyle="-" if i < 10 else "--", marker=".")
    titles = ("loss", "learning rate", "validation mIoU", "validation IoU per class")
    for axes, title in zip((losses, rates, means, single), titles, strict=True):
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small", ncols=2)
    for axes in (means, single):
        axes.set_xlabel("step")
    figure.savefig(path, dpi=80)


def _curve(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a column where it has one that is a number."""
    pairs = [(int(row["step"]), float(row[name])) for row in rows if row.get(name) not in (None, "", "nan")]
    return [step for step, _ in pairs], [value for _, value in pairs]
