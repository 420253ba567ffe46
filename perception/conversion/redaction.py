"""A recording without faces and number plates: its images re-made, all else as it was."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perception.conversion.outputs import Progress, no_progress, require_place
from perception.conversion.reading import Drive, open_drive, read_decision, recorded_frames
from perception.conversion.regions import (
    MOST_CELLS,
    Regions,
    RegionWishes,
    chosen_classes,
    find_regions,
    pixelate,
    read_boxes,
    uncovered_classes,
)
from perception.conversion.writing import KINDS, written_recording
from perception.drives import layout
from perception.drives.block import Block
from perception.drives.cut import CUT, Cut
from perception.drives.ending import warn_unclosed
from perception.drives.foxglove import Place, image_record
from perception.drives.frames import image_of
from perception.drives.layout import About, Record, from_metadata
from perception.drives.schemas import CAMERA_CALIBRATION, DECISION, IMAGE_ANNOTATIONS, RAW_IMAGE
from perception.errors import RecordingError, WireError
from perception.wire import Kind, decode

_QUALITY = 95
_NOT_LOOKED_AT, _BROKEN = "nothing looked at it, nor at a frame near it", "it can't be decoded"


@dataclass(slots=True)
class RedactionDone:
    """What was covered, and what not."""

    frames: int = 0  # images in the new recording
    uncovered: int = 0  # of them, those in which nothing was covered
    surfaces: tuple[str, ...] = ()  # people and vehicles that the model does not tell apart: not covered
    boxes: Counter[str] = field(default_factory=Counter)  # seen in all frames, by class
    left_out: Counter[str] = field(default_factory=Counter)  # images, by reason
    channels_left_out: Counter[str] = field(default_factory=Counter)  # messages, by topic


def redact(
    drive: Path,
    out: Path,
    wishes: RegionWishes,
    *,
    also: Path | None = None,
    tracks: Path | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> RedactionDone:
    """Write a copy of a recording in whose images the heads of people and the plates of vehicles are pixelated.

    Masks, tracks, events, decisions and control calls are copied byte for byte. Every image is encoded anew, so that
    nothing else in its file survives. Left out are: images that can't be decoded, images that nothing looked at within
    `wishes.hold` frames, the preview topic, states (they hold thumbnails), and channels that are not perception's.

    Args:
        also: a file of further boxes, see `read_boxes`.
        tracks: another recording that says where things are: the result of a replay of this drive, or of the whole one
            that it was cut from.

    Raises:
        RecordingError: the drive can't be read, holds no images, nothing tells what is in them, `tracks` is of another
            drive or of frames of another size, or `out` can't be written.
    """
    if not (1 <= wishes.cells <= MOST_CELLS and wishes.hold >= 0):
        raise RecordingError(f"{wishes.cells} cells, hold {wishes.hold}: 1 to {MOST_CELLS} cells, and 0 frames or more")
    require_place(out, force, KINDS)
    opened = open_drive(drive)
    if not opened.has_images:
        raise RecordingError(f"{drive}: it holds no images, so there is nothing to cover")
    warn_unclosed(opened.recording)
    seen = _opened_tracks(tracks, opened) if tracks else opened
    known = _classes_of(seen.about)
    classes = chosen_classes(wishes.classes, known)
    regions = find_regions(seen, classes, wishes, progress)
    if also:
        read_boxes(also, regions)
    done = RedactionDone(boxes=regions.boxes, surfaces=uncovered_classes(known))
    with written_recording(out, _about(opened.about, wishes, classes, also), force, "redacted") as written:
        copier = _Copier(opened, regions, wishes.cells, done)
        for n, block in enumerate(copier.blocks(), 1):
            written.write(block)
            progress("covering", done.frames + done.left_out.total(), max(n, opened.frames))
    return done


def _opened_tracks(path: Path, drive: Drive) -> Drive:
    """A result whose frames are this drive's. Raises RecordingError: boxes of other frames would cover nothing."""
    seen, about = open_drive(path), drive.about
    cut = drive.recording.metadata.get(CUT)  # a part has an id of its own, and the whole one's frame numbers
    drives = {about.recording, about.drive, from_metadata(cut, Cut).recording if cut else ""} - {""}
    if not drives & {seen.about.recording, seen.about.drive}:
        raise RecordingError(f"{path}: of another drive than {drive.path}: replay this one, and give its result")
    of_tracks, of_images = _frame_size(seen), _image_size(drive)
    if of_tracks and of_images and of_tracks != of_images:
        told = "its frames are {}x{}, the drive's {}x{}".format(*of_tracks, *of_images)
        raise RecordingError(f"{path}: {told}: replay the drive as it is, and give the result")
    return seen


def _frame_size(tracks: Drive) -> tuple[int, int] | None:
    """Width and height of the camera's image, as the first message about one says [px]."""
    frames = recorded_frames(tracks, ("tracks",))
    heads = (message.header for frame in frames for message in frame.messages.values())
    return next(((head.frame_width, head.frame_height) for head in heads if head.frame_width), None)


def _image_size(drive: Drive) -> tuple[int, int] | None:
    """Width and height of the first image that can be decoded [px]."""
    pictures = (image_of(record) for record in drive.recording.messages({layout.image(drive.about.camera)}))
    return next(((picture.shape[1], picture.shape[0]) for picture in pictures if picture is not None), None)


class _Class(msgspec.Struct):
    name: str
    thing: bool = False


class _Card(msgspec.Struct):
    """What is needed of a model's card."""

    classes: tuple[_Class, ...] = ()


def _classes_of(about: About) -> dict[str, bool]:
    """The classes of the model that a recording was made with, and whether they are things."""
    try:
        return {row.name: row.thing for row in msgspec.json.decode(about.card or "{}", type=_Card).classes}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise RecordingError("the model's card in the recording can't be read: give a --tracks result") from None


def _about(about: About, wishes: RegionWishes, classes: frozenset[str], also: Path | None) -> About:
    said = {"of": about.recording, "classes": sorted(classes), "whole": wishes.whole, "hold": wishes.hold}
    said |= {"cells": wishes.cells, "given_boxes": also is not None}
    text = msgspec.json.encode(said).decode()
    return msgspec.structs.replace(about, recording=str(uuid.uuid4()), redaction=text, is_exact=False)


class _Copier:
    """The blocks of the new recording."""

    def __init__(self, drive: Drive, regions: Regions, cells: int, done: RedactionDone) -> None:
        self._drive, self._regions, self._cells, self._done = drive, regions, cells, done
        camera = drive.about.camera
        self._image, self._decisions = layout.image(camera), layout.decisions(camera)
        self._wire, self._masks = layout.wire(f"{camera}/"), layout.mask(camera, "")
        self._plain = {layout.control(camera): "", layout.calibration(camera): CAMERA_CALIBRATION}
        self._plain |= {layout.image_annotations(camera): IMAGE_ANNOTATIONS, self._decisions: DECISION}

    def blocks(self) -> Iterator[Block]:
        """One for all that is of one moment."""
        block = Block()
        for record in self._drive.recording.messages():
            if block.records and record.log_ns != block.log_ns:
                yield block
                block = Block()
            copied = self._image_of(record) if record.topic == self._image else self._kept(record)
            if copied:
                block.add(copied)
            if record.topic == self._decisions:
                block.decided[_what(record)] += 1
        if block.records:
            yield block

    def _image_of(self, record: Record) -> Record | None:
        about, done = self._drive.about, self._done
        if not self._regions.is_known(record.sequence):
            done.left_out[_NOT_LOOKED_AT] += 1
            return None
        picture = image_of(record)
        if picture is None:
            done.left_out[_BROKEN] += 1
            return None
        boxes = self._regions.of(record.sequence)
        covered = pixelate(picture, boxes, self._cells)
        done.frames += 1
        done.uncovered += not boxes
        place = Place(record.log_ns, record.publish_ns, record.sequence)
        return image_record(about.camera, covered, about.frames, _QUALITY, place)

    def _kept(self, record: Record) -> Record | None:
        """The record itself, None where it may hold a picture."""
        if record.topic.startswith(self._wire):
            is_kept = not _may_show(record)
        elif record.topic.startswith(self._masks):
            is_kept = record.schema == RAW_IMAGE
        else:
            is_kept = self._plain.get(record.topic) == record.schema
        if not is_kept:
            self._done.channels_left_out[record.topic] += 1
        return record if is_kept else None


def _may_show(record: Record) -> bool:
    """Whether a wire message is a picture, or can't be told from one."""
    try:
        return decode(record.data).kind is Kind.IMAGE
    except WireError:
        return True


def _what(record: Record) -> str:
    try:
        return read_decision(record.data).what
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "failed"
