"""`perception compare`: exit codes, and one line for what can't be compared."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from mcap.writer import Writer

from perception.compare import Incomparable, Options, compare
from perception.errors import ConfigError
from perception.sinks.messages import TopicSpec
from tests.compare_fakes import SIZE, about, car_is_truck, scenes, write_result
from tests.test_cli import perception


@pytest.fixture
def say(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: perception(capsys, monkeypatch, "compare", *words)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_result(tmp_path / "a.mcap", scenes(12), about(mode="exact", drive="d"))


def line_of(result: tuple[int, str, str], code: int) -> str:
    lines = [line for line in result[2].splitlines() if line.startswith("perception: ")]
    assert (result[0], len(lines)) == (code, 1), result
    assert "Traceback" not in result[2]
    return lines[0]


def other(path: Path, *, frames=None, **more) -> Path:
    return write_result(path, frames or scenes(12), about(mode="exact", drive="d", **more))


def test_the_same_exits_0_and_says_so(say, reference):
    code, out, _ = say(reference, reference)
    assert code == 0
    assert out.splitlines()[-1].startswith("same (equal digests)")


def test_another_exits_1_and_names_what_differs(say, reference, tmp_path):
    b = other(tmp_path / "b.mcap", frames=scenes(12, car_is_truck, [3]))
    files = [tmp_path / name for name in ("x.html", "x.json", "x.xml")]
    code, out, _ = say(reference, b, "--html", files[0], "--json", files[1], "--junit", files[2])
    assert code == 1
    assert "x class swapped: car in A is truck in B in 1 frame, 3 (0.10 s)" in out
    assert out.splitlines()[-1].startswith("different: ")
    assert all(file.stat().st_size for file in files)
    assert json.loads(files[1].read_text())["same"] is False


def test_a_folder_of_segments_is_a_recording(say, reference, tmp_path):
    (tmp_path / "folder").mkdir()
    other(tmp_path / "folder" / "0000.mcap")
    assert say(reference, tmp_path / "folder")[0] == 0


def test_help_teaches(say):
    code, out, _ = say("--help")
    assert code == 0
    assert "Exit code" in out


def test_a_tolerance_file_overrides(say, reference, tmp_path):
    b = other(tmp_path / "b.mcap", frames=scenes(12, car_is_truck, [3]))
    file = tmp_path / "tolerance.toml"
    file.write_text('level = "statistical"\npooled_iou = 0.0\nboundary_f = 0\nswaps = 1000\n', encoding="utf-8")
    code, out, _ = say(reference, b, "--tolerance", file)
    assert code == 0
    assert "pooled_iou" in out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pooled_uoi = 0.9", "did you mean 'pooled_iou'?"),
        ("pooled_iou = 2", "pooled_iou"),
        ('level = "loose"', "level"),
        ("= 3", "tolerance.toml"),
    ],
)
def test_a_wrong_tolerance_file_is_a_usage_error(say, reference, tmp_path, text, told):
    (tmp_path / "tolerance.toml").write_text(text)
    assert told in line_of(say(reference, reference, "--tolerance", tmp_path / "tolerance.toml"), 2)


def test_wrong_options_are_usage_errors(say, reference, tmp_path):
    assert "no such recording" in line_of(say(reference, tmp_path / "none.mcap"), 2)
    assert "level 'loose'" in line_of(say(reference, reference, "--level", "loose"), 2)
    assert "match 'x'" in line_of(say(reference, reference, "--match", "x"), 2)
    assert "folder is not there" in line_of(say(reference, reference, "--html", tmp_path / "none" / "x.html"), 2)
    assert "overwrite" in line_of(say(reference, reference, "--json", reference), 2)


def test_what_can_not_be_compared_is_one_line_and_exit_code_3(say, reference, tmp_path):
    small = scenes(12)
    for told in small:
        object.__setattr__(told, "labels", told.labels[::2, ::2].copy())
        object.__setattr__(told, "id_map", told.id_map[::2, ::2].copy())
    later = scenes(30)[20:]
    lane = (TopicSpec("panoptic", (0,), "bits"),)
    cases = {
        "camera 'front' and B of camera 'rear'": other(tmp_path / "camera.mcap", camera="rear"),
        f"{SIZE[1]}x{SIZE[0]} px in A and {SIZE[1] // 2}x{SIZE[0] // 2} px in B": other(
            tmp_path / "size.mcap", frames=small
        ),
        "no frame in common": other(tmp_path / "later.mcap", frames=later),
        "is labels in A and bits in B": write_result(
            tmp_path / "kind.mcap", scenes(12), about(mode="exact", drive="d"), lane
        ),
        "cut short": write_result(tmp_path / "cut.mcap", scenes(12), about(mode="exact", drive="d"), closes=False),
        "not a recording of perception": foreign(tmp_path / "foreign.mcap"),
    }
    for told, path in cases.items():
        assert told in line_of(say(reference, path), 3)


def test_what_is_no_recording_is_one_line_and_nothing_else(say, reference, tmp_path):
    (tmp_path / "b.mcap").write_text("no recording")
    code, _, err = say(reference, tmp_path / "b.mcap")
    assert (code, err) == (3, f"perception: B: {tmp_path}/b.mcap: not an MCAP file\n")


def foreign(path: Path) -> Path:
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        channel = writer.register_channel("/odometry", "json", 0)
        writer.add_message(channel, 1, b"{}", 1)
        writer.finish()
    return path


def test_a_result_that_is_cut_or_damaged_is_never_judged(reference, tmp_path):
    data = reference.read_bytes()
    path = tmp_path / "b.mcap"
    for size in range(0, len(data) - 1, 997):
        path.write_bytes(data[:size])
        with pytest.raises(Incomparable, match=r"^B"):
            compare(reference, path)
    for place in range(40, len(data), 1499):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with contextlib.suppress(Incomparable):
            assert compare(reference, path).is_same


def test_a_live_recording_that_ended_in_a_crash_is_compared_as_far_as_it_goes(tmp_path):
    a = write_result(tmp_path / "a.mcap", scenes(12))
    b = write_result(tmp_path / "b.mcap", scenes(8), closes=False)
    found = compare(a, b)
    assert "B was not closed in order" in found.notes[0]
    assert [f.kind for f in found.findings] == ["frames"]


def test_stamps_that_go_back_by_more_than_the_window_are_refused(tmp_path):
    told = scenes(200)
    a = write_result(tmp_path / "a.mcap", told)
    b = write_result(tmp_path / "b.mcap", told[100:] + told[:100])
    with pytest.raises(Incomparable, match="comes more than 64 frames late"):
        compare(a, b)


def test_a_level_that_there_is_not(reference):
    with pytest.raises(ConfigError, match="auto, bytes, tight, statistical"):
        compare(reference, reference, Options(level="exactly"))
