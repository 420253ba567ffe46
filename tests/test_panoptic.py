from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.build import give_features, open_model
from perception.config import Launch, ModelConfig
from perception.drives.rendered import RenderedDrive
from perception.engines import EngineName, open_engine
from perception.errors import ConfigError, ModelError
from perception.models.card import Grouping, find
from perception.models.centres import Centres, assign, find_centres
from perception.models.grouping import REFERENCE_AREA, group_things
from perception.models.merging import Evidence, merge, thing_cells
from perception.models.panoptic import REACH_CELLS, PanopticModel, group_by_centres
from perception.models.small_stuff import settle_small_stuff
from perception.types import VOID, Features, Panoptic
from tests.fakes import tiny_model

CAR, PEDESTRIAN = 2, 3
NO_LIMIT = [0] * 8


def truth_outputs(instances: np.ndarray, step: int = 4, sigma: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Centre heat (h, w) and offsets (2, h, w) [px] that a perfect network gives for a map of instances."""
    h, w = instances.shape
    ys, xs = (np.arange(n // step, dtype=np.float32) * step + (step - 1) / 2 for n in (h, w))
    heat, offset = np.zeros((len(ys), len(xs)), np.float32), np.zeros((2, len(ys), len(xs)), np.float32)
    cells = instances[step // 2 :: step, step // 2 :: step]
    for k in np.unique(instances[instances > 0]):
        cy, cx = (float(v.mean()) for v in np.nonzero(instances == k))
        distance = (ys[:, None] - cy) ** 2 + (xs[None] - cx) ** 2
        heat = np.maximum(heat, np.exp(-distance / (2 * sigma**2)).astype(np.float32))
        rows, columns = np.nonzero(cells == k)
        offset[:, rows, columns] = cy - ys[rows], cx - xs[columns]
    return heat, offset


def seen_of(labels: np.ndarray, instances: np.ndarray, areas=NO_LIMIT, things=(CAR, PEDESTRIAN), step=4) -> Panoptic:
    heat, offset = truth_outputs(instances, step)
    return group_by_centres(labels.copy(), heat, offset, float(step), list(things), areas, Grouping())


def panoptic_ids(seen: Panoptic, divisor: int) -> np.ndarray:
    """class * divisor + running number a class, in the order of the reference: of the segments' first pixels."""
    ids = seen.labels.astype(np.int64) * divisor
    counts: dict[int, int] = {}
    for k in dict.fromkeys(seen.id_map[seen.id_map > 0].tolist()):
        class_id = seen.segments[k - 1].class_id
        counts[class_id] = counts.get(class_id, 0) + 1
        ids[seen.id_map == k] = class_id * divisor + counts[class_id]
    return ids


def test_merging_gives_what_the_reference_gives():
    """deeplab2's test of its post-processor: things 2 and 3, stuff below 3 px is void."""
    labels = np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 2, 2, 0], [2, 2, 3, 3]], np.uint8)
    instances = np.array([[0] * 4, [0] * 4, [0, 1, 1, 0], [2, 2, 3, 3]], np.uint16)
    settle_small_stuff(labels, [2, 3], [], Grouping(stuff_area=3 * REFERENCE_AREA // labels.size))
    seen = merge(
        labels,
        thing_cells(labels, [2, 3], (4, 4)),
        instances,
        Evidence(np.ones(4, np.float32), np.zeros((4, 4), np.float32)),
        NO_LIMIT,
    )
    wanted = [[0, 0, 0, 0], [0, 65280, 65280, 0], [0, 513, 513, 0], [514, 514, 769, 769]]
    assert panoptic_ids(seen, 256).tolist() == wanted


def test_centres_and_cells_are_the_references():
    """deeplab2's other test: threshold 0, window 3, two centres kept, every cell a thing, no offsets."""
    heat = np.zeros((5, 5), np.float32)
    heat[[0, 1, 3, 3, 4], [0, 0, 3, 4, 4]] = 1.0, 0.8, 0.1, 0.7, 0.2
    centres = find_centres(heat, 0.0, 3, 2)
    nearest, _ = assign(centres, np.zeros((2, 5, 5), np.float32), np.arange(25), 1.0)
    rows = ["".join(str(k + 1) for k in row) for row in nearest.reshape(5, 5)]
    assert rows == ["11112", "11122", "11222", "12222", "12222"]
    assert centres.heat.tolist() == pytest.approx([1.0, 0.7])


@pytest.mark.parametrize("size", [(1, 2), (2, 2), (1, 9), (5, 5)])
@pytest.mark.parametrize("kernel", [3, 7])
def test_a_plateau_is_one_centre(size, kernel):
    heat = np.zeros((20, 20), np.float32)
    heat[4 : 4 + size[0], 6 : 6 + size[1]] = 0.5
    assert find_centres(heat, 0.1, kernel, 200).cells.tolist() == [[4, 6]]


def test_a_whole_map_of_one_heat_is_one_centre():
    assert find_centres(np.full((176, 320), 0.5, np.float32), 0.1, 3, 200).cells.tolist() == [[0, 0]]


def test_equal_maxima_within_a_window_are_one_centre():
    heat = np.zeros((9, 9), np.float32)
    heat[4, 2] = heat[4, 5] = 0.5
    assert len(find_centres(heat, 0.1, 7, 200).heat) == 1
    assert len(find_centres(heat, 0.1, 3, 200).heat) == 2


def test_as_many_centres_as_asked_survive_a_tie_at_the_last_place():
    heat = np.zeros((9, 90), np.float32)
    heat[4, ::9] = 0.5
    assert find_centres(heat, 0.1, 3, 4).cells[:, 1].tolist() == [0, 9, 18, 27]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([3, 5, 7]))
def test_no_centre_is_beaten_within_its_window(seed, levels, kernel):
    heat = np.random.default_rng(seed).integers(0, levels + 1, (12, 17)).astype(np.float32) / levels
    centres = find_centres(heat, 0.1, kernel, 200)
    r = kernel // 2
    for (y, x), value in zip(centres.cells, centres.heat, strict=True):
        assert value == heat[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].max()
    for i, a in enumerate(centres.cells):
        assert all(np.abs(a - b).max() > r for b in centres.cells[i + 1 :])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_cells_go_to_the_nearest_centre(seed, count):
    rng = np.random.default_rng(seed)
    centres = Centres(rng.integers(0, 50, (count, 2)).astype(np.int32), np.ones(count, np.float32))
    offset = rng.normal(0, 30, (2, 8, 9)).astype(np.float32)
    nearest, distance = assign(centres, offset, np.arange(72), 4.0)
    at = np.stack(np.divmod(np.arange(72), 9), 1) * 4.0 + offset.reshape(2, -1).T
    apart = np.linalg.norm(at[:, None] - centres.cells[None] * 4.0, axis=2)
    assert np.allclose(apart[np.arange(72), nearest], apart.min(1), atol=0.02)
    assert np.allclose(distance, apart.min(1), atol=0.02)


def two_cars() -> tuple[np.ndarray, np.ndarray]:
    """A near car that covers a third of a far one."""
    labels, instances = np.zeros((160, 320), np.uint8), np.zeros((160, 320), np.uint16)
    instances[50:90, 120:200], instances[60:120, 60:150] = 1, 2
    labels[instances > 0] = CAR
    return labels, instances


def test_two_cars_that_overlap_are_two_where_connected_regions_see_one():
    labels, instances = two_cars()
    assert len(group_things(labels, [CAR], NO_LIMIT).segments) == 1
    seen = seen_of(labels, instances)
    assert [s.class_id for s in seen.segments] == [CAR, CAR]
    for k in (1, 2):
        mask = instances == k
        best = np.bincount(seen.id_map[mask]).argmax()
        assert (mask & (seen.id_map == best)).sum() / (mask | (seen.id_map == best)).sum() > 0.95


def test_borders_have_no_holes():
    labels, instances = two_cars()
    assert ((seen_of(labels, instances).id_map > 0) == (labels == CAR)).all()


def test_a_thing_thinner_than_a_cell_keeps_its_id():
    labels, instances = np.zeros((80, 80), np.uint8), np.zeros((80, 80), np.uint16)
    labels[20:60, 43:45], instances[20:60, 43:45] = PEDESTRIAN, 1
    heat, _ = truth_outputs(instances)
    ys, xs = np.mgrid[0:20, 0:20].astype(np.float32) * 4 + 1.5
    seen = group_by_centres(labels, heat, np.stack((39.5 - ys, 43.5 - xs)), 4.0, [PEDESTRIAN], NO_LIMIT, Grouping())
    assert [s.area_px for s in seen.segments] == [80]
    assert seen.segments[0].box_xyxy == (43, 20, 45, 60)


def test_without_a_centre_nobody_is_lost():
    labels = np.zeros((80, 160), np.uint8)
    labels[20:60, 20:30] = labels[20:60, 100:110] = PEDESTRIAN
    nothing = np.zeros((20, 40), np.float32)
    seen = group_by_centres(labels, nothing, np.zeros((2, 20, 40), np.float32), 4.0, [PEDESTRIAN], NO_LIMIT, Grouping())
    assert [s.area_px for s in seen.segments] == [400, 400]
    agreement = 1 / (1 + (REACH_CELLS * 4 / (Grouping().vote_spread * 20)) ** 2)
    score = Grouping().threshold ** Grouping().heat_power * agreement
    assert [s.score for s in seen.segments] == pytest.approx([score, score], abs=1e-4)


def test_a_missed_centre_does_not_join_things_that_are_far_apart():
    labels, instances = np.zeros((80, 320), np.uint8), np.zeros((80, 320), np.uint16)
    instances[20:60, 20:30], instances[20:60, 280:290] = 1, 2
    labels[instances > 0] = PEDESTRIAN
    heat, offset = truth_outputs(instances)
    heat[:, 40:] = 0
    seen = group_by_centres(labels, heat, offset, 4.0, [PEDESTRIAN], NO_LIMIT, Grouping())
    assert [s.area_px for s in seen.segments] == [400, 400]


def test_a_few_pixels_of_another_class_take_the_class_of_their_instance():
    labels, instances = two_cars()
    labels[70:75, 80:85] = PEDESTRIAN
    seen = seen_of(labels, instances, areas=[0, 0, 160, 400])
    assert [s.class_id for s in seen.segments] == [CAR, CAR]
    assert (seen.labels[70:75, 80:85] == CAR).all()
    assert (seen.id_map[70:75, 80:85] > 0).all()


def test_a_pedestrian_in_front_of_a_car_stays_one_though_its_centre_is_missed():
    labels, instances = two_cars()
    labels[65:105, 80:92] = PEDESTRIAN
    seen = seen_of(labels, instances, areas=[0, 0, 160, 60])
    assert sorted(s.class_id for s in seen.segments) == [CAR, CAR, PEDESTRIAN]
    assert (seen.labels[65:105, 80:92] == PEDESTRIAN).all()


def test_segments_below_the_least_area_are_noise():
    labels, instances = np.zeros((360, 640), np.uint8), np.zeros((360, 640), np.uint16)
    labels[100:106, 100:106], instances[100:106, 100:106] = PEDESTRIAN, 1
    assert seen_of(labels, instances, areas=[40] * 4).segments == ()
    assert seen_of(labels, instances, areas=[36] * 4).segments[0].area_px == 36


@pytest.mark.parametrize(("power", "score"), [(1, 0.1), (0.5, 0.2 * 0.5**0.5), (0, 0.2)])
def test_score_is_confidence_times_heat_to_the_card_s_power(power, score):
    labels, instances = two_cars()
    heat, offset = truth_outputs(instances)
    confidence = np.full(heat.shape, 51, np.uint8)
    half, rules = (heat / 2).astype(np.float32), Grouping(heat_power=power)
    seen = group_by_centres(labels, half, offset, 4.0, [CAR], NO_LIMIT, rules, confidence)
    assert [s.score for s in seen.segments] == pytest.approx([score, score], abs=0.01)


@pytest.mark.parametrize(("spread", "score"), [(0, 1), (0.3, 0.5), (0.6, 0.8)])
def test_score_falls_as_the_votes_stray_from_the_centre(spread, score):
    """A square of 40 px whose votes are all 12 px beside its centre: 0.3 of its side."""
    labels, instances = np.zeros((80, 80), np.uint8), np.zeros((80, 80), np.uint16)
    labels[20:60, 20:60], instances[20:60, 20:60] = CAR, 1
    heat, offset = truth_outputs(instances)
    row, column = np.argwhere(heat == heat.max())[0] * 4
    offset[0], offset[1] = row - np.arange(0, 80, 4)[:, None], column + 12 - np.arange(0, 80, 4)
    heat[:] = np.where(heat == heat.max(), 1, 0)
    seen = group_by_centres(labels, heat, offset, 4.0, [CAR], NO_LIMIT, Grouping(vote_spread=spread))
    assert [s.score for s in seen.segments] == pytest.approx([score], abs=0.01)


def test_small_stuff_is_void_where_the_card_asks_for_it():
    labels = np.zeros((360, 640), np.uint8)
    labels[:5, :5] = 1
    heat, offset = np.zeros((90, 160), np.float32), np.zeros((2, 90, 160), np.float32)
    seen = group_by_centres(labels, heat, offset, 4.0, [CAR], NO_LIMIT, Grouping(stuff_area=26))
    assert (seen.labels[:5, :5] == VOID).all()
    assert (seen.labels[5:] == 0).all()


SKY, SIGN, LANE = 0, 4, 5
JOINING = Grouping(stuff_area=31, small_stuff="neighbour")


def test_small_stuff_goes_to_the_stuff_beside_it_and_not_to_a_thing():
    labels = np.full((360, 640), SKY, np.uint8)
    labels[100:110, 100:110] = CAR
    labels[104:109, 104:113] = SIGN  # within the car, but for three columns
    labels[104:109, 107:110] = CAR
    settle_small_stuff(labels, [CAR], [], JOINING)
    assert (labels[104:109, 110:113] == SKY).all()
    assert (labels[104:109, 104:107] == SIGN).all()  # there is no stuff beside it
    assert (labels[104:109, 107:110] == CAR).all()


def test_small_stuff_that_is_kept_stays():
    labels = np.full((360, 640), SKY, np.uint8)
    labels[:2, :2], labels[9:11, 9:11] = SIGN, LANE
    settle_small_stuff(labels, [CAR], [LANE], JOINING)
    assert (labels[9:11, 9:11] == LANE).all()
    assert not (labels == SIGN).any()


def test_stuff_of_enough_pixels_in_many_places_stays():
    labels = np.full((360, 640), SKY, np.uint8)
    labels[::50, ::90] = SIGN
    before = labels.copy()
    settle_small_stuff(labels, [CAR], [], JOINING)
    assert np.array_equal(labels, before)


def test_as_large_a_blob_as_may_go_is_filled_whole():
    labels = np.full((360, 640), SKY, np.uint8)
    labels[50:60, 50:60] = SIGN
    settle_small_stuff(labels, [CAR], [], Grouping(stuff_area=101, small_stuff="neighbour"))
    assert (labels == SKY).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_id_map_segments_and_labels_agree(seed, count):
    rng = np.random.default_rng(seed)
    labels = np.zeros((48, 80), np.uint8)
    for _ in range(count):
        y, x, h, w = rng.integers(0, (48, 80, 30, 30))
        labels[y : y + h, x : x + w] = rng.integers(0, 4)
    heat = rng.random((12, 20), np.float32) ** 4
    offset = rng.normal(0, 20, (2, 12, 20)).astype(np.float32)
    before = labels.copy()
    seen = group_by_centres(labels, heat, offset, 4.0, [CAR, PEDESTRIAN], [0, 0, 900, 900], Grouping())
    assert seen.id_map.max(initial=0) == len(seen.segments)
    assert ((before == seen.labels) | (seen.id_map > 0)).all()
    for k, segment in enumerate(seen.segments, start=1):
        mask = seen.id_map == k
        rows, columns = np.nonzero(mask)
        assert (seen.labels[mask] == segment.class_id).all()
        assert segment.area_px == mask.sum()
        assert segment.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert [s.area_px for s in seen.segments] == sorted((s.area_px for s in seen.segments), reverse=True)


@pytest.mark.parametrize("seed", [0, 41])
def test_centres_find_more_of_a_rendered_drive_than_connected_regions(seed):
    frame = next(iter(RenderedDrive(seed, 640, 352, fps=10.0).at([60])))
    assert frame.truth is not None
    things = [8, 9, 10]
    labels = frame.truth.labels
    instances = np.where(np.isin(labels, things), frame.truth.instances, 0)
    areas = [60] * 12
    truth = [m for k in np.unique(instances)[1:] if (m := instances == k).sum() >= 60]

    def found(seen: Panoptic) -> int:
        hits = 0
        for mask in truth:
            shared = np.bincount(seen.id_map[mask], minlength=2)[1:]
            k = int(shared.argmax()) + 1
            hits += bool(shared.max() > 0.5 * (mask | (seen.id_map == k)).sum())
        return hits

    by_centres = found(seen_of(labels, instances, areas, things))
    assert by_centres >= 0.85 * len(truth)
    assert by_centres > found(group_things(labels, things, areas))


CARD = """
card = 1
kind = "panoptic"
topics = { road = ["road"] }
classes = [{ name = "sky" }, { name = "road" }, { name = "person", thing = true, min_area = 1 }]

[input]
width = 64
height = 32
layout = "NHWC"

[output]
name = "labels"
form = "labels"
centre = "centre"
offset = "offset"
"""
FEATURES = """keys = "keys"
context = "context"
fine8 = "fine8"
fine4 = "fine4"
"""
ENCODER = (
    FEATURES
    + """
[encoder]
graph = "tiny-encoder.onnx"
sha256 = "SHA256"
"""
)
STEPS = {"keys": 16, "context": 16, "fine8": 8, "fine4": 4}  # [px]


def tiny_panoptic(folder: Path, card: str = CARD, grid: tuple[int, int] = (8, 16)) -> Path:
    """Colour decides the class, as in `fakes.tiny_model`; two centres, left and right, are everywhere the same.

    Features are the mean colours of their cells; an encoder lies beside it, for cards that name one.
    """
    onnx = pytest.importorskip("onnx")
    helper, proto = onnx.helper, onnx.TensorProto
    heat, offset = np.zeros((1, 1, *grid), np.float32), np.zeros((1, 2, *grid), np.float32)
    heat[0, 0, 4, [3, 12]] = 0.9, 0.8
    rows, columns = np.mgrid[0 : grid[0], 0 : grid[1]]
    offset[0] = 4.0 * np.stack((4 - rows, np.where(columns < 8, 3, 12) - columns))
    tensors = {"centre": heat, "offset": offset}
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=proto.FLOAT),
        helper.make_node("ArgMax", ["real"], ["index"], axis=3, keepdims=0),
        helper.make_node("Cast", ["index"], ["labels"], to=proto.UINT8),
        *(helper.make_node("Identity", [f"{name}_value"], [name]) for name in tensors),
        helper.make_node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
    ]
    for name, step in STEPS.items():
        sizes = {"kernel_shape": [step, step], "strides": [step, step]}
        nodes.append(helper.make_node("AveragePool", ["planes"], [name], **sizes))
    values = [onnx.numpy_helper.from_array(array, f"{name}_value") for name, array in tensors.items()]
    shapes = {name: a.shape for name, a in tensors.items()}
    shapes |= {name: (1, 3, 32 // step, 64 // step) for name, step in STEPS.items()}
    outputs = [helper.make_tensor_value_info("labels", proto.UINT8, [1, 32, 64])]
    outputs += [helper.make_tensor_value_info(name, proto.FLOAT, shape) for name, shape in shapes.items()]
    source = helper.make_tensor_value_info("image", proto.UINT8, [1, 32, 64, 3])
    graph = helper.make_graph(nodes, "tiny", [source], outputs, values)
    path = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    encoder = folder / "tiny-encoder.onnx"
    onnx.utils.extract_model(str(path), str(encoder), ["image"], list(STEPS))
    sha256 = hashlib.sha256(encoder.read_bytes()).hexdigest()
    path.with_suffix(".toml").write_text(card.replace("SHA256", sha256))
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_panoptic_model_runs_by_its_card(tmp_path, engine):
    pytest.importorskip(engine, reason=f"the {engine} extra is not installed")
    model = open_model(find(str(tiny_panoptic(tmp_path))), engine)
    assert isinstance(model, PanopticModel)
    assert model.mask_size == (64, 32)
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 8:120] = 0, 0, 200  # one region of people from the left to the right
    seen = model(image)
    assert [s.class_id for s in seen.segments] == [2, 2]
    assert seen.id_map[16, 8] != seen.id_map[16, 52]
    assert seen.features is None
    assert model.features(image) is None


def opened(folder: Path, card: str, engine: EngineName = "onnxruntime") -> PanopticModel:
    model = open_model(find(str(tiny_panoptic(folder, card))), engine)
    assert isinstance(model, PanopticModel)
    return model


def equal(a: Features | None, b: Features | None) -> bool:
    return a is not None and b is not None and all(np.array_equal(getattr(a, k), getattr(b, k)) for k in STEPS)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_encoder_alone_gives_what_the_whole_graph_gives(tmp_path, engine):
    pytest.importorskip(engine, reason=f"the {engine} extra is not installed")
    model = opened(tmp_path, CARD + ENCODER, engine)
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    assert model(image).features is None
    assert model.features(image) is None
    model.wants_features = True
    encoder = find(str(tmp_path / "tiny.onnx")).encoder
    assert encoder is not None
    model.open_encoder(open_engine(encoder, engine))
    seen, alone = model(image).features, model.features(image)
    assert equal(seen, alone)
    assert seen is not None
    assert {k: getattr(seen, k).shape for k in STEPS} == {k: (3, 32 // s, 64 // s) for k, s in STEPS.items()}
    assert {getattr(seen, k).dtype for k in STEPS} == {np.dtype(np.float32)}
    model.close()


def test_features_are_not_the_engines_reused_buffers(tmp_path):
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    model = opened(tmp_path, CARD + FEATURES, "openvino")
    model.wants_features = True
    dark = model(np.zeros((32, 64, 3), np.uint8)).features
    model(np.full((32, 64, 3), 200, np.uint8))
    assert dark is not None
    assert not any(getattr(dark, k).any() for k in STEPS)


def test_a_card_with_keys_alone_gives_no_features(tmp_path):
    model = opened(tmp_path, CARD + 'keys = "keys"\n')
    model.wants_features = True
    assert model(np.zeros((32, 64, 3), np.uint8)).features is None


@pytest.mark.parametrize(("every", "alone"), [(1, False), (2, True)])
def test_the_encoder_is_opened_where_frames_are_skipped(tmp_path, every, alone):
    model = opened(tmp_path, CARD + ENCODER)
    launch = Launch(version=1, model=ModelConfig(engine="onnxruntime", network_every=every))
    give_features(model, find(str(tmp_path / "tiny.onnx")), launch)
    image = np.zeros((32, 64, 3), np.uint8)
    assert model(image).features is not None
    assert (model.features(image) is not None) == alone


def test_an_encoder_that_is_not_there_or_not_the_cards_is_named(tmp_path):
    path = str(tiny_panoptic(tmp_path, CARD + ENCODER))
    encoder = tmp_path / "tiny-encoder.onnx"
    whole = encoder.read_bytes()
    encoder.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        ModelError, match=r"tiny-encoder\.onnx: not what tiny\.toml describes: sha256 \w+\.\.\., not"
    ) as said:
        find(path)
    assert "\n" not in str(said.value)
    encoder.unlink()
    with pytest.raises(ModelError, match=r"tiny-encoder\.onnx: no such file; tiny\.toml names it"):
        find(path)


def test_an_encoder_without_the_features_is_refused(tmp_path):
    model = opened(tmp_path, CARD + ENCODER)
    other = tiny_model(tmp_path, form="labels", layout="NHWC", name="other")
    with pytest.raises(ModelError, match=r"tiny-encoder\.onnx: input image has shape"):
        model.open_encoder(open_engine(other, "onnxruntime"))


def test_the_card_s_facts_name_features_and_encoder(tmp_path):
    files = find(str(tiny_panoptic(tmp_path, CARD + ENCODER)))
    facts = files.card.facts(files)
    assert facts["features"] == "keys, context, fine8, fine4"
    assert "tiny-encoder.onnx (0.0 MB)" in facts["encoder"]
    plain = find(str(tiny_panoptic(tmp_path)))
    assert plain.card.facts(plain)["features"] == "none"
    assert "encoder" not in plain.card.facts(plain)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('offset = "offset"\n', ""), "needs output.centre and output.offset"),
        (('kind = "panoptic"', 'kind = "semantic"'), 'output.centre belongs to kind = "panoptic"'),
        (("[output]", "[grouping]\nkernel = 4\n[output]"), "kernel is 4; it must be odd"),
        (('centre = "centre"', 'center = "centre"'), "did you mean 'centre'"),
        (("[output]", '[output]\nkeys = "keys"\nfine8 = "fine8"'), "output.context is missing: keys, context, fine8"),
        (("[input]", '[encoder]\ngraph = "x.onnx"\nsha256 = "SHA256"\n[input]'), "which this card does not name"),
        (("[input]", '[encoder]\ngraph = "../x.onnx"\nsha256 = "SHA256"\n[input]'), "encoder.graph"),
    ],
)
def test_a_panoptic_card_with_a_mistake_says_where(tmp_path, change, says):
    with pytest.raises(ConfigError, match=says):
        find(str(tiny_panoptic(tmp_path, CARD.replace(*change))))


@pytest.mark.parametrize(
    ("card", "grid", "says"),
    [
        (CARD.replace('"centre"', '"offset"'), (8, 16), r"must be \(1, 1, h, w\)"),
        (CARD.replace('"centre"', '"heat"'), (8, 16), "no output 'heat'"),
        (CARD, (7, 16), "whole multiple"),
        (CARD + FEATURES.replace('"fine8"', '"fine4"'), (8, 16), r"fine8 is .*64x32 it must be \(1, c, 4, 8\)"),
        (CARD + FEATURES.replace('"fine8"', '"fine2"'), (8, 16), "no output 'fine2'"),
    ],
)
def test_a_graph_that_is_not_the_cards_is_refused(tmp_path, card, grid, says):
    with pytest.raises(ModelError, match=says):
        open_model(find(str(tiny_panoptic(tmp_path, card, grid))), "onnxruntime")
