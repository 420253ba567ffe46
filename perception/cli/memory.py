"""train-memory and export-memory: the learned propagator from clips to a graph beside a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from perception.cli import app
from perception.cli.progress import Phases, progress_bar
from perception.cli.train import folders_of
from perception.errors import PerceptionError


@app.command("train-memory")
def train_memory(
    network: Annotated[str, typer.Argument(help="Checkpoint of the network that it reads, or road.")] = "road",
    data: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER: camvid, idd_lite, rendered, to cut and paste from.")
    ] = None,
    run: Annotated[Path, typer.Option(help="Its folder: clips, log.csv, last.safetensors.")] = Path("runs/memory"),
    rendered: Annotated[int, typer.Option(min=0, help="Clips out of rendered drives.")] = 170,
    pasted: Annotated[int, typer.Option(min=0, help="Clips of one moved picture with things pasted over it.")] = 240,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 3000,
    learning_rate: Annotated[float, typer.Option(min=1e-6, max=1.0, help="At its highest, after 50 steps.")] = 2e-3,
    start: Annotated[Path | None, typer.Option(help="Start with the weights of another run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
) -> None:
    """Train the memory that carries masks from frame to frame, on the frozen features of a panoptic network.

    [bold]perception train-memory road --data camvid=CAMVID/train --data rendered=FRAMES[/bold]

    Makes its clips first (minutes), then trains. Ctrl-C loses nothing: the same command with --resume goes on.
    Then [bold]perception export-memory runs/memory/last.safetensors MODEL.onnx[/bold] puts it beside the model.
    """
    try:
        from perception.training.propagator.command import Request, train_memory
        from perception.training.propagator.trainer import Settings
    except ImportError as error:
        raise _needs_more(error) from None
    settings = Settings(steps=steps, learning_rate=learning_rate, seed=seed)
    request = Request(network, run, folders_of(data or []), rendered, pasted, start, resume, settings)
    with progress_bar() as bar:
        outcome = train_memory(request, Phases(bar))
    scores = ", ".join(f"{name} {value:.3f}" for name, value in outcome.validation.items())
    print(f"{run}: step {outcome.step} of {steps}{'; validation: ' + scores if scores else ''}")
    if not outcome.is_complete:
        print("stopped, and nothing is lost: the same command with --resume goes on", file=sys.stderr)
        raise typer.Exit(130)


@app.command("export-memory")
def export_memory(
    checkpoint: Annotated[Path, typer.Argument(help="last.safetensors of `train-memory`.")],
    model: Annotated[Path, typer.Argument(help="The .onnx of the panoptic model whose features it reads.")],
) -> None:
    """Write the memory as a graph beside a model and name it in the model's card; the node then follows with it."""
    try:
        from perception.training.propagator.export import export_reader
    except ImportError as error:
        raise _needs_more(error) from None
    report = export_reader(checkpoint, model)
    for engine, difference in report.differences.items():
        print(f"{engine}: probabilities within {difference:.4f} of PyTorch's")
    print(f"{report.graph} ({report.graph.stat().st_size / 1e6:.1f} MB), named in {model.with_suffix('.toml').name}")


def _needs_more(error: ImportError) -> PerceptionError:
    return PerceptionError(f"training needs more packages ({error.name}): pip install 'perception-node[train]'")
