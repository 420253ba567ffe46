"""Everything that needs an NVIDIA GPU, in one go; writes measured.json and measured.md.

    python -m tests.gpu.measure OUT_DIR [--frames DIR] [--labelled DIR] [--model road-float] [--camera 1280x720]

Build, parity with ONNX Runtime, replay of CUDA graphs, latency, the share of a frame outside the kernels, memory over
10,000 frames, and what each precision costs. --frames: real pictures of the camera (rendered ones without); --labelled:
a folder of images/ and labels/, such as CamVid test. Takes some minutes a precision, most of it TensorRT's; the files
are written after each step, so that a run that is cut short leaves what it had.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from perception.drives.rendered import RenderedDrive
from perception.engines import open_engine
from perception.engines.plan import PlanCompiler, Precision, Target
from perception.errors import PerceptionError
from perception.images import load_image
from perception.models.card import ModelFiles, find
from perception.models.compiled import CompiledModel
from perception.models.graph import scaled
from perception.models.lowering import carrying_precision, lower, lowered
from perception.pipeline import Pipeline
from perception.propagation.fusion import FusedPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.protocols import Engine
from perception.types import Frame
from tests.gpu.record import Figures, Record, table
from tests.gpu.steps import growth, latency, lost, outside, parity, replay

PERIOD_NS = 33_333_333
CALIBRATE = 50  # frames
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class CheckingCompiler(PlanCompiler, Protocol):
    """A compiler that is asked for a precision before anything is lowered and calibrated for it."""

    def check(self, precision: Precision) -> None:
        """Raises ModelError for one that this version does not have."""
        ...


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


@dataclass(frozen=True)
class Run:
    """What all precisions have in common."""

    settings: Settings
    compiler: CheckingCompiler
    files: ModelFiles
    reference: CompiledModel  # float32 on the CPU
    images: list[NDArray[np.uint8]]
    record: Record


def measure(settings: Settings, compiler: CheckingCompiler) -> Figures:
    """All figures; what fails says why, and the others go on."""
    files, target = find(settings.model), compiler.target()
    images = frames_of(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    exact = lower(files, settings.camera)
    reference = CompiledModel(files, _on_cpu(exact.SerializeToString(), settings.out))
    figures: Figures = {"target": _told(target), "camera": "{}x{}".format(*settings.camera), "model": settings.model}
    figures["pictures"] = settings.frames.name if settings.frames else "rendered"
    run = Run(settings, compiler, files, reference, images, Record(settings.out, figures))
    for precision in settings.precisions:
        settings.say(precision)
        with run.record.step(precision, "build_s"):
            _one(run, precision)
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


def _one(run: Run, precision: Precision) -> None:
    """A precision; raises what went wrong before there was a plan to measure."""
    run.compiler.check(precision)
    graphs = lowered(run.files, run.settings.camera, precision, run.images[:CALIBRATE], ("network", "propagator"))
    engine, built = _built(run, graphs["network"], f"network-{precision}", precision)
    compiled = CompiledModel(run.files, engine)
    try:
        with run.record.step(precision, "build_s") as figures:
            figures["build_s"] = built
        _measured(run, precision, compiled)
        if "propagator" in graphs:
            with run.record.step(precision, "with_propagator_ms") as figures:
                figures |= _followed(run, compiled, precision, graphs["propagator"])
        with run.record.step(precision, "memory") as figures:
            figures["memory"] = growth(compiled, run.images, run.settings.soaked)
    finally:
        compiled.close()


def _measured(run: Run, precision: Precision, compiled: CompiledModel) -> None:
    """The network alone."""
    images, timed = run.images, run.settings.timed
    with run.record.step(precision, "parity") as figures:
        figures["parity"] = parity(run.reference, compiled, images)
    with run.record.step(precision, "replay") as figures:
        figures["replay"] = replay(compiled, images)
    with run.record.step(precision, "network_ms") as figures:
        figures["network_ms"] = latency(lambda i: compiled(images[i % len(images)]), timed)
    with run.record.step(precision, "kernels_ms") as figures:
        figures |= outside(compiled.engine, figures["network_ms"]["p50"], min(200, timed))
    with run.record.step(precision, "loss") as figures:
        figures["loss"] = lost(run.reference, compiled, images, run.settings.labelled)


def _built(run: Run, graph: bytes, name: str, precision: Precision) -> tuple[Engine, float]:
    path, plan = run.settings.out / f"{name}.onnx", run.settings.out / f"{name}.plan"
    path.write_bytes(graph)
    began, last = time.perf_counter(), [0.0]

    def progress(what: str, done: int, of: int) -> None:
        if time.perf_counter() - last[0] > 5:
            last[0] = time.perf_counter()
            run.settings.say(f"  {name}: {what} {done}/{of}")

    run.compiler.compile(path, plan, precision, run.settings.out / "timings.cache", progress)
    return run.compiler.open(plan), round(time.perf_counter() - began, 1)


def _followed(run: Run, compiled: CompiledModel, precision: Precision, graph: bytes) -> Figures:
    """Network and memory, from camera bytes to a scene; features and state stay on the GPU."""
    low = carrying_precision(precision)
    engine, _ = _built(run, graph, f"propagator-{precision}", low)
    try:
        return {"with_propagator_ms": _scenes(run, compiled, engine), "propagator_precision": low}
    finally:
        compiled.wants_features = False
        engine.close()


def _scenes(run: Run, compiled: CompiledModel, engine: Engine) -> Figures:
    images, table_ = run.images, run.files.card.class_table()
    compiled.wants_features = True
    compiled.leave_features()
    propagator = FusedPropagator(
        compiled.mask_size, LifeCycle(3, 10**9), MemoryCarrier(engine), len(table_.names), table_.thing_ids, False
    )
    pipeline = Pipeline(compiled, propagator)
    return latency(
        lambda i: pipeline.step(Frame(i, i * PERIOD_NS, "front", images[i % len(images)])), run.settings.timed
    )


def _told(target: Target) -> Figures:
    return {"GPU": target.device, "capability": target.capability, "driver": target.driver} | {
        target.compiler: target.version
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
