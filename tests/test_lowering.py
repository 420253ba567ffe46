"""Lowered graphs against the code that they stand for, on ONNX Runtime's CPU provider. No GPU is used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from perception.build.model import open_model
from perception.drives.rendered import RenderedDrive
from perception.engines import open_engine
from perception.engines.plan import carrying_precision
from perception.errors import ModelError
from perception.looks import Looks
from perception.models.card import Card, Grouping, ModelFiles, find
from perception.models.compiled import CompiledModel, segments_of
from perception.models.graph import scaled
from perception.models.lowering import lower, lower_encoder, lower_propagator, lowered
from perception.models.lowering.arrays import FLOAT, UINT8, Writer
from perception.models.lowering.camera import prepared
from perception.models.lowering.merging import Seen, grid_of, grouped
from perception.models.lowering.network import load_network, without_quantisation
from perception.models.panoptic import group_by_centres
from perception.strict_toml import check
from perception.types import Panoptic
from tests.fakes import tiny_model
from tests.test_panoptic import tiny_panoptic

CAMERA = (1280, 720)
CLASSES = [{"name": "road"}, {"name": "sky"}] + [
    {"name": name, "thing": True, "min_area": area} for name, area in (("car", 60), ("person", 20), ("bike", 0))
] + [{"name": "sign"}, {"name": "pole"}]  # fmt: skip


def card(width: int = 128, height: int = 96, **grouping: object) -> Card:
    tables = {"card": 1, "kind": "panoptic", "input": {"width": width, "height": height}, "classes": CLASSES}
    names = {"name": "labels", "form": "labels", "centre": "centre", "offset": "offset", "confidence": "confidence"}
    return check(tables | {"output": names, "grouping": grouping}, Card, "a test's card")


class Written:
    """A graph that a test writes, run by ONNX Runtime."""

    def __init__(self) -> None:
        self.graph = onnx.GraphProto(name="test")
        self.writer = Writer(self.graph, "test")

    def input(self, name: str, dtype: int, *shape: int):
        self.graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
        return self.writer.tensor(name)

    def run(self, **arrays: np.ndarray) -> list[np.ndarray]:
        model = helper.make_model(self.graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return [np.asarray(value) for value in session.run(None, arrays)]


@pytest.mark.parametrize("camera", [(1280, 720), (640, 352), (320, 240), (1280, 704), (2000, 300), (960, 720)])
def test_a_camera_frame_is_resized_as_opencv_does_it(camera):
    image = np.random.default_rng(0).integers(0, 256, (camera[1], camera[0], 3), np.uint8)
    written = Written()
    out = prepared(written.input("frame", UINT8, 1, camera[1], camera[0], 3), camera, find("road").card, True)
    written.writer.give(out, "out", FLOAT, (1, 352, 640, 3))
    assert np.array_equal(written.run(frame=image[None])[0][0], scaled(image, 640, 352))


def test_averaging_over_broken_areas_is_a_level_off_at_most():
    image = np.random.default_rng(0).integers(0, 256, (2160, 3840, 3), np.uint8)
    written = Written()
    out = prepared(written.input("frame", UINT8, 1, 2160, 3840, 3), (3840, 2160), find("road").card, True)
    written.writer.give(out, "out", FLOAT, (1, 352, 640, 3))
    difference = np.abs(written.run(frame=image[None])[0][0] - scaled(image, 640, 352))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("colour", ["RGB", "BGR"])
def test_colour_layout_and_scaling_are_the_cards(tmp_path, layout, colour):
    form = "logits" if layout == "NCHW" else "labels"
    files = find(str(tiny_model(tmp_path, form=form, layout=layout, colour=colour)))
    frame = np.random.default_rng(1).integers(0, 256, (40, 70, 3), np.uint8)
    model = CompiledModel(files, engine_of(lower(files, (70, 40)), tmp_path))
    assert np.array_equal(model(frame).labels, open_model(files, "onnxruntime")(frame).labels)


# Grouping


def in_graph(labels, heat, offset, confidence, card_: Card) -> Panoptic:
    """Random maps through the graph's grouping; labels (H, W), heat (h, w)."""
    (height, width), (h, w) = labels.shape, heat.shape
    written = Written()
    seen = Seen(
        written.input("labels", FLOAT, 1, 1, height, width),
        written.input("heat", FLOAT, 1, 1, h, w),
        written.input("offset", FLOAT, 1, 2, h, w),
        written.input("confidence", FLOAT, 1, 1, h, w),
    )
    done = grouped(seen, card_, grid_of(card_, labels.shape, heat.shape))
    for name, value in (("labels_", done.labels), ("instances", done.instances)):
        written.writer.give(value, name, FLOAT, (1, 1, height, width))
    written.writer.give(done.segments, "segments", FLOAT, (1, 200, 3))
    given_ = {"labels": labels[None, None].astype(np.float32), "heat": heat[None, None], "offset": offset[None]}
    out, ids, table = written.run(**given_, confidence=(confidence[None, None] / 255).astype(np.float32))
    ids = ids[0, 0].astype(np.uint8)
    return Panoptic(out[0, 0].astype(np.uint8), ids.astype(np.uint16), segments_of(ids, table[0]))


def on_host(labels, heat, offset, confidence, card_: Card) -> Panoptic:
    areas, unit = [c.min_area for c in card_.classes], card_.input.width / heat.shape[1]
    kept = card_.kept_stuff()
    return group_by_centres(labels.copy(), heat, offset, unit, [2, 3, 4], areas, card_.grouping, confidence, kept)


def same(a: Panoptic, b: Panoptic) -> bool:
    """Equal but for the order of segments of equal size."""

    def told(seen: Panoptic) -> list:
        return sorted((s.class_id, s.area_px, s.box_xyxy, round(s.score, 3)) for s in seen.segments)

    pairs = np.unique(np.stack((a.id_map.ravel(), b.id_map.ravel()), 1), axis=0)
    is_one_to_one = len(pairs) == len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1]))
    return np.array_equal(a.labels, b.labels) and is_one_to_one and told(a) == told(b)


def blobs(seed: int, levels: int = 0) -> tuple[np.ndarray, ...]:
    """Ellipses of all classes over each other, heat at some of them, offsets to their middles with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (96, 128)).astype(np.uint8)
    rows, columns = np.indices(labels.shape)
    heat = rng.random((24, 32)).astype(np.float32) * 0.12
    offset = rng.normal(0, 3, (2, 24, 32)).astype(np.float32)
    for _ in range(rng.integers(0, 14)):
        y, x, a, b = rng.integers(0, 96), rng.integers(0, 128), rng.integers(2, 30), rng.integers(2, 30)
        inside = np.asarray(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 <= 1)
        labels[inside] = rng.integers(2, 5)
        cells = inside[2::4, 2::4]
        offset[:, cells] += np.stack((y - 4 * np.nonzero(cells)[0], x - 4 * np.nonzero(cells)[1]))
        if rng.random() < 0.7:
            heat[y // 4, x // 4] = rng.random()
    heat = np.round(heat * levels) / levels if levels else heat
    return labels, heat.astype(np.float32), offset, rng.integers(0, 256, (24, 32)).astype(np.uint8)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0, 4, 12]), st.sampled_from([1, 3, 5, 7]))
def test_the_graph_groups_as_numpy_does(seed, levels, kernel):
    rules = {"kernel": kernel, "threshold": 0.1 if kernel > 1 else 0.3, "heat_power": 1.0 if kernel > 1 else 0.2}
    rules["vote_spread"] = 0.3 if kernel < 7 else 0.0
    (labels, heat, offset, sure), card_ = blobs(seed, levels), card(**rules)
    assert same(in_graph(labels, heat, offset, sure, card_), on_host(labels, heat, offset, sure, card_))


def test_small_stuff_is_void_in_the_graph_too():
    labels, heat, offset, confidence = blobs(3)
    labels[:] = 0
    labels[4:8, 4:8] = 1
    card_ = card(stuff_area=1000)
    out = in_graph(labels, heat, offset, confidence, card_)
    assert (out.labels[4:8, 4:8] == 255).all()
    assert same(out, on_host(labels, heat, offset, confidence, card_))


@pytest.mark.parametrize("seed", range(4))
def test_small_stuff_goes_to_its_neighbours_in_the_graph_too(seed):
    """Specks of two classes among blobs of stuff and things; one class is kept."""
    labels, heat, offset, confidence = blobs(seed)
    labels[labels < 2] = 0
    rng = np.random.default_rng(seed)
    for class_id in (1, 5, 6):
        for y, x in rng.integers(0, (90, 120), (4, 2)):
            labels[y : y + 5, x : x + 6] = class_id
    card_ = card(stuff_area=3000, small_stuff="neighbour", kept=("sky",))
    out = in_graph(labels, heat, offset, confidence, card_)
    assert (out.labels == 1).any()
    assert np.isin(out.labels, (5, 6)).sum() < 60  # what lies within things
    assert same(out, on_host(labels, heat, offset, confidence, card_))


def test_a_long_thing_without_a_centre_stays_whole():
    labels = np.zeros((96, 128), np.uint8)
    labels[:8], labels[:, 120:], labels[40:48, 60:] = 2, 2, 2  # along two sides, with a branch
    maps = (labels, np.zeros((24, 32), np.float32), np.zeros((2, 24, 32), np.float32), np.full((24, 32), 255, np.uint8))
    assert len(in_graph(*maps, card()).segments) == len(on_host(*maps, card()).segments) == 1


def test_what_comes_back_on_itself_without_a_centre_may_fall_apart_but_nothing_is_lost():
    labels = np.zeros((96, 128), np.uint8)
    labels[:8], labels[88:], labels[:, 120:] = 2, 2, 2  # along three sides: further than the rounds of linking reach
    maps = (labels, np.zeros((24, 32), np.float32), np.zeros((2, 24, 32), np.float32), np.full((24, 32), 255, np.uint8))
    seen = in_graph(*maps, card())
    assert len(on_host(*maps, card()).segments) == 1
    assert 1 <= len(seen.segments) <= 3
    assert np.array_equal(seen.id_map > 0, labels == 2)


def test_too_many_things_to_compare_at_once_are_refused():
    many = check(
        {
            "card": 1,
            "kind": "panoptic",
            "input": {"width": 1024, "height": 1024},
            "output": {"name": "labels", "centre": "centre", "offset": "offset"},
            "classes": [{"name": f"thing {i}", "thing": True} for i in range(80)],
        },
        Card,
        "a test's card",
    )
    with pytest.raises(ModelError, match="too many to group"):
        grid_of(many, (1024, 1024), (256, 256))


# Whole models


def engine_of(model: onnx.ModelProto, folder: Path, name: str = "lowered"):
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    return open_engine(path, "onnxruntime")


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> tuple[ModelFiles, CompiledModel]:
    files = find("road-float")
    return files, CompiledModel(files, engine_of(lower(files, CAMERA), tmp_path_factory.mktemp("lowered")))


def test_the_shipped_network_says_the_same_from_camera_bytes(road):
    files, lowered = road
    model = open_model(files, "onnxruntime")
    for frame in RenderedDrive(3, *CAMERA, truth=False).at((60, 200)):
        a, b = model(frame.image), lowered(frame.image)
        assert np.array_equal(a.labels, b.labels)
        assert np.array_equal(a.id_map, b.id_map)
        assert [(s.class_id, s.area_px, s.box_xyxy) for s in a.segments] == [
            (s.class_id, s.area_px, s.box_xyxy) for s in b.segments
        ]
        assert a.confidence is not None
        assert b.confidence is not None
        assert np.array_equal(a.confidence, b.confidence)


def test_the_graph_says_how_its_segments_look(road):
    _, lowered = road
    lowered.wants_features = True
    (frame,) = RenderedDrive(3, *CAMERA, truth=False).at((60,))
    seen = lowered(frame.image)
    lowered.wants_features = False
    assert seen.features is not None
    assert seen.looks is not None
    middles = seen.id_map[2::4, 2::4].astype(np.int64)
    expected = Looks(seen.features).of(middles, len(seen.segments))
    assert expected.any(1).sum() > 2
    np.testing.assert_allclose(seen.looks, expected, atol=1e-4)
    assert lowered(frame.image).looks is None


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_runs_it_too(road, tmp_path):
    from perception.engines.openvino import OpenVinoEngine

    files, lowered_ = road
    path = tmp_path / "lowered.onnx"
    path.write_bytes(lower(files, CAMERA).SerializeToString())
    other = CompiledModel(files, OpenVinoEngine(path, precision="f32"))
    (frame,) = RenderedDrive(3, *CAMERA, truth=False).at((60,))
    a, b = lowered_(frame.image), other(frame.image)
    assert (a.labels == b.labels).mean() > 0.9999
    assert len(a.segments) == len(b.segments) > 0


def test_all_parts_of_a_model_come_in_one_precision():
    files = find("road-float")
    graphs = lowered(files, (640, 352), "fp16")
    assert [*graphs] == ["network", "encoder", "propagator"]
    assert [*lowered(files, (640, 352), "fp32", parts=("propagator",))] == ["propagator"]
    assert carrying_precision("int8") == carrying_precision("fp16") == "fp16"


def test_features_come_along_where_they_are_wanted_and_alone(road, tmp_path):
    files, lowered = road
    (frame,) = RenderedDrive(1, *CAMERA, truth=False).at((30,))
    assert lowered(frame.image).features is None
    lowered.wants_features = True
    whole = lowered(frame.image).features
    assert lowered.features(frame.image) is None
    lowered.open_encoder(engine_of(lower_encoder(files, CAMERA), tmp_path))
    alone = lowered.features(frame.image)
    lowered.wants_features = False
    assert whole is not None
    assert alone is not None
    assert whole.keys.shape == (96, 22, 40)
    for name in ("keys", "context", "fine8", "fine4"):
        np.testing.assert_allclose(getattr(alone, name), getattr(whole, name), atol=1e-3)


def test_another_camera_size_is_refused_with_the_fix(road):
    with pytest.raises(ModelError, match=r"built for frames of 1280x720, the camera gives 640x480; build again"):
        road[1](np.zeros((480, 640, 3), np.uint8))


def test_a_graph_that_was_not_lowered_is_refused():
    files = find("road-float")
    with pytest.raises(ModelError, match="not a lowered graph: it takes image"):
        CompiledModel(files, open_engine(files.graph, "onnxruntime"))


def test_an_int8_graph_is_taken_back_to_float():
    files = find("road")
    model = onnx.load_from_string(without_quantisation(files.graph.read_bytes(), "road"))
    assert not {n.op_type for n in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    (frame,) = RenderedDrive(3, 640, 352, truth=False).at((60,))
    feed = {"image": frame.image[None]}
    labels = [
        np.asarray(onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]).run(["labels"], feed)[0])
        for m in (model.SerializeToString(), files.graph.read_bytes())
    ]
    assert (labels[0] == labels[1]).mean() > 0.99


def test_a_relu_that_quantisation_absorbed_comes_back():
    scale, zero = np.float32(0.02), np.uint8(0)
    constants = [onnx.numpy_helper.from_array(np.array(v), n) for v, n in ((scale, "s"), (zero, "z"))]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, FLOAT, [3]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    exact = without_quantisation(model.SerializeToString(), "g")
    session = onnxruntime.InferenceSession(exact, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": np.array([-1, 1.005, 9], np.float32)})
    np.testing.assert_allclose(np.asarray(out), [0, 1.005, 5.1], rtol=1e-6)


def test_a_semantic_network_is_lowered_without_instances(tmp_path):
    files = find(str(tiny_model(tmp_path, form="labels", layout="NHWC")))
    lowered = CompiledModel(files, engine_of(lower(files, (64, 32)), tmp_path))
    image = np.random.default_rng(2).integers(0, 256, (32, 64, 3), np.uint8)
    a, b = open_model(files, "onnxruntime")(image), lowered(image)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.id_map, b.id_map)


def test_a_users_panoptic_graph_is_lowered(tmp_path):
    files = find(str(tiny_panoptic(tmp_path)))
    size = (2 * files.card.input.width, 2 * files.card.input.height)
    lowered = CompiledModel(files, engine_of(lower(files, size), tmp_path))
    image = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), np.uint8)
    a, b = open_model(files, "onnxruntime")(image), lowered(image)
    assert np.array_equal(a.labels, b.labels)
    assert same(a, b)


def test_the_propagator_keeps_its_inputs_and_outputs():
    files = find("road-float")
    assert files.propagator is not None
    before, after = onnx.load(str(files.propagator)), lower_propagator(files)
    for side in ("input", "output"):
        names = [[v.name for v in getattr(m.graph, side)] for m in (before, after)]
        assert names[0] == names[1]
    assert not {n.op_type for n in after.graph.node} & {"Shape", "Loop", "If", "NonZero"}


def test_an_open_shape_is_refused(tmp_path):
    x = [helper.make_tensor_value_info(n, FLOAT, ["n", 3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", x[:1], x[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelError, match="shape of x is open"):
        load_network(model.SerializeToString(), "open")


def test_the_same_model_gives_the_same_bytes():
    files = find("road-float")
    first, second = (lower(files, CAMERA).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_grouping_defaults_are_within_what_an_accelerator_sorts():
    assert Grouping().most <= 3840  # TensorRT's TopK
