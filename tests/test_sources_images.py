from __future__ import annotations

import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import SourceError
from perception.images import decode_image, image_size, load_image
from perception.opencv import cv2
from tests.source_fakes import picture


def png(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    data = bytearray(picture(".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 16000, 65500)
    return bytes(data)


def webp_bomb() -> bytes:
    body = b"VP8X" + struct.pack("<IB3x", 10, 0) + (16000).to_bytes(3, "little") + (16000).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def bmp_bomb() -> bytes:
    data = bytearray(picture(".bmp"))
    data[18:26] = struct.pack("<ii", 30000, -30000)
    return bytes(data)


def bombs() -> dict[str, bytes]:
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(3 * 32000 + 1)) for _ in range(1000)) + packer.flush()
    return {"png": png(32000, 32000, body), "jpg": jpeg_bomb(), "webp": webp_bomb(), "bmp": bmp_bomb()}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (641, 3)])
def test_the_size_is_read_from_the_header(suffix: str, size: tuple[int, int]) -> None:
    data = picture(suffix, *size)
    assert image_size(data[:4096]) == size
    assert decode_image(data, "x").shape == (size[1], size[0], 3)


def test_lossless_and_extended_webp_and_progressive_jpeg_headers_are_read() -> None:
    image = decode_image(picture(".png"), "x")
    lossless = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    progressive = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert image_size(lossless) == (64, 48)
    assert image_size(progressive) == (64, 48)
    assert image_size(webp_bomb()) == (16001, 16001)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp"])
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    data = bombs()[kind]
    begin = time.perf_counter()
    with pytest.raises(SourceError, match="at most 64000000 are decoded"):
        decode_image(data, "bomb")
    assert time.perf_counter() - begin < 0.005


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    paths = []
    for kind, data in bombs().items():
        paths.append(str(tmp_path / f"bomb.{kind}"))
        Path(paths[-1]).write_bytes(data)
        (tmp_path / f"{kind}.mp4").write_bytes(data)  # whatever its name says
        paths.append(str(tmp_path / f"{kind}.mp4"))
    program = (
        "import resource, sys\n"
        "from perception import images\n"
        "from perception.sources import folder, video\n"
        "from perception.sources.url import open_source\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: open_source(path, camera='front')\n"
        "    except Exception as error: assert 'at most' in str(error), error\n"
        "    else: raise SystemExit(path)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 20 * 1024  # KiB


def test_opencv_itself_refuses_what_is_too_large() -> None:
    program = (
        "from perception.opencv import cv2\n"
        "import numpy as np, sys\n"
        "data = np.frombuffer(sys.stdin.buffer.read(), np.uint8)\n"
        "try: print(cv2.imdecode(data, cv2.IMREAD_COLOR))\n"
        "except cv2.error: print(None)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], input=bombs()["png"], capture_output=True, check=True)
    assert result.stdout == b"None\n"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_a_cut_off_picture_is_an_error_and_never_a_picture(suffix: str) -> None:
    data = picture(suffix, 200, 150)
    for length in range(0, len(data) * 9 // 10, max(1, len(data) // 30)):
        with pytest.raises(SourceError):
            decode_image(data[:length], "cut")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.png: No such file"):
        load_image(tmp_path / "gone.png")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"\xff\xd8", b"BM", b"RIFF0000WEBPVP8X", b"\x89PNG\r\n\x1a\n", b""]))
def test_no_header_makes_the_reader_fail(data: bytes, magic: bytes) -> None:
    size = image_size(magic + data)
    assert size is None or len(size) == 2
