"""What is measured of a model on a GPU, step by step: figures as `record` keeps them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.errors import PerceptionError
from perception.evaluation.classes import scored_classes
from perception.evaluation.truth import LabelFolder, pictures_of
from perception.images import load_image
from perception.models.compiled import CompiledModel
from perception.models.graph import scaled
from perception.models.precision_loss import PrecisionLoss, precision_loss
from perception.protocols import Engine
from tests.gpu.record import Figures

WARM_UP = 20
Frames = Sequence[NDArray[np.uint8]]  # (h, w, 3) RGB of the camera's size


def parity(reference: CompiledModel, compiled: CompiledModel, images: Frames) -> Figures:
    """Shares of equal class and instance pixels, and of frames with the same segments, against float32 on the CPU."""
    labels, ids, same = [], [], []
    for image in images:
        a, b = reference(image), compiled(image)
        labels.append(float((a.labels == b.labels).mean()))
        ids.append(float(((a.id_map > 0) == (b.id_map > 0)).mean()))
        same.append([s.class_id for s in a.segments] == [s.class_id for s in b.segments])
    shares = {"labels_mean": float(np.mean(labels)), "labels_worst": min(labels), "things_mean": float(np.mean(ids))}
    return shares | {"same_segments": float(np.mean(same)), "frames": len(images)}


def replay(compiled: CompiledModel, images: Frames) -> Figures:
    """Whether steps are replayed as CUDA graphs, and say the same of the same frame each time."""
    first = [compiled(image).labels for image in images[:2]]
    again = [compiled(image).labels for _ in range(2) for image in images[:2]]
    equal = all(np.array_equal(again[i], first[i % len(first)]) for i in range(len(again)))
    engine = compiled.engine
    return {
        "graphs": getattr(engine, "replays", False),
        "why_not": getattr(engine, "why_not_replayed", ""),
        "equal": equal,
    }


def latency(step: Callable[[int], object], count: int) -> Figures:
    """[ms] of the host's clock, from bytes to results."""
    times = []
    for i in range(WARM_UP + count):
        began = time.perf_counter_ns()
        step(i)
        times.append((time.perf_counter_ns() - began) / 1e6)
    p50, p99 = np.percentile(times[WARM_UP:], (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "frames": count}


def outside(engine: Engine, whole_ms: float, repeats: int) -> Figures:
    """The share of a frame that is not the plan's own kernels."""
    kernels_ms = getattr(engine, "kernels_ms", None)
    if kernels_ms is None:
        return {}
    kernels = float(np.median(kernels_ms(repeats)))
    return {"kernels_ms": round(kernels, 3), "outside_percent": round(100 * (1 - kernels / whole_ms), 1)}


def lost(reference: CompiledModel, compiled: CompiledModel, images: Frames, labelled: Path | None) -> Figures:
    """Points of IoU that the precision loses, on the frames or on labelled pictures where there are some."""
    classes = [c.name for c in compiled.card.classes]
    truths: list[NDArray[np.uint8]] = []
    if labelled:
        folder = LabelFolder(labelled, scored_classes(tuple(classes), ()))
        pictures = pictures_of(labelled, folder)
        images = [scaled(load_image(path), *compiled.camera_size) for path in pictures.values()]
        truths = [np.asarray(folder.read(name).labels, np.uint8) for name in pictures]
    return _loss_figures(
        precision_loss(lambda i: reference(i).labels, lambda i: compiled(i).labels, images, classes, truths)
    )


def _loss_figures(loss: PrecisionLoss) -> Figures:
    rows = {name: [round(before, 2), round(after, 2)] for name, before, after, _ in loss.rows()}
    means = [round(100 * float(np.nanmean(v)), 2) for v in (loss.before, loss.after)]
    against = "labels" if loss.has_truth else "float32's class maps"
    worst = f"{loss.worst[0]} {loss.worst[1]:.2f}"
    return {"against": against, "frames": loss.frames, "miou": means, "points": round(loss.mean, 3), "worst": worst} | {
        "by_class": rows
    }


def growth(compiled: CompiledModel, images: Frames, count: int) -> Figures:
    """How much more memory of GPU and process is in use after many frames [MB]."""
    compiled(images[0])
    gpu, host = _gpu_used(), resident_mb()
    for i in range(count):
        compiled(images[i % len(images)])
    return {"frames": count, "gpu_mb": round(_gpu_used() - gpu, 2), "process_mb": round(resident_mb() - host, 2)}


def _gpu_used() -> float:
    try:
        from perception.engines import cuda

        free, whole = cuda.memory()
    except PerceptionError:
        return float("nan")
    return (whole - free) / 1e6


def resident_mb() -> float:
    """Memory that the process has now [MB]; not getrusage's peak, which a build has set and nothing after it moves."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
