"""Scores as plain tables: what the JSON holds and the terminal shows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.evaluation.boundary import BoundaryF
from perception.evaluation.flicker import Flicker
from perception.evaluation.instance_ap import InstanceAP
from perception.evaluation.panoptic_quality import PanopticQuality, Quality
from perception.evaluation.score import Scores
from perception.evaluation.segmentation import Confusion

DIGITS = 4


def report(scores: Scores) -> dict[str, Any]:
    """All figures as shares of 1, by class name where there is one; None for what does not occur."""
    names = scores.classes.names
    out: dict[str, Any] = {"images": scores.images}
    if scores.confusion and scores.boundary:
        out |= _semantic(scores.confusion, names)
        out["dice_image_mean"] = by_name(names, scores.image_dice / max(1, scores.images))
        out |= _boundary(scores.boundary, names)
    if len(scores.panoptic.classes):
        out["panoptic"] = _panoptic(scores.panoptic, names, scores.classes.things)
    if scores.instances:
        out["instance_ap"] = _instances(scores.instances, names)
    if scores.flicker:
        out["flicker"] = flicker_figures(scores.flicker, names)
    return out


def _semantic(confusion: Confusion, names: tuple[str, ...]) -> dict[str, Any]:
    iou, dice = confusion.iou(), confusion.dice()
    return {
        "iou": by_name(names, iou),
        "mean_iou": mean_known(iou),
        "pixel_accuracy": plain(confusion.pixel_accuracy()),
        "dice": by_name(names, dice),
        "mean_dice": mean_known(dice),
    }


def _boundary(boundary: BoundaryF, names: tuple[str, ...]) -> dict[str, Any]:
    f = dict(zip(map(str, boundary.tolerances), boundary.f(), strict=True))
    by_tolerance = {t: by_name(names, values) for t, values in f.items()}
    return {"boundary_f": by_tolerance, "mean_boundary_f": {t: mean_known(values) for t, values in f.items()}}


def _panoptic(quality: PanopticQuality, names: tuple[str, ...], things: frozenset[int]) -> dict[str, Any]:
    scored = set(quality.classes.tolist())
    groups = {"all": scored, "things": scored & things, "stuff": scored - things}
    out: dict[str, Any] = {group: _quality(quality.mean(classes)) for group, classes in groups.items() if classes}
    values = quality.by_class()
    out["by_class"] = {
        names[c]: dict(zip(("pq", "sq", "rq"), map(plain, values[:, k]), strict=True))
        | {"tp": int(quality.tp[k]), "fp": int(quality.fp[k]), "fn": int(quality.fn[k])}
        for k, c in enumerate(quality.classes)
    }
    return out


def _quality(quality: Quality) -> dict[str, float | int | None]:
    return {"pq": plain(quality.pq), "sq": plain(quality.sq), "rq": plain(quality.rq), "classes": quality.classes}


def _instances(instances: InstanceAP, names: tuple[str, ...]) -> dict[str, Any]:
    stats = [None if value < 0 else plain(value) for value in instances.coco_stats()]
    by_class = {names[c]: {"ap": plain(ap), "ap50": plain(ap50)} for c, (ap, ap50) in instances.by_class().items()}
    keys = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    return dict(zip(keys, stats, strict=False)) | {"by_class": by_class}


def flicker_figures(flicker: Flicker, names: tuple[str, ...]) -> dict[str, Any]:
    by_class = by_name(names, flicker.by_class())
    return {"overall": plain(flicker.overall()), "pairs": flicker.pairs, "by_class": by_class}


def by_name(names: Iterable[str], values: NDArray[np.float64]) -> dict[str, float | None]:
    return {name: plain(value) for name, value in zip(names, values, strict=True)}


def mean_known(values: NDArray[np.float64]) -> float | None:
    """Over the classes that occur."""
    known = values[~np.isnan(values)]
    return plain(known.mean()) if known.size else None


def plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), DIGITS)
