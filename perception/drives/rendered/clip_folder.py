"""A folder of rendered clips: several renders may add to it, also at once, and one that was cut short goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from perception.errors import ConfigError, reason
from perception.images import image_size
from perception.lock_file import hold
from perception.whole_file import write

FOLDERS = ("images", "labels", "instances")

_LIST = "clips.json"
_HEADER_BYTES = 64  # of a PNG; its size stands in the first 24


class _Clips(msgspec.Struct):
    """clips.json."""

    fps: float
    clips: dict[str, Any] = {}  # by name


@dataclass(frozen=True)
class ClipFolder:
    """Where clips of one rate, size and length go. A clip is finished once clips.json lists it."""

    root: Path
    fps: float
    size: tuple[int, int]  # width, height [px]
    length: int  # of each new clip [frames]

    def finished(self, wanted: Sequence[str]) -> list[str]:
        """Those of these clips that are there as they would be rendered; what a killed render left of them goes.

        Raises ConfigError when clips of another rate or size are there, some of these are unfinished or of another
        length, or the folder can't be read.
        """
        known = self._known().clips
        try:
            self._remove_killed(wanted, known)
            self._check_size(self._clips_in("labels"))
            there = [clip for clip in wanted if any((self.root / name / clip).exists() for name in FOLDERS)]
            whole = [clip for clip in there if clip in known and self._is_whole(clip)]
        except OSError as error:
            raise ConfigError(f"{error.filename}: {reason(error)}; render into another folder") from None
        if len(whole) < len(there):
            others = ", ".join(clip for clip in there if clip not in whole)
            raise ConfigError(
                f"{self.root}: not finished, or not of {self.length} frames: {others}; remove them from images/, "
                "labels/ and instances/, or name another --first-seed or folder"
            )
        return whole

    @contextlib.contextmanager
    def making(self, clip: str) -> Iterator[None]:
        """Make a clip's folders; whatever is raised within, Ctrl-C too, they go again, so that a repeat finds room.

        Raises ConfigError where one is there already (another render's, which is left alone) or can't be made.
        """
        made: list[Path] = []
        with self._marked(clip):
            try:
                for folder in (self.root / name / clip for name in FOLDERS):
                    _make(folder)
                    made.append(folder)
                yield
            except BaseException:
                for folder in made:
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    @contextlib.contextmanager
    def _marked(self, clip: str) -> Iterator[None]:
        """Hold the clip's mark, which a kill leaves behind with nobody who holds it.

        Raises ConfigError where another render holds it, or it can't be made.
        """
        mark = self._mark(clip)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._alone():
                held = hold(mark)
        except BlockingIOError:
            raise ConfigError(f"{self.root}: another render makes clip {clip}") from None
        except OSError as error:
            raise ConfigError(f"{mark}: can't be written ({reason(error)}); name a directory that can") from None
        with held:
            try:
                yield
            finally:
                mark.unlink(missing_ok=True)

    def _remove_killed(self, wanted: Sequence[str], known: Container[str]) -> None:
        """Remove what renders that were killed have left of these clips, those that they had listed excepted.

        Raises OSError.
        """
        marked = [clip for clip in wanted if self._mark(clip).exists()]
        if not marked:
            return
        with self._alone():
            for clip in marked:
                with contextlib.suppress(BlockingIOError), hold(self._mark(clip)):
                    for name in FOLDERS if clip not in known else ():
                        shutil.rmtree(self.root / name / clip, ignore_errors=True)
                    self._mark(clip).unlink()

    def _mark(self, clip: str) -> Path:
        return self.root / f".{clip}.making"

    def _alone(self) -> AbstractContextManager[object]:
        """Keep other renders from beginning or listing a clip. Raises OSError."""
        return hold(self.root / f".{_LIST}.lock", waits=True, mode=0o666)

    def add(self, clip: str, facts: Any) -> None:
        """List a clip, beside whatever others have listed until now.

        Raises ConfigError where those have another rate or size by now, or clips.json can't be read or written.
        """
        try:
            with self._alone():
                known = self._known()
                self._check_size(known.clips)
                known.clips[clip] = facts
                put(self.root / _LIST, msgspec.json.encode(known))
        except OSError as error:
            raise ConfigError(f"{self.root / _LIST}: can't be written ({reason(error)}); make room there") from None

    def _known(self) -> _Clips:
        """What clips.json says. Raises ConfigError where it can't be read or is of another rate."""
        path = self.root / _LIST
        try:
            known = msgspec.json.decode(path.read_bytes(), type=_Clips) if path.exists() else _Clips(self.fps)
        except (OSError, msgspec.MsgspecError) as error:
            why = reason(error) if isinstance(error, OSError) else error
            raise ConfigError(f"{path}: {why}; render into another folder") from None
        if known.fps != self.fps:
            raise ConfigError(
                f"{path}: the clips there have {known.fps:g} fps, not {self.fps:g}; render into another folder"
            )
        return known

    def _check_size(self, clips: Iterable[str]) -> None:
        """Raises ConfigError where one has pictures of another size, OSError where it can't be read."""
        for clip in clips:
            size = self._size_of(clip)
            if size not in (None, self.size):
                raise ConfigError(
                    f"{self.root}: clip {clip} has pictures of {size[0]}x{size[1]}, not "
                    f"{self.size[0]}x{self.size[1]}; render into another folder"
                )

    def _size_of(self, clip: str) -> tuple[int, int] | None:
        """None where it has no picture."""
        names = self._frames("labels", clip)
        if not names:
            return None
        with (self.root / "labels" / clip / names[0]).open("rb") as file:
            return image_size(file.read(_HEADER_BYTES))

    def _is_whole(self, clip: str) -> bool:
        return all(len(self._frames(name, clip)) == self.length for name in FOLDERS)

    def _frames(self, name: str, clip: str) -> list[str]:
        """Hidden ones are what a killed process left, or one at work has not yet written."""
        folder = self.root / name / clip
        return [found for found in os.listdir(folder) if found[0] != "."] if folder.is_dir() else []

    def _clips_in(self, name: str) -> list[str]:
        folder = self.root / name
        return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def put(path: Path, data: bytes) -> None:
    """Whole or not at all. Raises ConfigError where it can't be written."""
    try:
        write(path, data)
    except OSError as error:
        raise ConfigError(f"{path}: can't be written ({reason(error)}); make room, or name another directory") from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"{folder} is there by now: another render makes that clip") from None
    except OSError as error:
        raise ConfigError(f"{folder}: can't be written ({reason(error)}); name a directory that can") from None
