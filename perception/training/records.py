"""What a run leaves to look at: log.csv, TensorBoard events and curves.png, all in its folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from perception.errors import reason
from perception.evaluation.segmentation import Confusion
from perception.training.events import Events
from perception.training.log_file import LogFile
from perception.whole_file import in_place_of

log = logging.getLogger(__name__)

LOG = "log.csv"
PARTS = ("auxiliary", "coarse", "distillation", "centre", "offset")


class Records:
    """Rows of means over the steps since the last row, and the score where the row is a validation.

    A disk that is full costs warnings, never the run.

    Args:
        run: the folder; a log.csv there keeps its rows up to `step`.
        losses: names of the semantic losses.
    """

    def __init__(self, run: Path, classes: Sequence[str], losses: Sequence[str], step: int, epoch_steps: int) -> None:
        self.epoch_steps, self.step, self._picture = epoch_steps, step, run / "curves.png"
        columns = ("step", "epoch", "seconds_per_step", "learning_rate", "loss", *losses, *PARTS)
        columns += ("gradient_norm", "skipped", "miou")
        self.scores = score_columns(classes, columns)
        self._log = LogFile(run / LOG, (*columns, *self.scores), step)
        self._events = Events(run / "tensorboard", step)
        self._sums: dict[str, list[float]] = {}
        self._last = time.monotonic()
        self._is_drawn = True

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
            row |= {name: round(float(v), 5) for name, v in zip(self.scores, confusion.iou(), strict=True)}
        self._log.add({"step": str(self.step), **{name: str(value) for name, value in row.items()}})
        self._events.add({self._tag(name): value for name, value in row.items()}, self.step)
        if confusion is not None:
            self._draw()
        self._last = time.monotonic()  # a validation and its curves are no part of a step

    def flush(self) -> None:
        """Write what a full disk refused, if it has room now."""
        self._log.flush()
        self._events.flush()
        if not self._is_drawn:
            self._draw()

    def _means(self) -> dict[str, float]:
        row = {"epoch": round(self.step / self.epoch_steps, 3)}
        row |= {name: float(f"{np.mean(v):.6g}") for name, v in self._sums.items()}
        self._sums = {}
        return row

    def _tag(self, name: str) -> str:
        return f"{'validation' if name == 'miou' or name in self.scores else 'training'}/{name}"

    def _draw(self) -> None:
        self._is_drawn = False
        try:
            with in_place_of(self._picture) as partial:
                draw_curves(self._log.rows, self.scores, partial)
            self._is_drawn = True
        except OSError as error:
            log.warning("%s: can't be written: %s", self._picture, reason(error))


def score_columns(classes: Sequence[str], taken: Collection[str]) -> tuple[str, ...]:
    """A column for the IoU of each class: its name, or iou/NAME where a column is called so already."""
    columns = list(taken)
    for name in classes:
        while name in columns:
            name = f"iou/{name}"
        columns.append(name)
    return tuple(columns[len(taken) :])


def draw_curves(rows: Sequence[Mapping[str, str]], scores: Sequence[str], path: Path) -> None:
    """Loss with its parts, learning rate, mean IoU and IoU per class (columns `scores`) against the step, as PNG."""
    figure = Figure(figsize=(14, 8))
    figure.subplots_adjust(0.06, 0.06, 0.98, 0.95, 0.12, 0.14)
    losses, rates, means, single = figure.subplots(2, 2, sharex=True).flat
    skip = {"step", "epoch", "seconds_per_step", "learning_rate", "gradient_norm", "skipped", "miou", *scores}
    for name in dict.fromkeys(name for row in rows for name, value in row.items() if value != "" and name not in skip):
        losses.plot(*_curve(rows, name), label=name, linewidth=2 if name == "loss" else 1)
    rates.plot(*_curve(rows, "learning_rate"), color="black")
    means.plot(*_curve(rows, "miou"), color="black", marker=".")
    for i, name in enumerate(scores):
        line, label = "-" if i < 10 else "--", name.replace("$", r"\$")  # between two $ is a formula
        single.plot(*_curve(rows, name), label=label, color=f"C{i % 10}", linestyle=line, marker=".")
    titles = ("loss", "learning rate", "validation mIoU", "validation IoU per class")
    for axes, title in zip((losses, rates, means, single), titles, strict=True):
        axes.set_title(title)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small", ncols=2)
    for axes in (means, single):
        axes.set_xlabel("step")
    figure.savefig(path, dpi=80, format="png")


def _curve(rows: Sequence[Mapping[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a column where it has one that is a number."""
    pairs = [(int(row["step"]), float(row[name])) for row in rows if row.get(name) not in (None, "", "nan")]
    return [step for step, _ in pairs], [value for _, value in pairs]
