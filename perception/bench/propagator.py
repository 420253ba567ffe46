"""How long a propagator takes for 1, 4, 16 and 32 things, by kind."""

from __future__ import annotations

import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.bench.figures import Figures
from perception.bench.settings import BenchSettings
from perception.build import build_model, build_propagator, check_launch, give_features
from perception.config import TrackingConfig, TrackingKind
from perception.drives.rendered import RenderedDrive
from perception.errors import ConfigError
from perception.models.panoptic import PanopticModel
from perception.protocols import Propagator
from perception.stopwatch import Stopwatch
from perception.types import Features, Frame, Panoptic, Segment

COUNTS = (1, 4, 16, 32)
KINDS: tuple[TrackingKind, ...] = ("iou", "affinity", "memory")
WARM_UP = 10
FRAME_NS = 33_333_333
THING = (36, 28)  # height, width of each [mask px]


def bench_propagator(settings: BenchSettings, figures: Figures, frames: int = 150) -> None:
    """Things in rows over a rendered street, seen by the network in every frame; `step` alone is timed."""
    launch = settings.launch()
    files = check_launch(launch).files
    model = build_model(files, launch, Stopwatch())
    if not isinstance(model, PanopticModel):
        raise ConfigError(f"--model {settings.model}: only a panoptic model gives what propagators carry masks by")
    try:
        give_features(model, files, launch)
        picture = next(iter(RenderedDrive(seed=0, frames=1, truth=False))).image
        features = model(picture).features
        for kind in KINDS:
            tracked = msgspec.structs.replace(launch, tracking=TrackingConfig(kind=kind))
            for count in COUNTS:
                propagator = build_propagator(tracked, files, model.mask_size)
                seen = standing(model.mask_size, count, features)
                times = [_timed(propagator, picture, seen, t) for t in range(WARM_UP + frames)]
                figures.add_times("propagator", f"{kind}, {count} things", times[WARM_UP:])
    finally:
        model.close()


def _timed(propagator: Propagator, picture: NDArray[np.uint8], seen: Panoptic, t: int) -> float:
    frame = Frame(t, t * FRAME_NS, "bench", picture)
    start = time.perf_counter_ns()
    propagator.step(frame, seen, seen.features)
    return (time.perf_counter_ns() - start) / 1e6


def standing(size: tuple[int, int], count: int, features: Features | None) -> Panoptic:
    """`count` things in rows of eight; they stand, as the picture that the features are of stands."""
    width, height = size
    h, w = THING
    labels, id_map = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint16)
    segments = []
    for k in range(count):
        row, column = divmod(k, 8)
        y, x = 20 + row * (height - 40 - h) // 4, 10 + column * (width - 20) // 8
        id_map[y : y + h, x : x + w] = k + 1
        segments.append(Segment(0, 0.9, h * w, (x, y, x + w, y + h)))
    return Panoptic(labels, id_map, tuple(segments), features)
