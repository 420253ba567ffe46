"""The layer table of the architecture: who may import whom. A new arrow is a reviewed change to this table."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "perception"

NOUNS = {
    "types",
    "labels",
    "protocols",
    "errors",
    "strict_toml",
    "stopwatch",
    "clock",
    "opencv",
    "images",
    "looks",
    "whole_file",
    "lock_file",
}
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "clock": set(),
    "jpeg": set(),
    "opencv": set(),
    "stopwatch": set(),
    "supervision": set(),
    "machine": set(),
    "folders": set(),
    "whole_file": set(),
    "lock_file": set(),
    "images": {"errors", "opencv", "jpeg"},
    "labels": {"errors"},
    "looks": {"types"},
    "protocols": {"types"},
    "strict_toml": {"errors"},
    "config": {"errors", "strict_toml"},
    "geometry": NOUNS,
    "wire": {"types", "errors", "jpeg"},
    "keys": {"errors"},
    "client": {"types", "errors", "wire", "keys", "clock"},
    "drives": NOUNS | {"geometry", "wire"},
    "sources": NOUNS | {"drives"},
    "engines": NOUNS | {"folders", "machine"},
    "models": NOUNS | {"engines"},
    "propagation": NOUNS,
    "sinks": NOUNS | {"wire", "drives", "keys", "geometry"},
    "continuity": NOUNS | {"propagation", "folders"},
    "serving": NOUNS | {"engines", "drives", "propagation", "wire"},
    "health": NOUNS | {"wire", "serving"},
    "control": NOUNS | {"wire", "keys", "sinks", "propagation"},
    "pipeline": NOUNS,
    "logbook": NOUNS | {"wire", "drives", "propagation", "sinks", "pipeline"},
    "switches": NOUNS | {"propagation"},
    "node": NOUNS | {"health", "pipeline", "sinks", "control", "continuity", "supervision", "logbook", "serving"},
    "watch": NOUNS | {"client", "wire", "sinks"},
    "view": NOUNS | {"client", "wire", "sinks", "drives"},
    "conversion": NOUNS | {"config", "wire", "drives", "sources", "sinks"},
}
ALLOWED["build"] = {*ALLOWED, "machine"}
ALLOWED["runner"] = ALLOWED["display"] = ALLOWED["frame_cost"] = ALLOWED["build"] | {"build"}
ALLOWED["doctor"] = ALLOWED["frame_cost"] | {"frame_cost"}
ALLOWED["evaluation"] = ALLOWED["build"] | {"build"}
ALLOWED["replay"] = ALLOWED["build"] | {"build"}
ALLOWED["bench"] = ALLOWED["build"] | {"build", "replay"}
ALLOWED["compare"] = NOUNS | {"wire", "drives", "sinks", "propagation", "replay", "evaluation"}
ALLOWED["fleet"] = ALLOWED["replay"] | {"replay", "compare"}
ALLOWED["pytest_plugin"] = {"fleet", "compare", "config", "errors"}
ALLOWED["prepare"] = ALLOWED["evaluation"] | {"evaluation"}
ALLOWED["training"] = ALLOWED["evaluation"] | {"evaluation"}
ALLOWED["cli"] = {*ALLOWED}
THIRD_PARTY = {
    "torch": {"training"},
    "openvino": {"engines"},
    "tensorrt": {"engines"},
    "cuda": {"engines"},
    "onnx": {"models", "training"},
    "onnxruntime": {"engines", "training"},
    "zmq": {"sinks", "client", "keys", "watch", "control"},
}
THIRD_PARTY |= {"aiohttp": {"view", "bench"}, "foxglove": {"view"}}
THIRD_PARTY |= {"ray": {"fleet"}, "av": {"sources", "conversion"}, "typer": {"cli"}}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "perception" else {f"perception.{a.name}" for a in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_up_the_table(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} is not in the layer table"
    own = {name.split(".")[1] for name in imports_of(path) if name.startswith("perception.")}
    assert own - {room, "__version__"} <= ALLOWED[room]


@pytest.mark.parametrize("package", THIRD_PARTY)
def test_a_heavy_package_stays_in_its_rooms(package):
    users = {room_of(p) for p in FILES if any(n.split(".")[0] == package for n in imports_of(p))}
    assert users <= THIRD_PARTY[package]
