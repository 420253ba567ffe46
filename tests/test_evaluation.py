"""`perception evaluate` from pictures to figures: a tiny network on a tiny data set, stored predictions, bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from perception import cli
from perception.errors import ConfigError
from perception.evaluation.bdd_mots import MotsFolder
from perception.evaluation.classes import scored_classes
from perception.evaluation.command import Wishes, evaluate_command
from perception.evaluation.extra import load_extra
from perception.evaluation.outputs import require_writable
from perception.evaluation.predict import node_predictor
from perception.evaluation.segments import OTHER
from perception.evaluation.stored import About, read_prediction, write_about, write_picture, write_prediction
from perception.evaluation.truth import LabelFolder
from perception.types import Panoptic, Segment
from tests.fakes import tiny_model
from tests.test_cli import refused
from tests.training_fakes import no_file_beyond

pytest.importorskip("pycocotools", reason="pycocotools is not installed")

SKY, ROAD, PERSON, VOID = 0, 1, 2, 255
NAMES = ("sky", "road", "person")
MOTS = Path(__file__).parents[2] / "shared" / "data" / "bdd_mots"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three frames of 32x16: the tiny network takes the strongest of R, G, B for sky, road, person."""
    root = tmp_path / "data"
    for i in range(3):
        labels = np.full((16, 32), SKY, np.uint8)
        labels[8:] = ROAD
        labels[4:12, 2 + i : 6 + i] = labels[4:12, 20:26] = PERSON
        instances = np.zeros(labels.shape, np.uint16)
        instances[4:12, 2 + i : 6 + i], instances[4:12, 20:26] = 300, 301
        labels[:, 31] = VOID
        write_sample(root, f"frame_{i:03d}", labels, instances)
    return root


def write_sample(root: Path, name: str, labels: NDArray[np.uint8], instances: NDArray[np.uint16] | None) -> None:
    bgr = np.full((*labels.shape, 3), 20, np.uint8)
    for class_id in (SKY, ROAD, PERSON):
        bgr[labels == class_id, 2 - class_id] = 200
    for folder, picture in (("images", bgr), ("labels", labels), ("instances", instances)):
        if picture is not None:
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f"{name}.png"), picture)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path, form="labels")


@pytest.fixture
def say(monkeypatch, capfd):
    """Run the command line; its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        engine = () if {"--engine", "--predictions"} & {*words} else ("--engine", "onnxruntime")
        monkeypatch.setattr("sys.argv", ["perception", "evaluate", *map(str, words), *engine])
        monkeypatch.setenv("COLUMNS", "120")
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def evaluate(data: Path, model: Path, keep: Path | None = None, **wishes) -> dict:
    predictor = node_predictor(str(model), "onnxruntime")
    try:
        return evaluate_command(data, predictor, keep, Wishes(**wishes), lambda *_: None).figures
    finally:
        predictor.model.close()


def test_a_perfect_network_scores_one_everywhere(data, model):
    result = evaluate(data, model, sequence=True)
    assert result["images"] == 3
    assert (result["mean_iou"], result["mean_dice"], result["pixel_accuracy"]) == (1, 1, 1)
    assert result["mean_boundary_f"] == {"1": 1, "2": 1, "4": 1}
    assert result["panoptic"]["all"] == {"pq": 1, "sq": 1, "rq": 1, "classes": 3}
    assert result["panoptic"]["by_class"]["person"]["tp"] == 6
    assert (result["instance_ap"]["ap"], result["instance_ap"]["by_class"]["person"]["ap50"]) == (1, 1)
    assert (result["flicker"]["overall"], result["flicker"]["pairs"]) == (0, 2)


def test_a_wrong_frame_lowers_every_figure_as_counted_by_hand(data, model):
    image = data / "images" / "frame_001.png"
    bgr = np.asarray(cv2.imread(str(image)))
    bgr[4:12, 20:26] = (20, 200, 20)  # one person of 48 px is seen as road
    cv2.imwrite(str(image), bgr)
    result = evaluate(data, model, sequence=True)
    people = 3 * (8 * 4 + 8 * 6)
    assert result["iou"]["person"] == round((people - 48) / people, 4)
    assert result["dice"]["person"] == round(2 * (people - 48) / (2 * people - 48), 4)
    assert result["panoptic"]["by_class"]["person"] == {
        "pq": round(5 / 5.5, 4),
        "sq": 1,
        "rq": round(5 / 5.5, 4),
        "tp": 5,
        "fp": 0,
        "fn": 1,
    }
    assert result["instance_ap"]["ap"] == pytest.approx(84 / 101, abs=1e-4)  # recall 5/6 is reached by 84 of 101 points
    # 48 px change at each of the two steps, of those that keep their true class: all but 31 x 16 and 2 x 8 that move.
    assert result["flicker"]["overall"] == round(96 / (2 * (31 * 16 - 16)), 4)


def test_without_instances_only_stuff_is_panoptic(data, model):
    for path in (data / "instances").iterdir():
        path.unlink()
    (data / "instances").rmdir()
    result = evaluate(data, model)
    assert set(result["panoptic"]["by_class"]) == {"sky", "road"}
    assert "things" not in result["panoptic"]
    assert "instance_ap" not in result


def test_merging_classes_equals_merged_labels(data, model):
    result = evaluate(data, model, merge=["person=road"])
    assert result["classes"] == ["sky", "road"]
    assert result["mean_iou"] == 1
    assert result["panoptic"]["stuff"]["classes"] == 2
    assert result["things"] == []


def test_pictures_without_a_labelled_pixel_have_no_accuracy(data, model):
    for path in (data / "labels").iterdir():
        cv2.imwrite(str(path), np.full((16, 32), VOID, np.uint8))
    result = evaluate(data, model)
    assert (result["pixel_accuracy"], result["mean_iou"], result["mean_dice"]) == (None, None, None)
    assert result["panoptic"]["all"]["pq"] is None


@pytest.mark.parametrize("merge", ["cat=road", "road", "road=road"])
def test_merging_an_unknown_class_names_the_known_ones(merge):
    with pytest.raises(ConfigError, match="sky, road, person"):
        scored_classes(NAMES, {"person"}, [merge])


def test_merging_in_a_chain_is_refused():
    with pytest.raises(ConfigError, match="'sky' goes into 'road', which goes into 'person'"):
        scored_classes(NAMES, {"person"}, ["sky=road", "road=person"])


def test_small_true_things_count_neither_way(data, model):
    result = evaluate(data, model, least_area=40)
    assert result["panoptic"]["by_class"]["person"]["tp"] == 3
    assert result["panoptic"]["by_class"]["person"]["fp"] == 0
    assert result["least_area"] == 40


def test_stored_predictions_score_the_same_without_the_network(data, model, tmp_path):
    first = evaluate(data, model, keep=tmp_path / "kept", sequence=True)
    model.unlink()
    again = evaluate_command(data, None, tmp_path / "kept", Wishes(sequence=True), lambda *_: None).figures
    assert again == first


def test_a_prediction_comes_back_as_it_was_stored(tmp_path):
    labels = np.array([[0, 2], [2, 255]], np.uint8)
    ids = np.array([[0, 1], [1, 0]], np.uint16)
    seen = Panoptic(labels, ids, (Segment(2, 0.25, 2, (0, 0, 2, 2)), Segment(2, 0.5, 0, (0, 0, 0, 0))))
    write_prediction(tmp_path, "video/one", seen, (4, 4))
    stored = read_prediction(tmp_path, "video/one", 3)
    assert (stored.labels == labels.repeat(2, 0).repeat(2, 1)).all()
    assert (stored.instances == ids.repeat(2, 0).repeat(2, 1)).all()
    assert stored.segments == {1: (2, 0.25)}  # the second segment has no pixel


@pytest.mark.parametrize(("room", "file"), [(0, "labels/one.png"), (120, "instances/one.png"), (1000, "one.json")])
def test_a_prediction_that_does_not_fit_on_the_disk_is_one_line(tmp_path, room, file):
    id_map = np.random.default_rng(0).integers(0, 40, (16, 16)).astype(np.uint16)
    segments = tuple(Segment(0, 0.5, 6, (0, 0, 16, 16)) for _ in range(40))
    seen = Panoptic(np.zeros((16, 16), np.uint8), id_map, segments)
    with no_file_beyond(room), pytest.raises(ConfigError, match=f"{file}: can't be written"):
        write_prediction(tmp_path, "one", seen, (16, 16))


def test_the_command_line_writes_a_table_json_and_a_picture(say, data, model, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figures, picture = tmp_path / "figures.json", tmp_path / "confusion.png"
    code, out, err = say(data, "--model", model, "--sequence", "--json", figures, "--picture", picture)
    assert code == 0, err
    assert "100.00" in out
    assert "flicker 0.00 of steady pixels over 2 pairs" in out
    assert json.loads(figures.read_text())["mean_iou"] == 1
    shape = np.asarray(cv2.imread(str(picture))).shape
    assert min(shape[:2]) > 300


def test_the_command_line_scores_a_kept_folder(say, data, model, tmp_path):
    assert say(data, "--model", model, "--keep", tmp_path / "kept")[0] == 0
    code, out, err = say(data, "--predictions", tmp_path / "kept")
    assert code == 0, err
    assert "100.00" in out


@pytest.mark.parametrize("option", ["--json", "--picture"])
def test_a_place_that_can_not_be_written_is_refused_before_the_work(say, data, model, tmp_path, option):
    (tmp_path / "folder").mkdir()
    kept = ("--keep", tmp_path / "kept", option)
    assert "can't be written" in refused(say(data, "--model", model, *kept, "/proc/figures"))
    assert "is a folder" in refused(say(data, "--model", model, *kept, tmp_path / "folder"))
    assert not (tmp_path / "kept").exists()


def test_looking_whether_a_place_can_be_written_leaves_it_as_it_was(tmp_path):
    (tmp_path / "old").write_text("figures")
    (tmp_path / "link").symlink_to("new")
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a reader
    for name in ("old", "new", "link", "pipe"):
        require_writable(tmp_path / name)
    assert (tmp_path / "old").read_text() == "figures"
    assert {path.name for path in tmp_path.iterdir()} == {"old", "link", "pipe"}


def test_figures_that_can_not_be_written_are_shown_all_the_same(say, data, model):
    result = say(data, "--model", model, "--json", "/dev/full")
    assert "/dev/full: can't be written (no space left on device)" in refused(result)
    assert "100.00" in result[1]


def test_figures_are_written_though_nobody_reads_the_table(data, model, tmp_path):
    figures = tmp_path / "figures.json"
    words = ["evaluate", data, "--model", model, "--engine", "onnxruntime", "--json", figures]
    command = [sys.executable, "-m", "perception.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(180)
    assert json.loads(figures.read_text())["mean_iou"] == 1


def test_figures_that_can_not_be_written_cost_no_picture(say, data, model, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    picture = tmp_path / "confusion.png"
    assert "/dev/full" in refused(say(data, "--model", model, "--json", "/dev/full", "--picture", picture))
    assert cv2.imread(str(picture)) is not None


def test_a_picture_that_can_not_be_written_costs_no_figure(say, data, model, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    figures, picture = tmp_path / "figures.json", tmp_path / "confusion.png"
    with no_file_beyond(8000):
        result = say(data, "--model", model, "--json", figures, "--picture", picture)
    assert "confusion.png: can't be written (file too large)" in refused(result)
    assert "100.00" in result[1]
    assert json.loads(figures.read_text())["mean_iou"] == 1


def test_a_missing_label_is_named(say, data, model):
    (data / "labels" / "frame_001.png").unlink()
    line = refused(say(data, "--model", model))
    assert "frame_001.png: no truth" in line
    assert "1 pictures" in line


def test_a_label_without_a_picture_is_named(say, data, model):
    (data / "images" / "frame_001.png").unlink()
    assert "no picture for the truth of 'frame_001'" in refused(say(data, "--model", model))


def test_a_label_value_outside_the_list_is_named(say, data, model):
    cv2.imwrite(str(data / "labels" / "frame_001.png"), np.full((16, 32), 7, np.uint8))
    line = refused(say(data, "--model", model))
    assert "frame_001.png: label value 7 is not one of 0..2 or 255" in line


def test_labels_of_another_size_are_refused(say, data, model):
    cv2.imwrite(str(data / "labels" / "frame_001.png"), np.zeros((8, 32), np.uint8))
    cv2.imwrite(str(data / "instances" / "frame_001.png"), np.zeros((8, 32), np.uint16))
    line = refused(say(data, "--model", model))
    assert "32x16" in line
    assert "32x8" in line


def test_instances_of_another_size_are_refused(say, data, model):
    cv2.imwrite(str(data / "instances" / "frame_001.png"), np.zeros((8, 32), np.uint16))
    assert "instances/frame_001.png: 32x8" in refused(say(data, "--model", model))


def test_a_coloured_label_picture_is_refused(say, data, model):
    cv2.imwrite(str(data / "labels" / "frame_001.png"), np.zeros((16, 32, 3), np.uint8))
    assert "3 channels of uint8; it must be one channel" in refused(say(data, "--model", model))


def test_a_broken_picture_is_named(say, data, model):
    (data / "images" / "frame_001.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    assert "frame_001.png" in refused(say(data, "--model", model))


def test_a_folder_without_labels_is_refused(say, tmp_path, model):
    line = refused(say(tmp_path, "--model", model))
    assert line.endswith(f"{tmp_path}: no folder labels/ here; give one with images/ and labels/")


def test_a_folder_that_is_not_there_is_called_so(say, tmp_path, model):
    assert f"{tmp_path / 'no'}: no such folder" in refused(say(tmp_path / "no", "--model", model))
    assert f"{model}: not a folder" in refused(say(model, "--model", model))


def test_the_parts_of_a_folder_of_parts_are_named(say, data, model, tmp_path):
    data.rename(tmp_path / "test")
    (tmp_path / "train" / "labels").mkdir(parents=True)
    line = refused(say(tmp_path, "--model", model))
    assert f"no folder labels/ here; give one of its parts: {tmp_path / 'test'}, {tmp_path / 'train'}" in line


def test_clips_of_davis_ask_for_video(say, tmp_path, model):
    (tmp_path / "Annotations" / "bear").mkdir(parents=True)
    assert "say --video" in refused(say(tmp_path, "--model", model))


def test_a_prediction_cut_short_is_refused(say, data, model, tmp_path):
    evaluate(data, model, keep=tmp_path / "kept")
    (tmp_path / "kept" / "about.json").unlink()
    assert "no finished predictions" in refused(say(data, "--predictions", tmp_path / "kept"))


def test_a_missing_prediction_is_named(say, data, model, tmp_path):
    evaluate(data, model, keep=tmp_path / "kept")
    (tmp_path / "kept" / "labels" / "frame_001.png").unlink()
    assert "frame_001.png: missing" in refused(say(data, "--predictions", tmp_path / "kept"))


def test_segments_that_contradict_their_map_are_refused(say, data, model, tmp_path):
    evaluate(data, model, keep=tmp_path / "kept")
    (tmp_path / "kept" / "segments" / "frame_001.json").write_text("[]")
    assert "instance 1 of the instance map is not listed" in refused(say(data, "--predictions", tmp_path / "kept"))
    (tmp_path / "kept" / "segments" / "frame_001.json").write_text('[{"id": 1, "class_id": 2, "score": 3}]')
    assert "frame_001.json" in refused(say(data, "--predictions", tmp_path / "kept"))


def stored_twice(root: Path, *segments: dict) -> Path:
    """A stored frame x of two instances, 1 and 2."""
    write_picture(root / "labels" / "x.png", np.ones((4, 4), np.uint8))
    write_picture(root / "instances" / "x.png", np.array([[1] * 4, [2] * 4] * 2, np.uint16))
    (root / "segments").mkdir()
    (root / "segments" / "x.json").write_text(json.dumps([{"class_id": 1, "score": 1, **s} for s in segments]))
    return root


def test_a_track_stands_once_in_a_stored_frame(tmp_path):
    track = {"track_id": 5, "state": "confirmed", "observed": True, "quality": 1}
    stored_twice(tmp_path, {"id": 1, "track": track}, {"id": 2, "track": track})
    with pytest.raises(ConfigError, match=r"segments/x\.json: track_id 5 is listed twice; predict again"):
        read_prediction(tmp_path, "x", 2)


def test_a_segment_stands_once_in_a_stored_picture(tmp_path):
    stored_twice(tmp_path, {"id": 1}, {"id": 2}, {"id": 2})
    with pytest.raises(ConfigError, match=r"segments/x\.json: id 2 is listed twice; predict again"):
        read_prediction(tmp_path, "x", 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--model", "road", "--predictions", "x"), "give one of them"),
        (("--flip",), "--flip averages the passes of a --checkpoint"),
        (("--size", "32x32"), "--size is of a --checkpoint's input"),
        (("--predictions", "x", "--size", "32x32"), "--size is of a --checkpoint's input"),
        (("--predictions", "x", "--engine", "openvino"), "--engine runs a model"),
        (("--checkpoint", "x", "--engine", "openvino"), "--engine runs a model"),
        (("--predictions", "x", "--keep", "y"), "give one of them"),
        (("--json", "/no/such/folder/a.json"), "its folder is not there"),
    ],
)
def test_options_that_contradict_each_other_are_refused(say, data, options, said):
    assert said in refused(say(data, *options))


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(ConfigError, match=r"mask AP needs no_such_package: pip install 'perception-node\[evaluate\]'"):
        load_extra("no_such_package.mask", "mask AP")


def mots(root: Path, *labels: dict) -> Path:
    """One picture of 4x2 with the given labels."""
    mask_api = load_extra("pycocotools.mask", "the test")
    for label in labels:
        rle = mask_api.encode(np.asfortranarray(label.pop("mask"), np.uint8))
        label["rle"] = {"counts": rle["counts"].decode(), "size": rle["size"]}
    listed = [{"id": str(k), **label} for k, label in enumerate(labels)]
    frames = [{"name": "v-1.jpg", "videoName": "v", "frameIndex": 0, "labels": listed}]
    (root / "labels").mkdir(parents=True)
    (root / "labels" / "v.json").write_text(json.dumps(frames))
    return root


def mask(*columns: int) -> NDArray[np.bool_]:
    out = np.zeros((2, 4), bool)
    out[:, columns] = True
    return out


def test_mots_things_that_the_model_does_not_know_are_void(tmp_path):
    root = mots(
        tmp_path / "mots",
        {"category": "car", "mask": mask(0), "attributes": {"crowd": False}},
        {"category": "truck", "mask": mask(1)},
        {"category": "pedestrian", "mask": mask(2), "attributes": {"crowd": True}},
    )
    folder = MotsFolder(root, scored_classes(("road", "car", "person"), {"car", "person"}))
    assert (folder.names, folder.panoptic, folder.things) == (("v/v-1",), {1, 2}, {1, 2})
    segments = folder.read("v/v-1").segments
    names = np.append(segments.class_ids, 99)[segments.ids - 1]  # 99 where the id is 0
    assert names.tolist() == [[1, 99, 2, OTHER]] * 2
    assert dict(zip(segments.class_ids.tolist(), segments.is_crowd.tolist(), strict=True))[2]


def test_mots_things_of_merged_classes_are_scored_as_the_one_that_is_left(tmp_path):
    listed = [{"category": name, "mask": mask(k)} for k, name in enumerate(("car", "truck", "pedestrian", "bus"))]
    classes = scored_classes(("road", "person", "truck", "car"), {"person", "car"}, ("person=car", "truck=car"))
    segments = MotsFolder(mots(tmp_path / "mots", *listed), classes).read("v/v-1").segments
    car = classes.names.index("car")
    assert segments.class_ids.tolist() == [car, car, car]  # and the bus is void
    assert segments.ids.tolist() == [[1, 2, 3, 0]] * 2


def test_a_mots_frame_that_is_listed_twice_is_refused(tmp_path):
    root = mots(tmp_path / "mots", {"category": "car", "mask": mask(0)})
    (root / "labels" / "w.json").write_bytes((root / "labels" / "v.json").read_bytes())
    with pytest.raises(ConfigError, match=r"w\.json: frame v/v-1 is listed twice"):
        MotsFolder(root, scored_classes(("road", "car"), {"car"}))


def test_a_mots_mask_that_is_covered_whole_is_no_segment(tmp_path):
    root = mots(tmp_path / "mots", {"category": "car", "mask": mask(0)}, {"category": "car", "mask": mask(0, 1)})
    segments = MotsFolder(root, scored_classes(("road", "car"), {"car"})).read("v/v-1").segments
    assert segments.class_ids.tolist() == [OTHER, 1]


def test_a_model_without_mots_classes_is_refused(tmp_path):
    root = mots(tmp_path / "mots", {"category": "car", "mask": mask(0)})
    with pytest.raises(ConfigError, match="no thing class called pedestrian"):
        MotsFolder(root, scored_classes(("sky", "cat"), {"cat"}))


def test_mots_labels_of_another_form_are_refused(tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "v.json").write_text('{"images": []}')
    with pytest.raises(ConfigError, match=r"v\.json: not Scalabel frames"):
        MotsFolder(tmp_path, scored_classes(("road", "car"), {"car"}))


@pytest.mark.parametrize(("given", "says"), [({"id": ""}, "length >= 1"), ({}, "missing required field `id`")])
def test_a_mots_label_without_an_id_is_refused(tmp_path, given, says):
    root = mots(tmp_path / "mots", {"category": "car", "mask": mask(0), **given})
    if not given:
        path = root / "labels" / "v.json"
        path.write_text(path.read_text().replace('"id": "0", ', ""))
    with pytest.raises(ConfigError, match=rf"v\.json: not Scalabel frames: .*{says}.*labels"):
        MotsFolder(root, scored_classes(("road", "car"), {"car"}))


def test_mots_frames_are_in_the_order_of_their_numbers(tmp_path):
    root = mots(tmp_path / "mots", {"category": "car", "mask": mask(0)})
    path = root / "labels" / "v.json"
    (frame,) = json.loads(path.read_text())
    path.write_text(json.dumps([frame | {"name": f"v-{k}.jpg"} for k in (10, 9, 11)]))
    assert MotsFolder(root, scored_classes(("road", "car"), {"car"})).names == ("v/v-9", "v/v-10", "v/v-11")


@pytest.mark.skipif(not MOTS.is_dir(), reason="the BDD100K MOTS sample is not here")
def test_the_truth_of_bdd_mots_scored_against_itself_is_perfect(tmp_path):
    names = ("road", "car", "pedestrian")
    truth = MotsFolder(MOTS, scored_classes(names, {"car", "pedestrian"}))
    cars = 0
    for name in truth.names:
        segments = truth.read(name).segments
        ids = np.where(segments.ids > 1, segments.ids, 0).astype(np.uint16)  # segment 1 is what is not labelled
        listed = tuple(Segment(int(c), 1.0, 1, (0, 0, 1, 1)) for c in np.maximum(segments.class_ids, 0))
        cars += int((segments.class_ids == 1).sum())
        seen = Panoptic(np.where(ids > 0, 1, 0).astype(np.uint8), ids, listed)
        write_prediction(tmp_path, name, seen, (segments.ids.shape[1], segments.ids.shape[0]))
    write_about(tmp_path, About(names, ("car", "pedestrian"), "truth", "none"))
    result = evaluate_command(MOTS, None, tmp_path, Wishes(), lambda *_: None).figures
    assert cars == 143
    assert result["panoptic"]["by_class"]["car"] == {"pq": 1, "sq": 1, "rq": 1, "tp": 143, "fp": 0, "fn": 0}
    assert result["instance_ap"]["by_class"]["car"]["ap50"] == 1
    assert "iou" not in result


def test_flicker_needs_labelled_pictures(tmp_path):
    root = mots(tmp_path / "mots", {"category": "car", "mask": mask(0)})
    write_about(tmp_path, About(("road", "car"), ("car",), "m", "e"))
    with pytest.raises(ConfigError, match="labels things only"):
        evaluate_command(root, None, tmp_path, Wishes(sequence=True), lambda *_: None)


def test_a_label_folder_reads_names_below_it(tmp_path):
    labels = np.array([[0, 1, 255]], np.uint8)
    write_sample(tmp_path, "one", labels, None)
    (tmp_path / "labels" / "clip").mkdir()
    (tmp_path / "labels" / "one.png").rename(tmp_path / "labels" / "clip" / "one.png")
    folder = LabelFolder(tmp_path, scored_classes(NAMES, {"person"}))
    assert folder.names == ("clip/one",)
    truth = folder.read("clip/one").labels
    assert truth is not None
    assert truth.tolist() == labels.tolist()
