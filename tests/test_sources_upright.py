"""Videos that are to be shown turned or mirrored, as a telephone held upright films them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from perception.errors import SourceError
from perception.opencv import cv2
from perception.sources.video import VideoReader
from tests.source_fakes import check_replay, replay

WIDTH, HEIGHT = 64, 48

# What x and y of a stored pixel add to x and y of the shown one: ISO/IEC 14496-12, 6.2.2
SHOWN = {
    "as stored": ((1, 0), (0, 1), "rgbk"),
    "clockwise": ((0, 1), (-1, 0), "brkg"),
    "upside down": ((-1, 0), (0, -1), "kbgr"),
    "anticlockwise": ((0, -1), (1, 0), "gkrb"),
    "mirrored": ((-1, 0), (0, 1), "grkb"),
    "mirrored upside down": ((1, 0), (0, -1), "bkrg"),
    "transposed": ((0, 1), (1, 0), "rbgk"),
    "transposed upside down": ((0, -1), (-1, 0), "kgbr"),
}


def video(path: Path, x: tuple[float, float], y: tuple[float, float]) -> Path:
    """Three frames: red and green in the upper half, blue and black in the lower."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:24, :32, 0] = image[:24, 32:, 1] = image[24:, :32, 2] = 255
    with av.open(str(path), "w") as container:
        stream = cast(VideoStream, container.add_stream("libx264", rate=30))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    one = 1 << 16
    a, b, c, d = (round(value * one) for value in (*x, *y))
    data[matrix : matrix + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def corners(image: np.ndarray) -> str:
    """Colours upper left, upper right, lower left and lower right."""
    pixels = (image[y, x] for y in (5, -5) for x in (5, -5))
    return "".join("rgb"[pixel.argmax()] if pixel.max() > 128 else "k" for pixel in pixels)


@pytest.mark.parametrize("how", SHOWN)
def test_a_video_is_shown_as_its_file_says(tmp_path: Path, how: str) -> None:
    x, y, expected = SHOWN[how]
    source = replay(video(tmp_path / "drive.mp4", x, y))
    size = (WIDTH, HEIGHT) if x[0] else (HEIGHT, WIDTH)
    info = source.info()
    assert (info.width, info.height) == size
    frames = list(source)
    check_replay(frames, size)
    assert [corners(frame.image) for frame in frames] == [expected] * 3


@pytest.mark.parametrize("how", ["as stored", "clockwise", "upside down", "anticlockwise"])
def test_a_turn_is_the_one_that_opencv_makes(tmp_path: Path, how: str) -> None:
    path = video(tmp_path / "drive.mp4", *SHOWN[how][:2])
    shown = cv2.VideoCapture(str(path)).read()[1][..., ::-1]
    ours = next(VideoReader(path).shots()).image
    assert ours is not None
    assert corners(ours) == corners(shown)


def test_a_matrix_of_zeros_says_nothing(tmp_path: Path) -> None:
    frames = list(replay(video(tmp_path / "drive.mp4", (0, 0), (0, 0))))
    assert [corners(frame.image) for frame in frames] == ["rgbk"] * 3


def test_an_oblique_turn_is_refused(tmp_path: Path) -> None:
    path = video(tmp_path / "drive.mp4", (0.7071, 0.7071), (-0.7071, 0.7071))
    with pytest.raises(SourceError, match=r"drive\.mp4: .* turned by 45 degrees: only multiples of 90"):
        replay(path)
