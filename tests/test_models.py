from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from perception.engines import EngineName, open_engine
from perception.errors import ConfigError, ModelError, PerceptionError
from perception.models.card import find, shipped
from perception.models.semantic import SemanticModel
from tests.fakes import CARD, tiny_model

ENGINES = ["onnxruntime", "openvino"]


def load(path, engine: EngineName = "onnxruntime") -> SemanticModel:
    files = find(str(path))
    return SemanticModel(files, open_engine(files.graph, engine))


def half_and_half(left, right) -> np.ndarray:
    """A 64x32 picture of two colours, RGB."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = left, right
    return image


GREEN, BLUE = (0, 200, 0), (0, 0, 200)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("form", "layout"), [("logits", "NCHW"), ("labels", "NCHW"), ("labels", "NHWC")])
def test_a_users_own_model_runs_by_its_card(tmp_path, engine, form, layout):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    model = load(tiny_model(tmp_path, form=form, layout=layout), engine)
    seen = model(half_and_half(GREEN, BLUE))
    assert model.mask_size == (32, 16)
    assert (seen.labels[:, :15] == 1).all()
    assert (seen.labels[:, 17:] == 2).all()
    assert [s.class_id for s in seen.segments] == [2]


def test_a_semantic_model_has_no_features(tmp_path):
    model = load(tiny_model(tmp_path))
    assert model.features(half_and_half(GREEN, BLUE)) is None
    assert model(half_and_half(GREEN, BLUE)).features is None


def test_colour_order_is_the_cards(tmp_path):
    seen = load(tiny_model(tmp_path, colour="BGR"))(half_and_half((200, 0, 0), BLUE))
    assert (seen.labels[0, 0], seen.labels[0, -1]) == (2, 0)


def test_scaling_is_the_cards(tmp_path):
    card = CARD.replace(
        'layout = "{layout}"', 'layout = "{layout}"\nscale = 1.0\nmean = [0.0, 0.0, 250.0]\nstd = [1.0, 1.0, 0.1]'
    )
    seen = load(tiny_model(tmp_path, card=card))(half_and_half((10, 20, 255), (10, 20, 245)))
    assert (seen.labels[0, 0], seen.labels[0, -1]) == (2, 1)


def test_outputs_are_not_the_engines_reused_buffers(tmp_path):
    model = load(tiny_model(tmp_path, form="labels"))
    first = model(half_and_half(GREEN, GREEN))
    model(half_and_half(BLUE, BLUE))
    assert (first.labels == 1).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("width = 32", "width = 64"), "the card says"),
        (('name = "logits"', 'name = "logit"'), "no output 'logit'"),
        (("[input]", '[input]\nname = "picture"'), "input.name = 'picture'"),
        (('[[classes]]\nname = "sky"\n', ""), "3 classes; the card lists 2"),
    ],
)
def test_a_graph_that_is_not_the_cards_is_refused(tmp_path, change, says):
    card = CARD.replace('name = "{output}"', 'name = "logits"').replace('"{form}"', '"logits"')
    card = card.replace("{layout}", "NCHW").replace("{colour}", "RGB")
    path = tiny_model(tmp_path)
    path.with_suffix(".toml").write_text(card.replace(*change))
    with pytest.raises(ModelError, match=says):
        load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("width", "widht"), "unknown key 'input.widht'; did you mean 'width'"),
        (("card = 1", "card = 9"), "card"),
        (('road = ["road"]', 'road = ["raod"]'), "no class 'raod'; the model has sky, road, person"),
        (('name = "sky"', 'name = "road"'), "class names repeat"),
    ],
)
def test_a_card_with_a_mistake_says_where(tmp_path, change, says):
    path = tiny_model(tmp_path, card=CARD.replace(*change))
    with pytest.raises(ConfigError, match=says):
        find(str(path))


def test_a_model_without_a_card_says_where_to_read_on(tmp_path):
    path = tiny_model(tmp_path)
    path.with_suffix(".toml").unlink()
    with pytest.raises(ModelError, match=r"docs/models\.md"):
        find(str(path))


def test_a_graph_whose_hash_is_not_the_cards_is_refused(tmp_path):
    path = tiny_model(tmp_path, card=CARD.replace("card = 1", f'card = 1\nsha256 = "{"0" * 64}"'))
    with pytest.raises(ModelError, match=r"not what tiny\.toml describes"):
        find(str(path))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
def test_pickles_are_never_loaded(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ModelError, match="export the model to ONNX"):
        find(str(path))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x80\x04pickle", b"<html>"])
def test_what_is_not_onnx_is_a_model_error(tmp_path, engine, content):
    if engine == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        open_engine(path, engine)


def test_three_hundred_damaged_graphs_never_crash(tmp_path):
    whole = tiny_model(tmp_path, form="labels").read_bytes()
    rng = np.random.default_rng(0)
    damaged = tmp_path / "damaged.onnx"
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 1 + int(rng.integers(0, 4))):
            data[at] ^= int(rng.integers(1, 256))
        damaged.write_bytes(bytes(data))
        try:
            open_engine(damaged, "onnxruntime").close()
        except ModelError:
            refused += 1
    assert refused > 50


def test_external_data_outside_the_folder_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    (tmp_path / "secret.bin").write_bytes(b"\0" * 12)
    inside = tmp_path / "inside"
    inside.mkdir()
    weight = proto(data_type=proto.FLOAT, dims=[3], name="w", data_location=proto.EXTERNAL)
    for key, value in {"location": "../secret.bin", "length": "12"}.items():
        weight.external_data.add(key=key, value=value)
    value = helper.make_tensor_value_info("image", proto.FLOAT, [3])
    out = helper.make_tensor_value_info("y", proto.FLOAT, [3])
    graph = helper.make_graph([helper.make_node("Add", ["image", "w"], ["y"])], "g", [value], [out], [weight])
    path = inside / "model.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    with pytest.raises(ModelError):
        open_engine(path, "onnxruntime")


def test_a_bomb_of_a_graph_ends_in_an_error_not_in_swap(tmp_path):
    """65 bytes that ask for 64 GiB, under a limit of 4 GiB of address space."""
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    shape = helper.make_tensor("s", proto.INT64, [1], [1 << 34])
    out = helper.make_tensor_value_info("y", proto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("ConstantOfShape", ["s"], ["y"])], "g", [], [out], [shape])
    path = tmp_path / "bomb.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from perception.engines import EngineName, open_engine\nfrom perception.errors import ModelError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        f"try:\n    open_engine(Path({str(path)!r}), 'onnxruntime', 1)({{}})\n"
        "except ModelError as error:\n    print('refused', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert "refused" in done.stdout


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_model_matches_its_card(name):
    files = find(name)
    model = SemanticModel(files, open_engine(files.graph, "onnxruntime"))
    seen = model(np.zeros((720, 1280, 3), np.uint8))
    assert seen.labels.shape == (model.mask_size[1], model.mask_size[0])
    assert files.card.sha256
    assert files.card.licence
    assert {"road", "lane", "pedestrian"} <= set(files.card.topics)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_encoder_gives_what_its_whole_graph_gives(name):
    files = find(name)
    if not files.encoder:
        pytest.skip(f"{name} has no encoder")
    whole, encoder = (open_engine(path, "onnxruntime") for path in (files.graph, files.encoder))
    assert [spec.name for spec in encoder.outputs] == list(files.card.output.feature_names().values())
    shape = (1, files.card.input.height, files.card.input.width, 3)
    image = {files.card.input.name: np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    wanted, alone = whole(image), encoder(image)
    assert {array.dtype for array in alone.values()} == {np.dtype(np.float32)}
    assert all(np.array_equal(wanted[output], array) for output, array in alone.items())


def test_there_is_a_shipped_model():
    assert "road" in shipped()


def test_a_model_that_is_not_there_names_those_that_are():
    with pytest.raises(PerceptionError, match="road"):
        find("raod")


def test_a_signal_after_two_openvino_engines_have_gone_is_handled(tmp_path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from perception.engines import open_engine\n"
        "first = open_engine(Path(sys.argv[1]), 'openvino')\n"
        "second = open_engine(Path(sys.argv[1]), 'openvino')\n"
        "del first; del second\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tiny_model(tmp_path)], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("handled\n", 0), done.stderr
