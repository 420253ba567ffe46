"""render, train, evaluate, export: how the model that the node runs came to be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from perception.cli import app
from perception.errors import PerceptionError


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


@app.command()
def render(
    out: Annotated[Path, typer.Argument(help="Folder for images/, labels/ and instances/.")],
    frames: Annotated[int, typer.Option(min=1, help="How many frames.")] = 500,
    first_seed: Annotated[int, typer.Option(min=0, help="Seeds below 1000 are kept for tests and the demo.")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Over how many different drives.")] = 200,
    width: Annotated[int, typer.Option(min=64, max=4096)] = 640,
    height: Annotated[int, typer.Option(min=64, max=4096)] = 360,
) -> None:
    """Write frames of rendered drives with their exact class and instance maps, to train or test on."""
    from perception.drives.rendered.export import write_training_frames

    chosen = range(first_seed, first_seed + min(seeds, frames))
    with _bar() as bar:
        task = bar.add_task("rendering", total=frames)
        for _ in write_training_frames(out, frames, chosen, width, height):
            bar.advance(task)


@app.command()
def train(
    run: Annotated[Path, typer.Argument(help="Folder of this run; --resume goes on with what is in it.")],
    camvid: Annotated[Path, typer.Option(help="CamVid with train/ and val/, each with images/ and labels/.")],
    weights: Annotated[Path, typer.Option(help="Folded ImageNet weights of MobileNetV2 (.npz).")],
    rendered: Annotated[Path | None, typer.Option(help="Frames that `perception render` wrote.")] = None,
    idd_lite: Annotated[Path | None, typer.Option(help="India Driving Dataset Lite, as published.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 2600,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1.5e-3,
    seed: Annotated[int, typer.Option()] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in this folder stopped.")] = False,
) -> None:
    """Train the default network: DeepLabV3+ on MobileNetV2, CamVid mixed with rendered drives."""
    try:
        from perception.training.command import train_command
    except ImportError as error:
        raise PerceptionError(
            f"training needs more packages ({error.name}): pip install 'perception-node[train]'"
        ) from None
    with _bar() as bar:
        task = bar.add_task("training", total=steps)

        def progress(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.3f}")

        train_command(run, camvid, weights, rendered, idd_lite, steps, learning_rate, seed, resume, progress)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write; its card goes beside it.")],
    width: Annotated[int, typer.Option(min=32, max=4096)] = 640,
    height: Annotated[int, typer.Option(min=32, max=4096)] = 360,
    description: Annotated[str, typer.Option(help="One line for `perception models`.")] = "",
    data: Annotated[str, typer.Option(help="What it was trained on.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights and their data.")] = "",
    int8: Annotated[
        list[Path] | None, typer.Option(help="Quantise to int8, calibrated on the pictures in this folder.")
    ] = None,
) -> None:
    """Write a training run's averaged network as one graph from camera bytes to class indices, with its card."""
    try:
        from perception.training.export import export as write
        from perception.training.export import export_int8
    except ImportError as error:
        raise PerceptionError(
            f"export needs more packages ({error.name}): pip install 'perception-node[train]'"
        ) from None
    about = {"description": description, "data": data, "licence": licence}
    if int8:
        export_int8(run / "last.pt", out, width, height, about, {}, int8)
    else:
        write(run / "last.pt", out, width, height, about, {})
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB) and {out.with_suffix('.toml').name}")


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder with images/ and labels/ (PNG class indices, 255 ignored).")],
    model: Annotated[str, typer.Option(help="A shipped model's name or an .onnx file.")] = "road",
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    merge: Annotated[list[str] | None, typer.Option(help="Score a class as another: 'lane marking=road'.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the predicted maps here.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """IoU per class, mean IoU and pixel accuracy of a model on labelled pictures."""
    from perception.evaluation.command import evaluate_command

    with _bar() as bar:
        task = bar.add_task("evaluating")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        result = evaluate_command(data, model, engine, merge or [], keep, progress)
    table = Table("class", "IoU", box=None)
    for name, value in result["iou"].items():
        table.add_row(name, "absent" if value is None else f"{100 * value:.1f}")
    console = Console()
    console.print(table)
    console.print(f"mean IoU {100 * result['mean_iou']:.2f}   pixel accuracy {100 * result['pixel_accuracy']:.2f}")
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")
