"""Which of the CPU's engines `auto` takes, where `perception selftest` has measured them on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from perception.folders import cache_folder
from perception.machine import cpu_name, versions
from perception.whole_file import write

CpuEngine = Literal["onnxruntime", "openvino"]
FILE = "fastest.json"
_LONGEST = 1 << 16  # bytes


class Measured(msgspec.Struct, frozen=True):
    """What was measured, and on what: anything else is another machine."""

    cpu: str
    versions: dict[str, str]  # of the engines
    step_ms: dict[CpuEngine, float]  # of those that agree with the reference


def machine() -> tuple[str, dict[str, str]]:
    """This processor, and the versions of the engines that are installed."""
    return cpu_name(), {name: version for name, version in versions().items() if name in ("onnxruntime", "openvino")}


def remember(step_ms: Mapping[CpuEngine, float]) -> Path:
    """Have `auto` take the fastest of these from now on. Raises OSError."""
    path = cache_folder() / FILE
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(path, msgspec.json.encode(Measured(*machine(), dict(step_ms))))
    return path


def fastest() -> CpuEngine | None:
    """As it was measured; None where nothing was, or on another machine."""
    try:
        with (cache_folder() / FILE).open("rb") as file:
            measured = msgspec.json.decode(file.read(_LONGEST), type=Measured)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if (measured.cpu, measured.versions) != machine():
        return None
    known: list[tuple[float, CpuEngine]] = [
        (ms, name) for name, ms in measured.step_ms.items() if importlib.util.find_spec(name)
    ]
    return min(known)[1] if known else None
