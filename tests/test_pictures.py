"""`perception picture` and `perception video`: of recordings as they were, and of drives that hold no masks yet."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from perception.conversion.picture import PictureWish, write_picture
from perception.errors import RecordingError
from tests.drive_fakes import PERIOD_NS, SIZE, Look, make_drive
from tests.fakes import tiny_model
from tests.test_cli import refused, say  # noqa: F401 (a fixture)

PERIOD_S = PERIOD_NS / 1e9


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return make_drive(tmp_path / "drive", 10, Look(dropped=(5,)), segments=2)


def pixels(path: Path) -> np.ndarray:
    found = cv2.imread(str(path))
    assert found is not None
    return found


def test_a_picture_is_of_the_newest_frame_at_its_time(drive: Path, tmp_path: Path) -> None:
    for at_s, seq in ((0.0, 0), (2.5 * PERIOD_S, 2), (3 * PERIOD_S, 3), (5.2 * PERIOD_S, 4), (9.5 * PERIOD_S, 9)):
        out = tmp_path / f"{seq}.png"
        made = write_picture(drive, out, PictureWish(at_s))
        first = write_picture(drive, tmp_path / "first.png", PictureWish(0.0), force=True)
        assert made.seq - first.seq == seq
        assert pixels(out).shape[1] == SIZE[0]
    assert not np.array_equal(pixels(tmp_path / "0.png"), pixels(tmp_path / "9.png"))


def test_a_plain_picture_is_the_cameras_and_has_its_size(drive: Path, tmp_path: Path) -> None:
    write_picture(drive, tmp_path / "a.png", PictureWish(0.1, plain=True))
    write_picture(drive, tmp_path / "b.png", PictureWish(0.1, strip=False))
    plain, drawn = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    assert plain.shape == drawn.shape == (SIZE[1], SIZE[0], 3)
    assert not np.array_equal(plain, drawn)


@pytest.mark.parametrize(
    ("name", "wish", "says"),
    [
        ("a.gif", PictureWish(0.1), "a picture's name ends in one of .jpg, .jpeg, .png"),
        ("a.png", PictureWish(99.0), "nothing is left from 98 s on"),
        ("a.png", PictureWish(0.1, scale=9), "scale 9: from 0.01 to 4"),
        ("a.png", PictureWish(0.1, topics=("sky",)), "no topic 'sky'"),
    ],
)
def test_what_is_no_picture_is_one_line(drive: Path, tmp_path: Path, name: str, wish: PictureWish, says: str) -> None:
    with pytest.raises(RecordingError, match=says):
        write_picture(drive, tmp_path / name, wish)
    assert not (tmp_path / name).exists()


def test_masks_are_made_of_a_drive_that_holds_none(picture_drive: Path, tmp_path: Path, say) -> None:  # noqa: F811
    model = str(tiny_model(tmp_path, form="labels"))
    making = ("--model", model, "--engine", "onnxruntime", "--topic", "road")
    out = tmp_path / "out.png"
    code, said, _ = say("picture", str(picture_drive), "--at", "0.4", "-o", str(out), "--no-strip", *making)
    assert (code, said) == (0, f"{out}: frame 12 at 0.400 s, 64x32\n")
    camera = pixels(picture_drive / "012.png")
    assert not np.array_equal(pixels(out), camera)
    film = tmp_path / "out.mp4"
    code, said, _ = say("video", str(picture_drive), "-o", str(film), "--from", "0.2", *making)
    assert code == 0
    with av.open(str(film)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 14  # of 20 at 30 fps, those from 0.2 s on


def test_a_live_source_and_a_taken_name_are_refused(tmp_path: Path, drive: Path, say) -> None:  # noqa: F811
    assert "a live source" in refused(say("picture", "camera:0", "--at", "1"))
    taken = tmp_path / "there.png"
    taken.touch()
    assert "it is there already" in refused(say("picture", str(drive), "--at", "0.1", "-o", str(taken)))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("video", "-o", "a.mp4", "--speed", "0"), "speed 0: from 0.05 to 100"),
        (("video", "-o", "a.mp4", "--scale", "9"), "scale 9: from 0.01 to 4"),
        (("video", "-o", "a.mp4", "--topic", "sky"), "no group of classes is called 'sky'"),
        (("picture", "--at", "1", "-o", "a.png", "--scale", "9"), "scale 9: from 0.01 to 4"),
        (("picture", "--at", "1", "-o", "a.png", "--topic", "sky"), "no group of classes is called 'sky'"),
    ],
)
def test_what_can_not_be_made_is_said_before_the_drive_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    says: str,
    say,  # noqa: F811
) -> None:
    """A pipe that nobody writes to would keep whoever opens it for ever."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("drive.mp4")
    begun = threading.Timer(20, os.open, ("drive.mp4", os.O_RDWR))  # so that a failure of this test ends
    begun.daemon = True
    begun.start()
    try:
        assert says in refused(say(words[0], "drive.mp4", *words[1:]))
    finally:
        begun.cancel()
