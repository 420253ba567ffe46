"""render, train: how the network that the node runs came to be."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from perception.cli import app
from perception.cli.progress import progress_bar
from perception.errors import ConfigError, PerceptionError


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
        Path | None, typer.Option(help="Start weights: ImageNet's .npz of MobileNetV2, a checkpoint, or road.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the configuration's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same weights.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    check: Annotated[
        bool, typer.Option("--check", help="Only read all data and draw a batch into RUN/batch.png.")
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
        from perception.training.command import Request, check_command, train_command
    except ImportError as error:
        raise PerceptionError(
            f"training needs more packages ({error.name}): pip install 'perception-node[train]'"
        ) from None
    request = Request(config, run, resume, seed, steps, device, _folders(data or []), without or [], start)
    with progress_bar() as bar, _log_above_the_bar():
        shown = _Shown(bar)
        if check:
            sheet = (run or Path("runs") / Path(config).stem) / "batch.png"
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


def _folders(pairs: list[str]) -> dict[str, Path]:
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


class _Shown:
    """Progress of several phases on one bar; training keeps its own line while a validation shows another."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.tasks: dict[tuple[str, int], TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        key = (what.split()[0], total)
        if key not in self.tasks:
            self.tasks[key] = self.bar.add_task(what, total=total, completed=done)
        self.bar.update(self.tasks[key], description=what, completed=done)
        if done >= total and key[0] != "loss":
            self.bar.remove_task(self.tasks.pop(key))
