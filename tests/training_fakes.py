"""A data set, a configuration and a run that are as small as they can be."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from perception.opencv import cv2

ROAD, CAR = 3, 8


def write_pictures(root: Path, n: int = 5, size: tuple[int, int] = (48, 64)) -> Path:
    """Dark pictures of road with a bright car somewhere, instance 7; in images/, labels/ and instances/."""
    for name in ("images", "labels", "instances"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(n)
    for i in range(n):
        image = rng.integers(0, 60, (*size, 3), np.uint8)
        labels = np.full(size, ROAD, np.uint8)
        y, x = rng.integers(0, size[0] // 2), rng.integers(0, size[1] // 2)
        labels[y : y + 20, x : x + 24] = CAR
        image[labels == CAR] += 150
        cv2.imwrite(str(root / "images" / f"{i}.png"), image)
        cv2.imwrite(str(root / "labels" / f"{i}.png"), labels)
        cv2.imwrite(str(root / "instances" / f"{i}.png"), np.where(labels == CAR, 7, 0).astype(np.uint16))
    return root


CONFIG = """
version = 1
steps = 8
crop = [32, 48]
cache_mb = 16
log_steps = 2

[network]
kind = "unet"
width = 8

[data.a]
label_set = "camvid12"
folder = "a"
samples = 2

[validation]
label_set = "camvid12"
folder = "a"
every_steps = 4
take_every = 2

[optimizer]
warmup = 2

[checkpoint]
every_steps = 3
wait_s = 0
"""


def write_config(folder: Path, text: str = CONFIG) -> str:
    """The configuration beside its pictures; its path, as the command line has it."""
    if not (folder / "a").exists():
        write_pictures(folder / "a")
    (folder / "tiny.toml").write_text(text)
    return str(folder / "tiny.toml")


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The kernel refuses to write further, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
