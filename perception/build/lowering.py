"""Lowered graphs of models, kept beside the plans: `python -m perception.build.lowering` is the child that makes them.

Lowering takes two seconds of all that Python can do, and the node has frames to send.

    <root>/graphs/<model>-<hash>/<part>.onnx    a graph as the compiler gets it, and manifest.json
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perception import __version__
from perception.engines.cache import PlanCache, Refusal
from perception.engines.entries import Entries, sha256_of
from perception.engines.plan import Precision, carrying_precision
from perception.errors import ModelError, PerceptionError
from perception.models.card import ModelFiles, find

NETWORK, ENCODER, PROPAGATOR = "network", "encoder", "propagator"
PARTS = (NETWORK, ENCODER, PROPAGATOR)
CALIBRATED = ("int8", "fp8")  # precisions that need frames
MOST_FRAMES = 100
_GRAPHS = "graphs"
_PATIENCE_S = 300.0
_LOWERING = Path(__file__).parent.parent / "models" / "lowering"


class Order(msgspec.Struct, frozen=True):
    """What the child is to make."""

    model: str
    parts: tuple[str, ...]
    size: tuple[int, int]  # width, height of the camera's frames [px]
    precision: Precision
    root: str  # of the cache
    frames: str = ""  # folder of pictures: graphs that are calibrated are made anew on them


def precision_of(part: str, precision: Precision) -> Precision:
    """That of one graph of a model whose network has this precision."""
    return carrying_precision(precision) if part == PROPAGATOR else precision


class LoweredGraphs:
    """The graphs of models for a camera's size and a precision, each made once.

    Args:
        cache: beside whose plans they lie.
    """

    def __init__(self, cache: PlanCache) -> None:
        self._entries = Entries(cache.root, _GRAPHS)

    def graphs(
        self,
        files: ModelFiles,
        parts: Sequence[str],
        size: tuple[int, int],
        precision: Precision,
        calibrate: str = "perception build --calibrate FOLDER",
    ) -> Mapping[str, Path]:
        """By part; what is missing or damaged is made.

        Args:
            calibrate: the command that calibrates them, for who lacks that.

        Raises:
            ModelError: they can't be made. CacheError: others could have written them.
        """
        found = {part: self._found(files, part, size, precision) for part in parts}
        missing = [part for part, path in found.items() if path is None]
        if any(precision_of(part, precision) in CALIBRATED for part in missing):
            raise ModelError(f"{precision} is calibrated on the camera's pictures first: {calibrate}")
        if missing:
            self.make(files, missing, size, precision)
            found |= {part: self._found(files, part, size, precision) for part in missing}
        if lost := [part for part, path in found.items() if path is None]:
            raise ModelError(f"{self._entries.folder}: the graph of the {lost[0]} was removed or changed by another")
        return {part: path for part, path in found.items() if path}

    def _found(self, files: ModelFiles, part: str, size: tuple[int, int], precision: Precision) -> Path | None:
        name, key = _entry(files, part, size, precision)
        try:
            return self._entries.find(name, key, f"{part}.onnx")
        except Refusal:
            return None

    def forget(self, files: ModelFiles, parts: Sequence[str], size: tuple[int, int], precision: Precision) -> None:
        """Have graphs made anew; not those that can't be without pictures. Never raises."""
        for part in parts:
            if precision_of(part, precision) not in CALIBRATED:
                self._entries.remove(_entry(files, part, size, precision)[0])

    def make(
        self,
        files: ModelFiles,
        parts: Sequence[str],
        size: tuple[int, int],
        precision: Precision,
        frames: Path | None = None,
    ) -> None:
        """In a child. Raises ModelError with its words."""
        self._entries.prepare()
        order = Order(str(files.graph), tuple(parts), size, precision, str(self._entries.root), str(frames or ""))
        argv = [sys.executable, "-m", "perception.build.lowering", msgspec.json.encode(order).decode()]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"the model can't be lowered: {error}") from None
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise ModelError(words[-1] if words else f"lowering ended with {done.returncode}")


def _entry(files: ModelFiles, part: str, size: tuple[int, int], precision: Precision) -> tuple[str, dict[str, str]]:
    """Name and key of a graph: all that decides it, but for the frames of its calibration."""
    sides = [sha256_of(path) for path in (files.encoder, files.propagator) if path]
    code = [sha256_of(path) for path in sorted(_LOWERING.glob("*.py"))]
    key = {"model": files.identity, "sides": " ".join(sides), "part": part, "size": "{}x{}".format(*size)}
    key |= {"precision": precision_of(part, precision), "version": __version__, "code": " ".join(code)}
    return f"{files.name}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}", key


def main(order: Order) -> None:
    """Make the graphs that are not there. Raises PerceptionError, OSError."""
    lowering: Any = importlib.import_module("perception.models.lowering")
    files, entries = find(order.model), Entries(Path(order.root), _GRAPHS)
    entries.clean_all()
    frames = _frames(Path(order.frames), order.size) if order.frames else []
    for part in order.parts:
        name, key = _entry(files, part, order.size, order.precision)
        is_calibrated, file, began = key["precision"] in CALIBRATED, f"{part}.onnx", time.monotonic()
        with entries.making(name) as partial:
            if not (frames and is_calibrated):
                with contextlib.suppress(Refusal):  # another process has just made the same
                    entries.find(name, key, file)
                    continue
            graphs = lowering.lowered(files, order.size, order.precision, frames, (part,))
            (partial / file).write_bytes(graphs[part])
            entries.adopt(name, partial, file, key, time.monotonic() - began, f"{files.name} {part}")


def _frames(folder: Path, size: tuple[int, int]) -> list[Any]:
    """(h, w, 3) pictures of a folder, at most a hundred, evenly spaced over it, at the camera's size."""
    from perception.images import load_image
    from perception.models.graph import scaled

    return [scaled(load_image(path), *size) for path in calibration_pictures(folder)]


def calibration_pictures(folder: Path) -> list[Path]:
    """Those that a calibration takes of a folder. Raises ModelError where there are none."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise ModelError(f"{folder}: no pictures here to calibrate on")
    return paths[:: max(1, len(paths) // MOST_FRAMES)][:MOST_FRAMES]


if __name__ == "__main__":
    os.nice(10)
    try:
        main(msgspec.convert(json.loads(sys.argv[1]), Order))
    except (PerceptionError, ImportError, OSError) as error:
        sys.exit(" ".join(str(error).split()))
