"""Rendered frames and clips as files to train and test on."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered.clip_folder import FOLDERS, ClipFolder, put
from perception.drives.rendered.drive import RenderedDrive
from perception.drives.rendered.truth import RenderedFrame
from perception.errors import ConfigError

_LONGEST_S = 90.0
_MOST_FRAMES = round(_LONGEST_S * 10)  # of a seed, ten a second
_JPEG_QUALITY = 95  # a clip's pictures; lossless ones would be five times as large

log = logging.getLogger(__name__)


def write_training_frames(
    directory: str | Path, count: int, seeds: Sequence[int], width: int, height: int
) -> Generator[int, None, None]:
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
    _make_folders(root)
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
) -> Generator[int, None, None]:
    """Write a clip of each seed, from anywhere in its drive; yields after each frame how many there are.

    Makes images/CLIP/000000.jpg, labels/CLIP/000000.png and instances/CLIP/000000.png as `write_training_frames` does,
    CLIP being the seed, with an actor's id the same in all frames of its clip; and clips.json, with the rate and, by
    clip and frame, the actors within the picture of which no pixel is visible. That is written after each clip, and
    keeps the clips that others have put there. A clip that is there as asked is kept, and one that can't be finished
    is removed, so that what was cut short goes on when it is repeated.
    Raises ConfigError when a clip would have no frame or be too long, is there in part or of another length, other
    clips there have another rate or size, or the directory can't be written.
    """
    length = round(seconds * fps)
    if not seeds or length < 1 or seconds > _LONGEST_S:
        raise ConfigError(f"{len(seeds)} clips of {seconds:g} s: at least one, of one frame to {_LONGEST_S:g} s")
    folder = ClipFolder(Path(directory), fps, (width, height), length)
    kept = folder.finished([_clip_name(seed) for seed in seeds])
    if kept:
        log.info("%s: there already, and kept: %s", directory, ", ".join(kept))
    done = 0
    for seed in seeds:
        if _clip_name(seed) in kept:
            done += length
            yield done
            continue
        start = int(np.random.default_rng([seed, 12]).integers(round((_LONGEST_S - seconds) * fps) + 1))
        drive = RenderedDrive(seed, width, height, fps=fps, start=start, frames=length)
        for _ in _clip(folder, _clip_name(seed), drive):
            done += 1
            yield done


def _clip(folder: ClipFolder, clip: str, drive: RenderedDrive) -> Generator[None, None, None]:
    """Write a clip and list it; yields after each frame. Raises ConfigError where it can't be written."""
    hidden: dict[str, list[int]] = {}
    with folder.making(clip):
        for place, frame in enumerate(drive):
            assert frame.truth is not None
            _write(folder.root, f"{clip}/{place:06d}.png", frame, ".jpg")
            unseen = [actor.actor_id for actor in frame.truth.actors if not actor.visible_px]
            if unseen:
                hidden[f"{place:06d}"] = unseen
            yield
        folder.add(clip, {"hidden": hidden})


def _clip_name(seed: int) -> str:
    return f"{seed:06d}"


def _make_folders(root: Path) -> None:
    try:
        for name in FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
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
    put(path, cv2.imencode(path.suffix, picture, options)[1].tobytes())
