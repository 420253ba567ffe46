"""What a graph says against what PyTorch says: on the same frames, and by the labels of labelled pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered import RenderedDrive
from perception.engines import open_engine
from perception.errors import ConfigError, ModelError
from perception.evaluation.classes import scored_classes
from perception.evaluation.segmentation import Confusion
from perception.evaluation.truth import LabelFolder, pictures_of
from perception.images import load_image
from perception.models.graph import scaled
from perception.opencv import cv2
from perception.protocols import Engine
from perception.training.pictures import evenly_spaced
from perception.types import FEATURES

# In float32 only pixels whose two best logits differ by rounding may change class: below 0.05 % of trained networks'
# pixels. A Resize with another convention, or a mean that is off, changes over 1 %.
LEAST_EQUAL = 0.999
MOST_HEAT = 0.01  # difference of centre heat, which is compared with 0.1
MOST_OFFSET = 0.5  # difference of offsets [px]
LEAST_SIMILAR = 0.95  # labels that rounding leaves as they are, where no truth says what the change is worth
MOST_FRAMES = 20
SEED, APART = 0, 45  # of the rendered frames; 1.5 s apart
LEAST_COSINE = 0.999  # of a feature with PyTorch's, in float32, mean over the cells
Outputs = dict[str, NDArray]
Run = Callable[[NDArray[np.uint8]], Outputs]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Agreement:
    """A graph on one engine against PyTorch."""

    graph: str  # "float", "bfloat16" or "int8"
    engine: str
    equal: float  # share of the labels
    iou: tuple[float, ...]  # by class, PyTorch's labels as truth; NaN where neither has the class
    heat: float | None  # greatest difference of centre heat; None for a network without centres
    offset: float | None  # greatest difference of an offset [px]
    cosine: dict[str, float] = field(default_factory=dict)  # of each of FEATURES with PyTorch's, mean over all cells


@dataclass(frozen=True)
class Loss:
    """IoU by class, 0..1, on labelled pictures: PyTorch in float32, and a graph.

    NaN, in both, for classes that the labels lack: stray pixels of one on one side alone would make the two means those
    of other classes.
    """

    graph: str
    engine: str
    classes: tuple[str, ...]
    before: NDArray[np.float64]
    after: NDArray[np.float64]

    @classmethod
    def of(cls, graph: str, engine: str, classes: tuple[str, ...], before: Confusion, after: Confusion) -> Loss:
        """Of the same labels, of which there are some."""
        has_class = before.counts.sum(1) > 0
        return cls(graph, engine, classes, *(np.where(has_class, c.iou(), np.nan) for c in (before, after)))

    @property
    def points(self) -> NDArray[np.float64]:
        """By class, what the graph loses [points of 100]."""
        return 100 * (self.before - self.after)

    @property
    def mean_before(self) -> float:
        return float(np.nanmean(self.before))

    @property
    def mean_after(self) -> float:
        return float(np.nanmean(self.after))

    @property
    def loss(self) -> float:
        """What the mean over the classes loses [points of 100]."""
        return 100 * (self.mean_before - self.mean_after)

    @property
    def worst(self) -> tuple[str, float]:
        """The class that loses most, and how much [points of 100]."""
        i = int(np.nanargmax(self.points))
        return self.classes[i], float(self.points[i])


def frames_of(folder: Path | None, width: int, height: int) -> list[NDArray[np.uint8]]:
    """At most MOST_FRAMES pictures, evenly spaced over a folder, as a graph gets them; rendered ones without one.

    Raises:
        ConfigError: the folder has no pictures.
        SourceError: a picture can't be read.
    """
    if folder is None:
        drive = RenderedDrive(SEED, 640, 360, truth=False)
        return [scaled(frame.image, width, height) for frame in drive.at(range(0, APART * MOST_FRAMES, APART))]
    return [scaled(load_image(path), width, height) for path in evenly_spaced([folder], MOST_FRAMES, "compare")]


def node_engines(graph: Path) -> list[Engine]:
    """The graph on each installed engine, as the node would run it."""
    names = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
    return [open_engine(graph, name) for name in names]  # type: ignore[arg-type]


def float_engines(graph: Path) -> list[Engine]:
    """As `node_engines`, and OpenVINO in float32 too where the node would let it round to bfloat16."""
    engines = node_engines(graph)
    if any(engine.name == "openvino-bf16" for engine in engines):
        from perception.engines.openvino import OpenVinoEngine

        engines.append(OpenVinoEngine(graph, precision="f32"))
    return engines


def compare(
    wanted: Sequence[Outputs], engine: Engine, graph: str, frames: Sequence[NDArray[np.uint8]], classes: int
) -> Agreement:
    """How far an engine's outputs are from those wanted, over all frames."""
    confusion, heat, offset = Confusion(classes), [], []
    cosines: dict[str, list[float]] = {name: [] for name in FEATURES if name in wanted[0]}
    for frame, outputs in zip(frames, wanted, strict=True):
        given = engine({"image": frame[None]})
        confusion.add(outputs["labels"], given["labels"])
        if "centre" in outputs:
            heat.append(_difference(outputs["centre"], given["centre"]))
            offset.append(_difference(outputs["offset"], given["offset"]))
        for name, found in cosines.items():
            found.append(_cosine(outputs[name], given[name]))
    iou = tuple(confusion.iou().tolist())
    # np.max, as max() passes over a NaN behind a number
    most_heat, most_offset = (float(np.max(values)) if values else None for values in (heat, offset))
    means = {name: float(np.mean(found)) for name, found in cosines.items()}
    return Agreement(graph, engine.name, confusion.pixel_accuracy(), iou, most_heat, most_offset, means)


def _difference(a: NDArray, b: NDArray) -> float:
    return float(np.abs(a - b).max())


def _cosine(a: NDArray, b: NDArray) -> float:
    """Of two maps (1, c, h, w), mean over the cells; two cells of zeros are equal."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == b).all(1)
    return float(np.where(same, 1.0, (a * b).sum(1) / np.maximum(lengths, np.finfo(np.float32).tiny)).mean())


def measure_loss(
    reference: Run,
    engines: Sequence[Engine],
    graph: str,
    folder: Path,
    classes: tuple[str, ...],
    size: tuple[int, int],
    progress: Progress,
) -> list[Loss]:
    """IoU on a folder of images/ and labels/, at the labels' size, of the reference and of each engine.

    Args:
        size: width and height that the graph sees [px].

    Raises:
        ConfigError: a picture or a label is missing or not right, or no pixel is labelled.
    """
    truth = LabelFolder(folder, scored_classes(classes, ()))
    pictures = pictures_of(folder, truth)
    before, after = Confusion(len(classes)), [Confusion(len(classes)) for _ in engines]
    for i, (name, path) in enumerate(pictures.items(), 1):
        labels = truth.read(name).labels
        assert labels is not None  # a folder of labels has them
        frame = scaled(load_image(path), *size)
        before.add(labels, _fitted(reference(frame)["labels"], labels))
        for engine, confusion in zip(engines, after, strict=True):
            confusion.add(labels, _fitted(engine({"image": frame[None]})["labels"], labels))
        progress(f"loss of {graph}", i, len(pictures))
    if not before.counts.any():
        raise ConfigError(f"{folder} has no labelled pixel; give labels of the model's classes with --labelled")
    losses = zip(engines, after, strict=True)
    return [Loss.of(graph, engine.name, classes, before, confusion) for engine, confusion in losses]


def _fitted(labels: NDArray, like: NDArray) -> NDArray[np.uint8]:
    """(1, h, w) labels at the size of others, as `perception evaluate` compares them."""
    return cv2.resize(labels[0], like.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def require_equal(agreements: Sequence[Agreement]) -> None:
    """Raises ModelError where float32 says something else than PyTorch; bfloat16 rounds, and is only measured."""
    for a in agreements:
        if a.engine.endswith("bf16"):
            continue
        if not a.equal >= LEAST_EQUAL:
            raise ModelError(
                f"{a.engine}: {100 * a.equal:.2f} % of the labels are PyTorch's; at least {100 * LEAST_EQUAL:g} % must "
                "be in float32: an operator means something else there"
            )
        if not (a.heat or 0) <= MOST_HEAT or not (a.offset or 0) <= MOST_OFFSET:
            raise ModelError(
                f"{a.engine}: centre heat differs by {a.heat:.4f} and offsets by {a.offset:.2f} px from PyTorch's; "
                f"in float32 at most {MOST_HEAT} and {MOST_OFFSET} px"
            )
        for name, cosine in a.cosine.items():
            if not cosine >= LEAST_COSINE:
                raise ModelError(
                    f"{a.engine}: the cosine of {name} with PyTorch's is {cosine:.4f}; "
                    f"in float32 at least {LEAST_COSINE:g}"
                )


def require_little_loss(
    precision: str, agreements: Sequence[Agreement], losses: Sequence[Loss], max_loss: float, max_class_loss: float
) -> None:
    """Raises ModelError where a rounded graph loses more than it may; without labels, where it changes too many.

    Args:
        precision: "int8" or "bfloat16".
    """
    for loss in losses:
        name, points = loss.worst
        if not loss.loss <= max_loss or not points <= max_class_loss:
            raise ModelError(
                f"{precision} on {loss.engine} loses {loss.loss:.2f} points of mean IoU (at most {max_loss:g}) and "
                f"{points:.2f} of {name} (at most {max_class_loss:g}): calibrate on more pictures, or export in float"
            )
    for a in agreements if not losses else ():
        if a.graph == precision and not a.equal >= LEAST_SIMILAR:
            raise ModelError(
                f"{precision} on {a.engine}: {100 * a.equal:.1f} % of the labels are as before, at least "
                f"{100 * LEAST_SIMILAR:g} % must be: calibrate on pictures like the camera's, or give --labelled"
            )
