from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.errors import ConfigError  # noqa: E402
from perception.opencv import cv2  # noqa: E402
from perception.training.config import CLASSES, THINGS, DataConfig, ValidationConfig  # noqa: E402
from perception.training.datasets import Dataset, open_dataset  # noqa: E402
from perception.training.instances import clean_components  # noqa: E402
from perception.training.label_set import IGNORE, Codes, read_label_set, shipped_label_sets  # noqa: E402
from perception.training.targets import UNKNOWN  # noqa: E402
from tests.training_fakes import CAR, ROAD, write_pictures  # noqa: E402


def opened(root, codes=None, **config) -> Dataset:
    settings = {"label_set": "camvid12", "folder": str(root), **config}
    return open_dataset("a", DataConfig(**settings), codes or Codes(CLASSES), THINGS, root)


def test_a_sample_is_a_picture_with_its_codes(tmp_path):
    sample = opened(write_pictures(tmp_path / "a")).read(0)
    assert sample.image.shape == (48, 64, 3)
    assert set(np.unique(sample.labels)) == {ROAD, CAR}
    assert sample.image[sample.labels == CAR].min() > 100


def test_files_are_paired_by_the_words_of_their_patterns(tmp_path):
    for city in ("x", "y"):
        write_pictures(tmp_path / city, 2)
    pictures = opened(tmp_path, image_files="{city}/images/{frame}.png", label_files="{city}/labels/{frame}.png")
    assert [f.labels.relative_to(tmp_path).as_posix() for f in pictures.files] == [
        "x/labels/0.png", "x/labels/1.png", "y/labels/0.png", "y/labels/1.png",
    ]  # fmt: skip


def test_dots_and_brackets_in_names_are_only_letters(tmp_path):
    root = write_pictures(tmp_path / "a", 1)
    for kind in ("images", "labels"):
        (root / kind / "0.png").rename(root / kind / "a.b (1).png")
    assert len(opened(root)) == 1


@pytest.mark.parametrize(
    ("patterns", "says"),
    [
        ({"image_files": "images/{x}/{x}.png"}, "each {word} once"),
        ({"image_files": "/images/{x}.png"}, "relative path"),
        ({"label_files": "labels/{other}.png"}, "use only the words"),
        ({"label_files": "labels/*.png"}, "and no *"),
        ({"image_files": "pictures/{name}.*"}, "no picture matches"),
    ],
)
def test_patterns_that_pair_nothing_are_refused(tmp_path, patterns, says):
    with pytest.raises(ConfigError, match=says.replace("*", r"\*")):
        opened(write_pictures(tmp_path / "a"), **patterns)


def test_missing_labels_are_counted_before_training(tmp_path):
    root = write_pictures(tmp_path / "a")
    for name in ("1.png", "3.png"):
        (root / "labels" / name).unlink()
    with pytest.raises(ConfigError, match=r"2 of 5 pictures have no label, first .*1\.png"):
        opened(root)


def test_missing_instance_maps_are_counted_before_training(tmp_path):
    root = write_pictures(tmp_path / "a")
    (root / "instances" / "2.png").unlink()
    with pytest.raises(ConfigError, match=r"1 of 5 pictures have no instance map, first .*2\.png"):
        opened(root, instances="exact")


def write_label(root, labels) -> None:
    cv2.imwrite(str(root / "labels" / "0.png"), labels)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: (root / "images" / "0.png").write_bytes(b"x"), r"images/0\.png"),
        (lambda root: (root / "labels" / "0.png").write_bytes(b""), r"labels/0\.png: broken or cut off"),
        (lambda root: cut(root / "labels" / "0.png"), r"labels/0\.png: broken or cut off"),
        (lambda root: write_label(root, np.full((48, 64), 77, np.uint8)), "label value 77 is not one of data set 'a'"),
        (lambda root: write_label(root, np.zeros((10, 12), np.uint8)), "12x10 pixels, its picture has 64x48"),
        (lambda root: write_label(root, np.zeros((48, 64, 3), np.uint8)), "3 channels of uint8"),
        (lambda root: write_label(root, np.zeros((48, 64), np.uint16)), "1 channels of uint16"),
    ],
    ids=["image", "empty", "cut", "value", "size", "channels", "depth"],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, spoil, says):
    root = write_pictures(tmp_path / "a")
    spoil(root)
    with pytest.raises(ConfigError, match=says):
        opened(root).read(0)


def test_a_data_set_without_a_folder_says_how_to_give_one(tmp_path):
    with pytest.raises(ConfigError, match="--data a=FOLDER"):
        open_dataset("a", DataConfig(label_set="camvid12"), Codes(CLASSES), THINGS, tmp_path)


@pytest.mark.parametrize("name", shipped_label_sets())
def test_every_shipped_label_can_be_one_of_the_default_classes(name, tmp_path):
    codes = Codes(CLASSES)
    table = codes.table(read_label_set(name, tmp_path), name)
    assert codes.meaning().any(1).all()
    assert (codes.meaning()[: len(CLASSES)] == np.eye(len(CLASSES), dtype=bool)).all()
    assert table[255] == IGNORE


def test_several_coarse_label_sets_share_one_numbering(tmp_path):
    codes = Codes(CLASSES)
    idd, camvid = (codes.table(read_label_set(name, tmp_path), name) for name in ("idd_lite", "camvid11"))
    assert idd[0] == camvid[ROAD] >= len(CLASSES)  # both are "road or lane marking"
    assert idd[6] == camvid[0] == CLASSES.index("sky")
    assert camvid[CAR] == CAR
    living = codes.meaning()[idd[2]]
    assert [c for c, can in zip(CLASSES, living, strict=True) if can] == ["pedestrian", "bicyclist"]


LABELS = """version = 1
labels = [{ value = 0, name = "ground", can_be = ["%s"] }, { value = %d, name = "b", can_be = ["car"] }]
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LABELS % ("ground", 1), "'ground', which is not one of the network's classes"),
        (LABELS % ("road", 0), "value 0 is listed twice"),
        (LABELS % ("road", 255), "value 255 is listed twice"),
        (LABELS % ("road", 256), "labels"),
        ((LABELS % ("road", 1)).replace("can_be", "canbe"), "did you mean 'can_be'"),
    ],
)
def test_a_wrong_label_set_is_named(tmp_path, text, says):
    root = write_pictures(tmp_path / "a")
    (root / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        opened(root, label_set="mine.toml")


def test_an_unknown_label_set_lists_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match="camvid12, cityscapes19, idd_lite"):
        opened(write_pictures(tmp_path / "a"), label_set="camvid13")


def test_a_score_needs_exact_labels(tmp_path):
    root = write_pictures(tmp_path / "a")
    config = ValidationConfig(label_set="camvid11", folder=str(root))
    with pytest.raises(ConfigError, match="coarse"):
        open_dataset("validation", config, Codes(CLASSES), THINGS, root)


@pytest.mark.parametrize(("kind", "found"), [("exact", {0, 7}), ("components", {0, 1}), ("none", {0, UNKNOWN})])
def test_instances_come_from_where_the_configuration_says(tmp_path, kind, found):
    sample = opened(write_pictures(tmp_path / "a"), instances=kind).read(0)
    assert set(np.unique(sample.instances)) == found
    assert ((sample.instances > 0) == (sample.labels == CAR)).all()


def test_instance_values_below_the_least_are_crowds(tmp_path):
    sample = opened(write_pictures(tmp_path / "a"), instances="exact", least_instance=8).read(0)
    assert set(np.unique(sample.instances)) == {0, UNKNOWN}


def test_coarse_things_are_of_unknown_extent(tmp_path):
    root = write_pictures(tmp_path / "a")
    write_label(root, np.full((48, 64), 2, np.uint8))  # a living thing
    assert (opened(root, label_set="idd_lite", instances="components").read(0).instances == UNKNOWN).all()


def test_only_a_region_shaped_like_one_thing_becomes_an_instance():
    labels = np.full((60, 200), ROAD, np.uint8)
    labels[10:30, 10:40] = CAR  # one car
    labels[10:30, 60:160] = CAR  # several beside one another
    labels[50:53, 180:184] = CAR  # a fragment
    instances = clean_components(labels, labels == CAR, CLASSES)
    assert set(np.unique(instances[labels == CAR])) == {1, UNKNOWN}
    assert (instances[10:30, 10:40] == 1).all()
    assert (instances == 0)[labels == ROAD].all()
