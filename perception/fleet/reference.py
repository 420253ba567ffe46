"""References: what a drive should give. A folder a drive: a readable `reference.toml` and the result that it names.

The file is what makes a reference: a new result lies beside the old one until the file that names it takes the place of
the old file, in one step. Who is killed in between leaves the old reference whole.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from perception.drives.recording import open_recording
from perception.errors import ConfigError, RecordingError, reason
from perception.fleet.drive_set import REFERENCE_FILE
from perception.fleet.figures import Figures, changes
from perception.fleet.task import OUTCOME, Outcome
from perception.replay.result import digest_of
from perception.strict_toml import check, read_tables
from perception.whole_file import in_place_of

FORMAT = 1
_HEAD = "# Written by `perception test --accept`. The result beside it is a recording: perception compare, Foxglove.\n"


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reference.toml."""

    format: int
    drive: str  # its file's name when it was accepted
    content: str  # SHA-256 of the drive
    result: str  # name of the folder beside this file
    digest: str  # of the result's messages
    messages: int
    frames: int
    mode: str
    model: str
    model_id: str
    engine: str
    cpu: str
    versions: dict[str, str] = {}
    figures: Figures = {}


@dataclass(frozen=True, slots=True)
class Accepted:
    """What `accept` did."""

    is_new: bool
    lines: tuple[str, ...]  # what changed; empty where nothing did


def reference_folder(references: Path, name: str, content: str) -> Path:
    """Where the reference of a drive is: named after its stem and its content."""
    return references / f"{name}-{content[:8]}"


def read_reference(folder: Path) -> Reference:
    """The reference in a folder of its own.

    Raises:
        ConfigError: its file can't be read, or is of another version.
    """
    file = folder / REFERENCE_FILE
    tables = read_tables(file)
    if tables.get("format") != FORMAT:
        told = tables.get("format")
        raise ConfigError(f"{file}: of format {told!r}, this version reads {FORMAT}: accept it anew with --accept")
    reference = check(tables, Reference, str(file))
    if Path(reference.result).name != reference.result or reference.result in ("", ".", ".."):
        raise ConfigError(f"{file}: result {reference.result!r} is not the name of a folder beside it")
    return reference


def of_other_content(references: Path, name: str, content: str) -> list[Path]:
    """References of drives of this name whose content is another."""
    found = references.glob(f"{glob.escape(name)}-????????/{REFERENCE_FILE}")
    own = reference_folder(references, name, content)
    return sorted(file.parent for file in found if file.parent != own)


def require_writable(references: Path) -> None:
    """Raises ConfigError where no reference can be written, before anything is replayed."""
    try:
        references.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=references):
            pass
    except OSError as error:
        raise ConfigError(f"{references}: references can't be written there: {reason(error)}") from None


def accept(outcome: Outcome, references: Path) -> Accepted:
    """Make a result the reference of its drive; the one before is gone once the new one is whole.

    Raises:
        RecordingError: it can't be written; the reference before it is still there.
    """
    folder = reference_folder(references, outcome.drive.name, outcome.content)
    new = _reference_of(outcome)
    old = _old(folder)
    if old and old == msgspec.structs.replace(new, result=old.result) and _holds(folder / old.result, old.digest):
        return Accepted(False, ())
    write_reference(folder, new, Path(outcome.folder))
    return Accepted(old is None, tuple(_changed(old, new) if old else changes({}, new.figures)))


def write_reference(folder: Path, reference: Reference, result: Path) -> None:
    """Put a reference with a copy of its result into its folder, in place of the one that is there.

    The copy gets a name of its own where the reference's is taken.

    Raises:
        RecordingError: it can't be written; the reference before it is still there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear_partial(folder)
        name = _free_name(folder, reference.result)
        _place(result, folder / name)
        told = msgspec.structs.replace(reference, result=name)
        _write(folder / REFERENCE_FILE, to_toml(msgspec.to_builtins(told)))
        for other in folder.iterdir():
            if other.is_dir() and other.name != name:
                shutil.rmtree(other)
    except OSError as error:
        raise RecordingError(f"{error.filename or folder}: {reason(error)}") from None


def to_toml(tables: Mapping[str, object]) -> str:
    """Plain values as TOML: strings and finite numbers, tables of them by name, and tables of such tables."""
    lines = [_HEAD]
    lines += [f"{_key(key)} = {_value(value)}" for key, value in tables.items() if not isinstance(value, dict)]
    for key, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{_key(key)}]", *(f"{_key(name)} = {_value(value)}" for name, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        told = ", ".join(f"{_key(name)} = {_value(inner)}" for name, inner in value.items())
        return f"{{ {told} }}" if told else "{}"
    # JSON's escapes are TOML's, but for those of characters beyond 16 bits, and for DEL, which TOML wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _reference_of(outcome: Outcome) -> Reference:
    return Reference(
        format=FORMAT,
        drive=Path(outcome.drive.path).name,
        content=outcome.content,
        result=f"{outcome.digest[:12]}-{outcome.key[:6]}",
        digest=outcome.digest,
        messages=outcome.messages,
        frames=outcome.frames,
        mode=outcome.mode,
        model=outcome.model,
        model_id=outcome.model_id,
        engine=outcome.engine,
        cpu=outcome.cpu,
        versions=outcome.versions,
        figures=outcome.figures,
    )


def _old(folder: Path) -> Reference | None:
    try:
        return read_reference(folder)
    except ConfigError:  # none, or one that only --accept can mend
        return None


def _holds(result: Path, digest: str) -> bool:
    """Whether a result is there, and whole."""
    try:
        return digest_of(open_recording(result)) == digest
    except RecordingError:
        return False


def _free_name(folder: Path, name: str) -> str:
    """This name, or one like it: what lies there is the reference until its file names another."""
    names = itertools.chain((name,), (f"{name}-{k}" for k in itertools.count(2)))
    return next(free for free in names if not (folder / free).exists())


def _clear_partial(folder: Path) -> None:
    """Remove what processes that are gone have left half written."""
    for path in folder.glob(".*-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _place(result: Path, to: Path) -> None:
    """Copy a result so that it is there as a whole or not at all."""
    partial = to.with_name(f".{to.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(result, partial, ignore=shutil.ignore_patterns(OUTCOME))
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(file: Path, text: str) -> None:
    with in_place_of(file) as partial, partial.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())


def _changed(old: Reference, new: Reference) -> list[str]:
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in ("model", "model_id", "engine", "cpu", "mode")]
    pairs += [
        (name, old.versions.get(name, "none"), new.versions.get(name, "none"))
        for name in sorted(old.versions.keys() | new.versions.keys())
    ]
    pairs += [("frames", old.frames, new.frames), ("messages", old.messages, new.messages)]
    pairs += [("digest", old.digest[:12], new.digest[:12])]
    told = [f"{name} {before} -> {after}" for name, before, after in pairs if before != after]
    return told + changes(old.figures, new.figures)
