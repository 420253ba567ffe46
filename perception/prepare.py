"""`perception build` and `perception selftest` as functions: engines made and measured before a vehicle needs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from perception.build import build_model, build_pipeline, check_launch, open_model
from perception.build.lowering import CALIBRATED, NETWORK, calibration_pictures
from perception.build.recipes import Lowered
from perception.build.serving import Ways, build_serving
from perception.config import Launch
from perception.engines.cache import Manifest
from perception.engines.measured import CpuEngine, remember
from perception.engines.plan import Progress
from perception.errors import ConfigError, ModelError, PerceptionError
from perception.evaluation.classes import scored_classes
from perception.evaluation.truth import LabelFolder, pictures_of
from perception.images import load_image
from perception.models.card import find
from perception.models.graph import scaled
from perception.models.panoptic import PanopticModel
from perception.models.precision_loss import PrecisionLoss, precision_loss
from perception.protocols import Model
from perception.serving.candidate import Candidate
from perception.serving.gate import answers_of, judge
from perception.serving.golden import SIZE, golden_frames
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
    labelled: Path | None = None  # folder of images/ and labels/, the truth; else float32's class maps are it
    max_loss: float | None = None  # refuse what loses more [points of mean IoU]
    max_class_loss: float | None = None  # the same of any one class

    @property
    def has_limits(self) -> bool:
        """The loss may refuse: usual limits are for real pictures, the golden ones are the conformance gate's."""
        return bool(self.labelled or self.calibrate) or (self.max_loss, self.max_class_loss) != (None, None)

    @property
    def terms(self) -> str:
        """By what a build is refused; under other terms it may not be."""
        return f"{self.max_loss} {self.max_class_loss} {self.labelled and self.labelled.absolute()}"


@dataclass(frozen=True)
class Prepared:
    """What was built."""

    report: Report  # of the conformance gate
    plans: Mapping[str, tuple[Path, Manifest]]  # folder and manifest by part


def prepare(
    launch: Launch,
    wishes: Wishes,
    progress: Progress,
    ways: Ways | None = None,
    measured: Callable[[PrecisionLoss], None] = lambda _loss: None,
) -> Prepared:
    """Build the plans that a launch file's model needs, in a child; load them, and hold them against the reference.

    What loses too much is refused for the node, too, until it is built `again` or on other terms.

    Args:
        measured: told the loss, also where it is too much.

    Raises:
        PerceptionError: they can't be built, do not agree with the reference, or lose too much.
    """
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, engine="tensorrt"))
    with _serving(launch, ways) as (serving, candidate):
        rung, size = candidate.rung, wishes.size
        assert isinstance(rung, PlanRung)
        rung.check()  # what is missing is said before anything is done
        if wishes.calibrate:
            _calibrate(launch, rung.recipe, wishes, progress)
        with _reconsidered(rung, wishes):
            rung.prepare(size, progress, lambda: False)
            progress("conformance", 0, 1)
            serving.expect(size)
            progress("conformance", 1, 1)
            assert candidate.report
            loss = _loss(serving, rung.recipe, launch, wishes, progress)
            measured(loss)
            _require(loss, rung, wishes)
        return Prepared(candidate.report, rung.manifests(size))


@contextmanager
def _reconsidered(rung: PlanRung, wishes: Wishes) -> Iterator[None]:
    """What was refused may be built; unless that comes to a good end, also by a Ctrl-C, it is refused as before.

    Raises ModelError, DeviceError.
    """
    marks = rung.marks(wishes.size)
    try:
        if wishes.again:
            rung.forget(wishes.size)
        if wishes.has_limits:
            rung.reconsider(wishes.size, wishes.terms)
        yield
    except BaseException:
        rung.restore(marks)
        raise


def _require(loss: PrecisionLoss, rung: PlanRung, wishes: Wishes) -> None:
    """Refuse the plan for the node, too, where it loses too much. Raises ModelError then."""
    if not wishes.has_limits:
        return
    try:
        loss.require(wishes.max_loss, wishes.max_class_loss)
    except ModelError as error:
        rung.refuse(wishes.size, NETWORK, str(error), wishes.terms)
        raise


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
    progress("calibrating", 0, 1)
    recipe.calibrate(wishes.size, wishes.calibrate)
    progress("calibrating", 1, 1)


def _loss(serving: Serving, recipe: Any, launch: Launch, wishes: Wishes, progress: Progress) -> PrecisionLoss:
    """IoU by class in float32, and of what was built. Raises ModelError, DeviceError, ConfigError."""
    names = find(launch.model.path).card.class_table().names
    frames, truths = _pictures(wishes, names)
    with _exact(serving, recipe, wishes.size) as exact:
        return precision_loss(
            lambda i: exact(i).labels, lambda i: serving.model(i).labels, frames, names, truths, progress
        )


@contextmanager
def _exact(serving: Serving, recipe: Any, size: Size) -> Iterator[Model]:
    """The model in float32, on the CPU; its own graph, as the reference has it, may be in int8."""
    if not isinstance(recipe, Lowered):
        yield serving.promoter.reference.open().model
        return
    with closing(recipe.exact(size)) as model:
        yield model


def _pictures(wishes: Wishes, names: tuple[str, ...]) -> tuple[Iterable[Any], list[Any]]:
    """(h, w, 3) frames of the camera's size, and their truths where they are labelled.

    Those that are labelled, else those that were calibrated on, else the golden ones.
    """
    if not wishes.labelled:
        if not wishes.calibrate:
            return golden_frames(wishes.size), []
        return (scaled(load_image(path), *wishes.size) for path in calibration_pictures(wishes.calibrate)), []
    truth = LabelFolder(wishes.labelled, scored_classes(names, ()))
    pictures = pictures_of(wishes.labelled, truth)
    truths = [labels for name in pictures if (labels := truth.read(name).labels) is not None]
    return (scaled(load_image(path), *wishes.size) for path in pictures.values()), truths


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
