"""The memory reader as a graph with static shapes, its state as inputs and outputs."""

from __future__ import annotations

import hashlib
import re
import tempfile
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from perception.errors import ConfigError, ModelError, reason
from perception.models.card import Card, checked_sha256
from perception.strict_toml import check, read_toml
from perception.training.card_file import replace_all
from perception.training.networks.memory import (
    Carried,
    Encoded,
    Memory,
    MemoryReader,
    Write,
    empty_memory,
)
from perception.training.parity import float_engines
from perception.training.propagator.checkpoint import load_reader
from perception.training.propagator.features import STRIDES

OPSET = 17
INPUTS = (*Encoded._fields, *(f"memory_{name}" for name in Memory._fields), *Write._fields)
OUTPUTS = ("probabilities", "presence", "quality", *(f"next_{name}" for name in Memory._fields))


class ReaderGraph(nn.Module):
    """One step with plain tensors in and out."""

    def __init__(self, reader: MemoryReader) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        seen, rest = Encoded(*tensors[:4]), tensors[4:]
        count = len(Memory._fields)
        carried, memory = self.reader(seen, Memory(*rest[:count]), Write(*rest[count:]))
        return (*probabilities(carried), *memory)


def probabilities(carried: Carried) -> tuple[Tensor, Tensor, Tensor]:
    return carried.probabilities, carried.presence.sigmoid(), carried.quality.sigmoid()


def example(reader: MemoryReader, size: tuple[int, int], generator: torch.Generator | None = None) -> list[Tensor]:
    """Random inputs of the right shapes, in the order of INPUTS; `size` is height, width of the masks [px]."""
    h, w = size
    seen = Encoded(
        *(
            torch.rand(1, c, h // s, w // s, generator=generator)
            for c, s in zip(reader.channels, STRIDES.values(), strict=True)
        )
    )
    memory = empty_memory(1, h, w)
    slots, entries = memory.known.shape[2], memory.known.shape[1]
    masks = F.one_hot(torch.randint(0, slots + 1, (1, h // 4, w // 4), generator=generator), slots + 1)
    flags = torch.ones(1, slots)
    write = Write(
        masks.permute(0, 3, 1, 2)[:, 1:].float(),
        torch.ones(1, entries),
        flags,
        0.5 * flags,
        flags,
        flags,
        torch.ones(1, entries),
    )
    return [*seen, *memory, *write]


def write_reader(reader: MemoryReader, size: tuple[int, int], path: Path) -> None:
    """Write the graph (.onnx) for masks of `size` (height, width)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that gives plain operators is deprecated, and says so
        torch.onnx.export(
            ReaderGraph(reader).eval(), tuple(example(reader, size)), str(path),
            input_names=list(INPUTS), output_names=list(OUTPUTS), opset_version=OPSET, dynamo=False,
        )  # fmt: skip


def in_pytorch(reader: MemoryReader, inputs: list[Tensor]) -> dict[str, NDArray[np.float32]]:
    """What PyTorch says of the same inputs, by output name."""
    with torch.inference_mode():
        values = ReaderGraph(reader).eval()(*inputs)
    return {name: value.numpy() for name, value in zip(OUTPUTS, values, strict=True)}


TOLERANCE = {"onnxruntime": 1e-3, "openvino-f32": 1e-3}  # of probabilities; bfloat16 is told, not refused


@dataclass(frozen=True)
class ReaderReport:
    graph: Path
    differences: dict[str, float]  # engine -> the 99.9 % quantile of the difference of probabilities from PyTorch


def export_reader(checkpoint: Path, model: Path) -> ReaderReport:
    """Write MODEL-memory.onnx beside a model for masks of its size, and name it in the model's card.

    What the card named before is replaced, also where its file is gone.

    Raises:
        ModelError: the checkpoint is none, the model gives no features or others than the memory was trained on, the
            graph does not say what PyTorch says, or the folder can't be written.
    """
    reader, card = load_reader(checkpoint), model.with_suffix(".toml")
    size = _mask_size(reader, model)
    place = model.with_name(f"{model.stem}-memory.onnx")
    try:
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "memory.onnx"
            write_reader(reader, size, graph)
            differences = _differences(reader, size, graph)
            text = with_propagator(card.read_text(encoding="utf-8"), graph, place.name)
            _require_valid(text, card)
            replace_all({place: graph}, {card: text})
    except OSError as error:
        raise ModelError(f"{place}: can't be written: {reason(error)}") from None
    return ReaderReport(place, differences)


def _mask_size(reader: MemoryReader, model: Path) -> tuple[int, int]:
    """Height and width of a model's masks [px], by the features that it gives; raises ModelError as above."""
    card_path = model.with_suffix(".toml")
    if model.suffix != ".onnx" or not model.is_file() or not card_path.is_file():
        raise ModelError(f"{model}: not a model; give an .onnx file that has its card (.toml) beside it")
    card = read_toml(card_path, Card)
    checked_sha256(model, card.sha256, card_path.name)
    names = card.output.feature_names()
    if not names:
        raise ModelError(f"{model}: its card names no features; the memory has nothing to read")
    outputs = {o.name: o.type.tensor_type.shape.dim for o in onnx.load(model).graph.output}
    shapes = [tuple(d.dim_value for d in outputs.get(name, ())) for name in names.values()]
    h, w = (16 * n for n in (shapes[0] or (0,) * 4)[2:])
    wanted = [(1, c, h // s, w // s) for c, s in zip(reader.channels, STRIDES.values(), strict=True)]
    if not h or shapes != wanted:
        raise ModelError(
            f"{model}: gives features {shapes}, the memory was trained on {wanted}: "
            "train one on this network with `perception train-memory`"
        )
    return h, w


def _differences(reader: MemoryReader, size: tuple[int, int], graph: Path) -> dict[str, float]:
    inputs = example(reader, size, torch.Generator().manual_seed(0))
    wanted = in_pytorch(reader, inputs)["probabilities"]
    found = {}
    for engine in float_engines(graph):
        said = engine({name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})["probabilities"]
        found[engine.name] = float(np.quantile(np.abs(said - wanted), 0.999))
        engine.close()
        if not found[engine.name] <= TOLERANCE.get(engine.name, 1.0):
            raise ModelError(f"{engine.name}: probabilities {found[engine.name]:.4f} from PyTorch's: a broken export")
    return found


def with_propagator(card: str, graph: Path, name: str) -> str:
    """A card's text with its [propagator] table set or replaced."""
    rest = re.sub(r"\n\[propagator\][^\n]*(?:\n(?!\[)[^\n]*)*", "", card).rstrip("\n") + "\n"
    sha256 = hashlib.sha256(graph.read_bytes()).hexdigest()
    table = f'\n[propagator]\ngraph = "{name}"\nsha256 = "{sha256}"\n'
    head, mark, tail = rest.partition("\n[topics]")
    return head + table + mark + tail if mark else rest + table


def _require_valid(text: str, card: Path) -> None:
    """Raises ModelError where a card was written in a way that `with_propagator` can't deal with."""
    try:
        check(tomllib.loads(text), Card, str(card))
    except (ConfigError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{card}: its [propagator] can't be replaced ({error}); delete that table first") from None
