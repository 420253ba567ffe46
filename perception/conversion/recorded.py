"""Anything that a source can be, as a recording of ours."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perception.config import Launch, SourceConfig
from perception.conversion.outputs import Progress, no_progress
from perception.conversion.writing import written_recording
from perception.drives import layout
from perception.drives.block import Block
from perception.drives.foxglove import Place, image_record
from perception.drives.layout import About, Decision, Record
from perception.drives.schemas import DECISION
from perception.errors import RecordingError
from perception.images import image_size
from perception.sources.redact import redact
from perception.sources.shots import Reader, Shot
from perception.sources.url import open_reader

FORMS = ("", "jpeg", "png", "raw")
MODE = "converted"
_NO_NODE = "converted: no node has seen it"
_MAGIC = {b"\xff\xd8": "jpeg", b"\x89P": "png"}


@dataclass(frozen=True, slots=True)
class RecordWishes:
    """How a recording is made of a source.

    Args:
        camera: the name that its topics get.
        form: of the images, "jpeg" | "png" | "raw"; "": the very bytes of a source of JPEGs or PNGs, else "jpeg".
        quality: of a JPEG that is made anew.
        begin_s, end_s: part of the source, since its first frame [s].
    """

    camera: str = "front"
    form: str = ""
    quality: int = 95
    begin_s: float = 0.0
    end_s: float | None = None


@dataclass(slots=True)
class RecordDone:
    """What was written."""

    frames: int = 0
    kept: int = 0  # of them, those whose bytes are the source's own
    broken: int = 0  # frames of the source that could not be decoded
    form: str = "jpeg"


def write_recording(
    url: str, out: Path, wishes: RecordWishes, *, force: bool = False, progress: Progress = no_progress
) -> RecordDone:
    """Write a recording of all the frames of a source, with their places and exact stamps; no node has seen them.

    Each frame has a decision "stepped", by no engine, so that an exact replay goes through all of them.

    Args:
        url: as `open_source` takes it.

    Raises:
        RecordingError: `out` is there already, or can't be written.
        SourceError: the source can't be read, or is live.
    """
    if wishes.form not in FORMS or not 1 <= wishes.quality <= 100:
        raise RecordingError(f"format {wishes.form!r}, quality {wishes.quality}: jpeg, png or raw, from 1 to 100")
    reader = open_reader(url, wishes.begin_s, wishes.end_s)
    done = RecordDone(form=wishes.form or _stored_form(reader) or "jpeg")
    about = _about(url, wishes, done.form, reader.identity())
    with written_recording(out, about, force, "converted") as written:
        for n, shot in enumerate(reader.shots(), 1):
            encoded = b"" if wishes.form else _stored(shot, done.form)
            written.write(_block(shot, about, wishes.quality, encoded))
            done.frames += shot.image is not None
            done.broken += shot.image is None
            done.kept += bool(encoded)
            progress("frames", n, n)
    return done


def _about(url: str, wishes: RecordWishes, form: str, identity: str) -> About:
    told = redact(url)
    launch = Launch(version=1, camera=wishes.camera, source=SourceConfig(url=told))
    return About(
        recording=str(uuid.uuid4()),
        camera=wishes.camera,
        run=str(uuid.uuid4()),
        clock="drive",
        wall_offset_ns=0,
        launch=msgspec.json.encode(launch).decode(),
        source=told,
        drive=identity,
        mode=MODE,
        frames=form,
    )


def _block(shot: Shot, about: About, quality: int, encoded: bytes) -> Block:
    block, stamp_ns, seq = Block(captured=1), shot.stamp_ns, shot.index
    what, reason = ("broken", "it can't be decoded") if shot.image is None else ("stepped", _NO_NODE)
    if shot.image is not None:
        place = Place(stamp_ns, stamp_ns, seq)
        block.add(image_record(about.camera, shot.image, about.frames, quality, place, encoded or None))
        block.frame_size = (shot.image.shape[1], shot.image.shape[0])
    row = msgspec.json.encode(Decision(seq, stamp_ns, what, reason, arrived_ns=stamp_ns))
    block.add(Record(layout.decisions(about.camera), DECISION, "json", stamp_ns, stamp_ns, seq, row))
    block.decided[what] += 1
    return block


def _stored_form(reader: Reader) -> str:
    """The format in which the first good picture is stored, "" where it is none that we record."""
    first = next((shot for shot in reader.shots() if shot.image is not None), None)
    return _form_of(first.encoded()) if first else ""


def _stored(shot: Shot, form: str) -> bytes:
    """The bytes of a picture as they are stored, where they are of this format and give this image; else none."""
    if shot.image is None:
        return b""
    data = shot.encoded()
    # a picture that says it is to be turned is of another size than it is decoded to
    fits = _form_of(data) == form and image_size(data) == (shot.image.shape[1], shot.image.shape[0])
    return data if fits else b""


def _form_of(data: bytes) -> str:
    return next((form for magic, form in _MAGIC.items() if data.startswith(magic)), "")
