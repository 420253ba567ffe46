"""Data sets of clips: pictures in order, with things whose ids are the same in all frames of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from perception.errors import ConfigError
from perception.evaluation.bdd_mots import MotsFolder
from perception.evaluation.classes import ScoredClasses
from perception.evaluation.davis import DavisFolder, davis_pictures
from perception.evaluation.flicker import follows
from perception.evaluation.layout import ANNOTATIONS, LABELS, require_layout
from perception.evaluation.truth import LabelFolder, Truth, TruthSet, pictures_of

CLIPS = "clips.json"
MOTS_FPS, DAVIS_FPS, USUAL_FPS = 5.0, 24.0, 30.0


class ClipFacts(msgspec.Struct, frozen=True):
    """What `perception render --clips` says of one clip."""

    hidden: dict[
        str, tuple[int, ...]
    ] = {}  # frame -> things in the picture without a pixel; frames without any left out


class ClipsFile(msgspec.Struct, frozen=True):
    """`clips.json` beside images/ and labels/."""

    fps: Annotated[float, msgspec.Meta(ge=0.1, le=1000)]
    clips: dict[str, ClipFacts] = {}


@dataclass(frozen=True)
class ClipSet:
    """The clips of a folder."""

    truth: TruthSet
    pictures: Mapping[str, Path]
    clips: Mapping[str, tuple[str, ...]]  # clip -> its frames' names, in order
    fps: float  # [frames / s]
    has_ids: bool  # False: class maps only
    has_classes: bool  # False: objects of no class, which a mask on the first frame begins
    facts: ClipsFile | None  # None where it is not known what is hidden

    def read(self, clip: str, name: str) -> Truth:
        """The truth of one frame, with what is hidden in it where that is known. Raises ConfigError as the set does."""
        folder, _, frame = name.rpartition("/")  # which may hold several clips, where frames are missing
        known = self.facts.clips.get(folder or clip) if self.facts else None
        truth = self.truth.read(name)
        return truth if known is None else replace(truth, hidden=frozenset(known.hidden.get(frame, ())))


def open_clips(data: Path, classes: ScoredClasses, fps: float | None) -> ClipSet:
    """The clips of a folder, whatever its form: rendered or otherwise labelled, BDD100K MOTS, or DAVIS.

    `fps` None takes what the folder says, or what is usual for its form.

    Raises:
        ConfigError: it is none of them, a file is not right, or a picture and its truth do not belong together.
    """
    facts = _facts(data / CLIPS)
    if (data / ANNOTATIONS).is_dir():
        davis = DavisFolder(data)
        return _clip_set(davis, davis_pictures(data, davis), fps or DAVIS_FPS, True, None)
    require_layout(data, [LABELS, ANNOTATIONS], "a folder of clips")
    if any((data / LABELS).glob("*.json")):
        mots = MotsFolder(data, classes)
        return _clip_set(mots, pictures_of(data, mots), fps or MOTS_FPS, True, None)
    folder = LabelFolder(data, classes)
    rate = fps or (facts.fps if facts else USUAL_FPS)
    return _clip_set(folder, pictures_of(data, folder), rate, bool(folder.things), facts)


def clips_of(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Runs of consecutive frames among names in natural order, each called by its folder, or by its first frame.

    A folder with gaps holds several clips: the first has the folder's name.
    """
    clips: dict[str, list[str]] = {}
    current: list[str] = []
    for name, is_next in zip(names, follows(names), strict=True):
        if not is_next:
            folder = name.rpartition("/")[0]
            current = clips.setdefault(name if folder in clips or not folder else folder, [])
        current.append(name)
    return {clip: tuple(frames) for clip, frames in clips.items()}


def _clip_set(
    truth: TruthSet, pictures: Mapping[str, Path], fps: float, has_ids: bool, facts: ClipsFile | None
) -> ClipSet:
    has_classes = not isinstance(truth, DavisFolder)
    return ClipSet(truth, pictures, clips_of(truth.names), fps, has_ids, has_classes, facts)


def _facts(path: Path) -> ClipsFile | None:
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=ClipsFile)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}; render the clips again") from None
