"""The model, the propagator, and the pipeline of both: the only place that names their classes."""

from __future__ import annotations

from typing import Literal

from perception.build.checks import Checked
from perception.config import Launch
from perception.engines import ACCELERATED, EngineName, beneath, chosen, open_engine
from perception.errors import ConfigError
from perception.models.card import ModelFiles
from perception.models.panoptic import PanopticModel
from perception.models.semantic import SemanticModel
from perception.pipeline import Pipeline
from perception.propagation.affinity import AffinityCarrier
from perception.propagation.fusion import FusedPropagator
from perception.propagation.iou import IouPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.protocols import Propagator
from perception.stopwatch import Stopwatch

LOST_FOR_S = {"iou": 0.35, "affinity": 2.5, "memory": 2.5}


def build_model(files: ModelFiles, launch: Launch, stopwatch: Stopwatch) -> SemanticModel | PanopticModel:
    return open_model(files, beneath(launch.model.engine), launch.model.threads, stopwatch)


def open_model(
    files: ModelFiles, engine: EngineName = "auto", threads: int = 0, stopwatch: Stopwatch | None = None
) -> SemanticModel | PanopticModel:
    """A model of the kind that its card says, on an engine of its own.

    Raises:
        ModelError: the engine is missing or can't run the graph, or the graph is not what the card says.
    """
    opened = open_engine(files.graph, engine, threads)
    match files.card.kind:
        case "semantic":
            return SemanticModel(files, opened, stopwatch)
        case "panoptic":
            return PanopticModel(files, opened, stopwatch)


def build_pipeline(model: SemanticModel | PanopticModel, checked: Checked, stopwatch: Stopwatch) -> Pipeline:
    """The way of a frame through this model and the propagator, who gets features where it needs them.

    Raises:
        ModelError: the engine can't run the encoder or the propagator.
    """
    launch = checked.launch
    propagator = build_propagator(launch, checked.files, model.mask_size)
    if propagator.needs_features and isinstance(model, PanopticModel):
        give_features(model, checked.files, launch)
    return Pipeline(model, propagator, launch.model.network_every, stopwatch)


def give_features(model: PanopticModel, files: ModelFiles, launch: Launch) -> None:
    """Let a model give features: of what it looks at, and by the encoder alone of the frames that it skips, if any.

    Raises:
        ModelError: the engine can't run the encoder, or the encoder is not what the card says.
    """
    model.wants_features = True
    if files.encoder and launch.model.network_every > 1 and not model.has_encoder:
        model.open_encoder(open_engine(files.encoder, beneath(launch.model.engine), launch.model.threads))


def build_propagator(launch: Launch, files: ModelFiles, mask_size: tuple[int, int]) -> Propagator:
    """The propagator that a launch file names, for masks of this size.

    Raises:
        ConfigError: the model lacks what it needs. ModelError: the engine can't run its graph.
    """
    tracking, kind = launch.tracking, tracking_kind(launch, files)
    lost_for_s = LOST_FOR_S[kind] if tracking.lost_for_s is None else tracking.lost_for_s
    life = LifeCycle(tracking.confirm_hits, round(lost_for_s * 1e9))
    table = files.card.class_table()
    smoothed = (len(table.names), table.thing_ids, tracking.smooths)
    match kind:
        case "iou":
            return IouPropagator(mask_size, life, tracking.least_iou)
        case "affinity":
            return FusedPropagator(mask_size, life, AffinityCarrier(), *smoothed)
        case "memory":
            assert files.propagator is not None
            engine = open_engine(files.propagator, beneath(launch.model.engine), launch.model.threads)
            return FusedPropagator(mask_size, life, MemoryCarrier(engine), *smoothed)


def tracking_kind(launch: Launch, files: ModelFiles) -> Literal["iou", "affinity", "memory"]:
    """What "auto" means for this model; raises ConfigError where the model lacks what a kind needs."""
    card, kind, skips = files.card, launch.tracking.kind, launch.model.network_every > 1
    if kind == "auto":
        # beside ONNX Runtime on a CPU the memory would take the frame rate from 28 to 18 (docs/propagation.md)
        is_slow = launch.model.engine not in ACCELERATED and chosen(launch.model.engine) == "onnxruntime"
        return "memory" if card.propagator and (card.encoder or not skips) and not is_slow else "iou"
    if kind == "iou":
        return kind
    if not card.output.feature_names():
        raise ConfigError(f"tracking.kind = {kind!r}: {files.name} gives no features to carry masks by; use 'iou'")
    if kind == "memory" and not card.propagator:
        raise ConfigError(f"tracking.kind = 'memory': {files.name}'s card has no [propagator]; use 'affinity' or 'iou'")
    if skips and not card.encoder:
        raise ConfigError(f"model.network_every: {files.name}'s card has no [encoder] for the skipped frames; use 1")
    return kind
