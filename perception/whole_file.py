"""Files that are there whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


def beside(path: Path) -> Path:
    """Where this process writes what is to become `path`; processes of other machines have numbers of their own."""
    return path.with_name(f".{path.name}.{socket.gethostname().replace('/', '_')}.{os.getpid()}.partial")


@contextlib.contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of `path`; on any error what was there stays. Raises OSError."""
    partial = beside(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write(path: Path, data: bytes | memoryview) -> None:
    """The bytes whole, or what was there before. Raises OSError."""
    with in_place_of(path) as partial:
        partial.write_bytes(data)


def sync(path: Path) -> None:
    """Make a file's bytes, or the names in a folder, safe from a power failure. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Remove what processes that were killed left half-written; only where none can be writing."""
    for left in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):
            left.unlink()
