"""The first loop: pictures through a network, what it saw to files. Scoring never runs a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from perception.build import open_model
from perception.engines import EngineName
from perception.errors import ConfigError
from perception.evaluation.stored import ABOUT, About, write_about, write_prediction
from perception.images import load_image
from perception.models.card import ModelFiles, find
from perception.types import Panoptic

Progress = Callable[[int, int], None]


class Model(Protocol):
    """Anything that sees things in a picture."""

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB of any size -> what is in it, at a size of the model's choice."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Predictor:
    """An open model and what its predictions will say of it. Whoever made it closes `model`."""

    about: About
    model: Model
    files: ModelFiles | None = None  # of a model that a node could run, which a propagator can follow


def node_predictor(model: str, engine: str) -> Predictor:
    """The model just as the node would run it.

    Raises:
        PerceptionError: no such model or engine, a card with a mistake, or a graph that is not the card's.
    """
    if engine not in get_args(EngineName):
        raise ConfigError(f"engine {engine!r} is not one of {', '.join(get_args(EngineName))}")
    files = find(model)
    table = files.card.class_table()
    things = tuple(name for name in table.names if name in table.things)
    opened = open_model(files, engine)  # type: ignore[arg-type]
    return Predictor(About(table.names, things, f"{files.name} {files.identity}", opened.engine.name), opened, files)


def predict(predictor: Predictor, pictures: Mapping[str, Path], out: Path, progress: Progress) -> None:
    """Store what the model sees in each picture, at the picture's own size, in the folder `out`.

    Raises:
        PerceptionError: the model fails, a picture can't be read or a file can't be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)
    for i, (name, path) in enumerate(pictures.items(), 1):
        image = load_image(path)
        write_prediction(out, name, predictor.model(image), (image.shape[1], image.shape[0]))
        progress(i, len(pictures))
    write_about(out, predictor.about)
