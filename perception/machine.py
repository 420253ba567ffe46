"""Which kind of machine this is: what decides whether two runs can give the same bytes, and what figures are of."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("perception-node", "numpy", "opencv-python-headless", "onnxruntime", "openvino", "scipy", "av", "tensorrt")


def cpu_name() -> str:
    """As /proc/cpuinfo has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def versions() -> dict[str, str]:
    """Of Python and of the packages that masks depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def host_name() -> str:
    return platform.node()
