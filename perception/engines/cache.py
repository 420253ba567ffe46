"""The plans of this machine: a folder of compiled graphs, each under the hash of all that it was made from and for.

    <root>/plans/<key>/plan             what the compiler wrote
    <root>/plans/<key>/manifest.json    what it is of, for which machine, and the sha256 of the plan
    <root>/plans/<key>.lock             held by the process that builds it
    <root>/plans/<key>.refused          why its plans may not serve: what was measured of one is beyond a limit
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
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TextIO

import msgspec

from perception.engines.entries import CacheError, Entries, Manifest, Refusal, sha256_of
from perception.engines.plan import Precision, Target
from perception.folders import cache_folder

__all__ = ["PLAN", "CacheError", "Manifest", "PlanCache", "PlanKey", "Refusal", "Trial", "Unwanted", "sha256_of"]

PLAN = "plan"
_TRIAL, _MARK = ".trial-", ".refused"


class Unwanted(Refusal):
    """A plan may be made, and may not serve: what was measured of it is beyond a limit."""


class Mark(msgspec.Struct, frozen=True):
    """Why a plan may not serve."""

    reason: str
    terms: str  # under which it was refused


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


class PlanCache:
    """A folder of plans.

    Args:
        root: where; None takes the user's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_folder()
        self._plans = Entries(self.root, "plans")

    def prepare(self) -> None:
        """Make the folder. Raises CacheError where it can't be made, or is open to other users."""
        self._plans.prepare()
        try:
            (self.root / "timing").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._plans.unusable(error) from None

    def entry(self, key: PlanKey) -> Path:
        """The folder of a key, there or not."""
        return self._plans.path(key.digest())

    def find(self, key: PlanKey) -> Path:
        """The plan of a key, checked to the last byte.

        Raises:
            Refusal: with the reason; Unwanted for one that may not serve. CacheError: others could have written it.
        """
        if mark := self.mark(key):
            raise Unwanted(mark.reason)
        return self._plans.find(key.digest(), key.fields(), PLAN)

    def manifest(self, key: PlanKey) -> Manifest | None:
        """What lies beside the plan, unchecked; None where there is none that can be read."""
        return self._plans.manifest(key.digest())

    def building(self, key: PlanKey) -> AbstractContextManager[Path]:
        """A folder to build in, while this process alone builds the key: see `Entries.making`.

        Raises:
            CacheError: the folder can't be written to.
        """
        self.prepare()
        return self._plans.making(key.digest())

    def adopt(self, key: PlanKey, partial: Path, took_s: float, what: str) -> None:
        """Make the plan that was built in `partial` the entry of a key, in place of any other. Raises OSError."""
        self._plans.adopt(key.digest(), partial, PLAN, key.fields(), took_s, what)

    def remove(self, key: PlanKey, manifest: Manifest | None = None) -> None:
        """Drop an entry: its plan is broken, whatever its hash says. Never raises.

        Args:
            manifest: of the plan that is broken; one that has taken its place stays. None: whatever is there.
        """
        self._plans.remove(key.digest(), manifest)

    def annotate(self, key: PlanKey, name: str, text: str) -> None:
        """Keep a file beside the plan, for people. Never raises: it decides nothing."""
        with contextlib.suppress(OSError):
            (self.entry(key) / name).write_text(text)

    def refuse(self, key: PlanKey, reason: str, terms: str) -> None:
        """Remove a plan, and have `find` give no other of its key until it is accepted.

        Args:
            terms: under which it is refused; others may lead to another answer.

        Raises:
            CacheError: the folder can't be written to.
        """
        try:
            with self._plans.locked(key.digest()):
                self._mark(key).write_bytes(msgspec.json.encode(Mark(reason, terms)))
                shutil.rmtree(self.entry(key), ignore_errors=True)
        except OSError as error:
            raise self._plans.unusable(error) from None

    def accept(self, key: PlanKey) -> None:
        """Forget that it was refused. Never raises: it stays refused then."""
        with contextlib.suppress(OSError):
            self._mark(key).unlink(missing_ok=True)

    def mark(self, key: PlanKey) -> Mark | None:
        """Why the plans of a key may not serve; None where they may."""
        try:
            return msgspec.json.decode(self._mark(key).read_bytes(), type=Mark)
        except OSError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Mark("it was refused; why can't be read any more", "")

    def _mark(self, key: PlanKey) -> Path:
        return Path(f"{self.entry(key)}{_MARK}")

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
        self._plans.clean(key.digest())

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
