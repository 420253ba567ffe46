"""What of a model is compiled or loaded for an engine, and how it becomes a model again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception.build.lowering import ENCODER, NETWORK, PROPAGATOR, LoweredGraphs, precision_of
from perception.config import Launch
from perception.engines import open_engine
from perception.engines.plan import Precision
from perception.models.card import ModelFiles
from perception.models.panoptic import PanopticModel
from perception.models.semantic import SemanticModel
from perception.protocols import Engine
from perception.serving.rungs import Opened, Size
from perception.stopwatch import Stopwatch

if TYPE_CHECKING:
    from perception.models.compiled import CompiledModel


class AsTheyAre:
    """The model's own graphs: the image is scaled, and things are grouped, on the host.

    Args:
        has_features: the propagator needs them.
        has_carrier: it has a graph of its own.
        stopwatch: of the pipeline, which hears of the model's stages from when it serves.
    """

    def __init__(
        self, files: ModelFiles, launch: Launch, has_features: bool, has_carrier: bool, stopwatch: Stopwatch
    ) -> None:
        self._files, self._launch, self._stopwatch = files, launch, stopwatch
        self._has_features, self._has_carrier = has_features, has_carrier

    @property
    def has_encoder(self) -> bool:
        """The frames that the network skips are looked at too."""
        return self._has_features and bool(self._files.encoder) and self._launch.model.network_every > 1

    def graphs(self, size: Size) -> Mapping[str, Path]:
        files = self._files
        found = {NETWORK: files.graph}
        found |= {ENCODER: files.encoder} if self.has_encoder and files.encoder else {}
        return found | ({PROPAGATOR: files.propagator} if self._has_carrier and files.propagator else {})

    def precision(self, part: str) -> Precision:
        return precision_of(part, self._launch.model.precision)

    def forget(self, size: Size) -> None:
        """Nothing: they are the user's."""

    def assemble(self, engines: Mapping[str, Engine], name: str, size: Size) -> Opened:
        kinds: dict[str, Any] = {"semantic": SemanticModel, "panoptic": PanopticModel}
        return self._assembled(kinds[self._files.card.kind](self._files, engines[NETWORK]), engines, name)

    def _assembled(self, model: Any, engines: Mapping[str, Engine], name: str) -> Opened:
        if self._has_features:
            model.wants_features = True
        if ENCODER in engines:
            model.open_encoder(engines[ENCODER])

        def began() -> None:
            self._stopwatch.clear()
            model.time = self._stopwatch

        return Opened(name, model, engines.get(PROPAGATOR), began)


class Lowered(AsTheyAre):
    """The whole way of a camera's frame as one graph, for accelerators.

    Args:
        store: where lowered graphs are kept.
    """

    def __init__(
        self,
        files: ModelFiles,
        launch: Launch,
        has_features: bool,
        has_carrier: bool,
        stopwatch: Stopwatch,
        store: LoweredGraphs,
    ) -> None:
        super().__init__(files, launch, has_features, has_carrier, stopwatch)
        self._store = store

    def graphs(self, size: Size) -> Mapping[str, Path]:
        parts, precision = self.parts(size), self._launch.model.precision
        return self._store.graphs(self._files, parts, size, precision, self._calibrate(size))

    def parts(self, size: Size) -> list[str]:
        """Names of the graphs that this launch file's node runs."""
        return [*super().graphs(size)]

    def forget(self, size: Size) -> None:
        self._store.forget(self._files, self.parts(size), size, self._launch.model.precision)

    def calibrate(self, size: Size, pictures: Path) -> None:
        """Make all of them on a folder of the camera's pictures. Raises ModelError."""
        self._store.make(self._files, self.parts(size), size, self._launch.model.precision, pictures)

    def exact(self, size: Size) -> CompiledModel:
        """The network in float32, on the CPU: what is lost by less is held against it. Raises ModelError."""
        from perception.models.compiled import CompiledModel

        graph = self._store.graphs(self._files, [NETWORK], size, "fp32")[NETWORK]
        return CompiledModel(self._files, open_engine(graph, "onnxruntime"))

    def _calibrate(self, size: Size) -> str:
        """The command that does so for what this launch file asks for."""
        model, tracking = self._launch.model, self._launch.tracking.kind
        words = [model.path, "--precision", model.precision, "--size", "{}x{}".format(*size)]
        words += ["--network-every", str(model.network_every)] if model.network_every > 1 else []
        words += ["--tracking", tracking] if tracking != "auto" else []
        words += ["--cache", model.cache] if model.cache else []
        return f"perception build {shlex.join(words)} --calibrate FOLDER"

    def assemble(self, engines: Mapping[str, Engine], name: str, size: Size) -> Opened:
        from perception.models.compiled import CompiledModel

        model = CompiledModel(self._files, engines[NETWORK])
        if PROPAGATOR in engines:  # what goes from one to the other on the accelerator stays there
            model.leave_features()
        return self._assembled(model, engines, name)
