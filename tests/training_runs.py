"""Runs of the training that are as small as they can be, and what they are made of."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.training.batches import Mixture  # noqa: E402
from perception.training.checkpoint import load_checkpoint  # noqa: E402
from perception.training.command import Outcome, Request, check_command, train_command  # noqa: E402
from perception.training.config import CLASSES, THINGS, read_training_config  # noqa: E402
from perception.training.datasets import open_dataset  # noqa: E402
from perception.training.label_set import Codes  # noqa: E402
from perception.training.networks.prediction import Prediction  # noqa: E402
from tests.training_fakes import CONFIG, write_config  # noqa: E402

REALTIME = CONFIG.replace('kind = "unet"\nwidth = 8', 'kind = "realtime"\nwidth = 16')
REALTIME = REALTIME.replace("samples = 2", 'samples = 2\ninstances = "exact"')


def quiet(_what: str, _done: int, _total: int) -> None:
    pass


def trained(folder: Path, name: str = "run", text: str = CONFIG, progress=quiet, **options) -> Outcome:
    """A run without validation, which changes no weight and takes most of the time here."""
    options = {"without": ["validation"], **options}
    return validated(folder, name, text, progress, **options)


def validated(folder: Path, name: str = "run", text: str = CONFIG, progress=quiet, **options) -> Outcome:
    config = write_config(folder, text)
    return train_command(Request(config, folder / name, device="cpu", **options), progress)


def weights(run: Path, name: str = "last.safetensors"):
    return load_checkpoint(run / name)[0]


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").read_text().splitlines()))


def mixture(folder: Path, text: str = CONFIG) -> Mixture:
    config, base = read_training_config(write_config(folder, text))
    codes = Codes(CLASSES)
    return Mixture([open_dataset(n, d, codes, THINGS, base) for n, d in config.data.items()], config)


MEANING = torch.tensor([[True, False, False], [False, True, False], [False, False, True], [True, True, False]])


def prediction(**heads) -> Prediction:
    generator = torch.Generator().manual_seed(0)
    return Prediction(torch.randn(2, 3, 16, 16, generator=generator), **heads)


def complete_run(folder: Path) -> Path:
    """A run of eight steps with validation, in `folder` beside its data; `folder` itself."""
    torch.set_num_threads(1)
    assert validated(folder).is_complete
    return folder


def checked(folder: Path, text: str = CONFIG, **options) -> dict[str, int]:
    return check_command(Request(write_config(folder, text), folder / "run", **options), folder / "batch.png", quiet)
