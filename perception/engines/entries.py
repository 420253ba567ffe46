"""Entries of a cache, each a file and its manifest in a folder: there whole or not at all, and nobody else's to change.

<root>/<kind>/<name>/               the file, and manifest.json: what it was made from and for, and its sha256
<root>/<kind>/<name>.lock           held by the process that makes it
<root>/<kind>/<name>.partial-PID    what that process has made so far
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from perception.errors import ModelError, reason
from perception.folders import check_private
from perception.lock_file import hold
from perception.whole_file import sync

MANIFEST = "manifest.json"
PARTIAL = ".partial-"
WRITABLE = 0o022  # by others
_LONGEST = 1 << 20  # bytes of a manifest


class CacheError(ModelError):
    """The cache folder can't be used: read only, full, or open to other users. The node serves without it."""


class Refusal(Exception):
    """Why there is no entry that may be used; "" where there simply is none yet."""


class Manifest(msgspec.Struct, frozen=True):
    """What is said of a file beside it."""

    key: dict[str, str]  # all that decides what it is
    sha256: str  # of the file, hexadecimal
    size: int  # of the file [bytes]
    built_at: str  # UTC, ISO 8601
    took_s: float
    what: str = ""  # for people: "road-float frame fp16"


class Entries:
    """The entries of one kind.

    Args:
        root: the cache's folder.
        kind: name of the folder in it.
    """

    def __init__(self, root: Path, kind: str) -> None:
        self.root, self.folder = root, root / kind

    def path(self, name: str) -> Path:
        """The folder of an entry, there or not."""
        return self.folder / name

    def prepare(self) -> None:
        """Make the folder. Raises CacheError where it can't be made, or is open to other users."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_private(self.root)
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if self.folder.stat().st_uid == os.geteuid():
                self.folder.chmod(0o700)  # the version before made it by the umask; nobody else gets past the root
            check_private(self.folder)
        except OSError as error:
            raise self.unusable(error) from None

    def unusable(self, error: OSError) -> CacheError:
        """One line of what the system says, with the fix."""
        if isinstance(error, PermissionError) and error.errno is None:
            return CacheError(f"engine cache: {error}")
        place = error.filename or self.root
        return CacheError(f"engine cache: {place}: {reason(error)}; free it, or name another folder in model.cache")

    def find(self, name: str, key: Mapping[str, str], file: str) -> Path:
        """An entry's file, checked to the last byte.

        Raises:
            Refusal: with the reason. CacheError: others could have written what is there.
        """
        self._check_owner(name, file)
        path, manifest = self.path(name) / file, self.manifest(name)
        if manifest is None:
            raise Refusal("its manifest is missing or can't be read" if path.parent.exists() else "")
        for field, wanted in key.items():
            if manifest.key.get(field) != wanted:
                raise Refusal(f"made for another {field}: {manifest.key.get(field)!r}, this is {wanted!r}")
        try:
            size = path.stat().st_size
            if size != manifest.size:
                raise Refusal(f"truncated: {size} bytes of {manifest.size}")
            if (found := sha256_of(path)) != manifest.sha256:
                raise Refusal(f"tampered with or damaged: sha256 {found[:16]}..., not {manifest.sha256[:16]}...")
        except OSError as error:
            raise Refusal(reason(error)) from None
        return path

    def _check_owner(self, name: str, file: str) -> None:
        """Whoever can write a plan can run code in the node. Raises CacheError.

        Others may read them: a cache that was prepared for all of a machine's users is root's.
        """
        folder = self.path(name)
        try:
            if not folder.exists():  # whoever makes it finds what is wrong with the folders around it
                return
            _check_safe(self.root)
            is_private = not self.root.stat().st_mode & 0o077  # then nobody reaches what `prepare` has yet to repair
            _check_safe(self.folder, 0 if is_private else WRITABLE)
            for place in (folder, folder / MANIFEST, folder / file):
                _check_safe(place)
        except FileNotFoundError:  # removed meanwhile, or not whole: that is said by who looks for it
            pass
        except OSError as error:
            raise self.unusable(error) from None

    def manifest(self, name: str) -> Manifest | None:
        """What lies beside the file, unchecked; None where there is none that can be read."""
        try:
            with (self.path(name) / MANIFEST).open("rb") as file:
                return msgspec.json.decode(file.read(_LONGEST), type=Manifest)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """A folder to work in, while this process alone makes the entry: waits for one that does.

        What killed processes have left of it is removed first, and what this one leaves in any case.

        Raises:
            CacheError: the folder can't be written to.
        """
        self.prepare()
        try:
            with self.locked(name):
                self._remove_partials(name)
                partial = Path(f"{self.path(name)}{PARTIAL}{os.getpid()}")
                partial.mkdir(mode=0o700)
                try:
                    yield partial
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise self.unusable(error) from None

    def adopt(
        self, name: str, partial: Path, file: str, key: Mapping[str, str], took_s: float = 0.0, what: str = ""
    ) -> None:
        """Make the file that was made in `partial` the entry, in place of any other. Raises OSError."""
        path = partial / file
        now = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest({**key}, sha256_of(path), path.stat().st_size, now, round(took_s, 3), what)
        (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        for part in (path, partial / MANIFEST):
            part.chmod(0o600)  # whatever the umask: `find` takes nothing that others could write
            sync(part)
        sync(partial)
        folder = self.path(name)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        sync(folder.parent)

    def remove(self, name: str, manifest: Manifest | None = None) -> None:
        """Drop an entry, whatever its hash says. Never raises.

        Args:
            manifest: of the file that is broken; one that has taken its place stays. None: whatever is there.
        """
        with contextlib.suppress(OSError), self.locked(name, waits=False):
            if manifest is None or self.manifest(name) == manifest:
                shutil.rmtree(self.path(name), ignore_errors=True)

    def clean(self, name: str) -> None:
        """Remove what killed processes have left of an entry, unless another makes it now. Never raises."""
        with contextlib.suppress(OSError), self.locked(name, waits=False):
            self._remove_partials(name)

    def clean_all(self) -> None:
        """The same of every entry, also of those that nobody will ask for again. Never raises."""
        for left in self.folder.glob(f"*{PARTIAL}*"):
            self.clean(left.name.rpartition(PARTIAL)[0])

    def _remove_partials(self, name: str) -> None:
        for left in self.folder.glob(f"{glob.escape(name)}{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)

    def locked(self, name: str, waits: bool = True) -> AbstractContextManager[object]:
        """Keep other processes from an entry. Raises OSError."""
        return hold(Path(f"{self.path(name)}.lock"), waits)


def sha256_of(path: Path) -> str:
    """Hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_safe(path: Path, forbidden: int = WRITABLE) -> None:
    """Raises OSError for what is not there, or may be changed by others than this user and root."""
    found = path.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & forbidden:
        raise PermissionError(f"{path} can be changed by other users: remove it, or chmod go-w and chown it")
