"""`perception build` and `perception selftest` as functions: engines made and measured before a vehicle needs them."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from perception.build import build_model, build_pipeline, check_launch, open_model
from perception.build.lowering import CALIBRATED, LoweredGraphs
from perception.build.recipes import AsTheyAre
from perception.build.serving import Ways, build_serving, plan_cache
from perception.config import Launch
from perception.engines.cache import Manifest
from perception.engines.measured import CpuEngine, remember
from perception.engines.plan import Progress
from perception.errors import ConfigError, PerceptionError
from perception.evaluation.classes import scored_classes
from perception.evaluation.truth import LabelFolder, pictures_of
from perception.images import load_image
from perception.models.card import find
from perception.models.graph import scaled
from perception.models.panoptic import PanopticModel
from perception.serving.candidate import Candidate
from perception.serving.gate import answers_of, judge
from perception.serving.golden import SIZE
from perception.serving.plan_rung import PlanRung
from perception.serving.report import Report
from perception.serving.rungs import Opened, Size
from perception.serving.serving import Serving
from perception.stopwatch import Stopwatch


@dataclass(frozen=True)
class Wishes:
    """What to build for, and what it may cost."""

    size: Size  # width and height of the camera's frames [px]
    again: bool = False  # though it is there
    calibrate: Path | None = None  # folder of the camera's pictures, for int8 and fp8
    labelled: Path | None = None  # folder of images/ and labels/: measure the loss of IoU
    max_loss: float | None = None  # refuse what loses more [points of mean IoU]
    max_class_loss: float | None = None  # the same of any one class


@dataclass(frozen=True)
class Prepared:
    """What was built."""

    report: Report  # of the conformance gate
    plans: Mapping[str, tuple[Path, Manifest]]  # folder and manifest by part
    loss: Any = None  # models.precision_loss.PrecisionLoss, where it was asked for


def prepare(launch: Launch, wishes: Wishes, progress: Progress, ways: Ways | None = None) -> Prepared:
    """Build the plans that a launch file's model needs, in a child; load them, and hold them against the reference.

    Raises:
        PerceptionError: they can't be built, do not agree with the reference, or lose too much.
    """
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine="tensorrt"))
    with _serving(launch, ways) as (serving, candidate):
        rung, size = candidate.rung, wishes.size
        assert isinstance(rung, PlanRung)
        rung.compiler.target()  # what is missing is said before anything is done
        if wishes.calibrate:
            _calibrate(launch, rung.recipe, wishes, progress)
        if wishes.again:
            rung.forget(size)
        rung.prepare(size, progress, lambda: False)
        progress("conformance", 0, 1)
        serving.expect(size)
        progress("conformance", 1, 1)
        assert candidate.report
        loss = _loss(serving, launch, wishes, progress) if wishes.labelled else None
        return Prepared(candidate.report, rung.manifests(size), loss)


@contextmanager
def _serving(launch: Launch, ways: Ways | None) -> Iterator[tuple[Serving, Candidate]]:
    checked = check_launch(launch)
    pipeline = build_pipeline(build_model(checked.files, launch, Stopwatch()), checked, Stopwatch())
    with closing(pipeline):
        serving = build_serving(checked, pipeline, ways, is_pinned=True)
        assert serving
        with closing(serving):
            yield serving, serving.promoter.candidates[0]


def _calibrate(launch: Launch, recipe: Any, wishes: Wishes, progress: Progress) -> None:
    """Raises ConfigError for a precision that needs none, ModelError."""
    precision = launch.model.precision
    if precision not in CALIBRATED:
        raise ConfigError(f"--calibrate is for {' and '.join(CALIBRATED)}; {precision} needs no pictures")
    checked = check_launch(launch)
    progress("calibrating", 0, 1)
    store = LoweredGraphs(plan_cache(checked))
    store.make(checked.files, [*AsTheyAre.graphs(recipe, wishes.size)], wishes.size, precision, wishes.calibrate)
    progress("calibrating", 1, 1)


def _loss(serving: Serving, launch: Launch, wishes: Wishes, progress: Progress) -> Any:
    """IoU by class on labelled pictures, of the reference and of what was built. Raises ModelError above the limits."""
    assert wishes.labelled
    measure: Any = importlib.import_module("perception.models.precision_loss")
    names = find(launch.model.path).card.class_table().names
    truth = LabelFolder(wishes.labelled, scored_classes(names, ()))
    pictures = pictures_of(wishes.labelled, truth)
    frames = (scaled(load_image(path), *wishes.size) for path in pictures.values())
    truths = [labels for name in pictures if (labels := truth.read(name).labels) is not None]
    reference = serving.promoter.reference.open().model
    served = serving.model
    loss = measure.precision_loss(
        lambda image: reference(image).labels, lambda image: served(image).labels, frames, names, truths, progress
    )
    loss.require(wishes.max_loss, wishes.max_class_loss)
    return loss


def selftest(model: str, progress: Progress) -> list[Report]:
    """Hold every engine of this CPU against the reference on golden frames; `auto` takes the fastest from then on.

    Raises:
        PerceptionError: the model can't be opened. OSError: what was measured can't be kept.
    """
    files = find(model)
    names = [name for name in get_args(CpuEngine) if importlib.util.find_spec(name)]
    classes, reports, step_ms = files.card.class_table().names, [], {}
    reference = answers_of(_opened(model, "onnxruntime", 1), SIZE)
    for i, name in enumerate(names):
        progress("engines", i, len(names))
        try:
            answers = answers_of(_opened(model, name, 0), SIZE)
        except PerceptionError as error:
            reports.append(Report(name, reference.name, False, (str(error),)))
            continue
        reports.append(judge(answers, reference, classes, "bf16"))
        if reports[-1].passed:
            step_ms[name] = reports[-1].step_ms
    progress("engines", len(names), len(names))
    if step_ms:
        remember(step_ms)
    return reports


def _opened(model: str, engine: CpuEngine, threads: int) -> Opened:
    opened = open_model(find(model), engine, threads)
    if isinstance(opened, PanopticModel):
        opened.wants_features = True
    return Opened(opened.engine.name, opened)
