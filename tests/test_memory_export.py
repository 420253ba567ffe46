from __future__ import annotations

import importlib
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
onnx = pytest.importorskip("onnx", reason="the train extra is not installed")

from onnx import TensorProto, helper  # noqa: E402

from perception.engines import open_engine  # noqa: E402
from perception.errors import ModelError  # noqa: E402
from perception.models.card import find  # noqa: E402
from perception.propagation.memory import MemoryCarrier  # noqa: E402
from perception.training.card_file import card_text  # noqa: E402
from perception.training.networks.memory import MemoryReader  # noqa: E402
from perception.training.propagator.checkpoint import ReaderRun, save_reader_run  # noqa: E402
from perception.training.propagator.export import (  # noqa: E402
    INPUTS,
    OUTPUTS,
    example,
    export_reader,
    in_pytorch,
    with_propagator,
    write_reader,
)
from perception.types import Features  # noqa: E402
from tests.fakes import tiny_model  # noqa: E402
from tests.memory_fakes import CHANNELS  # noqa: E402
from tests.test_cli import refused, say  # noqa: E402, F401  # a fixture
from tests.training_fakes import no_file_beyond  # noqa: E402

SIZE = (32, 64)  # height, width of the masks
FEATURES = ("keys", "context", "fine8", "fine4")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def reader() -> MemoryReader:
    torch.manual_seed(4)
    return MemoryReader().eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, reader) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("run") / "last.safetensors", reader)


def write_checkpoint(path: Path, reader: MemoryReader) -> Path:
    tensors = {f"averaged.{name}": tensor for name, tensor in reader.state_dict().items()}
    save_reader_run(path, ReaderRun(tensors, 7, reader.channels))
    return path


def write_model(folder: Path, channels: tuple[int, ...] = CHANNELS) -> Path:
    """A graph whose outputs are shaped as those of a panoptic network with features, and its card."""
    h, w = SIZE
    shapes = {name: [1, c, h // s, w // s] for name, c, s in zip(FEATURES, channels, (16, 16, 8, 4), strict=True)}
    shapes |= {"centre": [1, 1, h // 4, w // 4], "offset": [1, 2, h // 4, w // 4], "labels": [1, h, w]}
    nodes = [
        helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=helper.make_tensor("v", kind, [1], [0]))
        for name, kind in ((n, TensorProto.UINT8 if n == "labels" else TensorProto.FLOAT) for n in shapes)
    ]
    outputs = [
        helper.make_tensor_value_info(n, TensorProto.UINT8 if n == "labels" else TensorProto.FLOAT, shape)
        for n, shape in shapes.items()
    ]
    sizes = [helper.make_tensor(f"{n}_shape", TensorProto.INT64, [len(s)], s) for n, s in shapes.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, h, w, 3])
    graph = helper.make_graph(nodes, "panoptic", [image], outputs, sizes)
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    texts = {"description": "für Tests"}
    path.with_suffix(".toml").write_text(
        card_text(path, None, (w, h), tuple(shapes), ("road", "car"), ("car",), texts, {"[topics]": "a trap"})
    )
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    return write_model(tmp_path)


def card_of(model: Path) -> dict:
    return tomllib.loads(model.with_suffix(".toml").read_text())


@pytest.fixture(scope="module")
def exported(tmp_path_factory, checkpoint) -> tuple[Path, dict[str, float]]:
    """A model with a memory, and how far its engines are from PyTorch."""
    model = write_model(tmp_path_factory.mktemp("exported"))
    report = export_reader(checkpoint, model)
    assert report.graph == model.with_name("net-memory.onnx")
    return model, report.differences


@pytest.fixture
def with_memory(exported, tmp_path) -> Path:
    """A copy of that model."""
    folder = tmp_path / "with memory"
    shutil.copytree(exported[0].parent, folder)
    return folder / exported[0].name


def test_every_engine_says_what_pytorch_says(exported):
    assert "onnxruntime" in exported[1]
    for engine, difference in exported[1].items():
        assert difference < (0.05 if engine.endswith("bf16") else 1e-3), engine


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_all_outputs_of_the_graph_are_pytorch_s(reader, tmp_path, engine):
    pytest.importorskip(engine, reason=f"the {engine} extra is not installed")
    write_reader(reader, SIZE, tmp_path / "memory.onnx")
    if engine == "openvino":
        run = importlib.import_module("perception.engines.openvino").OpenVinoEngine(
            tmp_path / "memory.onnx", precision="f32"
        )
    else:
        run = open_engine(tmp_path / "memory.onnx", "onnxruntime")
    assert [spec.name for spec in run.inputs] == list(INPUTS)
    inputs = example(reader, SIZE, torch.Generator().manual_seed(2))
    said = run({name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)})
    for name, wanted in in_pytorch(reader, inputs).items():
        np.testing.assert_allclose(said[name], wanted, atol=2e-3, rtol=2e-3, err_msg=name)
    assert set(OUTPUTS) <= set(said)


def test_the_node_carries_with_what_was_exported(exported):
    graph = find(str(exported[0])).propagator
    assert graph is not None
    carrier = MemoryCarrier(open_engine(graph, "onnxruntime"))
    h, w = SIZE
    features = Features(
        *(np.ones((c, h // s, w // s), np.float32) for c, s in zip(CHANNELS, (16, 16, 8, 4), strict=True))
    )
    carried = carrier.carry(features, 0)
    assert carried.masks.shape == (carrier.slots, h // 4, w // 4)
    assert carried.masks.max() < 1e-4  # nothing is followed yet
    carrier.close()


def test_the_card_names_the_memory_once_also_when_another_replaces_it(with_memory, model, tmp_path):
    plain, first = card_of(model), card_of(with_memory)
    torch.manual_seed(5)
    export_reader(write_checkpoint(tmp_path / "other.safetensors", MemoryReader()), with_memory)
    second = card_of(with_memory)
    assert first["propagator"]["graph"] == second["propagator"]["graph"] == "net-memory.onnx"
    assert first["propagator"]["sha256"] != second["propagator"]["sha256"]
    assert with_memory.with_suffix(".toml").read_text().count("[propagator]") == 1
    for card in (first, second):
        assert {key: value for key, value in card.items() if key != "propagator"} == plain
    find(str(with_memory))


def test_a_memory_whose_file_is_gone_is_exported_again(say, checkpoint, with_memory):  # noqa: F811
    text = with_memory.with_suffix(".toml").read_text()
    with_memory.with_name("net-memory.onnx").unlink()
    with pytest.raises(ModelError, match="export again"):
        find(str(with_memory))
    code, out, _ = say("export-memory", checkpoint, with_memory)
    assert code == 0
    assert "onnxruntime: probabilities within 0.00" in out
    assert "net-memory.onnx" in out
    assert "named in net.toml" in out
    assert with_memory.with_suffix(".toml").read_text() == text
    find(str(with_memory))


TABLE = '\n[propagator]  # of last year\n\ngraph = "old.onnx"\nsha256 = "0"'


@pytest.mark.parametrize(
    "text",
    [
        "card = 1\n",
        "card = 1",
        f"card = 1\n{TABLE}",
        f"card = 1\n{TABLE}\n",
        f"card = 1\n{TABLE}\n\n[topics]\nroad = []\n",
        f"card = 1\n\n[topics]\nroad = []\n{TABLE}\n\n[[classes]]\nname = 'a'\n",
    ],
)
def test_a_card_written_by_hand_keeps_everything_else(text, tmp_path):
    (tmp_path / "memory.onnx").write_bytes(b"graph")
    rest = {key: value for key, value in tomllib.loads(text).items() if key != "propagator"}
    new = with_propagator(text, tmp_path / "memory.onnx", "new.onnx")
    card = tomllib.loads(new)
    assert card.pop("propagator")["graph"] == "new.onnx"
    assert card == rest
    assert with_propagator(new, tmp_path / "memory.onnx", "new.onnx") == new


def test_a_full_disk_leaves_card_and_graph_as_they_were(checkpoint, with_memory):
    before = {path.name: path.read_bytes() for path in with_memory.parent.iterdir()}
    with no_file_beyond(20), pytest.raises(ModelError, match="can't be written") as error:
        export_reader(checkpoint, with_memory)
    assert "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in with_memory.parent.iterdir()} == before


def test_bad_input_is_one_line(say, checkpoint, model, tmp_path):  # noqa: F811
    for name in ("semantic", "wide", "inline"):
        (tmp_path / name).mkdir()
    inline = write_model(tmp_path / "inline").with_suffix(".toml")
    in_one_line = 'card = 1\npropagator = {graph = "a.onnx", sha256 = "%s"}\n' % ("0" * 64)
    inline.write_text(inline.read_text().replace("card = 1\n", in_one_line))
    (tmp_path / "alone.onnx").write_bytes(model.read_bytes())
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:-20])
    cases = {
        "no such file; give a checkpoint": (tmp_path / "none.safetensors", model),
        "not a whole checkpoint": (tmp_path / "cut.safetensors", model),
        "not a model": (checkpoint, tmp_path / "none.onnx"),
        "alone.onnx: not a model": (checkpoint, tmp_path / "alone.onnx"),
        "names no features": (checkpoint, tiny_model(tmp_path / "semantic")),
        "train one on this network": (checkpoint, write_model(tmp_path / "wide", (128, 128, 32, 24))),
        "[propagator] can't be replaced": (checkpoint, inline.with_suffix(".onnx")),
    }
    for expected, words in cases.items():
        assert expected in refused(say("export-memory", *words)), expected
