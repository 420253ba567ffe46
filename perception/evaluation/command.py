"""`perception evaluate` as one function."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from perception.errors import ConfigError
from perception.evaluation.bdd_mots import MotsFolder
from perception.evaluation.classes import ScoredClasses, scored_classes
from perception.evaluation.extra import load_extra
from perception.evaluation.layout import LABELS, require_layout
from perception.evaluation.predict import Predictor, predict
from perception.evaluation.report import report
from perception.evaluation.score import Scores, score
from perception.evaluation.segmentation import Confusion
from perception.evaluation.stored import About, read_about
from perception.evaluation.truth import LabelFolder, TruthSet, pictures_of


@dataclass(frozen=True)
class Wishes:
    """How a data set is to be scored, beyond what its truth decides."""

    merge: Sequence[str] = ()  # pairs 'class=class' to score as one
    sequence: bool = False  # the pictures are a clip, in the order of their names: measure flicker too
    least_area: int = 0  # true instances with fewer pixels are neither missed nor wrong [px of the picture]
    picture: bool = False  # the confusion matrix is to be drawn


class Evaluation(NamedTuple):
    """What an evaluation found."""

    figures: dict[str, Any]  # `report` names them
    confusion: Confusion | None  # None where the truth labels things only


def evaluate_command(
    data: Path,
    predictor: Predictor | None,
    predictions: Path | None,
    wishes: Wishes,
    progress: Callable[[str, int, int], None],
) -> Evaluation:
    """Predict all of `data`, score it, and return every figure that its truth allows.

    Args:
        data: folder with pictures and truth.
        predictor: the model; None scores what is in `predictions` already.
        predictions: folder that the predictions are kept in or read from; None throws them away.
        wishes: what to score.
        progress: called with the loop's name, how many are done and how many there are.

    Raises:
        PerceptionError: the model, the data or the predictions can't be used, or `merge` names no class.
    """
    about = predictor.about if predictor else read_about(given_folder(predictions))
    classes = scored_classes(about.classes, about.things, wishes.merge)
    truth = open_truth(data, classes)
    _check_wishes(truth, wishes)
    scores = Scores(classes, truth, wishes.sequence, wishes.least_area)
    with folder_for(predictions) as out:
        if predictor:
            pictures = pictures_of(data, truth)
            predict(predictor, pictures, out, lambda done, total: progress("predicting", done, total))
        score(out, truth, scores, lambda done, total: progress("scoring", done, total))
    return Evaluation(_about(about, classes, wishes) | report(scores), scores.confusion)


def open_truth(data: Path, classes: ScoredClasses) -> TruthSet:
    """The data set of a folder, by the form of what is in `labels/`; raises ConfigError where that is neither."""
    require_layout(data, [LABELS], "one with images/ and labels/")
    if any((data / LABELS).glob("*.json")):
        return MotsFolder(data, classes)
    return LabelFolder(data, classes)


def given_folder(predictions: Path | None) -> Path:
    """The folder of stored predictions; raises ConfigError where there is neither it nor a model."""
    if predictions is None:
        raise ConfigError("nothing to evaluate: name a model, a checkpoint or a folder of predictions")
    return predictions


def _check_wishes(truth: TruthSet, wishes: Wishes) -> None:
    """Say what can't be had before the hours of predicting, not after them."""
    if wishes.picture:
        load_extra("matplotlib", "the confusion picture")
    if not truth.has_labels and (wishes.sequence or wishes.picture):
        raise ConfigError("this data set labels things only: it allows neither flicker nor a confusion matrix")


@contextlib.contextmanager
def folder_for(kept: Path | None) -> Iterator[Path]:
    """The folder to keep predictions in, or one that goes away."""
    if kept:
        yield kept
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _about(about: About, classes: ScoredClasses, wishes: Wishes) -> dict[str, Any]:
    out: dict[str, Any] = {"model": about.model, "engine": about.engine, "classes": list(classes.names)}
    out["things"] = [classes.names[i] for i in sorted(classes.things)]
    return out | {"merge": list(wishes.merge), "least_area": wishes.least_area}
