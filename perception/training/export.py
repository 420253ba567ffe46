"""A checkpoint to one graph that takes camera bytes, and its card; nothing is written that has not been measured."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ConfigError
from perception.training.card_file import card_text, encoder_place, install, require_card
from perception.training.checkpoint import About, load_network, shipped_or
from perception.training.networks.input_size import input_size
from perception.training.networks.prediction import Prediction
from perception.training.parity import (
    Agreement,
    Loss,
    compare,
    float_engines,
    frames_of,
    measure_loss,
    node_engines,
    require_equal,
    require_little_loss,
)
from perception.training.quantise import for_bfloat16, quantise
from perception.types import FEATURES

OPSET = 17
CELL = 4  # [px] of the confidence's grid
SEMANTIC_OUTPUTS = ("labels", "confidence")
PANOPTIC_OUTPUTS = (*SEMANTIC_OUTPUTS, "centre", "offset", *FEATURES)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportSettings:
    """What to export, and what it must not lose. Loss is in points of IoU, of 100."""

    width: int = 640
    height: int = 352
    texts: Mapping[str, str] = field(default_factory=dict)  # the card's description, data and licence
    figures: Mapping[str, str] = field(default_factory=dict)  # for the card, beside what is measured here
    int8: tuple[Path, ...] = ()  # folders of pictures to calibrate on; empty: float
    bfloat16: tuple[Path, ...] = ()  # the same, for weights that bfloat16 holds exactly; int8 has them anyway
    parity: Path | None = None  # folder of pictures to compare with PyTorch on; None: rendered frames
    labelled: Path | None = None  # folder with images/ and labels/ to measure the loss on
    max_loss: float = 0.7  # of the mean over the classes
    max_class_loss: float = 3.0  # of any one class


@dataclass(frozen=True)
class Report:
    """What an export measured."""

    classes: tuple[str, ...]
    agreements: tuple[Agreement, ...]  # of the float graph, then of the rounded one
    losses: tuple[Loss, ...]  # on labelled pictures; empty without them
    settings: ExportSettings

    def figures(self) -> dict[str, str]:
        """For a card."""
        source = f"pictures of {_name(self.settings.parity)}" if self.settings.parity else "rendered frames"
        equal = (f"{a.graph} on {a.engine} {100 * a.equal:.2f} %" for a in self.agreements)
        figures = {f"labels that are PyTorch's, on {source}": ", ".join(equal)}
        if all(a.cosine for a in self.agreements):
            figures[f"cosine of the features with PyTorch's, on {source}"] = "; ".join(map(_cosines, self.agreements))
        for loss in self.losses:
            assert self.settings.labelled is not None
            name, points = loss.worst
            figures[f"mIoU on {_name(self.settings.labelled)}, {loss.graph} on {loss.engine}"] = (
                f"{100 * loss.mean_after:.2f}, {loss.loss:.2f} below PyTorch; most lost: {name} {points:.2f}"
            )
        return figures


def _cosines(a: Agreement) -> str:
    return f"{a.graph} on {a.engine} " + ", ".join(f"{name} {cosine:.3f}" for name, cosine in a.cosine.items())


def _name(folder: Path) -> str:
    """What a card may say of a folder on this machine."""
    return "/".join(folder.absolute().parts[-2:])


class BytesToLabels(nn.Module):
    """uint8 (1, h, w, 3) RGB -> labels uint8 (1, h, w) and confidence uint8, the winner's probability.

    Logits are enlarged bilinearly before the argmax, as in evaluation; the probability is read at 1/4, or where
    the logits are if that is coarser: it only scores segments.
    """

    outputs = SEMANTIC_OUTPUTS

    def __init__(self, network: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.size = network, size

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self._labels(self._predict(image))

    def _predict(self, image: Tensor) -> Prediction:
        return self.net(image.permute(0, 3, 1, 2).float() * (1 / 127.5) - 1.0)

    def _labels(self, seen: Prediction) -> tuple[Tensor, Tensor]:
        rows, _ = input_size(seen.semantic)
        full = seen.semantic
        if rows != self.size[0]:
            full = F.interpolate(full, scale_factor=float(self.size[0] // rows), mode="bilinear", align_corners=False)
        step = max(1, CELL * rows // self.size[0])
        confidence = seen.semantic[:, :, ::step, ::step].softmax(1).amax(1) * 255
        return full.argmax(1).to(torch.uint8), confidence.to(torch.uint8)


class BytesToPanoptic(BytesToLabels):
    """As `BytesToLabels`, then centre (1, 1, h/t, w/t), offset (1, 2, h/t, w/t) [px] and the encoder's features.

    t is the network's own stride of them, see `networks.config.INSTANCE_STRIDE`.
    """

    outputs = PANOPTIC_OUTPUTS

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        seen = self._predict(image)
        assert seen.centre is not None
        assert seen.offset is not None
        assert seen.features is not None
        return (*self._labels(seen), seen.centre, seen.offset, *seen.features)


def export(
    checkpoint: Path, out: Path, settings: ExportSettings, progress: Progress = lambda _what, _done, _total: None
) -> Report:
    """Write `out` (.onnx), its card (.toml) and a panoptic graph's encoder, all or none; say what was measured.

    `checkpoint` is a file, or a shipped one by its name.

    Raises:
        ModelError: the checkpoint is not one, its network does not take this size, the graph does not say what
            PyTorch says, int8 loses too much, or the node would refuse the card; what was at `out` is untouched.
        ConfigError: a folder is not there or holds no pictures.
    """
    if out.suffix != ".onnx" or not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: name a .onnx file in a folder that is there")
    network, about = load_network(shipped_or(checkpoint))
    module = wrapped(network, settings)
    with tempfile.TemporaryDirectory() as folder:
        agreements, losses, graph = _measured_graph(module, about, settings, Path(folder), progress)
        report = Report(about.classes, tuple(agreements), tuple(losses), settings)
        figures = {**settings.figures, **report.figures()}
        size = (settings.width, settings.height)
        encoder = encoder_of(graph, out) if module.outputs == PANOPTIC_OUTPUTS else None
        text = card_text(graph, encoder, size, module.outputs, about.classes, about.things, settings.texts, figures)
        require_card(text, out)
        install(graph, encoder, text, out)
    return report


def encoder_of(graph: Path, out: Path) -> Path:
    """Beside `graph`, that part of it which gives the encoder's features: the same weights, the same numbers."""
    encoder = graph.with_name(encoder_place(out).name)
    onnx.utils.extract_model(str(graph), str(encoder), ["image"], list(FEATURES))
    return encoder


def _measured_graph(
    module: BytesToLabels, about: About, settings: ExportSettings, folder: Path, progress: Progress
) -> tuple[list[Agreement], list[Loss], Path]:
    """The graph as asked for, in `folder`, with what it was found to say. Raises ModelError as `export`."""
    reference, size, classes = in_pytorch(module), (settings.width, settings.height), about.classes
    frames = frames_of(settings.parity, *size)
    graph, precision, losses = folder / "float.onnx", "float", []
    calibration = settings.int8 or settings.bfloat16
    steps = 2 if calibration else 1
    progress("graph", 0, steps)
    write_graph(module, graph)
    wanted = [reference(frame) for frame in frames]
    agreements = [compare(wanted, e, precision, frames, len(classes)) for e in float_engines(graph)]
    require_equal(agreements)
    progress("graph", 1, steps)
    if calibration:
        exact, precision = graph, "int8" if settings.int8 else "bfloat16"
        graph = folder / f"{precision}.onnx"
        (quantise if settings.int8 else for_bfloat16)(exact, graph, calibration)
        agreements += [compare(wanted, e, precision, frames, len(classes)) for e in node_engines(graph)]
        progress("graph", 2, steps)
    if settings.labelled:
        engines = node_engines(graph)
        losses = measure_loss(reference, engines, precision, settings.labelled, classes, size, progress)
    if calibration:
        require_little_loss(precision, agreements, losses, settings.max_loss, settings.max_class_loss)
    return agreements, losses, graph


def wrapped(network: nn.Module, settings: ExportSettings) -> BytesToLabels:
    """The network from bytes to class indices; raises ModelError where it does not take the size."""
    size = (settings.height, settings.width)
    with torch.inference_mode():
        seen: Prediction = network(torch.zeros(1, 3, *size))
    kind = BytesToLabels if seen.centre is None else BytesToPanoptic
    return kind(network, size).eval()


def in_pytorch(module: BytesToLabels) -> Callable[[NDArray[np.uint8]], dict[str, NDArray]]:
    """The module called as an engine's graph is: (h, w, 3) uint8 -> outputs by name."""

    def run(image: NDArray[np.uint8]) -> dict[str, NDArray]:
        with torch.inference_mode():
            values = module(torch.from_numpy(np.ascontiguousarray(image))[None])
        return {name: value.numpy() for name, value in zip(module.outputs, values, strict=True)}

    return run


def write_graph(module: BytesToLabels, path: Path) -> None:
    """The module as ONNX with static shapes."""
    example = torch.zeros(1, *module.size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that gives plain operators is deprecated, and says so
        torch.onnx.export(
            module, (example,), str(path), input_names=["image"], output_names=list(module.outputs),
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
