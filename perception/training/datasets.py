"""Images with labels, of label sets that need not agree.

A label set that is coarser than ours is trained with what it does say: a pixel of IDD's "living" is a pedestrian
*or* a bicyclist, and the loss asks only that the two together are likely (`losses.set_cross_entropy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError

CLASSES = (
    "sky", "building", "pole", "road", "sidewalk", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist", "lane marking",
)  # fmt: skip
IGNORE = 255

# IDD-Lite's seven coarse values and what they can be here (its class tree, Varma et al. 2019, figure 2).
IDD_LITE = (
    ("road", "lane marking"),
    ("sidewalk", "tree"),
    ("pedestrian", "bicyclist"),
    ("car", "bicyclist"),
    ("fence", "pole", "sign", "building", "sidewalk"),
    ("building", "tree", "pole", "fence"),
    ("sky",),
)


@dataclass(frozen=True)
class Dataset:
    """Image and label files, pair by pair, with the meaning of each label value.

    `meaning` has shape (values, classes): which of our classes a label value can be.
    """

    name: str
    pairs: tuple[tuple[Path, Path], ...]
    meaning: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def is_exact(self) -> bool:
        return self.meaning.shape[0] == len(CLASSES) and bool((self.meaning == np.eye(len(CLASSES), dtype=bool)).all())

    def read(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The i-th image, (h, w, 3) RGB, and its labels, (h, w) with IGNORE where unlabelled."""
        image_path, label_path = self.pairs[i]
        bgr = cv2.imread(str(image_path), cv2.IMREAD_COLOR)
        labels = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if bgr is None or labels is None:
            bad = image_path if bgr is None else label_path
            raise ConfigError(f"{bad}: can't be read as an image")
        if labels.ndim != 2 or bgr.shape[:2] != labels.shape:
            raise ConfigError(f"{label_path}: shape {labels.shape} does not fit image {bgr.shape[:2]}")
        wrong = np.setdiff1d(np.unique(labels), [*range(len(self.meaning)), IGNORE])
        if wrong.size:
            raise ConfigError(
                f"{label_path}: label value {wrong[0]} is not one of 0..{len(self.meaning) - 1} or {IGNORE}"
            )
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.uint8), labels.astype(np.uint8)


def exact_meaning() -> NDArray[np.bool_]:
    return np.eye(len(CLASSES), dtype=bool)


def coarse_meaning(groups: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    return np.array([[name in group for name in CLASSES] for group in groups])


def image_label_folder(root: Path, name: str | None = None) -> Dataset:
    """A folder with `images/` and `labels/` whose files share their stems (CamVid, rendered drives)."""
    labels = {p.stem: p for p in sorted((root / "labels").glob("*.png"))}
    images = [p for p in sorted((root / "images").glob("*")) if p.suffix.lower() in {".png", ".jpg", ".webp"}]
    if not images:
        raise ConfigError(f"{root}: no images in {root / 'images'}")
    missing = [p.name for p in images if p.stem not in labels]
    if missing:
        raise ConfigError(f"{root}: {len(missing)} images have no label, first {missing[0]}")
    return Dataset(name or root.name, tuple((p, labels[p.stem]) for p in images), exact_meaning())


def idd_lite(root: Path, split: str = "train") -> Dataset:
    """India Driving Dataset Lite, as published: `leftImg8bit/` and `gtFine/`."""
    images = sorted((root / "leftImg8bit" / split).glob("*/*_image.jpg"))
    if not images:
        raise ConfigError(f"{root}: no images in {root / 'leftImg8bit' / split}")
    pairs = []
    for image in images:
        label = root / "gtFine" / split / image.parent.name / image.name.replace("_image.jpg", "_label.png")
        if not label.exists():
            raise ConfigError(f"{image}: its label {label.name} is missing")
        pairs.append((image, label))
    return Dataset("idd-lite", tuple(pairs), coarse_meaning(IDD_LITE))
