"""render, train: how the network that the node runs came to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception.cli import app
from perception.cli.progress import progress_bar
from perception.errors import PerceptionError


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
    with progress_bar() as bar:
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
    with progress_bar() as bar:
        task = bar.add_task("training", total=steps)

        def progress(step: int, loss: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.3f}")

        train_command(run, camvid, weights, rendered, idd_lite, steps, learning_rate, seed, resume, progress)
