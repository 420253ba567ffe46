"""A picture of a batch with its labels laid over it: what the network is about to be shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError, reason
from perception.labels import ClassTable, spread_colour
from perception.opencv import cv2
from perception.training.datasets import Sample
from perception.training.label_set import IGNORE
from perception.training.targets import UNKNOWN, centres_of_mass

COLUMNS = 3  # samples side by side; each is a picture, its labels and its instances below one another


def write_sheet(path: Path, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Write samples of equal size as one PNG; raises ConfigError where it can't be written."""
    tiles = [_tile(sample, classes) for sample in samples]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    rows = [np.hstack(tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    good, data = cv2.imencode(".png", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes() if good else b"")
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from None


def _tile(sample: Sample, classes: Sequence[str]) -> NDArray[np.uint8]:
    table = ClassTable(tuple(classes), frozenset(), {})
    colours = np.array([table.colour(i) if i < len(classes) else spread_colour(i) for i in range(256)], np.uint8)
    colours[IGNORE] = 0
    labels = cv2.addWeighted(sample.image, 0.4, colours[sample.labels], 0.6, 0)
    instances = sample.image // 3
    for number in np.unique(sample.instances[sample.instances > 0]):
        colour = (255, 255, 255) if number == UNKNOWN else spread_colour(int(number))
        instances[sample.instances == number] = colour
    for y, x in centres_of_mass(sample.instances).values():
        cv2.circle(instances, (round(x), round(y)), 4, (255, 255, 0), 1, cv2.LINE_AA)
    return np.vstack((sample.image, labels, instances)).astype(np.uint8)
