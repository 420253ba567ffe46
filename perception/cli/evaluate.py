"""evaluate: how good a model is on labelled pictures."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from perception.cli import app
from perception.cli.progress import lines_of, progress_bar
from perception.errors import ConfigError

if TYPE_CHECKING:
    from perception.evaluation.predict import Predictor


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, and instances/ where known.")],
    model: Annotated[str | None, typer.Option(help="A shipped model's name or an .onnx file; else 'road'.")] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    checkpoint: Annotated[Path | None, typer.Option(help="Instead, a .safetensors file of `train`.")] = None,
    size: Annotated[str, typer.Option(help="Of a checkpoint's input; averaged over several: 640x352,768x432.")] = (
        "640x352"
    ),
    flip: Annotated[bool, typer.Option("--flip", help="Average a checkpoint over mirrored pictures too.")] = False,
    predictions: Annotated[Path | None, typer.Option(help="Instead, score what --keep stored.")] = None,
    merge: Annotated[list[str] | None, typer.Option(help="Score a class as another: 'lane marking=road'.")] = None,
    sequence: Annotated[bool, typer.Option("--sequence", help="The pictures are a clip: measure flicker.")] = False,
    least_area: Annotated[int, typer.Option(min=0, help="True things of fewer pixels count neither way.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Keep the predictions in this folder.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the confusion matrix here (PNG).")] = None,
) -> None:
    """Every metric that the labels of DATA allow: IoU, Dice, boundary F, panoptic quality, mask AP, flicker."""
    from perception.evaluation.command import Wishes, evaluate_command

    check_options(model, checkpoint, predictions, keep, flip, (json_file, picture))
    wishes = Wishes(tuple(merge or ()), sequence, least_area, picture)
    predictor = None if predictions else open_predictor(model, engine, checkpoint, size, flip)
    with progress_bar() as bar, contextlib.closing(predictor.model) if predictor else contextlib.nullcontext():
        result = evaluate_command(data, predictor, keep or predictions, wishes, lines_of(bar))
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
    console = Console()
    for part in tables(result):
        console.print(part)


def check_options(
    model: str | None,
    checkpoint: Path | None,
    predictions: Path | None,
    keep: Path | None,
    flip: bool,
    written: Iterable[Path | None],
) -> None:
    """Raise ConfigError for options that contradict each other, or files whose folder is not there."""
    if sum(given is not None for given in (model, checkpoint, predictions)) > 1:
        raise ConfigError("--model, --checkpoint and --predictions: give one of them")
    if flip and checkpoint is None:
        raise ConfigError("--flip averages the passes of a --checkpoint; a model is one graph that looks once")
    if predictions and keep:
        raise ConfigError("--keep stores new predictions, --predictions reads stored ones: give one of them")
    for file in filter(None, written):
        if not file.resolve().parent.is_dir():
            raise ConfigError(f"{file}: its folder is not there; make it first")


def open_predictor(model: str | None, engine: str, checkpoint: Path | None, size: str, flip: bool) -> Predictor:
    """What looks at the pictures: the node's own model, or a checkpoint in PyTorch."""
    if checkpoint is None:
        from perception.evaluation.predict import node_predictor

        return node_predictor(model or "road", engine)
    try:
        from perception.training.predict_checkpoint import checkpoint_predictor
    except ImportError as error:
        raise ConfigError(f"a checkpoint needs {error.name}: pip install 'perception-node[train]'") from None
    return checkpoint_predictor(checkpoint, size, flip)


def tables(result: dict[str, Any]) -> Iterator[Table | str]:
    """The report for a terminal, in percent."""
    small = f", things below {result['least_area']} px left out" if result["least_area"] else ""
    yield f"{result['model']}, {result['engine']}, {result['images']} pictures{small}; all figures in %"
    if "iou" in result:
        yield semantic_table(result)
    if "panoptic" in result:
        yield panoptic_table(result["panoptic"], result.get("instance_ap"))
    if "flicker" in result:
        flicker = result["flicker"]
        yield f"flicker {percent(flicker['overall'], 2)} of steady pixels over {flicker['pairs']} pairs of frames"


def semantic_table(result: dict[str, Any]) -> Table:
    table = Table("class", "IoU", "Dice", *(f"F {t} px" for t in result["boundary_f"]), box=None)
    flicker = result.get("flicker", {}).get("by_class")
    if flicker:
        table.add_column("flicker")
    for name in result["classes"]:
        row = [result["iou"][name], result["dice"][name], *(f[name] for f in result["boundary_f"].values())]
        table.add_row(name, *map(percent, row), *([percent(flicker[name], 2)] if flicker else []))
    mean = [
        percent(result["mean_iou"], 2),
        percent(result["mean_dice"]),
        *map(percent, result["mean_boundary_f"].values()),
    ]
    table.add_row("mean", *mean, style="bold")
    table.add_row("pixel accuracy", percent(result["pixel_accuracy"], 2), style="bold")
    return table


def panoptic_table(panoptic: dict[str, Any], instances: dict[str, Any] | None) -> Table:
    table = Table("class", "PQ", "SQ", "RQ", "TP", "FP", "FN", *(("AP", "AP50") if instances else ()), box=None)
    by_class = instances["by_class"] if instances else {}
    for name, row in panoptic["by_class"].items():
        found = [percent(by_class[name][key]) for key in ("ap", "ap50")] if name in by_class else []
        counts = [str(row[key]) for key in ("tp", "fp", "fn")]
        table.add_row(name, *(percent(row[key]) for key in ("pq", "sq", "rq")), *counts, *found)
    for group in ("all", "things", "stuff"):
        if group in panoptic:
            found = [percent(instances[key]) for key in ("ap", "ap50")] if instances and group == "things" else []
            means = [percent(panoptic[group][key]) for key in ("pq", "sq", "rq")]
            table.add_row(group, *means, "", "", "", *found, style="bold")
    return table


def percent(value: float | None, digits: int = 1) -> str:
    return "absent" if value is None else f"{100 * value:.{digits}f}"
