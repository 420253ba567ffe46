"""A recorded drive gone through again: exactly, as it was decided, or as it might have been."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import msgspec
import pytest

from perception import wire
from perception.config import Launch, RecordConfig
from perception.drives import layout
from perception.drives.recording import open_recording
from perception.errors import PerceptionError, RecordingError
from perception.replay.drive import RecordedDrive, is_recording
from perception.replay.result import digest_of
from perception.replay.unit import Mode, Wishes, replay_drive
from perception.replay.what_if import MachineSpeed, Policy
from tests.recorded_run import record_live


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    """A recording of a live run with drops, a prompt, and frames that the network skipped."""
    folder = tmp_path_factory.mktemp("live")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        (folder / "socket").mkdir(mode=0o700)
        patch.setattr("perception.sinks.recorder.STATE_EVERY_NS", 150_000_000)
        record = RecordConfig(folder=str(folder / "drives"), exact=True, least_free_gb=0)
        return record_live(folder, record, network_every=2)


def decisions_of(path: Path) -> list[layout.Decision]:
    return RecordedDrive(path).decisions_between(0, 1 << 62)


def length_s(path: Path) -> float:
    decided = decisions_of(path)
    return (decided[-1].stamp_ns - decided[0].stamp_ns) / 1e9


def messages_of(path: Path, name: str) -> list[wire.Message]:
    with contextlib.closing(open_recording(path)) as recording:
        return [wire.decode(record.data) for record in recording.messages({f"/front/wire/{name}"})]


def test_every_captured_frame_has_a_decision_and_an_image(drive):
    decided = decisions_of(drive)
    assert {d.what for d in decided} <= {"stepped", "dropped"}
    assert sum(d.what == "dropped" for d in decided) > 5
    with contextlib.closing(open_recording(drive)) as recording:
        images = {record.sequence for record in recording.messages({"/front/image"})}
    assert {d.frame_seq for d in decided} <= images
    stepped = [d for d in decided if d.what == "stepped"]
    assert [d.network for d in stepped] == [i % 2 == 0 for i in range(len(stepped))]
    assert all(d.arrived_ns <= d.taken_ns <= d.done_ns <= d.sent_ns for d in stepped)


def test_the_calls_of_the_control_socket_are_kept(drive):
    calls = RecordedDrive(drive).calls_between(0, 1 << 62)
    assert sum(len(answered) for answered in calls.values()) == 1


def test_re_enacted_it_says_the_same_byte_for_byte(drive):
    done = replay_drive(str(drive), wishes=Wishes(mode="re-enacted"))
    assert done.sameness is not None
    assert (done.sameness.different, done.sameness.not_recorded) == (0, 0)
    assert done.sameness.same == done.messages >= 60 * 5


def test_re_enacted_from_a_state_in_the_middle_it_says_the_same(drive):
    whole = replay_drive(str(drive), wishes=Wishes(mode="re-enacted"))
    late = replay_drive(str(drive), wishes=Wishes(mode="re-enacted", begin_s=length_s(drive) - 0.05))
    assert late.sameness is not None
    assert late.sameness.is_same
    assert late.begin_s > length_s(drive) / 3
    assert late.frames < whole.frames / 2


def test_exactly_every_frame_is_stepped_and_twice_gives_the_same(drive, tmp_path):
    first = replay_drive(str(drive), out=tmp_path / "first")
    second = replay_drive(str(drive), out=tmp_path / "second")
    assert first.frames == len(decisions_of(drive))
    assert first.digest == second.digest
    for result in ("first", "second"):
        with contextlib.closing(open_recording(tmp_path / result)) as recording:
            assert digest_of(recording) == first.digest
            assert recording.certificate is not None
            assert recording.certificate.is_complete


def test_a_result_keeps_the_stamps_of_the_drive(drive, tmp_path):
    replay_drive(str(drive), out=tmp_path / "result")
    stamps = {message.stamp_ns for message in messages_of(tmp_path / "result", "road")}
    assert {message.stamp_ns for message in messages_of(drive, "road")} <= stamps


def test_what_if_the_machine_were_slower_more_frames_are_dropped(drive, tmp_path):
    speed = MachineSpeed((40_000_000,), (20_000_000,))
    slow = replay_drive(str(drive), out=tmp_path / "slow", wishes=Wishes("what-if", speed=speed))
    stepped = [d for d in decisions_of(tmp_path / "slow") if d.what == "stepped"]
    assert slow.frames == len(stepped) < 60
    assert all(d.sent_ns - d.taken_ns in (40_000_000, 20_000_000) for d in stepped)
    again = replay_drive(str(drive), wishes=Wishes("what-if", speed=speed))
    assert again.digest == slow.digest


def test_what_if_the_network_looked_at_all_frames(drive, tmp_path):
    wishes = Wishes("what-if", policy=Policy(network_every=1))
    replay_drive(str(drive), out=tmp_path / "all", wishes=wishes)
    assert all(d.network for d in decisions_of(tmp_path / "all") if d.what == "stepped")


def test_a_source_is_replayed_exactly(launch: Launch, tmp_path):
    first = replay_drive(launch.source.url, launch, tmp_path / "a")
    assert first.frames == 20
    assert replay_drive(launch.source.url, launch).digest == first.digest


def test_of_a_source_nothing_was_decided(launch: Launch):
    with pytest.raises(RecordingError, match="nothing is known of what was decided"):
        replay_drive(launch.source.url, launch, wishes=Wishes("re-enacted"))


def test_another_model_can_not_re_enact(drive, launch: Launch):
    with pytest.raises(RecordingError, match="only the same model"):
        replay_drive(str(drive), launch, wishes=Wishes("re-enacted"))


def test_nothing_is_overwritten(drive, tmp_path):
    (tmp_path / "result").mkdir()
    with pytest.raises(RecordingError, match="is there already"):
        replay_drive(str(drive), out=tmp_path / "result")


def test_beyond_its_end_there_is_nothing(drive):
    with pytest.raises(RecordingError, match="nothing is there at 900 s"):
        replay_drive(str(drive), wishes=Wishes(begin_s=900.0))


def test_a_result_has_no_images_to_replay(drive, tmp_path):
    replay_drive(str(drive), out=tmp_path / "result")
    with pytest.raises(PerceptionError, match="holds no images"):
        replay_drive(str(tmp_path / "result"), out=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_is_a_recording(drive, picture_drive, tmp_path):
    assert is_recording(drive)
    assert not is_recording(picture_drive)
    assert not is_recording(tmp_path / "absent.mcap")


def test_about_says_where_it_came_from(drive):
    about = RecordedDrive(drive).about
    assert about.mode == "live"
    assert about.is_exact
    assert about.engine.startswith("onnxruntime")
    assert set(about.graphs) == {"tiny.onnx", "tiny-encoder.onnx"}
    assert msgspec.json.decode(about.launch)["camera"] == "front"


def test_a_drive_brings_its_calibration(drive, tmp_path):
    """Elsewhere the file that the launch configuration names is not there."""
    found = RecordedDrive(drive)
    text = (Path(__file__).parent.parent / "calibration" / "front.toml").read_text()
    found.about = msgspec.structs.replace(found.about, calibration=text)
    launch = found.launch(tmp_path / "there")
    assert Path(launch.calibration).read_text() == text
    assert Path(launch.calibration).parent == tmp_path / "there"


def test_re_enacted_before_the_first_kept_state_it_begins_at_the_beginning(drive):
    done = replay_drive(str(drive), wishes=Wishes("re-enacted", begin_s=0.02, end_s=0.1))
    assert done.begin_s == 0
    assert done.sameness is not None
    assert done.sameness.is_same


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a version of the program that can't read the states of the one that recorded."""
    monkeypatch.setattr("perception.propagation.snapshot.FORMAT", b"PSNAP\xff")


@pytest.mark.usefixtures("newer")
def test_a_drive_of_another_version_is_re_enacted_from_its_start(drive):
    done = replay_drive(str(drive), wishes=Wishes("re-enacted"))
    assert done.sameness is not None
    assert done.sameness.is_same
    with pytest.raises(
        RecordingError, match=r"another version of this program: .*; or replay it from its start, or exactly"
    ):
        replay_drive(str(drive), wishes=Wishes("re-enacted", begin_s=length_s(drive) - 0.05))


@pytest.mark.usefixtures("newer")
@pytest.mark.parametrize("mode", ["exact", "what-if"])
def test_where_a_state_can_not_be_taken_up_the_way_from_the_start_is_gone(drive, mode: Mode, caplog):
    late = replay_drive(str(drive), wishes=Wishes(mode, begin_s=length_s(drive) - 0.05))
    assert late.begin_s == 0
    assert mode == "what-if" or late.frames == len(decisions_of(drive))
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "perception.replay.unit"]
    assert re.search(
        r"begins at the drive's start, \d\.\d s before the kept state: .*another version of this program", warning
    )


def test_a_state_of_other_settings_is_not_passed_over(drive, tmp_path):
    launch = RecordedDrive(drive).launch(tmp_path)
    other = msgspec.structs.replace(launch, tracking=msgspec.structs.replace(launch.tracking, lost_for_s=9.0))
    with pytest.raises(RecordingError, match=r"lost_for_ns.*use the model and the settings of the drive"):
        replay_drive(str(drive), other, wishes=Wishes("re-enacted"))


def test_a_mode_that_is_none_is_no_what_if(drive):
    with pytest.raises(RecordingError, match="mode 'Exact': one of exact, re-enacted, what-if"):
        replay_drive(str(drive), wishes=Wishes("Exact"))  # pyright: ignore[reportArgumentType]


def test_what_if_needs_the_times_of_another_engine(drive, tmp_path):
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    launch = RecordedDrive(drive).launch(tmp_path)
    other = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine="openvino"))
    with pytest.raises(RecordingError, match="give --network-ms"):
        replay_drive(str(drive), other, wishes=Wishes("what-if"))
