"""Rendered frames and clips as files to train and test on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered.drive import RenderedDrive
from perception.drives.rendered.truth import RenderedFrame
from perception.errors import ConfigError, reason
from perception.whole_file import in_place_of

_LONGEST_S = 90.0
_MOST_FRAMES = round(_LONGEST_S * 10)  # of a seed, ten a second
_JPEG_QUALITY = 95  # a clip's pictures; lossless ones would be five times as large
_FOLDERS = ("images", "labels", "instances")


class _Clips(msgspec.Struct):
    """clips.json."""

    fps: float
    clips: dict[str, Any] = {}  # by name


def write_training_frames(
    directory: str | Path, count: int, seeds: Sequence[int], width: int, height: int
) -> Iterator[int]:
    """Write `count` frames, spread over the seeds and far apart in time; yields after each how many there are.

    Makes images/000000.png (RGB), labels/000000.png (uint8 class index) and instances/000000.png (uint16 actor id).
    Raises ConfigError when there is no seed, or too few for so many frames, or the directory can't be written.
    """
    if not seeds:
        raise ConfigError("no seeds: training frames need at least one; name a range such as 1000-1199")
    if count > _MOST_FRAMES * len(seeds):
        raise ConfigError(
            f"{count} frames of {len(seeds)} seeds: at most {_MOST_FRAMES} of each; "
            f"take {-(-count // _MOST_FRAMES)} seeds or more"
        )
    root = Path(directory)
    _make_folders(root, "")
    done = 0
    for place, seed in enumerate(seeds):
        share = count * (place + 1) // len(seeds) - count * place // len(seeds)
        rng = np.random.default_rng([seed, 11])
        steps = np.sort(rng.choice(_MOST_FRAMES, share, replace=False)) if share else []
        for frame in RenderedDrive(seed, width, height, fps=10.0).at(map(int, steps)):
            _write(root, f"{done:06d}.png", frame)
            done += 1
            yield done


def write_clips(
    directory: str | Path, seconds: float, fps: float, seeds: Sequence[int], width: int, height: int
) -> Iterator[int]:
    """Write a clip of each seed, from anywhere in its drive; yields after each frame how many there are.

    Makes images/CLIP/000000.jpg, labels/CLIP/000000.png and instances/CLIP/000000.png as `write_training_frames` does,
    CLIP being the seed, with an actor's id the same in all frames of its clip; and clips.json, with the rate and, by
    clip and frame, the actors within the picture of which no pixel is visible. That is written after each clip, and
    keeps the clips that were there.
    Raises ConfigError when a clip would have no frame or be too long, has files there already or another rate than
    those that are there, or the directory can't be written.
    """
    length = round(seconds * fps)
    if not seeds or length < 1 or seconds > _LONGEST_S:
        raise ConfigError(f"{len(seeds)} clips of {seconds:g} s: at least one, of one frame to {_LONGEST_S:g} s")
    root = Path(directory)
    facts = _clips_there(root, [_clip_name(seed) for seed in seeds], fps)
    done = 0
    for seed in seeds:
        clip, hidden = _clip_name(seed), dict[str, list[int]]()
        _make_folders(root, clip)
        start = int(np.random.default_rng([seed, 12]).integers(round((_LONGEST_S - seconds) * fps) + 1))
        drive = RenderedDrive(seed, width, height, fps=fps, start=start, frames=length)
        for place, frame in enumerate(drive):
            assert frame.truth is not None
            _write(root, f"{clip}/{place:06d}.png", frame, ".jpg")
            unseen = [actor.actor_id for actor in frame.truth.actors if not actor.visible_px]
            if unseen:
                hidden[f"{place:06d}"] = unseen
            done += 1
            yield done
        facts.clips[clip] = {"hidden": hidden}
        _put(root / "clips.json", msgspec.json.encode(facts))


def _clip_name(seed: int) -> str:
    return f"{seed:06d}"


def _clips_there(root: Path, new: Sequence[str], fps: float) -> _Clips:
    """What is known of the clips in the folder. Raises ConfigError where these new ones can't be put beside them."""
    path = root / "clips.json"
    try:
        there = msgspec.json.decode(path.read_bytes(), type=_Clips) if path.exists() else _Clips(fps)
    except (OSError, msgspec.MsgspecError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: {why}; render into another folder") from None
    if there.fps != fps:
        raise ConfigError(f"{path}: the clips there have {there.fps:g} fps, not {fps:g}; render into another folder")
    for folder in (root / name / clip for clip in new for name in _FOLDERS):
        if folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder} has files already; remove that clip, or name another --first-seed or folder")
    return there


def _make_folders(root: Path, clip: str) -> None:
    try:
        for name in _FOLDERS:
            (root / name / clip).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root}: can't be written ({error.strerror}); name a directory that can") from None


def _write(root: Path, name: str, frame: RenderedFrame, suffix: str = ".png") -> None:
    assert frame.truth is not None
    image = (root / "images" / name).with_suffix(suffix)
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else []
    _put_picture(image, cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), options)
    _put_picture(root / "labels" / name, frame.truth.labels)
    _put_picture(root / "instances" / name, frame.truth.instances)


def _put_picture(path: Path, picture: NDArray[Any], options: Sequence[int] = ()) -> None:
    _put(path, cv2.imencode(path.suffix, picture, options)[1].tobytes())


def _put(path: Path, data: bytes) -> None:
    """Whole or not at all. Raises ConfigError where it can't be written."""
    try:
        with in_place_of(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path}: can't be written ({reason(error)}); make room, or name another directory") from None
