"""Scores of clips as plain tables: what the JSON holds and the terminal shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from perception.evaluation.quality_calibration import QualityCalibration, Reliability
from perception.evaluation.region_contour import RegionContour, Statistics
from perception.evaluation.reidentification import EDGES_S, Reidentification
from perception.evaluation.report import by_name, flicker_figures, mean_known, plain
from perception.evaluation.score_clips import ClipScores, Tracking
from perception.evaluation.segmentation_tracking import SegmentationTracking
from perception.evaluation.video_panoptic import VideoPanoptic
from perception.types import VOID


def report_clips(scores: ClipScores) -> dict[str, Any]:
    """All figures as shares of 1, by class name where there is one; None for what does not occur."""
    names = {**dict(enumerate(scores.classes.names)), VOID: "object"}
    out: dict[str, Any] = {"images": scores.frames, "clips": scores.clips}
    out |= _segmentation(scores, names)
    if scores.vpq:
        out["vpq"] = _vpq(scores.vpq, names, scores.classes.things)
    if scores.tracking:
        by_class = {names[c]: _tracking(t) for c, t in scores.by_class.items()}
        out["tracking"] = _tracking(scores.tracking) | {"by_class": by_class}
        out["ids"] = {"true": scores.true_tracks, "predicted": scores.predicted_tracks}
    if scores.jf:
        out["j_and_f"] = _j_and_f(scores.jf)
    if scores.reidentification:
        out["reidentification"] = _reidentification(scores.reidentification)
    if scores.calibration:
        out["calibration"] = _calibration(scores.calibration)
    if scores.flicker:
        out["flicker"] = flicker_figures(scores.flicker, scores.classes.names)
    return out


def _segmentation(scores: ClipScores, names: dict[int, str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if scores.has_labels:
        iou = scores.stq.confusion.iou()
        out |= {"iou": by_name(scores.classes.names, iou), "mean_iou": mean_known(iou)}
    if scores.vpq and (scores.has_labels or scores.has_tracks):
        out["stq"] = _stq(scores.stq, scores, names)
    return out


def _stq(stq: SegmentationTracking, scores: ClipScores, names: dict[int, str]) -> dict[str, Any]:
    """Only what the truth allows: AQ without a class map, SQ without ids."""
    keys = [key for key, known in (("aq", scores.has_tracks), ("sq", scores.has_labels)) if known]
    keys = ["stq", *keys] if len(keys) == 2 else keys
    quality = stq.quality()
    by_class = {names[c]: stq.of_class(c) for c in sorted(scores.things)}
    out: dict[str, Any] = {key: plain(getattr(quality, key)) for key in keys}
    if scores.has_tracks:
        out["by_class"] = {n: {key: plain(getattr(q, key)) for key in keys} for n, q in by_class.items()}
    return out


def _vpq(vpq: VideoPanoptic, names: dict[int, str], things: frozenset[int]) -> dict[str, Any]:
    classes = set(next(iter(vpq.by_window.values())).classes.tolist())
    groups = {"all": classes, "things": classes & things, "stuff": classes - things}
    out: dict[str, Any] = {group: plain(vpq.mean(chosen)) for group, chosen in groups.items() if chosen}
    out["by_window"] = {
        str(k): {group: plain(quality.mean(chosen).pq) for group, chosen in groups.items() if chosen}
        for k, quality in vpq.by_window.items()
    }
    out["by_class"] = {names[c]: plain(vpq.mean({c})) for c in sorted(classes)}
    return out


def _tracking(tracking: Tracking) -> dict[str, Any]:
    """Shares of nothing are absent: of what is in neither truth nor prediction all of them."""
    identity, clear, hota = tracking.identity, tracking.clear, tracking.hota
    shares = {
        "idf1": identity.f1(),
        "idp": identity.precision(),
        "idr": identity.recall(),
        "mota": clear.mota(),
        "motp": clear.motp(),
        "hota": hota.hota(),
        "deta": float(hota.detection().mean()),
        "assa": float(hota.association().mean()),
        "loca": float(hota.location().mean()),
    }
    if not clear.tp + clear.fn:
        shares |= dict.fromkeys(("idr", "mota"), math.nan)
    if not clear.tp:
        shares["motp"] = math.nan
    if not hota.tp.any():
        shares["loca"] = math.nan
    if not clear.tp + clear.fp + clear.fn:
        shares = dict.fromkeys(shares, math.nan)
    counts = {"idsw": clear.switches, "frag": clear.fragments, "tp": clear.tp, "fp": clear.fp, "fn": clear.fn}
    return {key: plain(value) for key, value in shares.items()} | counts


def _j_and_f(jf: RegionContour) -> dict[str, Any]:
    """By clip, the mean over its objects; over all, the mean over objects."""
    found = jf.statistics()
    clips = {clip: [pair for (c, _), pair in found.items() if c == clip] for clip, _ in found}
    return _jf_means(list(found.values())) | {"by_clip": {clip: _jf_means(pairs) for clip, pairs in clips.items()}}


def _jf_means(pairs: list[tuple[Statistics, Statistics]]) -> dict[str, Any]:
    if not pairs:
        return {"objects": 0}
    j, f = np.array(pairs).mean(0)
    out: dict[str, Any] = {"objects": len(pairs), "j_and_f": plain((j[0] + f[0]) / 2)}
    for name, values in (("j", j), ("f", f)):
        out |= {name: plain(values[0]), f"{name}_recall": plain(values[1]), f"{name}_decay": plain(values[2])}
    return out


def _reidentification(counts: Reidentification) -> dict[str, Any]:
    rows = zip(EDGES_S, EDGES_S[1:], counts.kept.tolist(), counts.new.tolist(), counts.unseen.tolist(), strict=False)
    total = [int(part.sum()) for part in (counts.kept, counts.new, counts.unseen)]
    return {"all": _fates(*total), "by_hidden_s": [{"over": a, "to": b} | _fates(*fates) for a, b, *fates in rows]}


def _fates(kept: int, new: int, unseen: int) -> dict[str, Any]:
    share = plain(new / (kept + new)) if kept + new else None
    return {"kept": kept, "new": new, "unseen": unseen, "new_share": share}


def _calibration(calibration: QualityCalibration) -> dict[str, Any]:
    return {
        "expected_error": plain(calibration.expected_error()),
        "by_quality": [_row(row) for row in calibration.by_quality()],
        "by_age": [_row(row) for row in calibration.by_age()],
    }


def _row(row: Reliability) -> dict[str, Any]:
    values = {"low": plain(row.low), "high": plain(row.high) if np.isfinite(row.high) else None}
    return values | {"masks": row.masks, "predicted": plain(row.predicted), "true": plain(row.true)}
