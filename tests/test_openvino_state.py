"""OpenVINO keeps a graph's state between its steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from perception.engines.openvino import OpenVinoEngine
from perception.engines.ort import OnnxRuntimeEngine
from perception.errors import ModelError
from perception.propagation.memory import MemoryCarrier
from tests.memory_walk import GRAPH, walk

PAIRS = {"memory_s": "next_s"}
ONE = {"x": np.ones(2, np.float32)}


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y is x plus the state; the next state is y."""
    nodes = [helper.make_node("Add", ["x", "memory_s"], ["y"]), helper.make_node("Identity", ["y"], ["next_s"])]
    ports = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y", *PAIRS, "next_s")}
    short = helper.make_tensor_value_info("short", TensorProto.FLOAT, [1])
    nodes.append(helper.make_node("ReduceSum", ["y"], ["short"]))
    given = [ports["y"], ports["next_s"], short]
    made = helper.make_graph(nodes, "sum", [ports["x"], ports["memory_s"]], given)
    path = tmp_path / "sum.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def keeping(graph: Path) -> OpenVinoEngine:
    engine = OpenVinoEngine(graph)
    engine.keep_state(PAIRS)
    return engine


def steps(engine: OpenVinoEngine, count: int) -> list[float]:
    return [float(engine(ONE)["y"][0]) for _ in range(count)]


def test_the_next_step_reads_what_this_one_has_left(graph):
    engine = keeping(graph)
    assert steps(engine, 3) == [1, 2, 3]
    assert "next_s" not in engine(ONE)


def test_a_state_can_be_read_and_given_to_another(graph):
    first, second = keeping(graph), keeping(graph)
    steps(first, 3)
    state = first.read_state()
    np.testing.assert_array_equal(state["memory_s"], [3, 3])
    second.load_state(state)
    assert steps(second, 2) == [4, 5]
    np.testing.assert_array_equal(state["memory_s"], [3, 3])  # it was a copy
    assert steps(first, 1) == [4]


def test_a_fork_has_a_state_of_its_own(graph):
    engine = keeping(graph)
    steps(engine, 2)
    fork = engine.fork()
    assert steps(fork, 2) == [1, 2]
    assert steps(engine, 1) == [3]


def test_to_keep_it_once_more_begins_with_zeros(graph):
    engine = keeping(graph)
    steps(engine, 2)
    engine.keep_state(PAIRS)
    assert steps(engine, 1) == [1]


def test_what_is_kept_no_longer_is_an_input_again(graph):
    engine = keeping(graph)
    steps(engine, 2)
    engine.keep_state({})
    assert set(engine({**ONE, "memory_s": np.zeros(2, np.float32)})) == {"y", "next_s", "short"}


def test_without_keeping_the_state_is_an_input_and_an_output_like_others(graph):
    engine = OpenVinoEngine(graph)
    out = engine({**ONE, "memory_s": np.full(2, 5, np.float32)})
    np.testing.assert_array_equal(out["next_s"], [6, 6])


@pytest.mark.parametrize("pairs", [{"memory_s": "none"}, {"none": "next_s"}, {"memory_s": "short"}])
def test_a_pair_that_the_graph_lacks_or_that_differs_is_refused(graph, pairs):
    engine = OpenVinoEngine(graph)
    with pytest.raises(ModelError, match="can't become"):
        engine.keep_state(pairs)
    assert float(engine({**ONE, "memory_s": np.zeros(2, np.float32)})["y"][0]) == 1  # it still runs


def test_the_memory_is_carried_as_with_its_state_on_the_host():
    """Two buckets of slots, one of which comes and goes; in float32, where both must agree to rounding."""
    here = walk(MemoryCarrier(OnnxRuntimeEngine(GRAPH)), range(5))
    there = walk(MemoryCarrier(OpenVinoEngine(GRAPH, precision="f32")), range(5))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-3)
