"""render, train: how the network that the node runs came to be."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from perception.cli import app
from perception.cli.progress import Phases, progress_bar
from perception.errors import ConfigError, PerceptionError


@app.command()
def render(
    out: Annotated[Path, typer.Argument(help="Folder for images/, labels/ and instances/.")],
    frames: Annotated[int, typer.Option(min=1, help="How many frames.")] = 500,
    first_seed: Annotated[int, typer.Option(min=0, help="Seeds below 1000 are kept for tests and the demo.")] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Over how many different drives.")] = 200,
    width: Annotated[int, typer.Option(min=64, max=4096)] = 640,
    height: Annotated[int, typer.Option(min=64, max=4096)] = 360,
    clips: Annotated[int, typer.Option(min=0, help="Write this many clips instead, each of another drive.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, max=90, help="Of each clip.")] = 8.0,
    fps: Annotated[float, typer.Option(min=1, max=240, help="Of the clips.")] = 30.0,
) -> None:
    """Write frames, or clips, of rendered drives with their exact class and instance maps, to train or test on."""
    from perception.drives.rendered.export import write_clips, write_training_frames

    if clips:
        total = clips * round(seconds * fps)
        steps = write_clips(out, seconds, fps, range(first_seed, first_seed + clips), width, height)
    else:
        total = frames
        chosen = range(first_seed, first_seed + min(seeds, frames))
        steps = write_training_frames(out, frames, chosen, width, height)
    with progress_bar() as bar, _log_above_the_bar(), closing(steps):  # closed, a clip that Ctrl-C cut short goes
        task = bar.add_task("rendering", total=total)
        for done in steps:
            bar.update(task, completed=done)


@app.command()
def train(
    config: Annotated[
        str, typer.Argument(help="A TOML file, or a shipped configuration: road, panoptic-deeplab, unet, ...")
    ],
    run: Annotated[
        Path | None, typer.Option(help="Folder of this run: checkpoints, log.csv, curves.png. Default: runs/CONFIG.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly where the run in the folder stopped.")
    ] = False,
    data: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a data set of the configuration, or validation=FOLDER.")
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="Leave a data set of the configuration out.")] = None,
    start: Annotated[
        Path | None, typer.Option(help="Start weights: ImageNet's (.npz, .pth), a checkpoint, or road.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the configuration's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Only read all data and start weights, and draw a batch into RUN/batch.png.")
    ] = False,
) -> None:
    """Train a network as a configuration says.

    [bold]perception train road --data camvid=CAMVID/train --data rendered=FRAMES --without idd_lite
    --data validation=CAMVID/val --start mobilenet_v2_imagenet.npz[/bold]

    Ctrl-C or a power cut costs minutes at most: the same command with --resume goes on.
    last.safetensors is the state to go on from; best.safetensors holds the weights that
    validated best, which [bold]perception export[/bold] takes.

    docs/training.md explains every key of a configuration and how to use data of your own.
    """
    try:
        from perception.training.command import Request, check_command, run_folder, train_command
    except ImportError as error:
        raise PerceptionError(
            f"training needs more packages ({error.name}): pip install 'perception-node[train]'"
        ) from None
    request = Request(config, run, resume, seed, steps, device, folders_of(data or []), without or [], start)
    with progress_bar() as bar, _log_above_the_bar():
        shown = Phases(bar)
        if check:
            sheet = run_folder(request) / "batch.png"
            counts = check_command(request, sheet, shown)
            bar.stop()
            print(f"{', '.join(f'{n} {name}' for name, n in counts.items())}: all good; a batch is in {sheet}")
            return
        outcome = train_command(request, shown)
    best = "" if outcome.best is None else f", best validation mIoU {100 * outcome.best:.2f}"
    print(f"{outcome.run}: step {outcome.step} of {outcome.steps}{best}")
    if not outcome.is_complete:
        print("stopped, and nothing is lost: the same command with --resume goes on", file=sys.stderr)
        raise typer.Exit(130)


def folders_of(pairs: list[str]) -> dict[str, Path]:
    """NAME=FOLDER pairs; raises ConfigError for what is none."""
    folders = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise ConfigError(f"--data {pair!r}: write NAME=FOLDER")
        folders[name] = Path(folder)
    return folders


@contextmanager
def _log_above_the_bar() -> Iterator[None]:
    """Send log lines where Rich can keep them apart from its bar: to the stderr that it put in place."""
    handlers = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)
