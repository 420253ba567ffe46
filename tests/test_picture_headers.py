"""What the header of a picture says and decoding hides: few bits a pixel, pixels that are stored turned."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.errors import ConfigError
from perception.evaluation.classes import scored_classes
from perception.evaluation.davis import DavisFolder, davis_pictures
from perception.evaluation.picture_headers import orientation, require_upright
from perception.evaluation.stored import read_plane, write_picture
from perception.evaluation.truth import LabelFolder, pictures_of
from perception.opencv import cv2

CLASSES = scored_classes(("ground", "lane"), ())


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_few_bits(path: Path, values: list[int], bits: int, rows: int = 8) -> None:
    """A grey PNG whose rows are all `values`, as many as fill whole bytes, with `bits` each."""
    number = 0
    for value in values:
        number = number << bits | value
    row = b"\0" + number.to_bytes(len(values) * bits // 8, "big")
    header = struct.pack(">IIBBBBB", len(values), rows, bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * rows)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def jpeg(turned: int, order: str = "<", before: bytes = b"") -> bytes:
    """A picture with a white left half, and an EXIF orientation; `before` are markers in front of it."""
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, :8] = 255
    plain = cv2.imencode(".jpg", image)[1].tobytes()
    mark = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    width, tag = (struct.pack(order + "HHIHH", k, 3, 1, value, 0) for k, value in ((0x0100, 16), (0x0112, turned)))
    body = b"Exif\0\0" + mark + struct.pack(order + "H", 2) + width + tag + struct.pack(order + "I", 0)
    return plain[:2] + before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_label_map_of_few_bits_is_refused(tmp_path, bits):
    write_few_bits(tmp_path / "labels" / "a.png", [0, 1] * 4, bits)
    with pytest.raises(ConfigError, match=rf"labels/a\.png: {bits} bits? a pixel; write 8 bits a pixel"):
        LabelFolder(tmp_path, CLASSES).read("a")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_label_map_of_few_bits_is_no_training_data(tmp_path, bits):
    pytest.importorskip("torch", reason="the train extra is not installed")
    from tests.test_datasets import opened
    from tests.training_fakes import write_pictures

    root = write_pictures(tmp_path / "a")
    write_few_bits(root / "labels" / "0.png", [0, 1] * 32, bits, rows=48)
    with pytest.raises(ConfigError, match=rf"labels/0\.png: {bits} bits? a pixel; write 8 bits a pixel"):
        opened(root).read(0)


def test_maps_of_8_and_16_bits_are_read(tmp_path):
    for dtype in (np.uint8, np.uint16):
        plane = np.array([[0, 1, 255]], dtype)
        write_picture(tmp_path / "a.png", plane)
        assert (read_plane(tmp_path / "a.png", dtype) == plane).all()


@pytest.mark.parametrize("bits", [2, 4])
def test_objects_of_few_bits_are_refused(tmp_path, bits):
    write_few_bits(tmp_path / "Annotations" / "v" / "0.png", [0, 1, 2, 3], bits)
    with pytest.raises(ConfigError, match=r"v/0\.png: . bits a pixel; write 8"):
        DavisFolder(tmp_path).read("v/0")


def test_one_object_may_have_one_bit(tmp_path):
    write_few_bits(tmp_path / "Annotations" / "v" / "0.png", [0, 1] * 4, 1)
    assert DavisFolder(tmp_path).read("v/0").segments.ids[0].tolist() == [1, 2] * 4


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_the_orientation_is_what_opencv_turns_by(tmp_path, turned, order):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(turned, order, before=b"\xff\xe0\x00\x04ab\xff"))
    assert orientation(path) == turned
    seen = cv2.imread(str(path), cv2.IMREAD_COLOR)
    stored = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert np.array_equal(np.asarray(seen), np.asarray(stored)) == (turned in (1, 4))


@pytest.mark.parametrize("content", [jpeg(0), jpeg(9), b"", b"\xff\xd8", b"\x89PNG", jpeg(6)[:30]])
def test_a_file_without_a_usable_orientation_is_not_turned(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    require_upright(tmp_path / "a.jpg")


@given(st.binary(max_size=64))
def test_no_bytes_are_too_broken_to_look_at(tmp_path_factory, body):
    path = tmp_path_factory.getbasetemp() / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe1\x00\x40Exif\0\0" + body)
    assert 1 <= orientation(path) <= 8


def test_a_turned_picture_is_no_picture_of_a_labelled_set(tmp_path):
    write_picture(tmp_path / "labels" / "a.png", np.zeros((8, 16), np.uint8))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(1))
    truth = LabelFolder(tmp_path, CLASSES)
    assert list(pictures_of(tmp_path, truth)) == ["a"]
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(3))
    with pytest.raises(ConfigError, match=r"images/a\.jpg: stored turned \(EXIF orientation 3\).*upright"):
        pictures_of(tmp_path, truth)


def test_a_picture_of_another_size_than_its_labels_is_found_before_the_work(tmp_path):
    write_picture(tmp_path / "labels" / "a.png", np.zeros((8, 15), np.uint8))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(1))
    with pytest.raises(ConfigError, match=r"labels/a\.png: 15x8, its picture is 16x8; they must have one size"):
        pictures_of(tmp_path, LabelFolder(tmp_path, CLASSES))


def test_a_turned_picture_is_no_picture_of_davis(tmp_path):
    write_picture(tmp_path / "Annotations" / "v" / "0.png", np.zeros((8, 16), np.uint8))
    (tmp_path / "JPEGImages" / "v").mkdir(parents=True)
    (tmp_path / "JPEGImages" / "v" / "0.jpg").write_bytes(jpeg(3))
    with pytest.raises(ConfigError, match=r"v/0\.jpg: stored turned"):
        davis_pictures(tmp_path, DavisFolder(tmp_path))


def test_a_turned_picture_is_no_training_data(tmp_path):
    pytest.importorskip("torch", reason="the train extra is not installed")
    from tests.test_datasets import opened

    write_picture(tmp_path / "labels" / "a.png", np.zeros((8, 16), np.uint8))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(3))
    with pytest.raises(ConfigError, match=r"images/a\.jpg: stored turned"):
        opened(tmp_path).read(0)
