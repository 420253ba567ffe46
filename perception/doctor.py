"""What this machine can run, and the fix for each thing that is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.engines.accelerators import has_cuda_provider, has_gpu, open_tensorrt
from perception.engines.cache import PlanCache
from perception.engines.measured import fastest
from perception.errors import PerceptionError
from perception.folders import check_private, state_folder
from perception.frame_cost import cost_of_a_frame
from perception.machine import cores

CAMERA_HZ = 30.0  # that a node should keep up with


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    topic: str
    level: str  # "ok" | "note": works without it | "wrong": the node can't run well
    what: str
    fix: str = ""


def examine(port: int = 5601) -> Iterator[Finding]:
    """All findings, in the order in which a newcomer needs them."""
    yield from _machine()
    yield from _packages()
    yield from _engines()
    yield from _speed()
    yield from _gpu()
    yield from _cache()
    yield from _cameras()
    yield from _port(port)
    yield from _state()


def _machine() -> Iterator[Finding]:
    what = f"Python {platform.python_version()}, {platform.machine()}, {cores()} cores"
    if cores() < 2:
        yield Finding("machine", "note", what, "one core: expect half the frame rate; set model.network_every = 2")
    else:
        yield Finding("machine", "ok", what)
    flags = _cpu_flags()
    fast = [name for name in ("avx2", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd") if name in flags]
    yield Finding("machine", "ok" if fast else "note", "vector units: " + (", ".join(fast) or "none known"))


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else set()


def _packages() -> Iterator[Finding]:
    names = {d.metadata["Name"].lower() for d in importlib.metadata.distributions() if d.metadata["Name"]}
    if {"opencv-python", "opencv-python-headless"} <= names:
        fix = "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
        yield Finding("packages", "wrong", "two OpenCV packages are installed and overwrite each other", fix)
    try:
        import cv2
    except ImportError as error:
        yield Finding("packages", "wrong", f"OpenCV does not import: {error}", "pip install opencv-python-headless")
    else:
        yield Finding("packages", "ok", f"OpenCV {cv2.__version__}")


def _engines() -> Iterator[Finding]:
    from perception.engines import open_engine
    from perception.models.card import find, shipped

    if not shipped():
        yield Finding("engines", "wrong", "no model came with the package", "install it again from a full checkout")
        return
    graph = find("").graph
    for name in ("onnxruntime", "openvino"):
        if importlib.util.find_spec(name) is None:
            yield Finding("engines", "note", f"{name} is not installed", f"pip install 'perception-node[{name}]'")
            continue
        try:
            engine = open_engine(graph, name)
            engine({spec.name: np.zeros([n or 1 for n in spec.shape], spec.dtype) for spec in engine.inputs})
        except PerceptionError as error:
            yield Finding("engines", "wrong", str(error), f"pip install --force-reinstall {name}")
        else:
            yield Finding("engines", "ok", f"{engine.name} {importlib.metadata.version(name)} runs {graph.stem}")


def _speed() -> Iterator[Finding]:
    """What the default node gets through on the CPU, and what is faster where that is less than a camera gives."""
    try:
        cost = cost_of_a_frame()
    except PerceptionError:
        return  # the engines have said why
    what = f"{cost.what}: about {cost.rate_hz():.0f} frames a second"
    if cost.rate_hz() >= CAMERA_HZ or cost.kind == "iou":
        yield Finding("speed", "ok", what)
        return
    second, without = cost.rate_hz(network_every=2), cost.rate_hz(follows=False)
    fix = f"for more: model.network_every = 2 (about {second:.0f}) or tracking.kind = 'iou' (about {without:.0f})"
    yield Finding("speed", "note", what, fix)


def _gpu() -> Iterator[Finding]:
    driver = Path("/proc/driver/nvidia/version")
    if driver.exists():
        yield Finding("gpu", "ok", driver.read_text().splitlines()[0].strip())
    if not has_gpu():
        yield Finding("gpu", "note", "no NVIDIA driver: the network runs on the CPU")
        return
    try:
        target = open_tensorrt().target()
    except PerceptionError as error:
        what, _, fix = str(error).partition("; ")
        yield Finding("gpu", "note", what, fix or "until then the network runs on the CPU")
    else:
        what = f"TensorRT {target.version} on {target.device} ({target.capability}), driver {target.driver}"
        yield Finding("gpu", "ok", what, "perception build road makes its engine before the first drive")
    if has_cuda_provider():
        yield Finding("gpu", "ok", "ONNX Runtime has its CUDA provider")


def _cache() -> Iterator[Finding]:
    cache = PlanCache()
    try:
        if cache.root.exists():
            check_private(cache.root)
    except OSError as error:
        yield Finding("cache", "wrong", f"compiled engines can't be kept: {error}", "or set model.cache")
        return
    plans = list(cache.root.glob("plans/*/plan"))
    size = sum(path.stat().st_size for path in plans) / 1e6
    yield Finding("cache", "ok", f"{len(plans)} compiled engines, {size:.0f} MB, in {cache.root}")
    if measured := fastest():
        yield Finding("cache", "ok", f"auto takes {measured} on the CPU: perception selftest measured it")


def has_accelerator(engine: str) -> tuple[bool, str]:
    """Whether an engine that is named in a launch file is here, and what is missing where it is not."""
    if engine == "tensorrt":
        try:
            open_tensorrt().target()
        except PerceptionError as error:
            return False, str(error)
    if engine.startswith("onnxruntime-") and not has_cuda_provider():
        return False, "this ONNX Runtime finds no GPU; pip install onnxruntime-gpu in its place"
    return True, ""


def _cameras() -> Iterator[Finding]:
    devices = sorted(Path("/dev").glob("video*"))
    for device in devices:
        if os.access(device, os.R_OK | os.W_OK):
            yield Finding("cameras", "ok", f'{device}: url = "camera:{device.name.removeprefix("video")}"')
        else:
            yield Finding(
                "cameras", "wrong", f"{device}: not allowed to open it", "sudo usermod -aG video $USER, log in again"
            )
    if not devices:
        yield Finding("cameras", "note", "no /dev/video*: use a file, a stream, or plug a camera in")
    if shutil.which("gst-launch-1.0"):
        yield Finding("cameras", "ok", "GStreamer: gst: sources work")
    else:
        yield Finding("cameras", "note", "no gst-launch-1.0: gst: sources need it", "apt install gstreamer1.0-tools")


def _port(port: int) -> Iterator[Finding]:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            from perception.sinks.endpoints import owner_of_port

            owner = owner_of_port(port)
            fix = "stop it, or choose another publish.endpoints"
            yield Finding("ports", "wrong", f"port {port} is in use{f' by {owner}' if owner else ''}", fix)
        else:
            yield Finding("ports", "ok", f"port {port} is free")


def _state() -> Iterator[Finding]:
    folder = state_folder()
    try:
        if folder.exists():
            check_private(folder)
    except OSError as error:
        yield Finding(
            "restarts", "note", f"a restarted node can't go on with its track ids: {error}", "or set XDG_STATE_HOME"
        )
    else:
        yield Finding("restarts", "ok", f"a restarted node goes on with its track ids, by a file in {folder}")
