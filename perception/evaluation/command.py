"""`perception evaluate` as one function."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from perception.engines import EngineName, open_engine
from perception.errors import ConfigError
from perception.evaluation.predict import predict, score
from perception.evaluation.segmentation import Confusion
from perception.models.card import find
from perception.models.semantic import SemanticModel


def evaluate_command(
    data: Path,
    model: str,
    engine: str,
    merge: Sequence[str],
    keep: Path | None,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Predict all of `data`, score it, and return IoU by class name, mean IoU and pixel accuracy.

    Raises:
        PerceptionError: the model or the data can't be used, or `merge` names no class.
    """
    if engine not in get_args(EngineName):
        raise ConfigError(f"engine {engine!r} is not one of {', '.join(get_args(EngineName))}")
    files = find(model)
    network = SemanticModel(files, open_engine(files.graph, engine))  # type: ignore[arg-type]
    names = files.card.class_table().names
    with tempfile.TemporaryDirectory() as temporary:
        out = keep or Path(temporary)
        predict(network, data / "images", out, lambda done, total: progress("predicting", done, total))
        confusion = score(out, data / "labels", len(names), lambda done, total: progress("scoring", done, total))
    confusion, names = merge_classes(confusion, names, merge)
    iou = confusion.iou()
    return {
        "model": files.identity,
        "engine": network.engine.name,
        "iou": {n: None if math.isnan(v) else round(float(v), 4) for n, v in zip(names, iou, strict=True)},
        "mean_iou": round(confusion.mean_iou(), 4),
        "pixel_accuracy": round(confusion.pixel_accuracy(), 4),
    }


def merge_classes(
    confusion: Confusion, names: tuple[str, ...], merge: Sequence[str]
) -> tuple[Confusion, tuple[str, ...]]:
    """Score each `from=to` pair as one class; raises ConfigError where a name is not a class."""
    target = dict.fromkeys(names)
    for pair in merge:
        source, _, goal = (part.strip() for part in pair.partition("="))
        if source not in names or goal not in names:
            raise ConfigError(f"--merge {pair!r}: write 'class=class' with names of {', '.join(names)}")
        target[source] = goal
    kept = tuple(name for name in names if target[name] is None)
    into = np.array([kept.index(target[name] or name) for name in names])
    return confusion.merged(into), kept
