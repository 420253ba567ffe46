"""Lowered graphs of models, kept beside the plans: `python -m perception.build.lowering` is the child that makes them.

Lowering takes two seconds of all that Python can do, and the node has frames to send.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perception import __version__
from perception.engines.cache import PlanCache, sha256_of
from perception.engines.plan import Precision
from perception.errors import ModelError, PerceptionError
from perception.models.card import ModelFiles, find

NETWORK, ENCODER, PROPAGATOR = "network", "encoder", "propagator"
PARTS = (NETWORK, ENCODER, PROPAGATOR)
CALIBRATED = ("int8", "fp8")  # precisions that need frames
MOST_FRAMES = 100
_PATIENCE_S = 300.0
_LOWERING = Path(__file__).parent.parent / "models" / "lowering"


class Order(msgspec.Struct, frozen=True):
    """What the child is to write into a folder."""

    model: str
    parts: tuple[str, ...]
    size: tuple[int, int]  # width, height of the camera's frames [px]
    precision: Precision
    folder: str
    frames: str = ""  # folder of pictures


class LoweredGraphs:
    """The graphs of models for a camera's size and a precision, each made once.

    Args:
        cache: beside whose plans they lie.
    """

    def __init__(self, cache: PlanCache) -> None:
        self._cache = cache

    def graphs(
        self, files: ModelFiles, parts: Sequence[str], size: tuple[int, int], precision: Precision
    ) -> Mapping[str, Path]:
        """By part. Raises ModelError where they can't be made."""
        folder = self._folder(files, size, precision)
        if not all((folder / f"{part}.onnx").exists() for part in parts):
            if precision in CALIBRATED:
                raise ModelError(
                    f"{precision} is calibrated on the camera's pictures first: perception build {files.name} "
                    f"--precision {precision} --size {size[0]}x{size[1]} --calibrate FOLDER"
                )
            self.make(files, parts, size, precision)
        return {part: folder / f"{part}.onnx" for part in parts}

    def make(
        self,
        files: ModelFiles,
        parts: Sequence[str],
        size: tuple[int, int],
        precision: Precision,
        frames: Path | None = None,
    ) -> None:
        """In a child. Raises ModelError with its words."""
        self._cache.prepare()
        folder = self._folder(files, size, precision)
        order = Order(str(files.graph), tuple(parts), size, precision, str(folder), str(frames or ""))
        argv = [sys.executable, "-m", "perception.build.lowering", msgspec.json.encode(order).decode()]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"the model can't be lowered: {error}") from None
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise ModelError(words[-1] if words else f"lowering ended with {done.returncode}")

    def _folder(self, files: ModelFiles, size: tuple[int, int], precision: Precision) -> Path:
        """Named by all that decides the graphs, but for the frames of their calibration."""
        sides = [sha256_of(path) for path in (files.encoder, files.propagator) if path]
        code = [sha256_of(path) for path in sorted(_LOWERING.glob("*.py"))]
        text = json.dumps([files.identity, sides, size, precision, __version__, code])
        return self._cache.root / "graphs" / f"{files.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def main(order: Order) -> None:
    """Write the graphs, all or none. Raises PerceptionError."""
    lowering: Any = importlib.import_module("perception.models.lowering")
    files, folder = find(order.model), Path(order.folder)
    makes = {
        NETWORK: lambda: lowering.lower(files, order.size),
        ENCODER: lambda: lowering.lower_encoder(files, order.size),
        PROPAGATOR: lambda: lowering.lower_propagator(files),
    }
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    partial.mkdir(mode=0o700, parents=True)
    try:
        frames = _frames(Path(order.frames), order.size) if order.frames else []
        for part in order.parts:
            # the propagator's graph takes no frame to calibrate it on
            precision = "fp16" if part == PROPAGATOR and order.precision in CALIBRATED else order.precision
            graph = lowering.in_precision(makes[part](), precision, frames)
            (partial / f"{part}.onnx").write_bytes(graph.SerializeToString(deterministic=True))
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(FileExistsError):  # another process has just made the same
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _frames(folder: Path, size: tuple[int, int]) -> list[Any]:
    """(h, w, 3) pictures of a folder, at most a hundred, evenly spaced over it, at the camera's size."""
    from perception.images import load_image
    from perception.models.graph import scaled

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise ModelError(f"{folder}: no pictures here to calibrate on")
    chosen = paths[:: max(1, len(paths) // MOST_FRAMES)][:MOST_FRAMES]
    return [scaled(load_image(path), *size) for path in chosen]


if __name__ == "__main__":
    os.nice(10)
    try:
        main(msgspec.convert(json.loads(sys.argv[1]), Order))
    except (PerceptionError, ImportError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
