from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")
pytest.importorskip("onnx", reason="the train extra is not installed")

from perception.build import open_model  # noqa: E402
from perception.cli.export import export as export_command  # noqa: E402
from perception.drives.rendered import CLASS_NAMES, write_training_frames  # noqa: E402
from perception.engines import open_engine  # noqa: E402
from perception.errors import ConfigError, ModelError  # noqa: E402
from perception.evaluation.segmentation import Confusion  # noqa: E402
from perception.images import load_image  # noqa: E402
from perception.models.card import find  # noqa: E402
from perception.models.lowering.quantised import stays_float  # noqa: E402
from perception.models.panoptic import PanopticModel  # noqa: E402
from perception.opencv import cv2  # noqa: E402
from perception.protocols import Engine  # noqa: E402
from perception.training.checkpoint import AVERAGED, About, load_network, save_checkpoint  # noqa: E402
from perception.training.export import ExportSettings, Report, export, in_pytorch, wrapped, write_graph  # noqa: E402
from perception.training.networks import NetworkConfig, build_network  # noqa: E402
from perception.training.parity import (  # noqa: E402
    Agreement,
    Loss,
    Outputs,
    compare,
    require_equal,
    require_little_loss,
)
from perception.training.quantise import Pictures, quantise  # noqa: E402
from perception.types import FEATURES  # noqa: E402

THINGS = ("car", "pedestrian", "bicyclist")
SIZE = (128, 112)  # width, height: the least that U-Net with valid padding mirrors


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Four rendered frames with their labels."""
    folder = tmp_path_factory.mktemp("pictures")
    for _ in write_training_frames(folder, 4, range(2), *SIZE):
        pass
    return folder


def checkpoint(folder: Path, config: NetworkConfig, classes: tuple[str, ...] = CLASS_NAMES) -> Path:
    """A network with random weights, whose centres and batch norms say something too."""
    torch.manual_seed(0)
    network = build_network(config, len(classes))
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean") or name.startswith("centre."):
                tensor.normal_(0, 0.1)
    path = folder / "network.safetensors"
    tensors = {AVERAGED + name: tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(path, tensors, About(network=config, classes=classes, things=THINGS))
    return path


def settings(pictures: Path, **changes) -> ExportSettings:
    return ExportSettings(*SIZE, parity=pictures / "images", **changes)


@pytest.fixture(scope="module")
def realtime(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("realtime"), NetworkConfig(width=16))


@pytest.fixture(scope="module")
def unet(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("unet"), NetworkConfig("unet", width=8))


@pytest.fixture(scope="module")
def exported(realtime, pictures) -> tuple[Path, Report]:
    out = realtime.with_name("net.onnx")
    texts, figures = {"description": 'of "tests"', "licence": "none"}, {"told": "yes"}
    return out, export(realtime, out, settings(pictures, texts=texts, figures=figures))


def test_every_engine_says_what_pytorch_says(exported):
    _, report = exported
    assert "onnxruntime" in {a.engine for a in report.agreements}
    for a in report.agreements:
        assert a.equal > (0.9 if a.engine.endswith("bf16") else 0.999)
        assert a.heat is not None
        assert a.offset is not None


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_node_runs_what_was_exported(exported, realtime, pictures, engine):
    pytest.importorskip(engine, reason=f"the {engine} extra is not installed")
    out, _ = exported
    model = open_model(find(str(out)), engine)
    assert isinstance(model, PanopticModel)
    image = load_image(pictures / "images" / "000000.png")
    seen = model(image)
    reference = in_pytorch(wrapped(load_network(realtime)[0], ExportSettings(*SIZE)))(image)
    # Grouping may change labels of things, and of nothing else.
    stuff = ~np.isin(reference["labels"][0], [CLASS_NAMES.index(name) for name in THINGS])
    assert np.mean(seen.labels[stuff] == reference["labels"][0][stuff]) > 0.9


def encoder_of(graph: Path) -> Path:
    encoder = find(str(graph)).encoder
    assert encoder is not None
    assert encoder == graph.with_name(f"{graph.stem}-encoder.onnx")
    return encoder


def test_the_encoder_gives_the_whole_graph_s_features_and_pytorch_s(exported, realtime, pictures):
    image = load_image(pictures / "images" / "000000.png")
    whole, encoder = (open_engine(graph, "onnxruntime") for graph in (exported[0], encoder_of(exported[0])))
    wanted, alone = whole({"image": image[None]}), encoder({"image": image[None]})
    assert tuple(alone) == FEATURES
    assert all(np.array_equal(wanted[name], array) for name, array in alone.items())
    reference = in_pytorch(wrapped(load_network(realtime)[0], ExportSettings(*SIZE)))(image)
    for name, array in alone.items():
        assert np.abs(array - reference[name]).max() < 0.01 * reference[name].std(), name
    for a in exported[1].agreements:
        assert tuple(a.cosine) == FEATURES
        assert all(c > (0.9 if a.engine.endswith("bf16") else 0.9999) for c in a.cosine.values())


def test_the_card_says_what_was_given_and_measured(exported):
    card = find(str(exported[0])).card
    assert card.description == 'of "tests"'
    assert card.figures["told"] == "yes"
    assert any("onnxruntime" in value for value in card.figures.values())
    assert card.class_table().things == frozenset(THINGS)
    assert {"road", "lane", "pedestrian"} <= set(card.topics)


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig("panoptic-deeplab", "resnet", width=16),
        NetworkConfig("deeplabv3+", width=16),
        NetworkConfig("unet", width=8, padding="valid"),
    ],
    ids=lambda c: f"{c.kind}-{c.padding}",
)
def test_every_network_runs_in_the_node(tmp_path, pictures, config):
    out = tmp_path / "net.onnx"
    export(checkpoint(tmp_path, config), out, settings(pictures))
    files = find(str(out))
    assert files.card.kind == ("panoptic" if config.kind == "panoptic-deeplab" else "semantic")
    seen = open_model(files, "onnxruntime")(load_image(pictures / "images" / "000000.png"))
    assert seen.labels.shape == SIZE[::-1]


def test_topics_and_areas_are_of_the_classes_that_there_are(tmp_path, pictures):
    out = tmp_path / "net.onnx"
    path = checkpoint(tmp_path, NetworkConfig("unet", width=8), ("ground", "road", "pedestrian"))
    export(path, out, settings(pictures))
    card = find(str(out)).card
    assert card.topics == {"road": ("road",), "pedestrian": ("pedestrian",)}
    assert card.classes[2].min_area == 60


def test_int8_runs_on_every_engine_and_says_its_loss(realtime, pictures, tmp_path):
    out = tmp_path / "net8.onnx"
    # The random weights' classes are noise: here is tested that the loss is measured, not what it is.
    wanted = settings(pictures, int8=(pictures / "images",), labelled=pictures, max_loss=100, max_class_loss=100)
    report = export(realtime, out, wanted)
    assert {"onnxruntime"} <= {x.engine for x in report.losses if x.graph == "int8"}
    assert len(report.losses) == len({a.engine for a in report.agreements if a.graph == "int8"})
    image = load_image(pictures / "images" / "000000.png")
    model = open_model(find(str(out)))  # on OpenVINO, which loads no graph that gives out what an int8 layer reads
    model(image)
    assert {spec.dtype for spec in model.engine.outputs if spec.name in FEATURES} == {"float32"}
    whole, encoder = (open_engine(graph, "onnxruntime")({"image": image[None]}) for graph in (out, encoder_of(out)))
    assert all(np.array_equal(whole[name], encoder[name]) for name in FEATURES)
    import onnx

    nodes = onnx.load(str(out)).graph.node
    dequantised = {name for node in nodes if node.op_type == "DequantizeLinear" for name in node.output}
    exact = {node.name for node in nodes if node.op_type in ("Conv", "Add") and node.input[1] not in dequantised}
    for part in ("/stem/", "/stages.0/", "/stages.1/", "/image/", "/aspp/fuse/", "/head/", "/centre/", "/offset/"):
        assert any(part in name for name in exact), part
    assert "/net/Add" in exact
    assert not any("/stages.4/" in name for name in exact)
    assert not dequantised & set(FEATURES)
    assert any("int8 on onnxruntime" in key for key in find(str(out)).card.figures)


def test_int8_rounds_no_more_than_it_must(realtime, pictures, tmp_path):
    """An activation is part of the rounding behind it, and float layers read what float layers give unrounded."""
    import onnx

    float_graph, out = tmp_path / "net.onnx", tmp_path / "net8.onnx"
    write_graph(wrapped(load_network(realtime)[0], settings(pictures)), float_graph)
    quantise(float_graph, out, [pictures / "images"])
    nodes = onnx.load(str(out)).graph.node
    made_by = {name: node for node in nodes for name in node.output}

    def rounded(name: str) -> onnx.NodeProto | None:
        """What has made a tensor that is read rounded."""
        pair = made_by.get(name)
        if pair is None or pair.op_type != "DequantizeLinear" or pair.input[0] not in made_by:
            return None
        return made_by[made_by[pair.input[0]].input[0]]

    def is_int8(node: onnx.NodeProto) -> bool:
        return node.op_type == "Conv" and not stays_float(node.name)

    read = [(node, maker) for node in nodes for maker in map(rounded, node.input) if maker is not None]
    assert any(is_int8(node) for node, _ in read)
    assert not [node.name for node, maker in read if node.op_type in ("Relu", "Clip") and is_int8(maker)]
    assert not [node.name for node, maker in read if stays_float(node.name) and not is_int8(maker)]


def test_int8_that_loses_too_much_overwrites_nothing(unet, pictures, tmp_path):
    out = tmp_path / "net.onnx"
    out.write_bytes(b"old graph")
    out.with_suffix(".toml").write_bytes(b"old card")
    wanted = settings(pictures, int8=(pictures / "images",), labelled=pictures, max_loss=-100)
    with pytest.raises(ModelError, match="points of mean IoU"):
        export(unet, out, wanted)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {
        "net.onnx": b"old graph",
        "net.toml": b"old card",
    }


def agreement(**changes) -> Agreement:
    values = {"graph": "float", "engine": "openvino-f32", "equal": 1.0, "iou": (1.0,), "heat": 0.0, "offset": 0.0}
    return Agreement(**{**values, **changes})


@pytest.mark.parametrize(
    "change", [{"equal": 0.99}, {"equal": np.nan}, {"heat": 0.1}, {"offset": 3.0}, {"cosine": {"keys": 0.99}}]
)
def test_a_float_graph_that_says_something_else_is_refused(change):
    require_equal([agreement()])
    require_equal([agreement(**change, engine="openvino-bf16")])
    with pytest.raises(ModelError, match="openvino-f32"):
        require_equal([agreement(), agreement(**change)])


class NanLater:
    """An engine that says what is wanted of the first frame, and then no numbers in one output."""

    name = "onnxruntime"

    def __init__(self, wanted: Outputs, spoilt: str) -> None:
        self._wanted, self._spoilt, self._calls = wanted, spoilt, 0

    def __call__(self, inputs: Outputs) -> Outputs:
        self._calls += 1
        return self._wanted | ({self._spoilt: self._wanted[self._spoilt] * np.nan} if self._calls > 1 else {})

    def close(self) -> None:
        pass


@pytest.mark.parametrize("spoilt", ["centre", "offset", "keys"])
def test_an_output_that_is_no_number_in_a_later_frame_is_refused(spoilt):
    wanted = {"labels": np.zeros((1, 8, 8), np.uint8), "centre": np.ones((1, 1, 2, 2), np.float32)}
    wanted |= {"offset": np.ones((1, 2, 2, 2), np.float32), "keys": np.ones((1, 4, 2, 2), np.float32)}
    frames = [np.zeros((8, 8, 3), np.uint8)] * 3
    found = compare([wanted] * 3, cast(Engine, NanLater(wanted, spoilt)), "float", frames, 2)
    with pytest.raises(ModelError, match="nan"):
        require_equal([found])


def test_a_loss_of_one_class_is_refused_though_the_mean_is_good():
    before, after = np.array([0.9, 0.5, np.nan]), np.array([0.96, 0.45, np.nan])
    loss = Loss("int8", "onnxruntime", ("road", "pole", "car"), before, after)
    assert loss.loss == pytest.approx(-0.5)
    require_little_loss("int8", [], [loss], 0.7, 6.0)
    with pytest.raises(ModelError, match=r"5\.00 of pole \(at most 3\)"):
        require_little_loss("int8", [], [loss], 0.7, 3.0)


def confused(truth: np.ndarray, predicted: np.ndarray) -> Confusion:
    confusion = Confusion(4)
    confusion.add(truth, predicted)
    return confusion


def test_classes_that_the_labels_lack_are_no_part_of_the_loss():
    """One stray pixel of the fourth class would be a quarter of one of the means, and no part of the other."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (100, 100)).astype(np.uint8)
    stray, worse = truth.copy(), truth.copy()
    stray[0, 0] = 3
    wrong = rng.random(truth.shape) < 0.012
    worse[wrong] = (truth[wrong] + 1) % 3
    names = ("a", "b", "c", "d")
    bad = Loss.of("int8", "onnxruntime", names, confused(truth, stray), confused(truth, worse))
    assert np.isnan(bad.before[3])
    assert bad.loss == pytest.approx(np.mean(bad.points[:3]))
    with pytest.raises(ModelError, match="points of mean IoU"):
        require_little_loss("int8", [], [bad], 0.7, 3.0)
    good = Loss.of("int8", "onnxruntime", names, confused(truth, truth), confused(truth, stray))
    assert good.loss < 0.1
    assert good.worst[0] != "d"
    require_little_loss("int8", [], [good], 0.7, 3.0)


def test_a_class_that_a_graph_finds_nowhere_is_lost_whole():
    truth = np.repeat(np.arange(4, dtype=np.uint8), 25).reshape(10, 10)
    lost = Loss.of("int8", "onnxruntime", ("a", "b", "c", "d"), confused(truth, truth), confused(truth, truth % 3))
    assert lost.worst == ("d", 100.0)


def test_labels_that_say_nothing_measure_no_loss(unet, pictures, tmp_path):
    shutil.copytree(pictures, tmp_path / "void")
    for path in (tmp_path / "void" / "labels").iterdir():
        cv2.imwrite(str(path), np.full(SIZE[::-1], 255, np.uint8))
    with pytest.raises(ConfigError, match=r"void has no labelled pixel"):
        export(unet, tmp_path / "net.onnx", settings(pictures, labelled=tmp_path / "void"))


def test_without_labels_int8_may_change_few_labels():
    require_little_loss("int8", [agreement(graph="int8", equal=0.97)], [], 0.7, 3.0)
    with pytest.raises(ModelError, match="give --labelled"):
        require_little_loss("int8", [agreement(), agreement(graph="int8", equal=0.9)], [], 0.7, 3.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": 360}, "multiples of 16"),
        ({"parity": Path("nothing")}, "no pictures to compare on"),
    ],
)
def test_what_can_not_be_exported_is_named(unet, tmp_path, change, says):
    with pytest.raises((ModelError, ConfigError), match=says):
        export(unet, tmp_path / "net.onnx", ExportSettings(**change))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"), [("x" * 70, "length <= 64"), ("", "length >= 1"), ("a\x7f", "Illegal character")]
)
def test_a_card_that_the_node_would_refuse_is_not_written(tmp_path, pictures, name, says):
    """As a checkpoint of an older version may have it."""
    path = checkpoint(tmp_path, NetworkConfig("unet", width=8), ("road", name))
    with pytest.raises(ModelError, match=f"the node would refuse its card: .*{says}"):
        export(path, tmp_path / "net.onnx", settings(pictures))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("out", ["net.pt", "no_folder/net.onnx"])
def test_a_place_that_can_not_hold_a_graph_is_refused(unet, tmp_path, out):
    with pytest.raises(ConfigError, match=r"\.onnx file in a folder that is there"):
        export(unet, tmp_path / out, ExportSettings())


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match=r"last\.pt"):
        export(path, tmp_path / "x.onnx", ExportSettings())


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """A limit on file size stands in for the disk; it ends a write with the same kind of error."""
    out, graph = tmp_path / "net.onnx", tmp_path / "new.onnx"
    out.write_bytes(b"old")
    graph.write_bytes(bytes(5000))
    (tmp_path / "small").write_bytes(b"new")
    code = (
        "import resource\nfrom pathlib import Path\nfrom perception.errors import ModelError\n"
        "from perception.training.card_file import install\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"graph = Path({str(graph)!r})\n"
        f"try:\n    install(graph.with_name('small'), graph, 'card', Path({str(out)!r}))\n"
        "except ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "can't be written" in done.stdout, done.stderr
    assert out.read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"net.onnx", "new.onnx", "small"}


def test_calibrating_on_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no pictures to calibrate on"):
        Pictures([tmp_path], 64, 64)


def test_the_command_prints_both_tables(unet, pictures, tmp_path, capsys):
    out = tmp_path / "net.onnx"
    export_command(unet, out, *SIZE, parity=pictures / "images", labelled=pictures, figure=["told=yes"])
    printed = capsys.readouterr().out
    for expected in ("equal labels %", "IoU pedestrian", "IoU on labels", "mean", "net.toml"):
        assert expected in printed
    assert find(str(out)).card.figures["told"] == "yes"


def test_a_shipped_checkpoint_goes_by_its_name(unet, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("perception.training.checkpoint.WEIGHTS", unet.parent)
    monkeypatch.chdir(tmp_path)
    export_command(Path(unet.stem), Path("net.onnx"), *SIZE, parity=pictures / "images")
    assert find(str(tmp_path / "net.onnx")).card.class_table().names == CLASS_NAMES


def test_a_figure_without_a_value_is_refused(unet, tmp_path):
    with pytest.raises(ConfigError, match="'what=value'"):
        export_command(unet, tmp_path / "net.onnx", figure=["mIoU"])
