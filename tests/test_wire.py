from __future__ import annotations

import json
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from perception import wire
from perception.errors import WireError
from perception.wire.pixels import jpeg_size
from tests import golden_wire

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "wire"
OLD = HERE / "golden" / "wire-1.0"  # never written again: what is recorded must stay readable
LESS_OLD = HERE / "golden" / "wire-1.1"  # what 1.2 says otherwise: health
NAMES = sorted(path.stem for path in GOLDEN.glob("*.bin"))
AT: dict[str, Any] = {"seq": 1, "frame_seq": 2, "stamp_ns": 3}
HEADER = wire.Header(run="r", camera="front", classes=("road", "car"))
CRC_AT, MINOR_AT = 24, 5


def golden(name: str) -> bytes:
    return (GOLDEN / f"{name}.bin").read_bytes()


def patched(data: bytes, at: int, form: str, *values: int | bytes) -> bytes:
    """The message with another value in its fixed header and a checksum that fits again."""
    begin = data.index(b"\0") + 1
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, begin + at, *values)
    return resealed(changed)


def resealed(changed: bytearray) -> bytes:
    begin = changed.index(b"\0") + 1
    if len(changed) >= begin + CRC_AT + 4:
        crc = zlib.crc32(changed[begin + CRC_AT + 4 :], zlib.crc32(changed[: begin + CRC_AT]))
        struct.pack_into("<I", changed, begin + CRC_AT, crc)
    return bytes(changed)


def with_extra(data: bytes, extra: bytes) -> bytes:
    """The message with another msgpack header."""
    begin = data.index(b"\0") + 1
    old = struct.unpack_from("<I", data, begin + 8)[0]
    changed = bytearray(data[: begin + 52] + extra + data[begin + 52 + old :])
    struct.pack_into("<I", changed, begin + 8, len(extra))
    return resealed(changed)


def read_all(data: bytes) -> None:
    message = wire.decode(data)
    if message.kind is wire.Kind.HEALTH:
        message.health()
    elif message.kind is wire.Kind.IMAGE:
        message.image()
    elif message.raw_size:
        message.mask()


@pytest.mark.parametrize("name", NAMES)
def test_golden_messages_say_what_their_twins_say(name: str) -> None:
    assert golden_wire.twin(golden(name)) == (GOLDEN / f"{name}.json").read_text()


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("raw")])
def test_golden_messages_are_written_byte_for_byte(name: str) -> None:
    assert golden_wire.messages()[name] == golden(name)


def test_every_golden_message_has_its_file() -> None:
    assert sorted(golden_wire.messages()) == NAMES


@pytest.mark.parametrize("name", sorted(path.stem for path in OLD.glob("*.bin")))
def test_messages_of_version_1_0_are_read_as_they_were(name: str) -> None:
    data = (OLD / f"{name}.bin").read_bytes()
    before, now = json.loads((OLD / f"{name}.json").read_text()), json.loads(golden_wire.twin(data))
    assert (now["fixed"], now.get("pixels")) == (before["fixed"], before.get("pixels"))
    assert before.get("health", {}).items() <= now.get("health", {}).items()
    for rows in ("tracks", "events"):
        for old, new in zip(before["header"].pop(rows), now["header"].pop(rows), strict=True):
            assert old.items() <= new.items()
    assert now["header"] == before["header"]


def test_what_version_1_0_does_not_say_of_a_track_is_the_plain_case() -> None:
    row = wire.decode((OLD / "tracks-raw.bin").read_bytes()).header.tracks[1]
    assert (row.observed, row.quality, row.prompted) == (True, 1.0, False)


def test_health_of_version_1_1_is_read_as_it_was() -> None:
    data = (LESS_OLD / "health-raw.bin").read_bytes()
    before, now = json.loads((LESS_OLD / "health-raw.json").read_text()), json.loads(golden_wire.twin(data))
    assert before["health"].items() <= now["health"].items()
    assert (now["health"]["engines"], now["health"]["engine_reason"]) == ([], "")


def test_only_what_changed_says_the_new_minor_version() -> None:
    minors = {name: golden(name)[golden(name).index(b"\0") + 1 + MINOR_AT] for name in NAMES}
    assert {name for name, minor in minors.items() if minor == 2} == {"health-raw"}
    assert set(minors.values()) == {1, 2}


@pytest.fixture(scope="session", params=["", "-DHAVE_ZSTD"])
def c_reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    if not (compiler := shutil.which("cc")):
        pytest.skip("no C compiler")
    out = tmp_path_factory.mktemp("c") / "wire_reader"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", *filter(None, [request.param])]
    libraries = ["-lzstd"] if request.param else []
    command = [compiler, *flags, "-o", str(out), str(HERE / "c" / "wire_reader.c"), *libraries]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if request.param and built.returncode:
        pytest.skip("no zstd headers for C")
    assert built.returncode == 0, built.stderr
    return out, bool(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_the_c_reader_reads_the_same(name: str, c_reader: tuple[Path, bool]) -> None:
    program, has_zstd = c_reader
    done = subprocess.run([program, GOLDEN / f"{name}.bin"], capture_output=True, text=True, check=False)
    m = wire.decode(golden(name))
    if m.encoding == "lz4" or (m.encoding == "zstd" and not has_zstd):
        assert done.returncode == 3
        return
    first = f"{m.topic} kind {m.kind} {m.width}x{m.height} seq {m.seq} frame {m.frame_seq} stamp {m.stamp_ns}"
    pixels = json.loads((GOLDEN / f"{name}.json").read_text()).get("pixels", [])
    assert (done.returncode, done.stdout.splitlines()) == (0, [first, *pixels])


def test_the_c_reader_refuses_what_is_damaged(c_reader: tuple[Path, bool], tmp_path: Path) -> None:
    file = tmp_path / "message"
    codes = []
    for data in (golden("bits-raw")[:-1], b"", b"x" * 300, bytes([golden("bits-raw")[0] ^ 1]) + golden("bits-raw")[1:]):
        file.write_bytes(data)
        codes.append(subprocess.run([c_reader[0], file], capture_output=True, check=False).returncode)
    file.write_bytes(patched(golden("bits-raw"), 4, "B", 2))
    codes.append(subprocess.run([c_reader[0], file], capture_output=True, check=False).returncode)
    assert codes == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("encoding", wire.ENCODINGS)
@given(data=st.data(), height=st.integers(1, 40), width=st.integers(1, 70), kind=st.sampled_from([0, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_masks_come_back_as_they_went(encoding: str, data: st.DataObject, height: int, width: int, kind: int) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    tracks = tuple(wire.TrackRow(i, "car", "confirmed", 0.5, (0, 0, 1, 1), 0, 0) for i in range(300))
    classes = tuple(str(i) for i in range(200))
    mask = [
        random.random((height, width)) < 0.3,
        random.integers(0, 301, (height, width)).astype(np.uint16),
        random.choice([0, 7, 199, 255], (height, width)).astype(np.uint8),
    ][kind]
    header = wire.Header(run="r", camera="c", tracks=tracks, classes=classes)
    sent = wire.encode("c/x", header, wire.Kind(kind), mask, **AT, encoding=encoding)
    got = wire.decode(sent)
    assert got.header == header
    assert got.mask().dtype == mask.dtype
    assert np.array_equal(got.mask(), mask)


@given(
    topic=st.from_regex(r"[A-Za-z0-9_-]{1,20}/[a-z._]{0,5}[a-z]{1,4}", fullmatch=True).filter(wire.valid_topic),
    seq=st.integers(0, 2**64 - 1),
    frame_seq=st.integers(0, 2**64 - 1),
    stamp_ns=st.integers(-(2**63), 2**63 - 1),
    reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
)
@settings(deadline=None)
def test_places_and_words_come_back_as_they_went(
    topic: str, seq: int, frame_seq: int, stamp_ns: int, reason: str
) -> None:
    header = wire.Header(run="r", camera="c", reason=reason)
    data = wire.encode(topic, header, wire.Kind.TRACKS, None, seq=seq, frame_seq=frame_seq, stamp_ns=stamp_ns)
    got = wire.decode(data)
    assert (got.topic, got.seq, got.frame_seq, got.stamp_ns, got.header.reason) == (
        topic,
        seq,
        frame_seq,
        stamp_ns,
        reason,
    )


@given(
    observed=st.booleans(),
    quality=st.floats(0, 1),
    prompted=st.booleans(),
    seqs=st.lists(st.integers(0, 2**63), max_size=70),
)
@settings(deadline=None)
def test_tracks_and_events_come_back_as_they_went(
    observed: bool, quality: float, prompted: bool, seqs: list[int]
) -> None:
    row = wire.TrackRow(1, "object", "confirmed", 0.5, (0, 0, 1, 1), 0, 0, observed, quality, prompted)
    events = tuple(wire.EventRow(seq % 7, "car", "lost", "not seen", seq, seq) for seq in seqs)
    header = wire.Header(run="r", camera="c", tracks=(row,), events=events)
    assert wire.decode(wire.encode("c/events", header, wire.Kind.TRACKS, None, **AT)).header == header


@given(st.binary(max_size=300))
def test_random_bytes_are_wire_errors(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode(data)


def mutated(random: np.random.Generator, data: bytes) -> bytes:
    """One to four bytes changed, or cut, doubled, or spliced; half of them with a checksum that fits again."""
    changed = bytearray(data)
    how = random.integers(8)
    if how == 0:
        del changed[random.integers(1, len(changed)) :]
    elif how == 1:
        at = random.integers(len(changed))
        changed[at:at] = random.bytes(int(random.integers(1, 9)))
    else:
        for at in random.integers(0, len(changed), random.integers(1, 5)):
            changed[at] = random.choice([0, 1, 127, 128, 255, changed[at] ^ (1 << random.integers(8))])
    return resealed(changed) if random.integers(2) and b"\0" in changed else bytes(changed)


def test_a_hundred_thousand_mutations_raise_nothing_but_wire_errors() -> None:
    random = np.random.default_rng(1)
    seeds = [golden(name) for name in NAMES]
    outcomes = Counter()
    for i in range(100_000):
        try:
            read_all(mutated(random, seeds[i % len(seeds)]))
            outcomes["read"] += 1
        except WireError as error:
            outcomes[type(error).__name__] += 1
    assert outcomes["WireError"] > 60_000
    assert outcomes["VersionMismatch"] > 100
    assert outcomes["read"] > 1000  # a mutated reason or track with a checksum that fits is a good message


def test_another_major_version_is_a_mismatch_that_names_both() -> None:
    with pytest.raises(wire.VersionMismatch) as caught:
        wire.decode(patched(golden("bits-raw"), 4, "BB", 9, 3))
    assert (caught.value.theirs, caught.value.ours) == ((9, 3), wire.VERSION)
    assert "9.3" in str(caught.value)


def test_a_newer_minor_version_with_unknown_fields_is_read() -> None:
    data = patched(golden("bits-raw"), MINOR_AT, "B", 200)
    extra = msgspec.msgpack.encode({"run": "r", "camera": "c", "weather": {"rain": [1, 2]}, "validity": "dreamt"})
    message = wire.decode(with_extra(data, extra))
    assert (message.header.run, message.header.validity) == ("r", "dreamt")
    assert np.array_equal(message.mask(), golden_wire.road())


@pytest.mark.parametrize(
    ("at", "form", "value"),
    [
        (6, "B", 6),  # kind
        (7, "B", 3),  # encoding
        (8, "I", 2**32 - 1),  # header size
        (12, "I", 2**32 - 1),  # payload size
        (16, "I", 2**32 - 1),  # raw size
        (20, "H", 0),  # width
        (20, "H", 16385),
        (22, "H", 6),  # height
    ],
)
def test_a_fixed_header_that_contradicts_itself_is_refused(at: int, form: str, value: int) -> None:
    with pytest.raises(WireError):
        wire.decode(patched(golden("bits-zstd"), at, form, value))


def bomb(payload: bytes, encoding: int, size: tuple[int, int]) -> bytes:
    """A labels message with this payload under a header that fits it."""
    small = wire.encode("front/x", HEADER, wire.Kind.LABELS, np.zeros((1, 1), np.uint8), **AT, encoding="raw")
    begin = small.index(b"\0") + 1
    changed = bytearray(small[:-1] + payload)
    struct.pack_into("<B", changed, begin + 7, encoding)
    struct.pack_into("<IIHH", changed, begin + 12, len(payload), size[0] * size[1], *size)
    return resealed(changed)


def test_a_zstd_bomb_is_refused_before_it_expands() -> None:
    payload = zstandard.ZstdCompressor(level=19).compress(bytes(256 << 20))
    assert len(payload) < 20_000
    with pytest.raises(WireError, match="268435456"):
        wire.decode(bomb(payload, 1, (64, 64))).mask()


def test_a_zstd_frame_that_hides_its_size_is_refused() -> None:
    payload = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(WireError):
        wire.decode(bomb(payload, 1, (64, 64))).mask()


def test_an_lz4_bomb_is_refused() -> None:
    import lz4.block

    with pytest.raises(WireError):
        wire.decode(bomb(lz4.block.compress(bytes(16 << 20), store_size=False), 2, (64, 64))).mask()


def test_data_behind_a_zstd_frame_is_refused() -> None:
    payload = zstandard.ZstdCompressor().compress(bytes(64 * 64)) + b"more"
    with pytest.raises(WireError):
        wire.decode(bomb(payload, 1, (64, 64))).mask()


def test_a_jpeg_bomb_is_refused_before_it_is_decoded() -> None:
    import cv2

    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 16000, 65500)
    data = wire.encode("front/image", HEADER, wire.Kind.IMAGE, bytes(jpeg), **AT, size=(8, 8))
    with pytest.raises(WireError, match="65500x16000"):
        wire.decode(data).image()


def jpeg_that_claims(width: int, height: int, before: bytes = b"") -> bytes:
    """A small JPEG with another size in its frame header, and `before` in front of that."""
    import cv2

    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(jpeg[:at]) + before + bytes(jpeg[at:])


def test_an_honest_jpeg_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    jpeg = jpeg_that_claims(16000, 12000)
    data = wire.encode("front/image", HEADER, wire.Kind.IMAGE, jpeg, **AT, size=(16000, 12000))
    with pytest.raises(WireError, match="16000x12000 pixels; at most 64000000"):
        wire.decode(data).image()


@pytest.mark.parametrize("marker", [b"\xff\x01", b"\xff\xd0", b"\xff"], ids=["TEM", "RST0", "fill"])
def test_the_size_behind_a_marker_without_a_length_is_the_one_that_is_decoded(marker: bytes) -> None:
    """As libjpeg reads it; what follows would else be skipped as that marker's segment, with a false size in it."""
    false = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 8, 8)
    hidden = marker + (b"" if marker == b"\xff" else b"\xff\xfe\0\x20" + bytes(2) + false + bytes(19))
    assert jpeg_size(jpeg_that_claims(16000, 12000, hidden)) == (16000, 12000)


def test_a_jpeg_comes_back_as_an_image() -> None:
    import cv2

    grey = np.full((12, 20, 3), (200, 120, 40), np.uint8)
    jpeg = cv2.imencode(".jpg", grey[..., ::-1])[1].tobytes()
    image = wire.decode(wire.encode("front/image", HEADER, wire.Kind.IMAGE, jpeg, **AT, size=(20, 12))).image()
    assert image.shape == (12, 20, 3)
    assert np.abs(image.astype(int) - (200, 120, 40)).max() < 8


@pytest.mark.parametrize(
    ("kind", "mask"),
    [
        (wire.Kind.POSITIONS, np.full((2, 2), 1, np.uint16)),
        (wire.Kind.LABELS, np.full((2, 2), 2, np.uint8)),
        (wire.Kind.LABELS, np.full((2, 2), 254, np.uint8)),
    ],
)
def test_a_value_without_a_row_or_name_is_refused(kind: wire.Kind, mask: np.ndarray) -> None:
    with pytest.raises(WireError, match="beyond"):
        wire.decode(wire.encode("front/x", HEADER, kind, mask, **AT)).mask()


@pytest.mark.parametrize(
    "topic", ["", "front", "front/", "/road", "front/road/x", "../road", "front/..", "fr ont/road", "f" * 44 + "/road"]
)
def test_topics_that_are_no_topics_are_refused(topic: str) -> None:
    with pytest.raises(WireError, match="topic"):
        wire.encode(topic, HEADER, wire.Kind.TRACKS, None, **AT)


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 1), bool), np.zeros((0, 4), bool)])
def test_arrays_that_are_no_masks_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(WireError):
        wire.encode("front/road", HEADER, wire.Kind.BITS, mask, **AT)


def test_a_message_without_pixels_says_so() -> None:
    with pytest.raises(WireError, match="no mask"):
        wire.decode(golden("health-raw")).mask()
    with pytest.raises(WireError, match="no health"):
        wire.decode(golden("bits-raw")).health()
    with pytest.raises(WireError, match="no image"):
        wire.decode(golden("bits-raw")).image()
