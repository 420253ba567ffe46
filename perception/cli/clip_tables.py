"""The report of clips for a terminal, in percent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.table import Table

TRACKING = ("idf1", "idp", "idr", "mota", "motp", "hota", "deta", "assa", "loca")
COUNTS = ("idsw", "frag", "tp", "fp", "fn")


def clip_tables(result: dict[str, Any]) -> Iterator[Table | str]:
    """Every part that the report has."""
    yield heading(result)
    if "stq" in result or "vpq" in result:
        yield quality_table(result)
    if "mean_iou" in result:
        yield f"mIoU {percent(result['mean_iou'], 2)}"
    if "flicker" in result:
        flicker = result["flicker"]
        yield f"flicker {percent(flicker['overall'], 2)} of steady pixels over {flicker['pairs']} pairs of frames"
    if "tracking" in result:
        yield tracking_table(result["tracking"], TRACKING, percent)
        yield tracking_table(result["tracking"], COUNTS, str)
        yield f"ids: {result['ids']['predicted']} given to {result['ids']['true']} true tracks"
    if "j_and_f" in result:
        yield jf_table(result["j_and_f"])
    if "reidentification" in result:
        yield reidentification_table(result["reidentification"])
    if "calibration" in result:
        yield from calibration_tables(result["calibration"])


def heading(result: dict[str, Any]) -> str:
    small = f", things below {result['least_area']} px left out" if result["least_area"] else ""
    given = ", first frames given" if result["given"] else ""
    how = f"{result['propagator']}, network every {result['network_every']}{given}{small}"
    size = f"{result['clips']} clips, {result['images']} frames at {result['fps']:g} fps"
    return f"{result['model']}, {result['engine']}, {how}; {size}; all figures in %"


def quality_table(result: dict[str, Any]) -> Table:
    stq, vpq = result.get("stq", {}), result.get("vpq", {})
    keys = [key for key in ("stq", "aq", "sq") if key in stq]
    windows = list(vpq.get("by_window", ()))
    table = Table("class", *(key.upper() for key in keys), "VPQ", *(f"k={k}" for k in windows), box=None)
    by_class = stq.get("by_class", {})
    for name, value in vpq.get("by_class", {}).items():
        row = [percent(by_class[name][key]) if name in by_class else "" for key in keys]
        table.add_row(name, *row, percent(value))
    for group in ("things", "stuff", "all"):
        if group in vpq:
            row = [percent(stq[key], 2) if group == "all" else "" for key in keys]
            by_window = [percent(vpq["by_window"][k][group]) for k in windows]
            table.add_row(group, *row, percent(vpq[group], 2), *by_window, style="bold")
    return table


def tracking_table(tracking: dict[str, Any], keys: Sequence[str], shown: Callable[[Any], str]) -> Table:
    """Shares and counts apart: together they are wider than a terminal of 80 columns."""
    table = Table("tracks", *(key.upper() for key in keys), box=None)
    for name, row in [*tracking["by_class"].items(), ("all", tracking)]:
        table.add_row(name, *(shown(row[key]) for key in keys), style="bold" if name == "all" else "")
    return table


def jf_table(figures: dict[str, Any]) -> Table:
    keys = ("j_and_f", "j", "j_recall", "j_decay", "f", "f_recall", "f_decay")
    table = Table("clip", "objects", "J&F", "J", "recall", "decay", "F", "recall", "decay", box=None)
    for name, row in [*figures["by_clip"].items(), ("all objects", figures)]:
        table.add_row(name, str(row["objects"]), *(percent(row.get(key)) for key in keys))
    return table


def reidentification_table(figures: dict[str, Any]) -> Table:
    table = Table("hidden for", "id kept", "new id", "new %", "not found", box=None)
    rows = [(f"{row['over']:g} to {row['to']:g} s", row) for row in figures["by_hidden_s"]]
    for name, row in [*rows, ("all", figures["all"])]:
        table.add_row(name, str(row["kept"]), str(row["new"]), percent(row["new_share"]), str(row["unseen"]))
    return table


def calibration_tables(figures: dict[str, Any]) -> Iterator[Table | str]:
    yield f"quality: expected calibration error {percent(figures['expected_error'], 2)}"
    yield reliability_table("quality", figures["by_quality"], 100)
    yield reliability_table("frames since seen", figures["by_age"], 1)


def reliability_table(what: str, rows: Sequence[dict[str, Any]], scale: int) -> Table:
    table = Table(what, "masks", "quality", "true IoU", box=None)
    for row in rows:
        low, high = round(scale * row["low"]), None if row["high"] is None else round(scale * row["high"])
        edges = f"{low} or more" if high is None else f"{low} to below {high}"
        table.add_row(edges, str(row["masks"]), percent(row["predicted"]), percent(row["true"]))
    return table


def percent(value: float | None, digits: int = 1) -> str:
    return "absent" if value is None else f"{100 * value:.{digits}f}"
