"""`perception evaluate --video` as one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.config import Launch
from perception.errors import ConfigError
from perception.evaluation.classes import scored_classes
from perception.evaluation.clips import ClipSet, open_clips
from perception.evaluation.command import folder_for, given_folder
from perception.evaluation.predict import Predictor
from perception.evaluation.predict_clips import Stepping, predict_clips
from perception.evaluation.report_clips import report_clips
from perception.evaluation.score_clips import ClipScores, score_clips
from perception.evaluation.stored import About, read_about


@dataclass(frozen=True)
class ClipWishes:
    """How clips are to be stepped through and scored, beyond what their truth decides."""

    launch: Launch  # its tracking and its model.network_every count
    merge: Sequence[str] = ()  # pairs 'class=class' to score as one
    given: bool = False  # the truth of each clip's first frame is given
    least_area: int = 0  # true things with fewer pixels are neither missed nor wrong [px of the picture]
    fps: float | None = None  # None: what the data says


def evaluate_clips(
    data: Path,
    predictor: Predictor | None,
    predictions: Path | None,
    wishes: ClipWishes,
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Step through all clips of `data`, score what was published, and return every figure that the truth allows.

    Args:
        data: folder of clips.
        predictor: the model; None scores what is in `predictions` already, and how it was made is read there.
        predictions: folder that the predictions are kept in or read from; None throws them away.
        wishes: how to step and what to score.
        progress: called with the loop's name, how many frames are done and how many there are.

    Raises:
        PerceptionError: the model, the data or the predictions can't be used together.
    """
    about = predictor.about if predictor else read_about(given_folder(predictions))
    classes = scored_classes(about.classes, about.things, wishes.merge)
    clips = open_clips(data, classes, wishes.fps)
    if predictor:
        _check(data, clips, wishes)
    elif not about.propagator:
        raise ConfigError(f"{predictions}: predictions of pictures, not of clips; --video --keep stores those")
    with folder_for(predictions) as out:
        if predictor:
            stepping = Stepping(wishes.launch, wishes.given, wishes.least_area)
            # what is given is given to the model: in its own classes, not in those that a merge leaves
            own = open_clips(data, scored_classes(about.classes, about.things), wishes.fps) if wishes.merge else clips
            predict_clips(predictor, own, stepping, out, lambda done, total: progress("predicting", done, total))
        about = read_about(out)
        scores = ClipScores(classes, clips, about.given, wishes.least_area)
        score_clips(out, clips, scores, lambda done, total: progress("scoring", done, total))
    return _about(about, clips, wishes) | report_clips(scores)


def _check(data: Path, clips: ClipSet, wishes: ClipWishes) -> None:
    """Say what can't be had before the hours of predicting, not after them."""
    if not clips.has_classes and not wishes.given:
        raise ConfigError(
            f"{data}: objects of no class, which no network finds; --given prompts with their first masks"
        )
    if wishes.given and not clips.has_ids:
        raise ConfigError(f"{data}: --given needs things told apart, and there is no instances/ here")


def _about(about: About, clips: ClipSet, wishes: ClipWishes) -> dict[str, Any]:
    made = {"model": about.model, "engine": about.engine, "propagator": about.propagator}
    how = {"network_every": about.network_every, "given": about.given, "fps": clips.fps}
    return made | how | {"merge": list(wishes.merge), "least_area": wishes.least_area}
