"""A model whose whole way, from a camera's bytes to segments, is one graph made by `models.lowering`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from perception.errors import DeviceError, ModelError
from perception.models.card import ModelFiles
from perception.models.grouping import group_things
from perception.protocols import Engine, KeepingEngine, TensorSpec
from perception.stopwatch import Stopwatch
from perception.types import FEATURES, Features, Panoptic, Segment

FRAME, LABELS, INSTANCES, SEGMENTS = "frame", "labels", "instances", "segments"
CONFIDENCE, LOOKS = "confidence", "looks"
CLASS, SCORE, AREA = range(3)  # columns of the output `segments`


class CompiledModel:
    """A lowered graph behind its card; it runs on any engine and says what `PanopticModel` or `SemanticModel` says.

    Raises:
        ModelError: the graph is not one that `models.lowering` made of such a model.
    """

    def __init__(self, files: ModelFiles, engine: Engine, stopwatch: Stopwatch | None = None) -> None:
        self.name, self.card, self.engine = files.graph.name, files.card, engine
        self.time = stopwatch or Stopwatch()
        self._wants_features = self._leaves_features = False
        self._encoder: Engine | None = None
        self._arrange()
        specs = {spec.name: spec for spec in engine.outputs}
        self._frame = _frame_of(self.name, engine)
        wanted = (LABELS, *((INSTANCES, SEGMENTS) if self.card.kind == "panoptic" else ()))
        for name in (*wanted, *(FEATURES if self.card.output.feature_names() else ())):
            if name not in specs:
                raise ModelError(f"{self.name}: the lowered graph gives no {name}; build it again with this version")
        height, width = (int(n or 0) for n in specs[LABELS].shape[1:])
        self.mask_size = (width, height)
        self.things = sorted(self.card.class_table().thing_ids)
        self.min_areas = [c.min_area for c in self.card.classes]
        self._has_confidence, self._has_looks = CONFIDENCE in specs, LOOKS in specs
        engine({FRAME: np.zeros(self._frame, np.uint8)})  # warms the engine up

    @property
    def camera_size(self) -> tuple[int, int]:
        """Width and height of the frames that the graph was made for [px]."""
        return self._frame[2], self._frame[1]

    @property
    def wants_features(self) -> bool:
        """Fill `Panoptic.features`; off until a propagator needs them, for they are megabytes to fetch."""
        return self._wants_features

    @wants_features.setter
    def wants_features(self, value: bool) -> None:
        self._wants_features = value
        self._arrange()

    def leave_features(self) -> None:
        """For a propagator that runs where this model does: features stay there, until the next call.

        Not for who looks at the next frame before this one is followed, as a replay does. They are arrays only for who
        asks for their values (`__array__`). Engines that can't do that give arrays.
        """
        self._leaves_features = True
        self._arrange()

    def _arrange(self) -> None:
        """Let engines that can leave where they run what nobody here wants to see."""
        for engine in filter(None, (self.engine, self._encoder)):
            is_wanted = self._wants_features or engine is self._encoder
            if hasattr(engine, "leave"):
                left = [s.name for s in engine.outputs if s.name in FEATURES]
                cast("KeepingEngine", engine).leave([] if is_wanted and not self._leaves_features else left)

    @property
    def has_encoder(self) -> bool:
        """`open_encoder` was called."""
        return self._encoder is not None

    def open_encoder(self, engine: Engine) -> None:
        """Let `features` run a lowered encoder on this engine, which is closed with the model.

        Raises:
            ModelError: the graph is for frames of another size, or gives no features.
        """
        if _frame_of(self.name, engine) != self._frame or not {*FEATURES} <= {s.name for s in engine.outputs}:
            raise ModelError(f"{self.name}: the lowered encoder is not this model's; build both again")
        engine({FRAME: np.zeros(self._frame, np.uint8)})
        self._encoder = engine
        self._arrange()

    def close(self) -> None:
        self.engine.close()
        if self._encoder:
            self._encoder.close()

    def __call__(self, image: NDArray[np.uint8]) -> Panoptic:
        """(h, w, 3) RGB of the size that the graph was made for -> what the network saw, at `mask_size`.

        Raises:
            ModelError: another size. DeviceError: the accelerator failed.
        """
        outputs = self._run(self.engine, image, "network")
        with self.time("segments"):
            confidence = outputs[CONFIDENCE][0, 0].copy() if self._has_confidence else None
            labels = outputs[LABELS][0].copy()
            features = _features(outputs) if self.wants_features else None
            if self.card.kind == "semantic":
                seen = group_things(labels, self.things, self.min_areas, confidence)
                return Panoptic(labels, seen.id_map, seen.segments, features, confidence)
            instances = outputs[INSTANCES][0]
            segments = segments_of(instances, outputs[SEGMENTS][0])
            looks = outputs[LOOKS][0, : len(segments)].copy() if self._has_looks and self.wants_features else None
            return Panoptic(labels, instances.astype(np.uint16), segments, features, confidence, looks)

    def features(self, image: NDArray[np.uint8]) -> Features | None:
        """What the encoder alone makes of an image; None until `open_encoder`. Raises as `__call__`."""
        return None if self._encoder is None else _features(self._run(self._encoder, image, "encoder"))

    def _run(self, engine: Engine, image: NDArray[np.uint8], what: str) -> dict[str, NDArray]:
        if image.shape != self._frame[1:]:
            (height, width), (w, h) = image.shape[:2], self.camera_size
            raise ModelError(
                f"{self.name}: built for frames of {w}x{h}, the camera gives {width}x{height}; build again"
            )
        with self.time(what):
            return engine({FRAME: image[None]})


def segments_of(instances: NDArray[np.uint8], table: NDArray[np.float32]) -> tuple[Segment, ...]:
    """(h, w) numbers and (n, 3) rows of class, score and area to segments with their boxes.

    Raises:
        DeviceError: the rows are no numbers, or not of the things that the map shows: only a failing engine says that.
    """
    if not np.isfinite(table).all():
        raise DeviceError("its table of things holds what is no number")
    segments, places = [], ndimage.find_objects(instances)
    for row, found in zip(table, places, strict=False):
        if row[AREA] > 0 and found:
            rows, columns = found
            box = (columns.start, rows.start, columns.stop, rows.stop)
            segments.append(Segment(int(row[CLASS]), round(float(row[SCORE]), 4), int(row[AREA]), box))
    if len(segments) != len(places):
        raise DeviceError(f"its map shows {len(places)} things, its table {len(segments)}")
    return tuple(segments)


def _features(outputs: Mapping[str, NDArray]) -> Features | None:
    """Copies, since the engine reuses its buffers; what an accelerator keeps stays there."""
    if not {*FEATURES} <= {*outputs}:
        return None
    return Features(**{name: _kept(outputs[name]) for name in FEATURES})


def _kept(value: NDArray) -> NDArray[np.float32]:
    return np.array(value[0], np.float32) if isinstance(value, np.ndarray) else value[0]


def _frame_of(graph: str, engine: Engine) -> tuple[int, int, int, int]:
    """The shape of the graph's one input. Raises ModelError where it takes no camera frame."""
    spec = engine.inputs[0] if len(engine.inputs) == 1 else TensorSpec("", (), "")
    if spec.name != FRAME or spec.dtype != "uint8" or len(spec.shape) != 4 or spec.shape[3] != 3:
        raise ModelError(f"{graph}: not a lowered graph: it takes {', '.join(s.name for s in engine.inputs)}")
    _, height, width, _ = (int(n or 0) for n in spec.shape)
    return 1, height, width, 3
