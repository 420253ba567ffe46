"""Lowered graphs in the cache, made by real child processes. No GPU is used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from perception.build.lowering import ENCODER, NETWORK, PROPAGATOR, LoweredGraphs, Order
from perception.build.recipes import Lowered
from perception.config import Launch, ModelConfig, TrackingConfig
from perception.engines.cache import CacheError, PlanCache
from perception.errors import ModelError
from perception.models.card import ModelFiles, find
from perception.models.lowering import lowered
from perception.opencv import cv2
from perception.stopwatch import Stopwatch
from tests.test_node import until
from tests.test_panoptic import CARD, tiny_panoptic
from tests.test_panoptic import ENCODER as HAS_ENCODER

SIZE = (64, 32)


@pytest.fixture
def store(tmp_path: Path) -> LoweredGraphs:
    return LoweredGraphs(PlanCache(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> ModelFiles:
    """Of a tiny network and its encoder."""
    return find(str(tiny_panoptic(tmp_path, CARD + HAS_ENCODER)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = np.random.default_rng(0).integers(0, 100, (SIZE[1], SIZE[0], 3), np.uint8)
    cv2.imwrite(str(folder / "a.png"), image)
    return folder


def names(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "graphs").iterdir() if not p.name.endswith(".lock"))


def test_the_node_s_propagator_is_the_one_that_is_measured(tmp_path: Path, store: LoweredGraphs) -> None:
    road = find("road-float")
    path = store.graphs(road, (PROPAGATOR,), SIZE, "int8")[PROPAGATOR]
    assert path.read_bytes() == lowered(road, SIZE, "int8", parts=(PROPAGATOR,))[PROPAGATOR]
    assert store.graphs(road, (PROPAGATOR,), SIZE, "fp16")[PROPAGATOR] == path  # beside an int8 network, too
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    low = Counter(n.op_type for n in graph.node if types.get(n.output[0]) == onnx.TensorProto.FLOAT16)
    assert low["Conv"]
    assert not low["MatMul"] + low["Softmax"]  # what decides stays in float32


def test_graphs_are_made_once(tmp_path: Path, store: LoweredGraphs, files: ModelFiles) -> None:
    first = store.graphs(files, (NETWORK, ENCODER), SIZE, "fp16")
    inodes = {part: path.stat().st_ino for part, path in first.items()}
    again = store.graphs(files, (NETWORK, ENCODER), SIZE, "fp16")
    assert inodes == {part: path.stat().st_ino for part, path in again.items()}
    assert first[NETWORK].read_bytes() == lowered(files, SIZE, "fp16", parts=(NETWORK,))[NETWORK]
    assert {p.name for p in first[NETWORK].parent.iterdir()} == {"network.onnx", "manifest.json"}


def test_a_graph_that_was_cut_is_made_anew(tmp_path: Path, store: LoweredGraphs, files: ModelFiles) -> None:
    path = store.graphs(files, (NETWORK,), SIZE, "fp16")[NETWORK]
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert store.graphs(files, (NETWORK,), SIZE, "fp16")[NETWORK].read_bytes() == whole


def test_a_graph_that_others_could_have_written_is_not_taken(store: LoweredGraphs, files: ModelFiles) -> None:
    path = store.graphs(files, (NETWORK,), SIZE, "fp16")[NETWORK]
    path.parent.chmod(0o777)
    with pytest.raises(CacheError, match="can be changed by other users"):
        store.graphs(files, (NETWORK,), SIZE, "fp16")


def test_graphs_that_are_forgotten_are_made_anew(store: LoweredGraphs, files: ModelFiles) -> None:
    path = store.graphs(files, (NETWORK,), SIZE, "fp16")[NETWORK]
    store.forget(files, (NETWORK,), SIZE, "fp16")
    assert not path.parent.exists()
    assert store.graphs(files, (NETWORK,), SIZE, "fp16")[NETWORK] == path


def test_what_a_killed_process_left_goes_with_the_next_graph(
    tmp_path: Path, store: LoweredGraphs, files: ModelFiles
) -> None:
    order = Order(str(find("road-float").graph), (NETWORK,), (1280, 720), "fp16", str(tmp_path / "cache"))
    argv = [sys.executable, "-m", "perception.build.lowering", msgspec.json.encode(order).decode()]
    folder = tmp_path / "cache" / "graphs"
    with subprocess.Popen(argv) as child:
        until(lambda: any(folder.glob("*.partial-*")), 60)
        os.kill(child.pid, signal.SIGKILL)
    assert any(".partial-" in name for name in names(tmp_path))
    store.graphs(files, (NETWORK,), SIZE, "fp16")
    assert not any(".partial-" in name for name in names(tmp_path))


def test_a_calibrated_graph_needs_pictures_and_stays_beside_those_of_other_parts(
    store: LoweredGraphs, files: ModelFiles, pictures: Path
) -> None:
    with pytest.raises(ModelError, match="int8 is calibrated on the camera's pictures first: do this"):
        store.graphs(files, (NETWORK, ENCODER), SIZE, "int8", "do this")
    store.make(files, (NETWORK, ENCODER), SIZE, "int8", pictures)
    both = store.graphs(files, (NETWORK, ENCODER), SIZE, "int8")
    before = {part: path.stat().st_ino for part, path in both.items()}
    store.make(files, (NETWORK,), SIZE, "int8", pictures)  # of a node that skips no frame, calibrated anew
    after = {part: path.stat().st_ino for part, path in store.graphs(files, (NETWORK, ENCODER), SIZE, "int8").items()}
    assert after[NETWORK] != before[NETWORK]
    assert after[ENCODER] == before[ENCODER]
    store.forget(files, (NETWORK, ENCODER), SIZE, "int8")  # not without pictures to make them of
    assert store.graphs(files, (NETWORK, ENCODER), SIZE, "int8") == both


def test_who_lacks_a_calibration_is_told_the_whole_command(tmp_path: Path, store: LoweredGraphs, files: ModelFiles):
    model = ModelConfig(str(files.graph), "tensorrt", network_every=3, precision="int8", cache=str(tmp_path / "a b"))
    launch = Launch(version=1, model=model, tracking=TrackingConfig(kind="affinity"))
    recipe = Lowered(files, launch, True, False, Stopwatch(), store)
    with pytest.raises(ModelError) as told:
        recipe.graphs(SIZE)
    assert str(told.value).endswith(
        f"perception build {files.graph} --precision int8 --size 64x32 --network-every 3 --tracking affinity "
        f"--cache '{tmp_path}/a b' --calibrate FOLDER"
    )


def test_what_a_build_is_held_against_is_in_float32(store: LoweredGraphs, files: ModelFiles) -> None:
    recipe = Lowered(files, Launch(version=1), False, False, Stopwatch(), store)
    model = recipe.exact(SIZE)
    assert model(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).labels.shape == model.mask_size[::-1]
    model.close()


def test_a_manifest_says_what_a_graph_is_of(store: LoweredGraphs, files: ModelFiles) -> None:
    path = store.graphs(files, (NETWORK,), SIZE, "fp16")[NETWORK]
    key = json.loads((path.parent / "manifest.json").read_text())["key"]
    assert (key["part"], key["size"], key["precision"]) == ("network", "64x32", "fp16")
