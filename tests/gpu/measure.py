"""Everything that needs an NVIDIA GPU, in one go; writes measured.json and measured.md.

    python -m tests.gpu.measure OUT_DIR [--frames DIR] [--labelled DIR] [--model road-float] [--camera 1280x720]

Build, parity with ONNX Runtime, replay of CUDA graphs, latency, the share of a frame outside the kernels, memory over
10,000 frames, and what each precision costs. --frames: real pictures of the camera (rendered ones without); --labelled:
a folder of images/ and labels/, such as CamVid test. Takes some minutes a precision, most of it TensorRT's.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered import RenderedDrive
from perception.engines import open_engine
from perception.engines.plan import PlanCompiler, Precision, Target
from perception.errors import PerceptionError
from perception.evaluation.classes import scored_classes
from perception.evaluation.truth import LabelFolder, pictures_of
from perception.images import load_image
from perception.models.card import ModelFiles, find
from perception.models.compiled import CompiledModel
from perception.models.graph import scaled
from perception.models.lowering import carrying_precision, lower, lowered
from perception.models.precision_loss import PrecisionLoss, precision_loss
from perception.pipeline import Pipeline
from perception.propagation.fusion import FusedPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.protocols import Engine
from perception.types import Frame

PERIOD_NS = 33_333_333
WARM_UP = 20
CALIBRATE = 50  # frames
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
Figures = dict[str, Any]


@dataclass
class Settings:
    out: Path
    model: str = "road-float"
    camera: tuple[int, int] = (1280, 720)
    frames: Path | None = None
    labelled: Path | None = None
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
    compared: int = 50  # frames, for parity
    timed: int = 1000  # frames, for latency
    soaked: int = 10_000  # frames, for memory
    say: Callable[[str], None] = field(default=lambda text: print(text, flush=True))


def measure(settings: Settings, compiler: PlanCompiler) -> Figures:
    """All figures; a precision that fails says why, and the others go on."""
    files, target = find(settings.model), compiler.target()
    images = frames_of(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    exact = lower(files, settings.camera)
    reference = CompiledModel(files, _on_cpu(exact.SerializeToString(), settings.out))
    figures: Figures = {"target": _told(target), "camera": "{}x{}".format(*settings.camera), "model": settings.model}
    figures["pictures"] = settings.frames.name if settings.frames else "rendered"
    for precision in settings.precisions:
        settings.say(precision)
        try:
            figures[precision] = _one(settings, compiler, files, reference, images, precision)
        except PerceptionError as error:
            figures[precision] = {"failed": str(error)}
        (settings.out / "measured.json").write_text(json.dumps(figures, indent=1) + "\n")
        (settings.out / "measured.md").write_text(table(figures))
    reference.close()
    return figures


def frames_of(settings: Settings) -> list[NDArray[np.uint8]]:
    """Frames of the camera's size."""
    count = max(settings.compared, 2)
    if settings.frames is None:
        drive = RenderedDrive(7, *settings.camera, truth=False)
        return [frame.image for frame in drive.at(range(0, 6 * count, 6))]
    paths = sorted(p for p in settings.frames.iterdir() if p.suffix.lower() in SUFFIXES)
    return [scaled(load_image(path), *settings.camera) for path in paths[:: max(1, len(paths) // count)][:count]]


def _on_cpu(graph: bytes, folder: Path) -> Engine:
    path = folder / "reference.onnx"
    path.write_bytes(graph)
    return open_engine(path, "onnxruntime")


def _one(
    settings: Settings,
    compiler: PlanCompiler,
    files: ModelFiles,
    reference: CompiledModel,
    images: list[NDArray[np.uint8]],
    precision: Precision,
) -> Figures:
    graphs = lowered(files, settings.camera, precision, images[:CALIBRATE], ("network", "propagator"))
    engine, built = _built(settings, compiler, graphs["network"], f"network-{precision}", precision)
    compiled = CompiledModel(files, engine)
    try:
        figures: Figures = {"build_s": built, "parity": parity(reference, compiled, images)}
        figures["replay"] = replay(compiled, images)
        figures["network_ms"] = latency(lambda i: compiled(images[i % len(images)]), settings.timed)
        figures |= _outside(engine, figures["network_ms"]["p50"], min(200, settings.timed))
        figures["loss"] = _lost(settings, files, reference, compiled, images)
        if "propagator" in graphs:
            figures |= _followed(settings, compiler, files, compiled, images, precision, graphs["propagator"])
        figures["memory"] = growth(compiled, images, settings.soaked)
    finally:
        compiled.close()
    return figures


def _built(
    settings: Settings, compiler: PlanCompiler, graph: bytes, name: str, precision: Precision
) -> tuple[Engine, float]:
    path, plan = settings.out / f"{name}.onnx", settings.out / f"{name}.plan"
    path.write_bytes(graph)
    began, last = time.perf_counter(), [0.0]

    def progress(what: str, done: int, of: int) -> None:
        if time.perf_counter() - last[0] > 5:
            last[0] = time.perf_counter()
            settings.say(f"  {name}: {what} {done}/{of}")

    compiler.compile(path, plan, precision, settings.out / "timings.cache", progress)
    return compiler.open(plan), round(time.perf_counter() - began, 1)


def parity(reference: CompiledModel, compiled: CompiledModel, images: Sequence[NDArray[np.uint8]]) -> Figures:
    """Shares of equal class and instance pixels, and of frames with the same segments, against float32 on the CPU."""
    labels, ids, same = [], [], []
    for image in images:
        a, b = reference(image), compiled(image)
        labels.append(float((a.labels == b.labels).mean()))
        ids.append(float(((a.id_map > 0) == (b.id_map > 0)).mean()))
        same.append([s.class_id for s in a.segments] == [s.class_id for s in b.segments])
    shares = {"labels_mean": float(np.mean(labels)), "labels_worst": min(labels), "things_mean": float(np.mean(ids))}
    return shares | {"same_segments": float(np.mean(same)), "frames": len(images)}


def replay(compiled: CompiledModel, images: Sequence[NDArray[np.uint8]]) -> Figures:
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


def _outside(engine: Engine, whole_ms: float, repeats: int) -> Figures:
    """The share of a frame that is not the plan's own kernels."""
    kernels_ms = getattr(engine, "kernels_ms", None)
    if kernels_ms is None:
        return {}
    kernels = float(np.median(kernels_ms(repeats)))
    return {"kernels_ms": round(kernels, 3), "outside_percent": round(100 * (1 - kernels / whole_ms), 1)}


def _lost(
    settings: Settings,
    files: ModelFiles,
    reference: CompiledModel,
    compiled: CompiledModel,
    images: Sequence[NDArray[np.uint8]],
) -> Figures:
    """Points of IoU that the precision loses, on labelled pictures where there are some."""
    classes = [c.name for c in files.card.classes]
    truths: list[NDArray[np.uint8]] = []
    if settings.labelled:
        folder = LabelFolder(settings.labelled, scored_classes(tuple(classes), ()))
        pictures = pictures_of(settings.labelled, folder)
        images = [scaled(load_image(path), *settings.camera) for path in pictures.values()]
        truths = [np.asarray(folder.read(name).labels, np.uint8) for name in pictures]
    loss = precision_loss(lambda i: reference(i).labels, lambda i: compiled(i).labels, images, classes, truths)
    return _loss_figures(loss)


def _loss_figures(loss: PrecisionLoss) -> Figures:
    rows = {name: [round(before, 2), round(after, 2)] for name, before, after, _ in loss.rows()}
    means = [round(100 * float(np.nanmean(v)), 2) for v in (loss.before, loss.after)]
    against = "labels" if loss.has_truth else "float32's class maps"
    worst = f"{loss.worst[0]} {loss.worst[1]:.2f}"
    return {"against": against, "frames": loss.frames, "miou": means, "points": round(loss.mean, 3), "worst": worst} | {
        "by_class": rows
    }


def _followed(
    settings: Settings,
    compiler: PlanCompiler,
    files: ModelFiles,
    compiled: CompiledModel,
    images: Sequence[NDArray[np.uint8]],
    precision: Precision,
    graph: bytes,
) -> Figures:
    """Network and memory, from camera bytes to a scene; features and state stay on the GPU."""
    low = carrying_precision(precision)
    engine, _ = _built(settings, compiler, graph, f"propagator-{precision}", low)
    table_ = files.card.class_table()
    compiled.wants_features = True
    compiled.leave_features()
    propagator = FusedPropagator(
        compiled.mask_size, LifeCycle(3, 10**9), MemoryCarrier(engine), len(table_.names), table_.thing_ids, False
    )
    pipeline = Pipeline(compiled, propagator)
    step = latency(lambda i: pipeline.step(Frame(i, i * PERIOD_NS, "front", images[i % len(images)])), settings.timed)
    propagator.close()
    compiled.wants_features = False
    return {"with_propagator_ms": step, "propagator_precision": low}


def growth(compiled: CompiledModel, images: Sequence[NDArray[np.uint8]], count: int) -> Figures:
    """Memory of GPU and process before and after many frames [MB]."""
    compiled(images[0])
    gpu, host = _gpu_used(), _resident()
    for i in range(count):
        compiled(images[i % len(images)])
    return {"frames": count, "gpu_mb": round(_gpu_used() - gpu, 2), "process_mb": round(_resident() - host, 2)}


def _gpu_used() -> float:
    try:
        from perception.engines import cuda

        free, whole = cuda.memory()
    except PerceptionError:
        return float("nan")
    return (whole - free) / 1e6


def _resident() -> float:
    """Most memory that the process has had [MB]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _told(target: Target) -> Figures:
    return {"GPU": target.device, "capability": target.capability, "driver": target.driver} | {
        target.compiler: target.version
    }


def table(figures: Figures) -> str:
    """Markdown, a column a precision."""
    told = ", ".join(f"{key} {value}" for key, value in figures["target"].items())
    names = [name for name in get_args(Precision) if name in figures]
    lines = [f"{told}; {figures['model']}, camera {figures['camera']}, {figures['pictures']} pictures", ""]
    lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, show in ROWS.items():
        lines.append(f"| {title} | " + " | ".join(_shown(figures[name], show) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _shown(figures: Figures, show: Callable[[Figures], str]) -> str:
    if "failed" in figures:
        return f"failed: {figures['failed'][:80]}"
    try:
        return show(figures)
    except KeyError:
        return "not measured"


ROWS: dict[str, Callable[[Figures], str]] = {
    "build [s]": lambda f: f"{f['build_s']}",
    "class pixels equal to float32 on the CPU, mean (worst frame) [%]": lambda f: (
        f"{100 * f['parity']['labels_mean']:.2f} ({100 * f['parity']['labels_worst']:.2f})"
    ),
    "frames with the same segments [%]": lambda f: f"{100 * f['parity']['same_segments']:.0f}",
    "replayed as CUDA graphs, always the same": lambda f: f"{f['replay']['graphs']}, {f['replay']['equal']}",
    "network, bytes to masks, p50 / p99 [ms]": lambda f: "{p50} / {p99}".format(**f["network_ms"]),
    "with the propagator, bytes to scene, p50 / p99 [ms]": lambda f: "{p50} / {p99}".format(**f["with_propagator_ms"]),
    "kernels alone, p50 [ms]; the rest of the frame [%]": lambda f: f"{f['kernels_ms']}; {f['outside_percent']}",
    "memory after more frames: GPU, process [MB]": lambda f: (
        f"{f['memory']['gpu_mb']}, {f['memory']['process_mb']} ({f['memory']['frames']} frames)"
    ),
    "mIoU: float32, this": lambda f: "{}, {}".format(*f["loss"]["miou"]) + f" against {f['loss']['against']}",
    "class that loses most [points]": lambda f: f["loss"]["worst"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--labelled", type=Path)
    parser.add_argument("--model", default="road-float")
    parser.add_argument("--camera", default="1280x720")
    parser.add_argument("--precisions", default="fp32,fp16,bf16,int8,fp8")
    parser.add_argument("--soaked", type=int, default=10_000, help="frames of the memory test")
    given = parser.parse_args()
    width, height = (int(n) for n in given.camera.split("x"))
    settings = Settings(given.out, given.model, (width, height), given.frames, given.labelled)
    settings.precisions, settings.soaked = tuple(given.precisions.split(",")), given.soaked
    from perception.engines.tensorrt import TensorRtCompiler

    try:
        print(table(measure(settings, TensorRtCompiler())))
    except PerceptionError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
