"""`perception train` as one function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from perception.errors import ConfigError
from perception.training.datasets import image_label_folder
from perception.training.train import Recipe, Trainer, open_datasets


def train_command(
    run: Path,
    camvid: Path,
    weights: Path,
    rendered: Path | None,
    idd: Path | None,
    steps: int,
    learning_rate: float,
    seed: int,
    resume: bool,
    progress: Callable[[int, float], None],
) -> None:
    """Train into `run`, validating on CamVid's val split.

    Raises:
        PerceptionError: a data set or the start weights are missing or wrong, or `run` holds another run.
    """
    if not weights.is_file():
        raise ConfigError(f"{weights}: no such file; give MobileNetV2's folded ImageNet weights")
    counts = {"camvid": 8, "idd-lite": 1 if idd else 0, "rendered": 2 if rendered else 0}
    recipe = Recipe(steps=steps, learning_rate=learning_rate, seed=seed, counts=counts)
    has_started = (run / "last.pt").exists()
    if has_started and not resume:
        raise ConfigError(f"{run}: holds a run already; go on with --resume, or choose another folder")
    trainer = Trainer(recipe, open_datasets(camvid, idd, rendered), run)
    if not trainer.resume():
        trainer.start_from_imagenet(weights)
    trainer.train(image_label_folder(camvid / "val", "val"), progress)
