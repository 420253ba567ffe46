"""The ladder of engines that a launch file asks for, under a pipeline whose engine works anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from perception.build.checks import Checked
from perception.config import Launch
from perception.engines import ACCELERATED, open_engine
from perception.engines.accelerators import has_cuda_provider, has_tensorrt, open_tensorrt
from perception.engines.cache import PlanCache
from perception.folders import cache_folder
from perception.models.panoptic import PanopticModel
from perception.models.semantic import SemanticModel
from perception.pipeline import Pipeline
from perception.propagation.fusion import FusedPropagator
from perception.propagation.memory import MemoryCarrier
from perception.protocols import SourceInfo

if TYPE_CHECKING:
    from perception.build.recipes import AsTheyAre
    from perception.engines.plan import PlanCompiler
    from perception.serving.rungs import Opened, Patience, Rung
    from perception.serving.serving import Serving

REFERENCE = "onnxruntime"


@dataclass(frozen=True)
class Ways:
    """How the ladder works; the defaults are a vehicle's, tests take shorter ones.

    Args:
        compiler: in TensorRT's place, fed with the model's own graphs.
    """

    compiler: Callable[[], PlanCompiler] | None = None
    niceness: int = 19
    check_every: int = 300
    patience: Patience | None = None
    backoff_s: tuple[float, float] = (2.0, 300.0)
    must_be_faster: bool | None = None  # None: where the launch file leaves the choice to the node
    rungs: tuple[str, ...] = field(default=ACCELERATED)


def has_choice(checked: Checked, ways: Ways) -> bool:
    """Whether there is anything above the engine that works anywhere. Cheap: a node without asks at every start."""
    engine = checked.launch.model.engine
    if engine in ACCELERATED or (ways.compiler and engine == "auto"):
        return True
    return engine == "auto" and (has_tensorrt() or has_cuda_provider())


def build_serving(
    checked: Checked, pipeline: Pipeline, ways: Ways | None = None, is_pinned: bool = False
) -> Serving | None:
    """Put a ladder under a pipeline's model and propagator; None, and nothing changed, where there is no choice.

    Args:
        is_pinned: the accelerator that is named, from the first frame to the last, or an error; what it sees is kept.
            Where none is named the CPU's engine serves: its masks are those of every other machine of its kind.
    """
    ways = ways or Ways()
    if not has_choice(checked, ways) or (is_pinned and checked.launch.model.engine not in ACCELERATED):
        return None
    from perception.serving.backoff import Backoff
    from perception.serving.candidate import Candidate
    from perception.serving.gate import Reference
    from perception.serving.ladder import Ladder, ServedModel
    from perception.serving.promoter import Promoter
    from perception.serving.rungs import Opened, Patience
    from perception.serving.serving import Serving

    launch, files = checked.launch, checked.files
    bottom, carrier = pipeline.model, _memory(pipeline)
    assert isinstance(bottom, SemanticModel | PanopticModel)
    wanted = launch.model.engine
    is_free = wanted == "auto" if ways.must_be_faster is None else ways.must_be_faster
    opened = Opened(bottom.engine.name, bottom, carrier and carrier.engine)
    ladder = Ladder(opened, ways.check_every, is_free, is_pinned=is_pinned)
    model = ServedModel(ladder, (lambda size: promoter.pin(size)) if is_pinned else None, keeps=is_pinned)
    candidates = [
        Candidate(rung, Backoff(*ways.backoff_s), is_wanted=wanted != "auto")
        for rung in _rungs(checked, pipeline, ways, has_carrier=carrier is not None)
    ]
    recipe = _plain(checked, pipeline, carrier is not None)
    reference = Reference(lambda: _opened(recipe, REFERENCE, 1))
    names = files.card.class_table().names
    promoter = Promoter(ladder, candidates, reference, names, model.frame_size, ways.patience or Patience())
    serving = Serving(ladder, promoter, model)
    attach(serving, pipeline)
    return serving


def attach(serving: Serving, pipeline: Pipeline) -> None:
    """Have a pipeline whose engines are those of the ladder's bottom served by it."""
    from perception.serving.served_engine import ServedEngine

    pipeline.model = serving.model
    if carrier := _memory(pipeline):
        served = ServedEngine(serving.ladder, carrier.engine, serving.model)
        if change := getattr(carrier, "change_engine", None):
            change(served)
        else:
            carrier.engine = served


def _memory(pipeline: Pipeline) -> MemoryCarrier | None:
    """The carrier that has an engine of its own."""
    propagator = pipeline.propagator
    carrier = propagator.carrier if isinstance(propagator, FusedPropagator) else None
    return carrier if isinstance(carrier, MemoryCarrier) else None


def _rungs(checked: Checked, pipeline: Pipeline, ways: Ways, has_carrier: bool) -> list[Rung]:
    """Best first: those that are asked for, or that may be there."""
    from perception.serving.plan_rung import DirectRung, PlanRung

    model, wanted = checked.launch.model, checked.launch.model.engine
    plain = _plain(checked, pipeline, has_carrier)
    rungs: list[Rung] = []
    if "tensorrt" in ways.rungs and (ways.compiler or wanted == "tensorrt" or (wanted == "auto" and has_tensorrt())):
        recipe, cache = plain, plan_cache(checked)
        if ways.compiler is None:
            from perception.build.lowering import LoweredGraphs
            from perception.build.recipes import Lowered

            needs, stopwatch = pipeline.propagator.needs_features, pipeline.stopwatch
            recipe = Lowered(checked.files, checked.launch, needs, has_carrier, stopwatch, LoweredGraphs(cache))
        opens = ways.compiler or open_tensorrt
        rungs.append(PlanRung("tensorrt", opens, recipe, cache, model.precision, ways.niceness))
    near = wanted if wanted.startswith("onnxruntime-") else "onnxruntime-cuda"
    if near in ways.rungs and (wanted == near or has_cuda_provider()):
        rungs.append(DirectRung(near, lambda: _opened(plain, near, 0)))
    return rungs


def plan_cache(checked: Checked) -> PlanCache:
    """The folder that a launch file names, or the user's."""
    named = checked.launch.model.cache
    return PlanCache(Path(named) if named else cache_folder())


def _plain(checked: Checked, pipeline: Pipeline, has_carrier: bool) -> AsTheyAre:
    from perception.build.recipes import AsTheyAre

    needs = pipeline.propagator.needs_features
    return AsTheyAre(checked.files, checked.launch, needs, has_carrier, pipeline.stopwatch)


def _opened(recipe: AsTheyAre, engine: str, threads: int) -> Opened:
    """Raises ModelError, DeviceError."""
    graphs = recipe.graphs((0, 0))
    engines = {part: open_engine(path, engine, threads) for part, path in graphs.items()}  # type: ignore[arg-type]
    name = engines["network"].name
    return recipe.assemble(engines, name, (0, 0))


def is_pinned(launch: Launch, info: SourceInfo) -> bool:
    """One engine from the first frame to the last: of drives, and of live runs that are recorded to be repeated.

    Two replays of a drive say the same to the byte; an engine that comes when it is built would end that.
    """
    recording = launch.recording
    return info.clock == "drive" or bool(recording and (recording.exact or recording.frames in ("png", "raw")))
