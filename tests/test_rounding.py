"""Weights on the engine's grid, and biases that take back what the rounding moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the train extra is not installed")
onnx = pytest.importorskip("onnx", reason="the train extra is not installed")

from onnx import helper, numpy_helper  # noqa: E402

from perception.engines import open_engine  # noqa: E402
from perception.models.rounding import round_weights, to_bfloat16, to_float8, to_int8  # noqa: E402

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (1, 6, 8, 4), np.uint8) for _ in range(3)]


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bfloat16_is_rounded_as_pytorch_does(values):
    weights = np.array(values, np.float32)
    assert to_bfloat16(weights).tobytes() == torch.from_numpy(weights).bfloat16().float().numpy().tobytes()


def test_int8_steps_are_even_up_to_each_channel_s_largest_weight():
    weights = RNG.normal(0, 1, (5, 3, 3, 3)).astype(np.float32)
    weights[4] = 0
    rounded = to_int8(weights)
    largest = np.abs(weights).max((1, 2, 3), keepdims=True)
    steps = rounded[:4] * 127 / largest[:4]
    assert np.abs(steps - np.round(steps)).max() < 1e-4
    assert np.abs(rounded - weights).max() <= 0.51 * largest.max() / 127
    assert (rounded[4] == 0).all()


def test_float8_has_three_bits_after_the_first_and_the_largest_weight_is_exact():
    weights = np.array([[448.0, -448, 17.0, 19.0, 0.4375, 2**-9, 2**-11, 0]], np.float32).reshape(1, 8, 1, 1)
    assert to_float8(weights).ravel().tolist() == [448, -448, 16, 20, 0.4375, 2**-9, 0, 0]
    assert np.allclose(to_float8(weights * np.float32(0.125)), to_float8(weights) / 8)
    assert (to_float8(np.zeros((2, 1, 1, 1), np.float32)) == 0).all()


def graph(folder: Path, groups: int, biased: bool, twice: bool = False) -> Path:
    """uint8 (1, 6, 8, 4) -> a 1x1 convolution to 8 channels, a second one of the same weights where `twice`."""
    weights = RNG.normal(0, 1, (8, 4 // groups, 1, 1)).astype(np.float32)
    constants = [numpy_helper.from_array(weights, "w")]
    constants += [numpy_helper.from_array(RNG.normal(0, 1, 8).astype(np.float32), "b")] if biased else []
    inputs = ["planes", "w", *(["b"] if biased else [])]
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", inputs, ["y"], "conv", group=groups),
    ]
    if twice:
        nodes += [
            helper.make_node("Neg", ["planes"], ["minus"]),
            helper.make_node("Conv", ["minus", *inputs[1:]], ["z"], "again", group=groups),
        ]
    outputs = ["y", "z"] if twice else ["y"]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, [1, 6, 8, 4])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 8, 6, 8]) for name in outputs],
        constants,
    )
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def means(path: Path) -> dict[str, np.ndarray]:
    """(8,) of each output over all pixels of the pictures."""
    engine = open_engine(path, "onnxruntime")
    seen = [engine({"image": picture}) for picture in PICTURES]
    return {spec.name: np.mean([out[spec.name].mean((0, 2, 3)) for out in seen], 0) for spec in engine.outputs}


@pytest.mark.parametrize("rounding", [to_bfloat16, to_int8, to_float8])
@pytest.mark.parametrize(("groups", "biased", "twice"), [(1, True, False), (4, True, False), (2, False, True)])
def test_channels_keep_their_means(tmp_path, rounding, groups, biased, twice):
    before = graph(tmp_path, groups, biased, twice)
    after = tmp_path / "after.onnx"
    round_weights(before, after, PICTURES, lambda _: rounding)
    for name, exact in means(before).items():
        assert np.abs(means(after)[name] - exact).max() < 1e-3, name  # of values about 100
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(after)).graph.initializer}
    kept = [array for array in constants.values() if array.ndim == 4]
    original = numpy_helper.to_array(onnx.load(str(before)).graph.initializer[0])
    assert all(np.array_equal(array, rounding(original)) for array in kept)
    assert len(constants) == (4 if twice else 2)  # nothing is left over


def test_a_node_s_name_chooses_its_rounding(tmp_path):
    before, after = graph(tmp_path, 1, True, twice=True), tmp_path / "after.onnx"
    round_weights(before, after, PICTURES, {"conv": to_int8, "again": to_bfloat16}.__getitem__)
    original = numpy_helper.to_array(onnx.load(str(before)).graph.initializer[0])
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(after)).graph.initializer}
    assert np.array_equal(constants["y/weights"], to_int8(original))
    assert np.array_equal(constants["z/weights"], to_bfloat16(original))


def test_a_node_without_a_rounding_stays_as_it_is(tmp_path):
    before, after = graph(tmp_path, 1, True), tmp_path / "after.onnx"
    round_weights(before, after, PICTURES, lambda _: None)
    assert onnx.load(str(after)) == onnx.load(str(before))
