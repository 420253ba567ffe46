"""evaluate: how good a model is on labelled pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from perception.cli import app
from perception.cli.progress import progress_bar


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

    with progress_bar() as bar:
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
