"""The plans of this machine: a folder of compiled graphs, each under the hash of all that it was made from and for.

    <root>/plans/<key>/plan             what the compiler wrote
    <root>/plans/<key>/manifest.json    what it is of, for which machine, and the sha256 of the plan
    <root>/plans/<key>.lock             held by the process that builds it
    <root>/plans/<key>.trial-*          held by a process that has loaded it and has not yet served for a while with it
    <root>/timing/<target>.cache        the compiler's measurements of this machine

A plan is code that runs: the folder is this user's alone, and what does not fit its manifest to the byte is never
loaded. An entry appears by one rename, so that a build which is killed leaves nothing that could be taken for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

import msgspec

from perception.engines.plan import Precision, Target
from perception.errors import ModelError, reason
from perception.folders import cache_folder, check_private

PLAN, MANIFEST = "plan", "manifest.json"
_PARTIAL, _TRIAL = ".partial-", ".trial-"
_LONGEST = 1 << 20  # bytes of a manifest


class CacheError(ModelError):
    """The cache folder can't be used: read only, full, or open to other users. The node serves without it."""


class Refusal(Exception):
    """Why there is no plan of a key that may be loaded; "" where there simply is none yet."""


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that decides what a plan is."""

    graph: str  # sha256 of the graph's bytes, hexadecimal
    target: Target
    precision: Precision
    profile: dict[str, list[int]] = field(default_factory=dict)  # sizes of the inputs, by name
    flags: tuple[str, ...] = ()  # of the builder

    def fields(self) -> dict[str, str]:
        """By name, as text: what a manifest says, and what a refusal compares."""
        told = {name: str(value) for name, value in asdict(self.target).items()}
        profile = json.dumps(self.profile, sort_keys=True)
        return {"graph": self.graph, **told, "precision": self.precision, "profile": profile} | {
            "flags": " ".join(self.flags)
        }

    def digest(self) -> str:
        """The name of the entry: 32 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.fields(), sort_keys=True).encode()).hexdigest()[:32]


class Manifest(msgspec.Struct, frozen=True):
    """What is said of a plan beside it."""

    key: dict[str, str]
    sha256: str  # of the plan, hexadecimal
    size: int  # of the plan [bytes]
    built_at: str  # UTC, ISO 8601
    took_s: float
    what: str = ""  # for people: "road-float frame fp16"


class PlanCache:
    """A folder of plans.

    Args:
        root: where; None takes the user's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_folder()

    def prepare(self) -> None:
        """Make the folder. Raises CacheError where it can't be made, or is open to other users."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_private(self.root)
            for name in ("plans", "timing"):
                (self.root / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self.unusable(error) from None

    def unusable(self, error: OSError) -> CacheError:
        """One line of what the system says, with the fix."""
        if isinstance(error, PermissionError) and error.errno is None:
            return CacheError(f"engine cache: {error}")
        place = error.filename or self.root
        return CacheError(f"engine cache: {place}: {reason(error)}; free it, or name another folder in model.cache")

    def entry(self, key: PlanKey) -> Path:
        """The folder of a key, there or not."""
        return self.root / "plans" / key.digest()

    def find(self, key: PlanKey) -> Path:
        """The plan of a key, checked to the last byte. Raises Refusal with the reason."""
        folder = self.entry(key)
        manifest = self.manifest(key)
        if manifest is None:
            raise Refusal("its manifest is missing or can't be read" if folder.exists() else "")
        for name, wanted in key.fields().items():
            if manifest.key.get(name) != wanted:
                raise Refusal(f"made for another {name}: {manifest.key.get(name)!r}, this is {wanted!r}")
        plan = folder / PLAN
        try:
            size = plan.stat().st_size
            if size != manifest.size:
                raise Refusal(f"truncated: {size} bytes of {manifest.size}")
            if (found := sha256_of(plan)) != manifest.sha256:
                raise Refusal(f"tampered with or damaged: sha256 {found[:16]}..., not {manifest.sha256[:16]}...")
        except OSError as error:
            raise Refusal(reason(error)) from None
        return plan

    def manifest(self, key: PlanKey) -> Manifest | None:
        """What lies beside the plan, unchecked; None where there is none that can be read."""
        try:
            with (self.entry(key) / MANIFEST).open("rb") as file:
                return msgspec.json.decode(file.read(_LONGEST), type=Manifest)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    @contextlib.contextmanager
    def building(self, key: PlanKey) -> Iterator[Path]:
        """A folder to build in, while this process alone builds the key: waits for one that does.

        What killed builds of the key have left is removed first, and what this one leaves in any case.

        Raises:
            CacheError: the folder can't be written to.
        """
        self.prepare()
        try:
            with self._locked(key):
                self._remove_partials(key)
                partial = Path(f"{self.entry(key)}{_PARTIAL}{os.getpid()}")
                partial.mkdir(mode=0o700)
                try:
                    yield partial
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
        except OSError as error:
            raise self.unusable(error) from None

    def adopt(self, key: PlanKey, partial: Path, manifest: Manifest) -> None:
        """Make what was built in `partial` the entry of a key, in place of any other. Raises OSError."""
        (partial / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        for name in (PLAN, MANIFEST):
            _sync(partial / name)
        _sync(partial)
        folder = self.entry(key)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        _sync(folder.parent)

    def remove(self, key: PlanKey, manifest: Manifest | None = None) -> None:
        """Drop an entry: its plan is broken, whatever its hash says. Never raises.

        Args:
            manifest: of the plan that is broken; one that has taken its place stays. None: whatever is there.
        """
        with contextlib.suppress(OSError), self._locked(key, waits=False):
            if manifest is None or self.manifest(key) == manifest:
                shutil.rmtree(self.entry(key), ignore_errors=True)

    def annotate(self, key: PlanKey, name: str, text: str) -> None:
        """Keep a file beside the plan, for people. Never raises: it decides nothing."""
        with contextlib.suppress(OSError):
            (self.entry(key) / name).write_text(text)

    def deaths(self, key: PlanKey) -> int:
        """How many processes have died with a plan on trial."""
        return sum(1 for path in self._trials(key) if _is_nobodys(path))

    def forgive(self, key: PlanKey) -> None:
        """Forget those deaths. Never raises."""
        for path in self._trials(key):
            if _is_nobodys(path):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def begin_trial(self, key: PlanKey) -> Trial:
        """Note that this process loads a plan, until the trial ends: if it dies first, the next one can know.

        Raises OSError.
        """
        path = Path(f"{self.entry(key)}{_TRIAL}{os.getpid()}-{time.monotonic_ns()}")
        file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_EXCL, 0o600), "r+")  # noqa: SIM115
        fcntl.flock(file, fcntl.LOCK_EX)
        return Trial(path, file)

    def _trials(self, key: PlanKey) -> list[Path]:
        return [*self.root.glob(f"plans/{key.digest()}{_TRIAL}*")]

    def clean(self, key: PlanKey) -> None:
        """Remove what a killed build of the key has left, unless another process builds it now. Never raises."""
        with contextlib.suppress(OSError), self._locked(key, waits=False):
            self._remove_partials(key)

    def _remove_partials(self, key: PlanKey) -> None:
        for left in self.root.glob(f"plans/{key.digest()}{_PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, key: PlanKey, waits: bool = True) -> Iterator[None]:
        """The kernel lets the lock go when the process ends, however it ends. Raises OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(f"{self.entry(key)}.lock", flags, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            yield

    def take_timing(self, target: Target, copy: Path) -> None:
        """Copy the compiler's measurements of this machine, where there are any. Raises OSError."""
        kept = self._timing(target)
        if kept.exists():
            shutil.copyfile(kept, copy)

    def keep_timing(self, target: Target, copy: Path) -> None:
        """Keep a renewed copy, which is moved away. Raises OSError."""
        if copy.exists():
            copy.replace(self._timing(target))

    def _timing(self, target: Target) -> Path:
        text = json.dumps(asdict(target), sort_keys=True)
        return self.root / "timing" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.cache"


class Trial:
    """A locked file; the lock goes with the process."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file

    def end(self) -> None:
        """The process has lived. Twice is fine."""
        self._path.unlink(missing_ok=True)
        self._file.close()


def _is_nobodys(path: Path) -> bool:
    """Whether the process that made this file is gone."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sha256_of(path: Path) -> str:
    """Hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
