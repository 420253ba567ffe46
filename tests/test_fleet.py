"""A set of drives: what comes of each, and what its reference says of it."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.config import Launch, ModelConfig, TrackingConfig
from perception.drives.recording import open_recording
from perception.errors import ConfigError, RecordingError
from perception.fleet.drive_set import find_drives
from perception.fleet.figures import changes, figures_of
from perception.fleet.judge import Verdict
from perception.fleet.reference import Reference, accept, read_reference, to_toml
from perception.fleet.run import exit_code
from perception.replay.result import digest_of
from tests.fleet_fakes import held, picture_drive, recording, three_drives, tiny_launch, wishes
from tests.recorded_drive import write_segment


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    return three_drives(tmp_path / "drives")


def test_a_list_never_names_a_command(drives: Path, tmp_path: Path):
    (drives / "set.txt").write_text(f"exec:touch {tmp_path}/ran\n")
    (verdict,) = held(tmp_path, "drives/set.txt").values()
    assert verdict.status == "failed"
    assert not (tmp_path / "ran").exists()


def test_shards_share_the_drives(drives: Path, tmp_path: Path):
    found = [set(held(tmp_path, shard=(i, 2), against=None)) for i in (1, 2)]
    assert found[0] | found[1] == {"tunnel", "walk0", "walk1"}
    assert not found[0] & found[1]


def test_what_was_accepted_is_the_same_again(drives: Path, tmp_path: Path):
    first = held(tmp_path, accepts=True)
    shutil.rmtree(tmp_path / "out")
    again = held(tmp_path)
    assert [verdict.status for verdict in first.values()] == ["accepted"] * 3
    assert [(verdict.status, verdict.level) for verdict in again.values()] == [("same", "bytes")] * 3
    assert exit_code([*again.values()]) == 0


def test_without_a_reference_the_verdict_says_accept(drives: Path, tmp_path: Path):
    found = held(tmp_path)
    assert {verdict.status for verdict in found.values()} == {"no reference"}
    assert "--accept" in found["tunnel"].text
    assert exit_code([*found.values()]) == 1
    assert not (tmp_path / "reference").exists()


def test_a_drive_recorded_anew_is_told_from_a_new_one(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    (drives / "tunnel.mcap").unlink()
    recording(drives / "tunnel.mcap", 13)
    assert "another content" in held(tmp_path)["tunnel"].text


def test_another_model_is_said_and_compared_within_statistics(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    verdict = held(tmp_path, model="blind")["walk0"]
    assert (verdict.status, verdict.level) == ("differs", "statistical")
    assert "of model tiny" in verdict.text
    assert any("pedestrian" in finding for finding in verdict.findings)


def test_bytes_of_another_model_are_refused_with_the_reason(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    verdict = held(tmp_path, model="blind", level="bytes")["walk0"]
    assert verdict.status == "differs"
    assert "can't be equal" in verdict.text


def test_another_mode_is_refused_with_the_reason(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    reference = next((tmp_path / "reference").glob("tunnel-*/reference.toml"))
    reference.write_text(reference.read_text().replace('mode = "exact"', 'mode = "re-enacted"'))
    verdict = held(tmp_path)["tunnel"]
    assert verdict.status == "differs"
    assert "--mode re-enacted" in verdict.text


def test_accept_says_what_changes_and_replaces_the_result(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    verdict = held(tmp_path, model="blind", accepts=True)["walk0"]
    assert "model tiny -> blind" in verdict.findings
    assert any(line.startswith("pedestrian: things 1 -> 0") for line in verdict.findings)
    folder = next((tmp_path / "reference").glob("walk0-*"))
    assert sorted(path.name for path in folder.iterdir()) == sorted(["reference.toml", read_reference(folder).result])
    assert held(tmp_path, model="blind")["walk0"].status == "same"


def test_accepting_the_same_again_changes_no_file(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "reference").rglob("*")}
    assert {verdict.status for verdict in held(tmp_path, accepts=True).values()} == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "reference").rglob("*")} == before


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_reference_that_can_not_be_written_leaves_the_old_one(drives: Path, tmp_path: Path):
    outcome = held(tmp_path, accepts=True)["walk0"].outcome
    assert outcome is not None
    before = everything(tmp_path / "reference")
    another = msgspec.structs.replace(outcome, cpu="another")  # the same bytes on another machine
    gone = Path(outcome.folder) / "gone"
    gone.symlink_to(tmp_path / "nowhere")  # what can't be copied, as on a full disk
    with pytest.raises(RecordingError):
        accept(another, tmp_path / "reference")
    assert everything(tmp_path / "reference") == before
    assert held(tmp_path)["walk0"].status == "same"
    gone.unlink()
    assert accept(another, tmp_path / "reference").lines == (f"cpu {outcome.cpu} -> another",)
    folder = next((tmp_path / "reference").glob("walk0-*"))
    reference = read_reference(folder)
    assert reference.cpu == "another"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["reference.toml", reference.result])
    assert digest_of(open_recording(folder / reference.result)) == reference.digest


def test_what_a_killed_accept_left_is_cleared(drives: Path, tmp_path: Path):
    outcome = held(tmp_path, accepts=True)["walk0"].outcome
    assert outcome is not None
    folder = next((tmp_path / "reference").glob("walk0-*"))
    (folder / ".result-999999999").mkdir()
    (folder / ".reference.toml-999999999").touch()
    (Path(outcome.folder) / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RecordingError):  # it makes room before it copies
        accept(msgspec.structs.replace(outcome, cpu="another"), tmp_path / "reference")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["reference.toml", read_reference(folder).result])


def test_accept_mends_a_damaged_result(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    result = next((tmp_path / "reference").glob("tunnel-*/*/0000.mcap"))
    result.write_bytes(result.read_bytes()[:2000])
    held(tmp_path, accepts=True)
    folder = next((tmp_path / "reference").glob("tunnel-*"))
    reference = read_reference(folder)
    assert digest_of(open_recording(folder / reference.result)) == reference.digest


def test_a_reference_is_a_recording_with_its_digest_and_figures(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    folder = next((tmp_path / "reference").glob("tunnel-*"))
    reference = read_reference(folder)
    result = open_recording(folder / reference.result)
    assert digest_of(result) == reference.digest
    assert (reference.frames, reference.model, reference.figures) == (12, "tiny", figures_of(result))
    assert reference.figures["pedestrian"] == {"frames": 12, "share": 0.132812, "things": 1}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_reference_with_any_names_reads_back(one: str, other: str):
    versions, figures = {one: other, other: one}, {one: {other: 0.5}, other: {one: 1, "share": 1e-7}}
    written = Reference(1, one, other, "r", "d", 1, 1, "exact", one, "i", "e", other, versions, figures)
    assert msgspec.convert(tomllib.loads(to_toml(msgspec.to_builtins(written))), Reference) == written


def test_a_name_that_is_no_text_fails_its_drive_only(drives: Path, tmp_path: Path):
    (drives / "od\udcffd.mcap").write_bytes((drives / "tunnel.mcap").read_bytes())
    (drives / "two\nlines.mcap").write_bytes((drives / "tunnel.mcap").read_bytes())
    found = held(tmp_path)
    assert [found[name].status for name in ("od-d", "two-lines", "tunnel")] == ["failed", "failed", "no reference"]
    assert all(verdict.text.isprintable() for verdict in found.values())


def test_of_the_same_model_and_settings_bytes_are_asked(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    one, other = (next((tmp_path / "reference").glob(f"walk{k}-*")) for k in range(2))
    about = open_recording(other / read_reference(other).result).about
    assert about is not None
    shutil.copytree(one, other, dirs_exist_ok=True)  # as if the masks had become others
    result = open_recording(other / read_reference(other).result)
    chunks, certificate = [[*result.messages()]], result.certificate
    result.segments[0].unlink()
    write_segment(result.segments[0], about, chunks, certificate)
    verdict = held(tmp_path)["walk1"]
    assert (verdict.status, verdict.level) == ("differs", "bytes")
    assert any(finding.startswith("bytes of pedestrian differ") for finding in verdict.findings)


def test_other_settings_are_said_and_compared_tightly(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    launch = wishes(tmp_path).launch
    assert launch is not None
    changed = msgspec.structs.replace(launch, tracking=TrackingConfig(kind="iou", confirm_hits=9))
    verdict = held(tmp_path, launch=changed)["walk0"]
    assert verdict.level == "tight"
    assert "other settings" in verdict.text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("format = 1", "format = 2", "of format 2"),
        ("format = 1", "format = ", "reference.toml"),
        ('result = "', 'result = "../', "not the name of a folder"),
        ('result = "', 'result = "x', "which is not there"),
        ('digest = "', 'digest = "0', "not the messages"),
    ],
)
def test_a_broken_reference_fails_its_drive_only(drives: Path, tmp_path: Path, old: str, new: str, says: str):
    held(tmp_path, accepts=True)
    file = next((tmp_path / "reference").glob("tunnel-*/reference.toml"))
    file.write_text(file.read_text().replace(old, new, 1))
    found = held(tmp_path)
    assert found["tunnel"].status == "failed"
    assert says in found["tunnel"].text
    assert found["walk0"].status == "same"


def test_a_result_cut_short_in_the_reference(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    result = next((tmp_path / "reference").glob("tunnel-*/*/0000.mcap"))
    result.write_bytes(result.read_bytes()[:2000])
    assert held(tmp_path)["tunnel"].status == "same"  # its digest is in the file beside it
    verdict = held(tmp_path, model="blind")["tunnel"]
    assert verdict.status == "failed"
    assert "\n" not in verdict.text


def test_bad_drives_are_listed_and_end_nothing(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    whole = (drives / "tunnel.mcap").read_bytes()
    (drives / "torn.mcap").write_bytes(whole[: len(whole) // 2])
    middle = slice(len(whole) // 2, len(whole) // 2 + 200)
    (drives / "flipped.mcap").write_bytes(whole[: middle.start] + bytes(200) + whole[middle.stop :])
    (drives / "foreign.mcap").write_bytes(b"not an MCAP file at all")
    (drives / "empty.mp4").touch()
    found = held(tmp_path)
    bad = {name for name, verdict in found.items() if verdict.status == "failed"}
    assert {"flipped", "foreign", "empty"} <= bad
    assert all("\n" not in found[name].text for name in bad)
    assert found["torn"].status in ("failed", "no reference")  # read to its last whole chunk, as after a crash
    assert {found[name].status for name in ("tunnel", "walk0", "walk1")} == {"same"}
    assert exit_code([*found.values()]) == 3


def test_two_drives_of_one_name_have_references_of_their_own(drives: Path, tmp_path: Path):
    picture_drive(drives / "more" / "walk0", 5)
    asked = wishes(tmp_path)
    held(tmp_path, accepts=True)
    assert len(list((tmp_path / "reference").glob("walk0-*"))) == 2
    assert len(find_drives([str(drives)])) == 4
    assert asked.against == tmp_path / "reference"


def test_what_is_done_is_not_done_again(drives: Path, tmp_path: Path):
    held(tmp_path, accepts=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mcap")}
    held(tmp_path)
    held(tmp_path, level="tight")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.mcap")} == before
    held(tmp_path, model="blind")
    assert len(list((tmp_path / "out").rglob("*.mcap"))) == 2 * len(before)


def test_references_that_can_not_be_written_are_told_first(drives: Path, tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigError, match="references can't be written"):
        held(tmp_path, accepts=True, against=tmp_path / "taken")
    assert not (tmp_path / "out").exists()


def test_a_recording_is_replayed_as_it_was_recorded(tmp_path: Path):
    tiny_launch(tmp_path)
    then = Launch(version=1, model=ModelConfig(str(tmp_path / "blind.onnx"), "onnxruntime", 1))
    recording(tmp_path / "drives" / "tunnel.mcap", 2, launch=then)
    verdict = held(tmp_path, launch=None, model="tiny")["tunnel"]
    assert verdict.outcome is not None
    assert verdict.outcome.model == "blind"


def test_exit_codes(drives: Path):
    (drive,) = find_drives([str(drives / "walk0")])
    codes = {status: exit_code([Verdict(drive, "same"), Verdict(drive, status)]) for status in ("differs", "failed")}
    assert codes == {"differs": 1, "failed": 3}
    assert exit_code([Verdict(drive, "differs"), Verdict(drive, "failed")]) == 3


def test_changes_name_old_and_new_figures():
    old = {"road": {"frames": 3, "share": 0.5}, "gone": {"frames": 1}}
    new = {"road": {"frames": 4, "share": 0.5}, "came": {"frames": 2}}
    assert changes(old, new) == ["came: frames 2", "gone: frames 1 -> none", "road: frames 3 -> 4"]
