"""Results that have their name only when they are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from perception.drives.places import require_writable
from perception.errors import PerceptionError, RecordingError, reason

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much."""


def no_progress(what: str, done: int, total: int) -> None:
    """For callers that nobody watches."""


class Stopped(PerceptionError):
    """Ctrl-C, after what was done so far was put in order."""

    exit_code = 130


@contextmanager
def unfinished(out: Path, force: bool, kinds: frozenset[str]) -> Iterator[Path]:
    """A path beside `out` to write a file or a folder to, which becomes `out` at the end.

    After Ctrl-C what was written is kept under that path; after an error it is removed.

    Args:
        force: replace what is there under both names, a folder only where all its files are of `kinds`.
        kinds: suffixes of the files that such a folder holds.

    Raises:
        RecordingError: something is there already, or can't be written.
        Stopped: Ctrl-C.
    """
    out, part = require_place(out, force, kinds)
    try:
        _remove(part)
        out.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _rename(part, out)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; what is done is in {part}" if part.exists() else "stopped") from None
    except OSError as error:
        _remove(part)
        raise RecordingError(f"{error.filename or out}: {reason(error)}") from None
    except BaseException:
        _remove(part)
        raise


def require_place(out: Path, force: bool, kinds: frozenset[str]) -> tuple[Path, Path]:
    """To be asked before long work: where `unfinished` writes, the result and the path beside it.

    Raises:
        RecordingError: something is there already, or nothing can be written there.
    """
    if not (out := out if out.name else out.absolute()).name:
        raise RecordingError(f"{out}: give it a name of its own")
    part = out.with_name(f"{out.stem}.part{out.suffix}")
    for path in (out, part):
        _require_free(path, force, kinds)
    require_writable(out)
    return out, part


def _require_free(path: Path, force: bool, kinds: frozenset[str]) -> None:
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise RecordingError(f"{path}: it is there already: give another name, or --force to replace it")
    if path.is_dir() and (other := _other_than(path, kinds)):
        raise RecordingError(f"{path}: --force does not replace a folder with other things in it, like {other.name}")


def _other_than(folder: Path, kinds: frozenset[str]) -> Path | None:
    """A file in it that is of another kind; None where there is none."""
    files = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return next((path for path in files if path.is_symlink() or path.suffix not in kinds), None)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _rename(part: Path, out: Path) -> None:
    """Only a file can take the place of another in one step; a folder that is there is moved away first."""
    if not out.is_dir():
        os.replace(part, out)
        return
    old = out.with_name(f"{out.name}.replaced")
    _remove(old)
    out.rename(old)
    part.rename(out)
    _remove(old)
