"""`perception evaluate --video` from clips to figures: tiny clips, stored tracks, prompts, bad input."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from perception import cli
from perception.cli.evaluate import clip_launch
from perception.drives.rendered import CLASS_NAMES, RenderedDrive, write_clips
from perception.errors import ConfigError, PromptError
from perception.evaluation.classes import scored_classes
from perception.evaluation.clips import clips_of, open_clips
from perception.evaluation.command_clips import ClipWishes, evaluate_clips
from perception.evaluation.predict import Predictor, node_predictor
from perception.evaluation.predict_clips import Stepping, step_clips
from perception.evaluation.score_clips import ClipScores, score_clips
from perception.evaluation.segments import NUMBERS
from perception.evaluation.stored import About, read_prediction, write_about, write_picture, write_tracks
from perception.evaluation.truth import names_in
from perception.propagation.change import SceneChange
from perception.protocols import Outlook
from perception.types import (
    VOID,
    Features,
    Frame,
    Panoptic,
    Prompt,
    Scene,
    Segment,
    Track,
    TrackState,
    Validity,
)
from tests.fakes import tiny_model
from tests.test_cli import refused

SKY, ROAD, PERSON = 0, 1, 2
NAMES = ("sky", "road", "person")
CLASSES = scored_classes(NAMES, {"person"})
DATA = Path(__file__).parents[2] / "shared" / "data"
SIZE = (16, 32)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of six frames of 32x16, two persons each; the tiny network takes the strongest of R, G, B as class."""
    root = tmp_path / "clips"
    for clip in ("a", "b"):
        for i in range(6):
            labels = np.full(SIZE, SKY, np.uint8)
            labels[8:] = ROAD
            instances = np.zeros(SIZE, np.uint16)
            for thing, x in ((300, 2 + i), (301, 20)):
                labels[4:12, x : x + 6], instances[4:12, x : x + 6] = PERSON, thing
            write_frame(root, f"{clip}/{i:03d}", labels, instances)
    (root / "clips.json").write_text(json.dumps({"fps": 10, "clips": {"a": {"hidden": {"002": [9]}}}}))
    return root


def write_frame(root: Path, name: str, labels: NDArray[np.uint8], instances: NDArray[np.uint16]) -> None:
    bgr = np.full((*labels.shape, 3), 20, np.uint8)
    for class_id in (SKY, ROAD, PERSON):
        bgr[labels == class_id, 2 - class_id] = 200
    for folder, picture in (("images", bgr), ("labels", labels), ("instances", instances)):
        path = root / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path, form="labels")


@pytest.fixture
def say(monkeypatch, capfd):
    """Run the command line; its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["perception", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "160")
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def evaluate(data: Path, model: Path, keep: Path | None = None, every: int = 1, **wishes) -> dict:
    predictor = node_predictor(str(model), "onnxruntime")
    try:
        return evaluate_clips(data, predictor, keep, ClipWishes(clip_launch("iou", every), **wishes), ignore)
    finally:
        predictor.model.close()


def rescore(data: Path, kept: Path, **wishes) -> dict:
    return evaluate_clips(data, None, kept, ClipWishes(clip_launch("iou"), **wishes), ignore)


def ignore(*_: object) -> None:
    """No progress bar."""


def track(track_id: int, class_id: int = PERSON, **more) -> Track:
    return Track(track_id, class_id, more.pop("state", TrackState.CONFIRMED), 1.0, (0, 0, 1, 1), 0, 0, **more)


def write_scenes(folder: Path, clips: Path, change, **about) -> None:
    """Predictions that are the truth but for `change(clip, i, thing)`, which gives a Track or None."""
    truth = open_clips(clips, CLASSES, None)
    for clip, names in truth.clips.items():
        for i, name in enumerate(names):
            labels = np.asarray(cv2.imread(str(clips / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED))
            instances = np.asarray(cv2.imread(str(clips / "instances" / f"{name}.png"), cv2.IMREAD_UNCHANGED))
            tracks, id_map = [], np.zeros(SIZE, np.uint16)
            for thing in (300, 301):
                found = change(clip, i, thing)
                if found:
                    tracks.append(found)
                    id_map[instances == thing] = len(tracks)
            write_tracks(folder, name, labels, id_map, tracks, (SIZE[1], SIZE[0]))
    write_about(folder, About(NAMES, ("person",), "made", "none", "iou", **about))


def test_a_perfect_network_scores_one_everywhere(clips, model):
    result = evaluate(clips, model)
    assert (result["clips"], result["images"], result["fps"]) == (2, 12, 10)
    assert {key: result["stq"][key] for key in ("stq", "aq", "sq")} == {"stq": 1, "aq": 1, "sq": 1}
    assert result["vpq"]["by_window"]["6"]["all"] == 1
    assert result["vpq"]["by_window"]["8"]["all"] is None
    assert result["vpq"]["all"] == 1
    tracking = result["tracking"]
    assert [tracking[key] for key in ("idf1", "mota", "hota", "idsw", "tp", "fp", "fn")] == [1, 1, 1, 0, 24, 0, 0]
    assert tracking["by_class"]["person"]["idf1"] == 1
    assert result["ids"] == {"true": 4, "predicted": 4}
    assert result["flicker"] == {"overall": 0, "pairs": 10, "by_class": {"sky": 0, "road": 0, "person": 0}}
    assert result["calibration"]["expected_error"] == 0  # a sighting of score 1 is expected to be exact
    assert "j_and_f" not in result


def test_frames_that_the_network_skips_lag_behind(clips, model):
    result = evaluate(clips, model, every=3)
    assert result["network_every"] == 3
    assert 0.5 < result["mean_iou"] < 1
    ages = result["calibration"]["by_age"]
    assert sum(row["masks"] for row in ages) == 24
    assert result["flicker"]["overall"] is not None


def test_stored_clips_score_the_same_without_the_network(clips, model, tmp_path):
    first = evaluate(clips, model, tmp_path / "kept", every=2)
    model.unlink()
    assert rescore(clips, tmp_path / "kept") == first


def test_given_truth_counts_j_and_f_of_its_objects(clips, model):
    result = evaluate(clips, model, given=True)
    assert result["j_and_f"]["objects"] == 4
    assert result["j_and_f"]["by_clip"]["a"]["j_and_f"] == 1
    assert sum(row["masks"] for row in result["calibration"]["by_quality"]) == 20  # what is given is not judged


def test_given_truth_takes_the_place_of_the_first_frames_things(clips, model, tmp_path):
    for clip in ("a", "b"):  # nobody is to be seen in the first pictures
        picture = clips / "images" / clip / "000.png"
        cv2.imwrite(str(picture), np.full((*SIZE, 3), (20, 20, 200), np.uint8))
    blind = evaluate(clips, model)["tracking"]
    result = evaluate(clips, model, tmp_path / "kept", given=True)
    assert (blind["fn"], result["tracking"]["fn"]) == (4, 0)
    assert result["tracking"]["idf1"] == 1
    assert set(read_prediction(tmp_path / "kept", "a/000", 3).segments.values()) == {(PERSON, 1.0)}
    small = evaluate(clips, model, given=True, least_area=49)
    assert small["tracking"]["tp"] + small["tracking"]["fn"] == 0
    assert small["tracking"]["mota"] is None


def test_given_truth_is_of_the_models_classes_whatever_is_merged(clips, model, tmp_path):
    """Merged classes have other indices than those of the model."""
    result = evaluate(clips, model, tmp_path / "kept", given=True, merge=["road=sky"])
    first = read_prediction(tmp_path / "kept", "a/000", 3)
    assert set(first.segments.values()) == {(PERSON, 1.0)}
    assert set(np.unique(first.labels).tolist()) == {SKY, ROAD, PERSON}
    assert (result["tracking"]["idf1"], result["stq"]["stq"]) == (1, 1)


def test_a_switched_id_lowers_what_looks_at_ids_and_nothing_else(clips, tmp_path):
    write_scenes(tmp_path / "kept", clips, lambda clip, i, thing: track(thing if i < 3 or thing == 300 else 999))
    result = rescore(clips, tmp_path / "kept")
    assert (result["tracking"]["idsw"], result["tracking"]["mota"]) == (2, round(22 / 24, 4))
    assert result["tracking"]["idf1"] == 0.75
    assert result["stq"]["aq"] == 0.75
    assert result["stq"]["sq"] == 1
    assert result["vpq"]["by_window"]["1"]["all"] == 1
    assert result["ids"]["predicted"] == 6


def test_ids_beyond_sixteen_bits_are_kept_apart(clips, tmp_path):
    write_scenes(tmp_path / "kept", clips, lambda clip, i, thing: track(2**33 + thing + 65536 * (i > 2)))
    assert read_prediction(tmp_path / "kept", "a/005", 3).tracks[1].track_id == 2**33 + 300 + 65536
    result = rescore(clips, tmp_path / "kept")
    assert (result["tracking"]["idsw"], result["ids"]["predicted"]) == (4, 8)


def test_tracks_of_no_class_count_neither_way(clips, tmp_path):
    def change(clip: str, i: int, thing: int) -> Track:
        return track(thing) if thing == 300 else track(thing, VOID, prompted=True)

    write_scenes(tmp_path / "kept", clips, change)
    tracking = rescore(clips, tmp_path / "kept")["tracking"]
    assert (tracking["tp"], tracking["fp"], tracking["fn"]) == (12, 0, 12)


def test_masks_of_tracks_in_other_states_do_not_count(clips, tmp_path):
    state = {300: TrackState.TENTATIVE, 301: TrackState.OCCLUDED}
    write_scenes(tmp_path / "kept", clips, lambda clip, i, thing: track(thing, state=state[thing]))
    tracking = rescore(clips, tmp_path / "kept")["tracking"]
    assert (tracking["tp"], tracking["fp"], tracking["fn"]) == (12, 0, 12)


def test_quality_and_age_of_stored_tracks_are_compared_with_the_truth(clips, tmp_path):
    write_scenes(tmp_path / "kept", clips, lambda clip, i, thing: track(thing, observed=i == 0, quality=1 - i / 10))
    calibration = rescore(clips, tmp_path / "kept")["calibration"]
    assert calibration["expected_error"] == 0.25
    assert [(row["low"], row["masks"]) for row in calibration["by_age"]] == [(0, 4), (1, 4), (2, 4), (3, 12)]
    assert calibration["by_age"][1] == {"low": 1, "high": 2, "masks": 4, "predicted": 0.9, "true": 1}


def test_a_clip_without_ids_allows_class_maps_only(clips, model):
    for path in sorted((clips / "instances").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (clips / "instances").rmdir()
    result = evaluate(clips, model)
    assert result["stq"] == {"sq": 1}
    assert not {"tracking", "reidentification", "calibration", "j_and_f", "ids"} & set(result)
    assert result["flicker"]["pairs"] == 10


def test_frames_follow_in_clips_by_folder_and_number():
    names = ("a/001", "a/002", "a/003", "a/007", "a/008", "b/001", "b/002")
    assert clips_of(names) == {
        "a": ("a/001", "a/002", "a/003"),
        "a/007": ("a/007", "a/008"),
        "b": ("b/001", "b/002"),
    }
    assert clips_of(("x_1", "x_2")) == {"x_1": ("x_1", "x_2")}


def test_numbers_without_leading_zeros_are_one_clip(tmp_path):
    """Its one thing changes its id between frames 9 and 10 of 12."""
    square = np.zeros((32, 32), np.uint8)
    square[8:20, 8:20] = 1
    for k in range(1, 13):
        for kind in ("images", "labels", "instances"):
            write_picture(tmp_path / kind / "v" / f"{k}.png", square)
        write_tracks(tmp_path / "kept", f"v/{k}", square, square.astype(np.uint16), [track(5 + (k > 9), 1)], (32, 32))
    classes = scored_classes(("road", "car"), ("car",))
    clips = open_clips(tmp_path, classes, None)
    assert clips.clips == {"v": tuple(f"v/{k}" for k in range(1, 13))}
    scores = ClipScores(classes, clips, given=False)
    score_clips(tmp_path / "kept", clips, scores, lambda *_: None)
    assert scores.tracking
    assert (scores.tracking.clear.switches, scores.tracking.identity.f1()) == (1, 0.75)


def test_frames_of_folders_with_like_numbers_stay_together(tmp_path):
    for name in ("v1/2", "v01/1", "v1/10", "v01/3", "v-1/2", "10/a", "9/a"):
        write_picture(tmp_path / f"{name}.png", np.zeros((2, 2), np.uint8))
    assert names_in(tmp_path, {".png"}) == ("9/a", "10/a", "v01/1", "v01/3", "v1/2", "v1/10", "v-1/2")


def test_the_truth_says_what_is_hidden_where_it_is_known(clips):
    found = open_clips(clips, CLASSES, None)
    assert found.read("a", "a/002").hidden == {9}
    assert found.read("a", "a/003").hidden == frozenset()
    assert found.read("b", "b/002").hidden is None
    assert open_clips(clips, CLASSES, 24.0).fps == 24


def test_what_is_hidden_is_known_after_a_gap_too(clips):
    (clips / "images" / "a" / "001.png").unlink()
    for folder in ("labels", "instances"):
        (clips / folder / "a" / "001.png").unlink()
    found = open_clips(clips, CLASSES, None)
    assert found.clips["a/002"] == tuple(f"a/{i:03d}" for i in range(2, 6))
    assert found.read("a/002", "a/002").hidden == {9}
    assert found.read("a/002", "a/003").hidden == frozenset()


@pytest.mark.parametrize(("folder", "second"), [("images", "001.jpg"), ("labels", "001.PNG")])
def test_two_files_of_one_name_are_refused(clips, folder, second):
    path = clips / folder / "a" / "001.png"
    path.with_name(second).write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match="of one name") as caught:
        open_clips(clips, CLASSES, None)
    assert second in str(caught.value)
    assert "001.png" in str(caught.value)


class FollowPrompts:
    """A propagator that keeps the masks it was prompted with where they were; ids as of a long run."""

    needs_features = True

    def __init__(self) -> None:
        self.next_id, self.masks, self.features = 70_000, {}, 0

    def step(self, frame: Frame, seen: Panoptic | None, features: Features | None = None) -> Scene:
        assert seen is None
        self.features += features is not None
        id_map = np.zeros(frame.image.shape[:2], np.uint16)
        for k, mask in enumerate(self.masks.values(), 1):
            id_map[mask] = k
        tracks = tuple(track(i, VOID, prompted=True, observed=False, quality=0.5) for i in self.masks)
        labels = np.full(id_map.shape, VOID, np.uint8)
        height, width = frame.image.shape[:2]
        place = (frame.seq, frame.stamp_ns, frame.camera, (width, height))
        return Scene(*place, labels, id_map, tracks, (), Validity.PROPAGATED, "", 1)

    def outlook(self) -> Outlook:
        return SceneChange().outlook(has_seen=True)

    def prompt(self, prompt: Prompt) -> int:
        assert prompt.mask is not None
        self.next_id += 1
        self.masks[self.next_id] = prompt.mask
        return self.next_id

    def remove(self, track_id: int) -> None:
        raise PromptError("not here")

    def relabel(self, track_id: int, class_id: int) -> None:
        raise PromptError("not here")

    def close(self) -> None:
        pass

    def reset(self) -> None:
        self.masks = {}


class OnlyFeatures:
    """A model whose network must not be asked for things."""

    mask_size: tuple[int, int] = (SIZE[1], SIZE[0])

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        raise AssertionError("the network looked")

    def features(self, image: NDArray[np.uint8]) -> Features:
        plane = np.zeros((1, 1, 2), np.float32)
        return Features(**{field.name: plane for field in fields(Features)})

    def close(self) -> None:
        """Nothing is held open."""


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    """Two sequences of five frames: one object that stands still, and two of which one moves on by 4 px."""
    root = tmp_path / "davis"
    for sequence in ("one", "two"):
        for i in range(5):
            objects = np.zeros(SIZE, np.uint8)
            objects[4:12, 4:12] = 255 if sequence == "one" else 1
            if sequence == "two":
                x = 16 + 4 * (i > 0)
                objects[4:12, x : x + 8] = 2
            for folder, suffix, picture in (("Annotations", "png", objects), ("JPEGImages", "jpg", objects)):
                path = root / folder / sequence / f"{i:05d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), picture)
    return root


def test_davis_masks_are_prompts_and_only_features_go_on(davis, tmp_path):
    found = open_clips(davis, CLASSES, None)
    propagator, stepping = FollowPrompts(), Stepping(clip_launch("iou"), given=True)
    step_clips(OnlyFeatures(), propagator, found, stepping, tmp_path / "kept", ignore)
    write_about(tmp_path / "kept", About(NAMES, ("person",), "m", "e", "memory", 1, True))
    assert propagator.features == 10
    result = rescore(davis, tmp_path / "kept")
    figures = result["j_and_f"]
    assert figures["by_clip"]["one"]["j_and_f"] == 1
    assert figures["by_clip"]["two"]["j"] == round((1 + 1 / 3) / 2, 4)
    assert figures["j"] == round((1 + 1 + 1 / 3) / 3, 4)
    assert result["tracking"]["by_class"]["object"]["idsw"] == 0
    assert "stq" not in result


def test_davis_needs_given_masks(davis, say, model):
    line = refused(say("evaluate", davis, "--video", "--model", model, "--engine", "onnxruntime"))
    assert "--given" in line


def test_davis_needs_a_propagator_that_follows_prompts(davis):
    found = open_clips(davis, CLASSES, None)

    class Deaf(FollowPrompts):
        def prompt(self, prompt: Prompt) -> int:
            raise PromptError("no prompts here")

    with pytest.raises(PromptError, match="no prompts here"):
        step_clips(OnlyFeatures(), Deaf(), found, Stepping(clip_launch("iou"), True), davis / "kept", ignore)


def test_a_coloured_annotation_holds_a_colour_for_each_object(davis):
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:4, :4], picture[8:, 8:], picture[8:, :4] = (0, 0, 128), (0, 128, 0), (192, 224, 224)
    for i in range(5):
        cv2.imwrite(str(davis / "Annotations" / "one" / f"{i:05d}.png"), picture)
    segments = open_clips(davis, CLASSES, None).truth.read("one/00000").segments
    assert segments.track_ids is not None
    assert segments.track_ids.tolist() == [0, 128 << 8, 128 << 16]
    assert (segments.ids[8:, :4] == 0).all()


def test_an_annotation_without_its_picture_is_named(davis):
    (davis / "JPEGImages" / "one" / "00003.jpg").unlink()
    with pytest.raises(ConfigError, match="no picture for the annotation 'one/00003'"):
        open_clips(davis, CLASSES, None)


@pytest.mark.skipif(not (DATA / "davis").is_dir(), reason="DAVIS is not here")
def test_davis_own_masks_are_read():
    found = open_clips(DATA / "davis", CLASSES, None)
    assert {clip: len(names) for clip, names in found.clips.items()} == {
        "car-shadow": 40,
        "drift-straight": 50,
        "parkour": 100,
        "scooter-black": 43,
    }
    segments = found.truth.read("parkour/00000").segments
    assert segments.class_ids.tolist() == [-1, VOID]


@pytest.mark.skipif(not (DATA / "bdd_mots").is_dir(), reason="the BDD100K MOTS sample is not here")
def test_bdd_mots_keeps_its_ids():
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    found = open_clips(DATA / "bdd_mots", scored_classes(("road", "car"), {"car"}), None)
    (names,) = found.clips.values()
    ids = [set(np.asarray(found.truth.read(name).segments.track_ids).tolist()) - {0} for name in names]
    assert (len(names), found.fps, len(set.union(*ids))) == (6, 5.0, 25)
    assert len(set.intersection(*ids)) > 10


def test_the_command_line_writes_tables_and_json(say, clips, model, tmp_path):
    figures = tmp_path / "figures.json"
    words = ("evaluate", clips, "--video", "--given", "--model", model, "--engine", "onnxruntime", "--json", figures)
    code, out, err = say(*words)
    assert code == 0, err
    for word in ("STQ", "VPQ", "IDF1", "J&F", "hidden for", "expected calibration error", "ids: 4 given to 4"):
        assert word in out
    assert json.loads(figures.read_text())["tracking"]["hota"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--video", "--propagator", "magic"), "'magic'"),
        (("--given",), "--given: about clips: say --video too"),
        (("--propagator", "iou"), "--propagator: about clips: say --video too"),
        (("--network-every", "3", "--fps", "5"), "--network-every and --fps: about clips: say --video too"),
        (("--video", "--sequence"), "leave --sequence"),
        (("--video", "--given", "--predictions", "x"), "stored ones say themselves"),
        (("--video", "--propagator", "iou", "--predictions", "x"), "stored ones say themselves"),
        (("--video", "--network-every", "2", "--predictions", "x"), "stored ones say themselves"),
        (("--video", "--predictions", "/no/such/folder"), "no about.json"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(say, clips, options, said):
    assert said in refused(say("evaluate", clips, *options))


def test_predictions_of_pictures_are_no_predictions_of_clips(clips, tmp_path):
    (tmp_path / "kept").mkdir()
    write_about(tmp_path / "kept", About(NAMES, ("person",), "m", "e"))
    with pytest.raises(ConfigError, match="predictions of pictures"):
        rescore(clips, tmp_path / "kept")


def test_a_model_that_no_propagator_can_follow_is_refused(clips):
    class Checkpoint:
        def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
            return Panoptic(np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint16), (Segment(2, 1.0, 0, (0, 0, 1, 1)),))

        def close(self) -> None:
            """Nothing is held open."""

    predictor = Predictor(About(NAMES, ("person",), "m", "pytorch"), Checkpoint())
    with pytest.raises(ConfigError, match="not a --checkpoint"):
        evaluate_clips(clips, predictor, None, ClipWishes(clip_launch("iou")), ignore)


def test_bad_folders_of_clips_are_named(clips, tmp_path):
    with pytest.raises(ConfigError, match="no folder labels/ or Annotations/"):
        open_clips(clips / "images", CLASSES, None)
    with pytest.raises(ConfigError, match=f"give one of its parts: {clips}$"):
        open_clips(tmp_path, CLASSES, None)
    with pytest.raises(ConfigError, match="nosuch: no such folder"):
        open_clips(tmp_path / "nosuch", CLASSES, None)
    (clips / "clips.json").write_text('{"fps": 0}')
    with pytest.raises(ConfigError, match=r"clips\.json: .*render the clips again"):
        open_clips(clips, CLASSES, None)


def test_given_things_need_instances(clips, model):
    for path in sorted((clips / "instances").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (clips / "instances").rmdir()
    with pytest.raises(ConfigError, match="--given needs things told apart"):
        evaluate(clips, model, given=True)


def test_rendered_clips_keep_ids_and_say_what_is_hidden(tmp_path, say):
    code, _, err = say(
        *("render", tmp_path, "--clips", 1, "--seconds", 0.5, "--fps", 10, "--first-seed", 700),
        *("--width", 160, "--height", 90),
    )
    assert code == 0, err
    names = scored_classes(CLASS_NAMES, {"car", "pedestrian", "bicyclist"})
    found = open_clips(tmp_path, names, None)
    assert (found.fps, {clip: len(frames) for clip, frames in found.clips.items()}) == (10, {"000700": 5})
    truths = [found.read("000700", name) for name in found.clips["000700"]]
    ids = [set(np.asarray(t.segments.track_ids).tolist()) - {0} for t in truths]
    assert set.intersection(*ids)
    numbers = [{track % NUMBERS for track in shown} for shown in ids]
    assert all(t.hidden is not None and not t.hidden & shown for t, shown in zip(truths, numbers, strict=True))


def test_a_rendered_clip_is_part_of_its_drive(tmp_path):
    assert list(write_clips(tmp_path, 0.2, 10.0, [3], 160, 90)) == [1, 2]
    instances = cv2.imread(str(tmp_path / "instances" / "000003" / "000001.png"), cv2.IMREAD_UNCHANGED)
    start = int(np.random.default_rng([3, 12]).integers(round((90 - 0.2) * 10) + 1))
    truth = next(iter(RenderedDrive(3, 160, 90, fps=10.0, start=start + 1))).truth
    assert truth is not None
    assert (np.asarray(instances) == truth.instances).all()


def test_clips_that_can_not_be_rendered_are_refused(tmp_path):
    for seconds in (0.01, 91.0):
        with pytest.raises(ConfigError, match="one frame to 90 s"):
            list(write_clips(tmp_path, seconds, 10.0, [3], 160, 90))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        list(write_clips(tmp_path / "file", 0.2, 10.0, [3], 160, 90))
