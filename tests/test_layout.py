"""What a recording holds: rows, metadata, and a recording of this format that must stay readable."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception import wire
from perception.drives.frames import stored_frames
from perception.drives.layout import About, Certificate, Decision, Machine, Tally, from_metadata, to_metadata
from perception.drives.recording import open_recording
from perception.errors import RecordingError

GOLDEN = Path(__file__).parent / "golden" / "drive-1.mcap"
ABOUT = About("00000000-0000-0000-0000-00000000d41e", "front", "run", "boot", 1_700_000_000_000_000_000)


def test_a_decision_is_this_json():
    decision = Decision(7, 9, "stepped", "", True, "onnxruntime", 1, 2, 3, 4)
    assert msgspec.json.encode(decision) == (
        b'{"frame_seq":7,"stamp_ns":9,"what":"stepped","reason":"","network":true,"engine":"onnxruntime",'
        b'"arrived_ns":1,"taken_ns":2,"done_ns":3,"sent_ns":4,"prompted":false}'
    )


def test_metadata_is_readable_text_with_a_checksum():
    certificate = Certificate("the end", 5, 1, {"/front/image": Tally(3, 2)}, 3, 2, 1, {"the disk was full": 1})
    assert to_metadata(certificate) == {
        "reason": "the end",
        "ended_ns": "5",
        "segments": "1",
        "channels": '{"/front/image":{"expected":3,"written":2}}',
        "captured": "3",
        "stepped": "2",
        "dropped": "1",
        "lost": '{"the disk was full":1}',
        "crc32": "3b86b4b3",
    }
    assert not certificate.is_complete


names = st.text(max_size=20)


@given(names, names, st.integers(0, 2**62), st.dictionaries(names, names, max_size=3), st.booleans())
def test_metadata_comes_back(recording, launch, began_ns, graphs, is_exact):
    about = msgspec.structs.replace(
        ABOUT,
        recording=recording,
        launch=launch,
        began_ns=began_ns,
        graphs=graphs,
        machine=Machine("host", "cpu", 2, graphs),
        is_exact=is_exact,
    )
    assert from_metadata(to_metadata(about), About) == about


@given(st.sampled_from(sorted(to_metadata(ABOUT))), names)
def test_changed_metadata_is_refused(key, value):
    texts = to_metadata(ABOUT)
    if texts[key] != value:
        with pytest.raises(RecordingError, match="damaged"):
            from_metadata(texts | {key: value}, About)


def test_metadata_of_another_format_names_it():
    with pytest.raises(RecordingError, match="format 2, this version reads 1"):
        from_metadata(to_metadata(msgspec.structs.replace(ABOUT, format=2)), About)


def test_the_golden_recording_is_still_read():
    with contextlib.closing(open_recording(GOLDEN)) as recording:
        assert recording.about is not None
        assert (recording.about.camera, recording.about.wall_offset_ns) == ("front", ABOUT.wall_offset_ns)
        assert recording.certificate is not None
        assert recording.certificate.is_complete
        frames = list(stored_frames(recording))
        assert [(f.seq, f.stamp_ns) for f in frames] == [(4, 1000), (6, 2000)]
        assert all(f.image is not None and f.image.shape == (4, 8, 3) and (f.image == 10 * f.seq).all() for f in frames)
        rows = [msgspec.json.decode(r.data, type=Decision) for r in recording.messages({"/front/decisions"})]
        assert [(row.frame_seq, row.what) for row in rows] == [(4, "stepped"), (6, "dropped")]
        [message] = [wire.decode(r.data) for r in recording.messages({"/front/wire/road"})]
        assert (message.topic, message.frame_seq, int(message.mask().sum())) == ("front/road", 4, 3)
