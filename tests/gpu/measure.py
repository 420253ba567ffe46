"""Everything that needs an NVIDIA GPU, in one go; writes measured.json and measured.md.

    python -m tests.gpu.measure OUT_DIR [--frames DIR] [--labelled DIR] [--model road-float] [--camera 1280x720]

Build, parity with ONNX Runtime, replay of CUDA graphs, latency, the share of a frame outside the kernels, memory over
10,000 frames, and what each precision costs. --frames: real pictures of the camera (rendered ones without); --labelled:
a folder of images/ and labels/, such as CamVid test. Takes some minutes a precision, most of it TensorRT's; the files
are written after each step, so that a run that is cut short leaves what it had. Graphs and plans are made, kept (in
OUT_DIR/cache) and opened by what does so for the node: what is measured is what is served.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.build.lowering import CALIBRATED, NETWORK, PROPAGATOR, LoweredGraphs
from perception.build.recipes import Lowered
from perception.config import Launch, ModelConfig
from perception.drives.pictures import encode_picture
from perception.drives.rendered import RenderedDrive
from perception.engines.cache import PlanCache
from perception.engines.plan import PlanCompiler, Precision, Target
from perception.errors import PerceptionError
from perception.images import load_image
from perception.models.card import ModelFiles, find
from perception.models.compiled import CompiledModel
from perception.models.graph import scaled
from perception.pipeline import Pipeline
from perception.propagation.fusion import FusedPropagator
from perception.propagation.memory import MemoryCarrier
from perception.propagation.tracks import LifeCycle
from perception.serving.plan_rung import PlanRung
from perception.serving.rungs import Opened
from perception.stopwatch import Stopwatch
from perception.types import Frame
from tests.gpu.record import Figures, Record, table
from tests.gpu.steps import growth, latency, lost, outside, parity, replay

PERIOD_NS = 33_333_333
CALIBRATE = 50  # frames
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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
    compiler: PlanCompiler
    files: ModelFiles
    cache: PlanCache
    images: list[NDArray[np.uint8]]
    record: Record
    references: list[CompiledModel] = field(default_factory=list)  # one: float32 on the CPU

    def recipe(self, precision: Precision, has_carrier: bool) -> Lowered:
        """The node's: of the network, and the propagator where it has a carrier."""
        model = ModelConfig(self.settings.model, "tensorrt", precision=precision)
        launch, store = Launch(version=1, model=model), LoweredGraphs(self.cache)
        return Lowered(self.files, launch, has_carrier, has_carrier, Stopwatch(), store)

    @property
    def reference(self) -> CompiledModel:
        if not self.references:
            self.references.append(self.recipe("fp32", False).exact(self.settings.camera))
        return self.references[0]


def measure(settings: Settings, compiler: PlanCompiler) -> Figures:
    """All figures; what fails says why, and the others go on."""
    files, target = find(settings.model), compiler.target()
    settings.out.mkdir(parents=True, exist_ok=True)
    figures: Figures = {"target": _told(target), "camera": "{}x{}".format(*settings.camera), "model": settings.model}
    figures["pictures"] = settings.frames.name if settings.frames else "rendered"
    cache, record = PlanCache(settings.out.absolute() / "cache"), Record(settings.out, figures)
    run = Run(settings, compiler, files, cache, frames_of(settings), record)
    for precision in settings.precisions:
        settings.say(precision)
        with run.record.step(precision, "build_s"):
            _one(run, precision)
    for reference in run.references:
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


def calibration_of(run: Run) -> Path:
    """A folder of the pictures that int8 and fp8 are calibrated on."""
    if run.settings.frames:
        return run.settings.frames
    folder = run.settings.out / "rendered"
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(run.images[:CALIBRATE]):
        (folder / f"{i:03}.png").write_bytes(encode_picture(image, "png", 0))
    return folder


def _one(run: Run, precision: Precision) -> None:
    """A precision; raises what went wrong before there was a plan to measure."""
    recipe = run.recipe(precision, has_carrier=False)
    rung = PlanRung("tensorrt", lambda: run.compiler, recipe, run.cache, precision, niceness=0)
    rung.check()
    if precision in CALIBRATED:
        recipe.calibrate(run.settings.camera, calibration_of(run))
    with closing(_opened(run, rung)) as opened:
        compiled = opened.model
        assert isinstance(compiled, CompiledModel)
        with run.record.step(precision, "build_s") as figures:
            figures["build_s"] = round(rung.manifests(run.settings.camera)[NETWORK][1].took_s, 1)
        _measured(run, precision, compiled)
        if run.files.propagator:
            with run.record.step(precision, "with_propagator_ms") as figures:
                figures |= _followed(run, precision)
        with run.record.step(precision, "memory") as figures:
            figures["memory"] = growth(compiled, run.images, run.settings.soaked)


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


def _opened(run: Run, rung: PlanRung) -> Opened:
    """Built, if it is not in the cache, and loaded as the node does it."""
    last = [0.0]

    def progress(what: str, done: int, of: int) -> None:
        if time.perf_counter() - last[0] > 5:
            last[0] = time.perf_counter()
            run.settings.say(f"  {rung.name}: {what} {done}/{of}")

    rung.prepare(run.settings.camera, progress, lambda: False)
    opened = rung.open()
    rung.settled()
    return opened


def _followed(run: Run, precision: Precision) -> Figures:
    """Network and memory, from camera bytes to a scene; features and state stay on the GPU."""
    recipe = run.recipe(precision, has_carrier=True)
    rung = PlanRung("tensorrt", lambda: run.compiler, recipe, run.cache, precision, niceness=0)
    with closing(_opened(run, rung)) as opened:
        assert opened.carrier is not None
        table_, life = run.files.card.class_table(), LifeCycle(3, 10**9)
        carrier = MemoryCarrier(opened.carrier)
        propagator = FusedPropagator(opened.model.mask_size, life, carrier, len(table_.names), table_.thing_ids, False)
        pipeline, images = Pipeline(opened.model, propagator), run.images
        times = latency(
            lambda i: pipeline.step(Frame(i, i * PERIOD_NS, "front", images[i % len(images)])), run.settings.timed
        )
    return {"with_propagator_ms": times, "propagator_precision": recipe.precision(PROPAGATOR)}


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
