"""The first loop, of clips: network and propagator frame by frame, what they published to files."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.build import build_propagator, give_features, tracking_kind
from perception.config import Launch
from perception.errors import ConfigError, PromptError
from perception.evaluation.clips import ClipSet
from perception.evaluation.given import GivenFirst, given_masks
from perception.evaluation.predict import Model as Seeing
from perception.evaluation.predict import Predictor, Progress
from perception.evaluation.stored import ABOUT, write_about, write_tracks
from perception.images import load_image
from perception.models.card import ModelFiles
from perception.models.panoptic import PanopticModel
from perception.opencv import cv2
from perception.pipeline import Pipeline
from perception.propagation.grabcut import Mask
from perception.propagation.prompt_mask import mask_of_prompt
from perception.protocols import Model, Propagator
from perception.types import VOID, Features, Frame, Prompt, Scene, Track, TrackState

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stepping:
    """How clips are stepped through."""

    launch: Launch  # its tracking and its model.network_every count
    given: bool = False  # the truth of each clip's first frame is given
    least_area: int = 0  # smaller true things are not given [px of the picture]


class Published(NamedTuple):
    """What is stored of one frame."""

    labels: NDArray[np.uint8]  # (h, w)
    id_map: NDArray[np.uint16]  # (h, w) 0 = no track, k = tracks[k - 1]
    tracks: Sequence[Track]


def predict_clips(predictor: Predictor, clips: ClipSet, stepping: Stepping, out: Path, progress: Progress) -> None:
    """Store what a node would publish for each frame of each clip, at the picture's own size, in the folder `out`.

    Raises:
        PerceptionError: the model can't be followed by a propagator or fails, the propagator follows no prompts, a
            picture or its truth can't be read, or a file can't be written.
    """
    if predictor.files is None:
        raise ConfigError("--video follows things as the node does: give it a --model, not a --checkpoint")
    model, propagator = _opened(predictor.model, predictor.files, stepping.launch, is_prompted=not clips.has_classes)
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)
    step_clips(model, propagator, clips, stepping, out, progress)
    every, kind = stepping.launch.model.network_every, tracking_kind(stepping.launch, predictor.files)
    made = {"propagator": kind, "network_every": every, "given": stepping.given}
    write_about(out, msgspec.structs.replace(predictor.about, **made))


def _opened(seeing: Seeing, files: ModelFiles, launch: Launch, is_prompted: bool) -> tuple[Model, Propagator]:
    """The model, giving features where the propagator needs them, and the propagator."""
    model = cast("Model", seeing)
    if is_prompted and files.card.encoder:  # every frame is one that the network skips
        skips = msgspec.structs.replace(launch.model, network_every=2)
        launch = msgspec.structs.replace(launch, model=skips)
    propagator = build_propagator(launch, files, model.mask_size)
    if propagator.needs_features and isinstance(model, PanopticModel):
        give_features(model, files, launch)
    return model, propagator


def step_clips(
    model: Model, propagator: Propagator, clips: ClipSet, stepping: Stepping, out: Path, progress: Progress
) -> None:
    """Step through all clips; the propagator forgets its tracks before each.

    Where the things have no class, what the network takes for things is never used: the masks of the first frame are
    prompts, and only features of each frame go on.
    """
    done = 0
    for clip, names in clips.clips.items():
        propagator.reset()
        frames = _frames(clips, names, done)
        if clips.has_classes:
            scenes = _detected(model, propagator, clips, names[0], frames, stepping)
        else:
            masks = given_masks(clips.truth.read(names[0]).segments)
            scenes = _prompted(model, propagator, clip, masks, frames)
        for name, (size, published) in zip(names, scenes, strict=True):
            write_tracks(out, name, *published, size)
            done += 1
            progress(done, len(clips.truth.names))


def _frames(clips: ClipSet, names: Sequence[str], first: int) -> Iterator[Frame]:
    """The frames of a clip; numbers and stamps go on where the clip before ended."""
    for i, name in enumerate(names, first):
        yield Frame(i, round(i * 1e9 / clips.fps), "clip", load_image(clips.pictures[name]))


def _detected(
    model: Model, propagator: Propagator, clips: ClipSet, name: str, frames: Iterator[Frame], stepping: Stepping
) -> Iterator[tuple[tuple[int, int], Published]]:
    """Each frame's size and masks, from a network that finds the things; `name` is the first frame's."""
    if stepping.given:
        model = GivenFirst(model, clips.truth.read(name), clips.truth.things, stepping.least_area)
    pipeline = Pipeline(model, propagator, stepping.launch.model.network_every)
    for k, frame in enumerate(frames):
        scene = pipeline.step(frame)
        if not k and stepping.given and propagator.needs_features:
            vouch_for(propagator, scene)
        yield scene.frame_size, _published(scene)


def vouch_for(propagator: Propagator, scene: Scene) -> None:
    """Prompt every track of a given frame, so that what is known to be there is not doubted as a sighting would be.

    One that can't be prompted, because it is too small or no slot is free, stays the sighting that it is.
    """
    for position, track in enumerate(scene.tracks, 1):
        mask = scene.id_map == position
        if mask.any():
            with contextlib.suppress(PromptError):
                propagator.prompt(Prompt(mask=mask, class_id=track.class_id))


def _prompted(
    model: Model, propagator: Propagator, clip: str, masks: Sequence[Mask], frames: Iterator[Frame]
) -> Iterator[tuple[tuple[int, int], Published]]:
    """The same from prompts alone, the masks of the first frame's objects."""
    for k, frame in enumerate(frames):
        scene = propagator.step(frame, None, _features(model, frame.image))
        yield scene.frame_size, _published(scene) if k else _begun(propagator, clip, masks, frame, scene)


def _begun(propagator: Propagator, clip: str, masks: Sequence[Mask], frame: Frame, scene: Scene) -> Published:
    """Prompt the first frame's objects; what is published of it are the given masks themselves.

    An object that can't be followed, because it is too small or no slot is free, is published nowhere.

    Raises:
        PromptError: the propagator follows no prompts at all.
    """
    id_map, tracks = np.zeros(frame.image.shape[:2], np.uint16), []
    refused: list[tuple[Mask, PromptError]] = []
    for mask in masks:
        is_right = False
        try:
            fitting = mask_of_prompt(Prompt(mask=mask), frame, scene)
            is_right = True
            tracks.append(_given_track(propagator.prompt(Prompt(mask=fitting))))
        except PromptError as error:
            if is_right and not tracks:  # all of it is free
                raise
            refused.append((mask, error))
        else:
            id_map[mask] = len(tracks)
    if refused:
        log.warning("clip %s: %s", clip, _never_found(refused))
    return Published(np.full(id_map.shape, VOID, np.uint8), id_map, tracks)


def _never_found(refused: Sequence[tuple[Mask, PromptError]]) -> str:
    """Which objects they are [frame px], and why the first of them is one."""
    boxes = [f"{x},{y},{x + w},{y + h}" for x, y, w, h in (cv2.boundingRect(m.view(np.uint8)) for m, _ in refused)]
    what = f"the object at {boxes[0]} can't be followed and counts"
    if len(boxes) > 1:
        what = f"the objects at {', '.join(boxes[:-1])} and {boxes[-1]} can't be followed and count"
    return f"{what} as never found: {refused[0][1]}"


def _features(model: Model, image: NDArray[np.uint8]) -> Features | None:
    """From the encoder alone, or from the whole network where the model has no encoder of its own."""
    found = model.features(image)
    return model(image).features if found is None else found


def _published(scene: Scene) -> Published:
    return Published(scene.labels, scene.id_map, scene.tracks)


def _given_track(track_id: int) -> Track:
    return Track(track_id, VOID, TrackState.CONFIRMED, 1.0, (0, 0, 0, 0), 0, 0, prompted=True)
