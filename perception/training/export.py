"""Trained weights to a graph that takes camera bytes and gives class indices, and the card beside it."""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ModelError
from perception.training.datasets import CLASSES
from perception.training.networks.deeplab import DeepLabV3Plus
from perception.training.train import Recipe

OPSET = 17
THINGS = ("car", "pedestrian", "bicyclist")
MIN_AREA = {"car": 160, "pedestrian": 60, "bicyclist": 80}  # [px at 640x360]; a person of 60 px is about 70 m away
TOPICS = {"road": ["road", "lane marking"], "lane": ["lane marking"], "pedestrian": ["pedestrian"]}
TOPICS |= {"vehicle": ["car"], "bicyclist": ["bicyclist"], "sidewalk": ["sidewalk"]}


class BytesToLabels(nn.Module):
    """uint8 (1, h, w, 3) RGB -> labels uint8 (1, h, w) and confidence uint8 (1, h/4, w/4).

    Logits are upsampled bilinearly before the argmax, as in evaluation; the winner's probability is read at 1/4,
    where it is cheap, and only to score segments.
    """

    def __init__(self, net: DeepLabV3Plus, size: tuple[int, int]) -> None:
        super().__init__()
        self.net, self.size = net, size

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image.permute(0, 3, 1, 2).float() * (1 / 127.5) - 1.0
        logits = self.net(x)
        full = F.interpolate(logits, self.size, mode="bilinear", align_corners=False)
        confidence = logits.softmax(1).amax(1) * 255
        return full.argmax(1).to(torch.uint8), confidence.to(torch.uint8)


def load_network(checkpoint: Path) -> DeepLabV3Plus:
    """The averaged network of a training run's `last.pt`. Raises ModelError where it is not one."""
    try:
        state = torch.load(checkpoint, weights_only=True)
        recipe = Recipe(**state["recipe"])
        net = DeepLabV3Plus(len(CLASSES), recipe.width, recipe.output_stride, recipe.last_stage)
        net.load_state_dict(state["averaged"])
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{checkpoint}: not a checkpoint of perception train: {str(error).splitlines()[0]}") from None
    return net.eval()


def export(
    checkpoint: Path, out: Path, width: int, height: int, about: Mapping[str, str], figures: Mapping[str, str]
) -> None:
    """Write `out` (.onnx) and its card (.toml). `about` holds the card's description, data and licence."""
    module = BytesToLabels(load_network(checkpoint), (height, width)).eval()
    example = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), str(out), input_names=["image"], output_names=["labels", "confidence"],
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    write_card(out, width, height, about, figures)


def export_int8(
    checkpoint: Path,
    out: Path,
    width: int,
    height: int,
    about: Mapping[str, str],
    figures: Mapping[str, str],
    calibration: Sequence[Path],
) -> None:
    """As `export`, quantised to int8 with ranges taken from the pictures in the folders `calibration`."""
    from perception.training.quantise import quantise

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "float.onnx"
        export(checkpoint, graph, width, height, about, figures)
        quantise(graph, out, calibration)
    write_card(out, width, height, about, figures)


def write_card(graph: Path, width: int, height: int, about: Mapping[str, str], figures: Mapping[str, str]) -> None:
    """The card of a graph that `export` made, with the graph's hash."""

    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML basic string

    lines = ["card = 1", 'kind = "semantic"']
    lines += [f"{key} = {text(value)}" for key, value in about.items()]
    lines += [f'sha256 = "{hashlib.sha256(graph.read_bytes()).hexdigest()}"', "", "[input]", 'name = "image"']
    lines += [f"width = {width}", f"height = {height}", 'layout = "NHWC"', 'colour = "RGB"', ""]
    lines += ["[output]", 'name = "labels"', 'form = "labels"', 'confidence = "confidence"', "", "[topics]"]
    lines += [f"{name} = {json.dumps(classes)}" for name, classes in TOPICS.items()]
    lines += ["", "[figures]", *(f"{json.dumps(key)} = {text(value)}" for key, value in figures.items())]
    for name in CLASSES:
        lines += ["", "[[classes]]", f"name = {text(name)}"]
        if name in THINGS:
            lines += ["thing = true", f"min_area = {MIN_AREA[name]}"]
    graph.with_suffix(".toml").write_text("\n".join(lines) + "\n")
