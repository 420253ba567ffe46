"""The confusion matrix as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.errors import ConfigError, reason
from perception.evaluation.extra import load_extra
from perception.evaluation.segmentation import Confusion


def write_confusion_picture(confusion: Confusion, names: tuple[str, ...], path: Path) -> None:
    """A PNG of the matrix, each row (true class) in percent of its pixels; the column "none" is no class at all.

    Raises:
        ConfigError: matplotlib is not installed, or the picture can't be written.
    """
    load_extra("matplotlib", "the confusion picture")
    figure_class = load_extra("matplotlib.figure", "the confusion picture").Figure
    total = confusion.counts.sum(1, keepdims=True)
    share = np.where(total > 0, 100 * confusion.counts / np.maximum(total, 1), np.nan)
    columns = (*names, "none") if confusion.counts[:, -1].any() else names
    share = share[:, : len(columns)]
    side = 2.2 + 0.55 * len(names)
    figure = figure_class(figsize=(side + 1.2, side), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.5:
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else "black")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor")
    labels = [f"{name} ({100 * n / max(1, total.sum()):.1f} %)" for name, n in zip(names, total[:, 0], strict=True)]
    axes.set_yticks(range(len(names)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true class (share of all pixels)")
    axes.set_title("Confusion [% of the true class's pixels]; below 0.5 left blank")
    figure.colorbar(image, ax=axes, shrink=0.7)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ConfigError(f"{path}: can't be written ({reason(error)})") from None
