"""Save what can be read of a damaged recording, or of one that was not closed."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from perception.drives.copying import CopyWriter, copy_file, refuse_existing
from perception.drives.index import BAD_SUMMARY
from perception.drives.layout import ACTIVE, SUFFIX, from_metadata
from perception.drives.recording import RECOVERED, Damage, Recording, open_recording
from perception.drives.segment import is_in_work
from perception.errors import RecordingError, reason

DAMAGED = ".damaged"
"""Follows the name of an original that was replaced and held more than could be saved."""
Progress = Callable[[str, int, int], None]  # what, files done, of how many
_TOLD = 20  # damages that the new file lists


class Recovery(msgspec.Struct, frozen=True):
    """What a recovered file says of its past."""

    original: str  # its name
    lost_bytes: int  # that could not be read
    kept: dict[str, int]  # messages, by topic
    lost: dict[str, int]  # by topic, where the original told how many it had
    damage: tuple[str, ...] = ()


@dataclass(slots=True)
class Recovered:
    """What came of a recovery.

    Attributes:
        path: of the recording that can be read now.
        kept: messages by topic.
        lost: messages by topic that the originals told of and that are not there any more.
        lost_bytes: that could not be read; without them `lost` need not know of everything.
        files: that were written anew.
        originals: that were kept beside them.
    """

    path: Path
    kept: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    lost_bytes: int = 0
    damage: list[Damage] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    originals: list[Path] = field(default_factory=list)

    @property
    def is_lossless(self) -> bool:
        return not self.lost_bytes and not self.lost and not self.damage


def recover(path: Path, out: Path, *, force: bool = False, progress: Progress | None = None) -> Recovered:
    """Copy what can be read of a file to the file `out`, or of a folder of segments to the folder `out`.

    Raises RecordingError where there is nothing to save, or `out` is there already and `force` is False.
    """
    sources, lost = _sources(path)
    is_folder = path.is_dir()
    if not is_folder and not out.name.endswith(SUFFIX):
        raise RecordingError(f"{out}: a recording's name ends in {SUFFIX}")
    if is_folder and out.exists():
        raise RecordingError(f"{out}: it is there already: give another name")
    refuse_existing(out, [path], force=force)
    result = Recovered(out)
    if is_folder:
        try:
            out.mkdir(parents=True)
        except OSError as error:
            raise RecordingError(f"{out}: {reason(error)}") from None
    for i, source in enumerate(sources):
        look = _look(source, lost)
        _save(look, out / finished_name(source) if is_folder else out, result)
        if progress:
            progress("recover", i + 1, len(sources))
    _add_unreadable(lost, sources, result)
    return result


def recover_in_place(path: Path, progress: Progress | None = None) -> Recovered:
    """Replace the files of a recording that are damaged or not closed, each at once, by what can be read of them.

    An original of which something is lost stays beside the new file, as NAME.damaged.

    Raises RecordingError where there is nothing to save, or the recording is still being written.
    """
    sources, lost = _sources(path)
    unreadable = [d.file for d in lost if d.file not in sources]
    for source in (*sources, *unreadable):
        if is_in_work(source):
            raise RecordingError(f"{source}: it is being written now: recover it once its node has stopped")
        if (kept := _kept_name(source)).exists():
            raise RecordingError(f"{kept}: from an earlier recovery: move it away first")
    result = Recovered(path)
    for i, source in enumerate(sources):
        look = _look(source, lost)
        if look.is_whole:
            result.kept.update(_counts(look.recording))
        else:
            _replace(look, result)
        if progress:
            progress("recover", i + 1, len(sources))
    for file in unreadable:
        if file.stat().st_size:
            result.originals.append(file.rename(_kept_name(file)))
        else:
            file.unlink()
    _add_unreadable(lost, sources, result)
    if not path.exists():
        result.path = path.with_name(finished_name(path))
    return result


def finished_name(path: Path) -> str:
    return path.name.removesuffix(ACTIVE) + SUFFIX if path.name.endswith(ACTIVE) else path.name


def _kept_name(path: Path) -> Path:
    return path.with_name(path.name + DAMAGED)


@dataclass(frozen=True, slots=True)
class _Look:
    """One file, read through."""

    source: Path
    recording: Recording
    missing: list[Damage]  # segments before it

    @property
    def is_whole(self) -> bool:
        return self.recording.is_finished and not self.recording.damage and not self.missing


def _look(source: Path, lost: list[Damage]) -> _Look:
    recording = open_recording(source, lenient=True, thorough=True)
    return _Look(source, recording, [damage for damage in lost if damage.file == source])


def _sources(path: Path) -> tuple[list[Path], list[Damage]]:
    """The files that can be read, and what is known to be missing: segments before one of them, and other files.

    Raises RecordingError where nothing can be read, or two files would get the same name.
    """
    recording = open_recording(path, lenient=True)
    if not recording.channels and recording.about is None:
        raise RecordingError(f"{path}: nothing in it can be read")
    sources = list(recording.segments)
    if len({finished_name(source) for source in sources}) < len(sources):
        raise RecordingError(f"{path}: a segment is there twice, closed and not closed: move one away")
    return sources, list(recording.absent)


def _replace(look: _Look, result: Recovered) -> None:
    source, target = look.source, look.source.with_name(finished_name(look.source))
    new = target.with_name(target.name + ".recovered")
    if _save(look, new, result):
        new.replace(target)
        if source != target:
            source.unlink()
        return
    kept = _kept_name(source)
    if source == target:
        with contextlib.suppress(OSError):  # a file system without links has a moment without the file instead
            os.link(source, kept)
    if not kept.exists():
        source.rename(kept)
    new.replace(target)
    result.originals.append(kept)


def _save(look: _Look, target: Path, result: Recovered) -> bool:
    """Copy one file: byte for byte where it is whole, else what can be read of it. Whether nothing is lost."""
    source, recording = look.source, look.recording
    if look.is_whole:
        copy_file(source, target)
        result.kept.update(_counts(recording))
        return True
    (file,) = recording.files
    kept: Counter[str] = Counter()
    with CopyWriter(target, file, recording.about) as writer:
        for record in recording.messages():
            writer.write(record, recording)
            kept[record.topic] += 1
        lost = _lost(recording, kept)
        # A damaged summary is made anew, nothing of it is lost.
        damage = [d for d in recording.damage if d.what != BAD_SUMMARY]
        lost_bytes = sum(d.bytes for d in damage) + file.tail
        if file.attachments:
            damage.append(Damage(source, 0, 0, f"{file.attachments} attachments are not copied"))
        told = (*(d.what for d in look.missing), *(f"byte {d.offset}: {d.what}" for d in damage[:_TOLD]))
        note = Recovery(source.name, lost_bytes, dict(kept), dict(lost), told)
        writer.finish((RECOVERED, note), recording.certificate)
    result.kept += kept
    result.lost += lost
    result.lost_bytes += lost_bytes
    result.damage += [*look.missing, *damage]
    result.files.append(target)
    return not (lost or damage or lost_bytes)


def _add_unreadable(lost: list[Damage], sources: list[Path], result: Recovered) -> None:
    unreadable = [damage for damage in lost if damage.file not in sources and damage.bytes]
    result.damage += unreadable
    result.lost_bytes += sum(damage.bytes for damage in unreadable)


def _counts(recording: Recording) -> Counter[str]:
    return Counter({topic: channel.count or 0 for topic, channel in recording.channels.items()})


def _lost(recording: Recording, kept: Counter[str]) -> Counter[str]:
    """What the summary told of and was not found."""
    lost: Counter[str] = Counter()
    for file in recording.files:
        for number, count in (file.expected or {}).items():
            channel = file.names.channels.get(number)
            if channel:
                lost[channel.topic] += count
    lost.subtract(kept)
    return +lost


def recovery_of(recording: Recording) -> Recovery | None:
    """What a recovered recording says of its past; None for another one. Raises RecordingError where it is damaged."""
    texts = recording.metadata.get(RECOVERED)
    return from_metadata(texts, Recovery) if texts else None
