"""Graphs in smaller precisions, on ONNX Runtime's CPU provider, which rounds as they say. No GPU is used."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from perception.drives.rendered import RenderedDrive
from perception.errors import ModelError
from perception.models.card import find
from perception.models.lowering import in_precision, lower, lower_propagator
from perception.models.lowering.precision import deciding
from perception.models.precision_loss import precision_loss
from tests.rounded import rounded

CAMERA = (640, 352)
FILES = find("road-float")
CLASSES = [c.name for c in FILES.card.classes]


@pytest.fixture(scope="module")
def exact() -> onnx.ModelProto:
    return lower(FILES, CAMERA)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return [f.image for f in RenderedDrive(4, *CAMERA, truth=False).at((90,))]


def labels_of(model: onnx.ModelProto, optimised: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:  # its optimiser does not know fp8 behind a Clip
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(["labels"], {"frame": image[None]})[0])[0]


@pytest.mark.parametrize(
    ("precision", "least_equal"), [("fp32", 1.0), ("fp16", 0.995), ("bf16", 0.93), ("int8", 0.97), ("fp8", 0.93)]
)
def test_every_precision_says_nearly_what_float32_says(exact, frames, precision, least_equal):
    model = in_precision(exact, precision, frames)
    onnx.checker.check_model(model)
    run = labels_of(rounded(model)) if precision == "bf16" else labels_of(model, precision != "fp8")
    loss = precision_loss(labels_of(exact), run, frames, CLASSES)
    assert loss.equal >= least_equal
    assert loss.frames == len(frames)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_what_decides_and_what_goes_in_and_out_stays_in_float32(exact, precision, kind):
    model = in_precision(exact, precision)
    types = {v.name: v.type.tensor_type.elem_type for v in model.graph.value_info}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    low = [n.name for n in convolutions if types[n.output[0]] == kind]
    heads = [n for n in convolutions if n.name in deciding(model.graph)]
    assert len(low) == len(convolutions) - len(heads)
    assert 3 <= len(heads) <= 6
    assert all(types[n.output[0]] == TensorProto.FLOAT for n in heads)
    assert not any(types.get(n.output[0]) == kind for n in model.graph.node if n.name.startswith("lowered/"))
    ends = [[(v.name, v.type.tensor_type.elem_type) for v in side] for side in (model.graph.input, model.graph.output)]
    assert ends == [
        [(v.name, v.type.tensor_type.elem_type) for v in g] for g in (exact.graph.input, exact.graph.output)
    ]


@pytest.mark.parametrize(("precision", "kind"), [("int8", TensorProto.INT8), ("fp8", TensorProto.FLOAT8E4M3FN)])
def test_scales_are_symmetric(exact, frames, precision, kind):
    model = in_precision(exact, precision, frames[:1])
    zeros = [i for i in model.graph.initializer if i.name.endswith("_zero")]
    assert zeros
    assert all(i.data_type == kind and not any(i.raw_data) for i in zeros)
    pairs = [n.op_type for n in model.graph.node if n.op_type.endswith("Linear")]
    assert pairs.count("QuantizeLinear") == pairs.count("DequantizeLinear") > 50


@pytest.mark.parametrize(("precision", "has_others"), [("int8", True), ("fp8", False)])
def test_fp8_is_for_convolutions_that_tensorrt_computes_in_it(exact, frames, precision, has_others):
    graph = in_precision(exact, precision, frames[:1]).graph
    made_by = {name: node for node in graph.node for name in node.output}
    shapes = {i.name: list(i.dims) for i in graph.initializer}
    small = [n for n in graph.node if n.op_type == "Conv" and n.input[1] in made_by]
    weights = [made_by[made_by[n.input[1]].input[0]].input[0] for n in small]  # behind DQ and Q
    groups = {a.i for n in small for a in n.attribute if a.name == "group"}
    assert len(small) > 30
    assert (max(groups) > 1) is has_others
    assert any(count % 16 for name in weights for count in shapes[name][:2]) is has_others


def test_biases_take_back_what_rounding_moves(exact, frames):
    def mean(model: onnx.ModelProto) -> np.ndarray:
        wider = onnx.ModelProto()
        wider.CopyFrom(model)
        wider.graph.output.append(onnx.ValueInfoProto(name="network/context"))
        session = onnxruntime.InferenceSession(wider.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(["network/context"], {"frame": frames[0][None]})[0]).mean((0, 2, 3))

    off = np.abs(mean(in_precision(exact, "int8", frames)) - mean(exact)) / np.abs(mean(exact))
    assert np.median(off) < 0.015  # 0.021 without


def test_smaller_types_need_frames_of_a_camera(exact):
    with pytest.raises(ModelError, match="int8 needs real frames"):
        in_precision(exact, "int8")
    with pytest.raises(ModelError, match="take fp16 for the propagator"):
        in_precision(lower_propagator(FILES), "int8", [np.zeros((4, 4, 3), np.uint8)])


def test_the_propagator_in_float16_keeps_its_ends_and_its_numbers():
    exact = lower_propagator(FILES)
    model = in_precision(exact, "fp16", starts=("Conv",))
    rng = np.random.default_rng(0)
    feed = {
        v.name: rng.random([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32)
        for v in exact.graph.input
    }
    sessions = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]) for m in (exact, model)
    ]
    names = [o.name for o in exact.graph.output]
    before, after = (dict(zip(names, s.run(names, feed), strict=True)) for s in sessions)
    for name in names:
        np.testing.assert_allclose(np.asarray(after[name]), np.asarray(before[name]), atol=0.03, err_msg=name)


# The loss


def maps(*images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Says the class map that a frame's first pixel numbers."""
    return lambda frame: images[frame[0, 0, 0]]


def test_the_loss_is_counted_by_class_and_refused_above_the_limit():
    exact, given = np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.uint8)
    exact[:, 4:], given[:, 6:] = 1, 1
    frame = np.zeros((2, 2, 3), np.uint8)
    loss = precision_loss(maps(exact), maps(given), [frame], ["road", "car", "nobody's"])
    assert [row[0] for row in loss.rows()] == ["road", "car"]
    assert loss.worst == ("car", 50.0)
    assert loss.equal == 0.75
    loss.require(50, 50)
    with pytest.raises(ModelError, match=r"loses 41.67 points of mean IoU .* 50.00 of car"):
        loss.require()


def test_without_truth_a_class_of_few_pixels_decides_nothing():
    exact, given = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    exact[0, :8] = 1
    frame = np.zeros((2, 2, 3), np.uint8)
    loss = precision_loss(maps(exact), maps(given), [frame], ["road", "car"])
    assert [row[3] for row in loss.rows()] == [pytest.approx(0.08), 100.0]
    loss.require()
    with pytest.raises(ModelError, match="of car"):
        precision_loss(maps(exact), maps(given), [frame], ["road", "car"], [exact]).require()


def test_with_truth_the_loss_is_what_the_truth_says():
    truth, exact, given = (np.zeros((4, 8), np.uint8) for _ in range(3))
    truth[:, 4:], exact[:, 5:], given[:, 4:] = 1, 1, 1
    truth[0] = 255
    loss = precision_loss(maps(exact), maps(given), [np.zeros((2, 2, 3), np.uint8)], ["road", "car"], [truth])
    assert loss.mean < 0  # a gain
    assert loss.after.tolist() == [1.0, 1.0]
    loss.require()


def test_truth_of_another_size_is_met_at_its_own():
    truth = np.repeat(np.repeat(np.eye(4, dtype=np.uint8), 2, 0), 2, 1)
    loss = precision_loss(
        maps(np.eye(4, dtype=np.uint8)),
        maps(np.eye(4, dtype=np.uint8)),
        [np.zeros((1, 1, 3), np.uint8)],
        ["a", "b"],
        [truth],
    )
    assert loss.before.tolist() == [1.0, 1.0]
