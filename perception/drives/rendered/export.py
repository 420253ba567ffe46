"""Rendered frames and clips as files to train and test on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from perception.drives.rendered.drive import RenderedDrive
from perception.drives.rendered.truth import RenderedFrame
from perception.errors import ConfigError

_LONGEST_S = 90.0
_JPEG_QUALITY = 95  # a clip's pictures; lossless ones would be five times as large


def write_training_frames(
    directory: str | Path, count: int, seeds: Sequence[int], width: int, height: int
) -> Iterator[int]:
    """Write `count` frames, spread over the seeds and far apart in time; yields after each how many there are.

    Makes images/000000.png (RGB), labels/000000.png (uint8 class index) and instances/000000.png (uint16 actor id).
    Raises ConfigError when there is no seed or the directory can't be written.
    """
    if not seeds:
        raise ConfigError("no seeds: training frames need at least one; name a range such as 1000-1199")
    root = Path(directory)
    _make_folders(root, "")
    done = 0
    for place, seed in enumerate(seeds):
        share = count * (place + 1) // len(seeds) - count * place // len(seeds)
        rng = np.random.default_rng([seed, 11])
        steps = np.sort(rng.choice(round(_LONGEST_S * 10), share, replace=False)) if share else []
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
    clip and frame, the actors within the picture of which no pixel is visible.
    Raises ConfigError when a clip would have no frame or be too long, or the directory can't be written.
    """
    length = round(seconds * fps)
    if not seeds or length < 1 or seconds > _LONGEST_S:
        raise ConfigError(f"{len(seeds)} clips of {seconds:g} s: at least one, of one frame to {_LONGEST_S:g} s")
    root = Path(directory)
    facts: dict[str, Any] = {}
    done = 0
    for seed in seeds:
        clip = f"{seed:06d}"
        _make_folders(root, clip)
        start = int(np.random.default_rng([seed, 12]).integers(round((_LONGEST_S - seconds) * fps) + 1))
        hidden: dict[str, list[int]] = {}
        drive = RenderedDrive(seed, width, height, fps=fps, start=start, frames=length)
        for place, frame in enumerate(drive):
            assert frame.truth is not None
            _write(root, f"{clip}/{place:06d}.png", frame, ".jpg")
            unseen = [actor.actor_id for actor in frame.truth.actors if not actor.visible_px]
            if unseen:
                hidden[f"{place:06d}"] = unseen
            done += 1
            yield done
        facts[clip] = {"hidden": hidden}
    (root / "clips.json").write_bytes(msgspec.json.encode({"fps": fps, "clips": facts}))


def _make_folders(root: Path, clip: str) -> None:
    try:
        for name in ("images", "labels", "instances"):
            (root / name / clip).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root}: can't be written ({error.strerror}); name a directory that can") from None


def _write(root: Path, name: str, frame: RenderedFrame, suffix: str = ".png") -> None:
    assert frame.truth is not None
    image = str((root / "images" / name).with_suffix(suffix))
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else []
    cv2.imwrite(image, cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), options)
    cv2.imwrite(str(root / "labels" / name), frame.truth.labels)
    cv2.imwrite(str(root / "instances" / name), frame.truth.instances)
