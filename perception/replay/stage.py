"""A model kept loaded, in front of which any number of drives can be played."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from perception.build import Checked, build_model, build_pipeline, check_launch, give_features
from perception.build.serving import Ways, attach, build_serving
from perception.config import Launch
from perception.control.answers import Answers
from perception.engines import ACCELERATED
from perception.machine import cores
from perception.models.panoptic import PanopticModel
from perception.models.semantic import SemanticModel
from perception.pipeline import Pipeline
from perception.sinks.messages import Identity, SceneEncoder
from perception.stopwatch import Stopwatch

if TYPE_CHECKING:
    from perception.serving.serving import Serving

MOST_EYES = 2


class Stage:
    """Gives every drive a pipeline and an encoder that know nothing of the drives before; the model stays.

    A drive's frames are all there, so that two may be looked at at once: two copies of the network on half of the
    threads each get more done than one on all of them, and how many threads there are decides nothing.

    Raises:
        PerceptionError: what the launch configuration names can't be opened.
    """

    def __init__(self, launch: Launch, ways: Ways | None = None) -> None:
        self._ways = ways
        self._serving: Serving | None = None
        self.checked: Checked = check_launch(launch)
        self.stopwatch = Stopwatch()
        threads = launch.model.threads or cores()
        eyes = 1 if launch.model.engine in ACCELERATED else min(MOST_EYES, threads)
        model = msgspec.structs.replace(launch.model, threads=threads // eyes)
        self._shared = dataclasses.replace(self.checked, launch=msgspec.structs.replace(launch, model=model))
        files, stopwatch = self.checked.files, self.stopwatch
        self._models: list[SemanticModel | PanopticModel] = [
            build_model(files, self._shared.launch, stopwatch) for _ in range(eyes)
        ]

    @property
    def launch(self) -> Launch:
        return self.checked.launch

    @property
    def engine(self) -> str:
        """The name of what runs the network."""
        model = self.launch.model
        if model.engine == "tensorrt":
            return f"tensorrt-{model.precision}"
        return model.engine if model.engine in ACCELERATED else self._models[0].engine.name

    def pipelines(self) -> list[Pipeline]:
        """Several that share one new propagator, which their user closes: each of them may look at a frame."""
        first, *others = self._models
        pipeline = build_pipeline(first, self._shared, self.stopwatch)
        self._serve(pipeline)
        if pipeline.propagator.needs_features:
            for model in others:
                if isinstance(model, PanopticModel):
                    give_features(model, self.checked.files, self._shared.launch)
        return [pipeline, *(dataclasses.replace(pipeline, model=model) for model in others)]

    def _serve(self, pipeline: Pipeline) -> None:
        """By the accelerator that is named, if one is: pinned, so that nothing else ever serves."""
        if self._serving is None:
            self._serving = build_serving(self._shared, pipeline, self._ways, is_pinned=True)
        else:
            attach(self._serving, pipeline)

    def encoder(self, identity: Identity) -> SceneEncoder:
        return SceneEncoder(identity, self.checked.topics, self.launch.publish.encoding)

    def answers(self) -> Answers:
        return Answers(self.launch.camera, self.checked.files.card.class_table().names)

    def close(self) -> None:
        if self._serving:
            self._serving.close()
        for model in self._models:
            model.close()
