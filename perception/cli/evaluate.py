"""evaluate: how good a model is on labelled pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from perception.cli import app
from perception.cli.clip_tables import clip_tables, percent
from perception.cli.engine_help import ENGINE_HELP
from perception.cli.progress import lines_of, progress_bar
from perception.errors import ConfigError

if TYPE_CHECKING:
    from perception.config import Launch
    from perception.evaluation.command import Evaluation
    from perception.evaluation.predict import Predictor

SIZE = "640x352"  # of the default model's input


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder with images/ and labels/, and instances/ where known.")],
    model: Annotated[str | None, typer.Option(help="A shipped model's name or an .onnx file; else 'road'.")] = None,
    engine: Annotated[str | None, typer.Option(help=f"Of a model: {ENGINE_HELP}")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Instead, a .safetensors file of `train`, or road; several: their mean.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help=f"Of a checkpoint's input, else {SIZE}; several averaged: 640x352,768x432.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average a checkpoint over mirrored pictures too.")] = False,
    predictions: Annotated[Path | None, typer.Option(help="Instead, score what --keep stored.")] = None,
    merge: Annotated[list[str] | None, typer.Option(help="Score a class as another: 'lane marking=road'.")] = None,
    sequence: Annotated[bool, typer.Option("--sequence", help="The pictures are a clip: measure flicker.")] = False,
    least_area: Annotated[int, typer.Option(min=0, help="True things of fewer pixels count neither way.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Keep the predictions in this folder.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw the confusion matrix here (PNG).")] = None,
    video: Annotated[bool, typer.Option("--video", help="DATA is clips: follow things, score ids.")] = False,
    propagator: Annotated[str | None, typer.Option(help="With --video: iou, affinity or memory; else auto.")] = None,
    network_every: Annotated[
        int | None, typer.Option(min=1, help="With --video: the network looks at every n-th; else at each.")
    ] = None,
    given: Annotated[bool, typer.Option("--given", help="With --video: the first frame's truth is given.")] = False,
    fps: Annotated[float | None, typer.Option(min=0.1, help="With --video: rate, where DATA does not say it.")] = None,
) -> None:
    """Every metric that the labels of DATA allow: IoU, Dice, boundary F, PQ, mask AP; of clips STQ, HOTA, J&F, ..."""
    from perception.evaluation.command import Evaluation, Wishes, evaluate_command
    from perception.evaluation.outputs import require_writable

    check_options(model, checkpoint, predictions, keep, {"--size": size, "--flip": flip, "--engine": engine})
    following = {"--given": given, "--propagator": propagator, "--network-every": network_every}
    check_video_options(video, following, fps, predictions, sequence or picture is not None)
    for file in filter(None, (json_file, picture)):
        require_writable(file)
    engine = engine or "auto"
    with contextlib.ExitStack() as stack:
        launch = clip_launch(propagator or "auto", network_every or 1, engine) if video else None
        predictor = None if predictions else open_predictor(model, engine, checkpoint, size or SIZE, flip)
        progress = lines_of(stack.enter_context(progress_bar()))
        if predictor:
            stack.enter_context(contextlib.closing(predictor.model))
        if launch:
            from perception.evaluation.command_clips import ClipWishes, evaluate_clips

            clip_wishes = ClipWishes(launch, tuple(merge or ()), given, least_area, fps)
            found = Evaluation(evaluate_clips(data, predictor, keep or predictions, clip_wishes, progress), None)
        else:
            wishes = Wishes(tuple(merge or ()), sequence, least_area, picture is not None)
            found = evaluate_command(data, predictor, keep or predictions, wishes, progress)
    show(found, video, json_file, picture)


def show(found: Evaluation, video: bool, json_file: Path | None, picture: Path | None) -> None:
    """Print the figures, then write what was asked for; each is done whatever becomes of the others.

    Raises:
        ConfigError: a file can't be written.
    """
    from perception.evaluation.confusion_picture import write_confusion_picture
    from perception.evaluation.outputs import write_figures

    figures, console = found.figures, Console()
    with contextlib.ExitStack() as after:  # hours of work must not be lost to a full disk, or to who reads one line
        if picture and found.confusion:
            after.callback(write_confusion_picture, found.confusion, tuple(figures["classes"]), picture)
        if json_file:
            after.callback(write_figures, figures, json_file)
        for part in clip_tables(figures) if video else tables(figures):
            console.print(part)


def clip_launch(propagator: str, network_every: int = 1, engine: str = "auto") -> Launch:
    """The launch file that these options stand for."""
    from perception.config import Launch
    from perception.strict_toml import check

    model = {"network_every": network_every, "engine": engine}
    return check({"version": 1, "model": model, "tracking": {"kind": propagator}}, Launch, "--video")


def check_video_options(
    video: bool, following: Mapping[str, object], fps: float | None, predictions: Path | None, still: bool
) -> None:
    """Raise ConfigError for options that mean nothing together.

    Args:
        following: options of how things are followed, by name.
        still: one that is about pictures is given.
    """
    told = [name for name, value in following.items() if value]
    if not video and (told or fps):
        raise ConfigError(f"{' and '.join([*told, *(['--fps'] if fps else [])])}: about clips: say --video too")
    if told and predictions:
        raise ConfigError(f"{' and '.join(told)}: for new predictions; stored ones say themselves how they were made")
    if video and still:
        raise ConfigError("--video measures flicker anyway and draws no picture: leave --sequence and --picture out")


def check_options(
    model: str | None,
    checkpoint: Sequence[Path] | None,
    predictions: Path | None,
    keep: Path | None,
    more: Mapping[str, object],
) -> None:
    """Raise ConfigError for options that contradict each other; `more` are --size, --flip and --engine."""
    if sum(bool(given) for given in (model, checkpoint, predictions)) > 1:
        raise ConfigError("--model, --checkpoint and --predictions: give one of them")
    if more["--flip"] and not checkpoint:
        raise ConfigError("--flip averages the passes of a --checkpoint; a model is one graph that looks once")
    if more["--size"] and not checkpoint:
        raise ConfigError("--size is of a --checkpoint's input; a model's graph has one size: leave it out")
    if more["--engine"] and (checkpoint or predictions):
        raise ConfigError("--engine runs a model; PyTorch runs a --checkpoint, nothing --predictions: leave it out")
    if predictions and keep:
        raise ConfigError("--keep stores new predictions, --predictions reads stored ones: give one of them")


def open_predictor(
    model: str | None, engine: str, checkpoint: Sequence[Path] | None, size: str, flip: bool
) -> Predictor:
    """What looks at the pictures: the node's own model, or checkpoints in PyTorch."""
    if not checkpoint:
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
