"""Writes api_facts.json anew: which versions of TensorRT and cuda-bindings have the names that our sources use.

    python -m tests.gpu.api_facts WHEELS_DIR

The folder holds wheels as `pip download --no-deps --python-version 3.11 --only-binary=:all:` gets them:
tensorrt-bindings==8.6.1, tensorrt-cu12-bindings (10.x), tensorrt-cu13-bindings (10.x, 11.x) and cuda-bindings (12.x,
13.x). The bindings are real; the libraries that they are linked to are not in them, so empty stand-ins are made with
gcc: enough to import a module and look at it, without a GPU. Needs Python 3.11, gcc, nm, readelf, and cuda-pathfinder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tests.gpu.api_names import uses

FACTS = Path(__file__).with_name("api_facts.json")
STANDS_IN = re.compile(r"^(create|getPlugin|getBuilderPlugin|getNv|getInfer|initLibNv|_ZN11nvuff|_ZN14nvcaffe)")
LOOK = """
import importlib, json, re, sys
module = importlib.import_module(sys.argv[1])
found = {}
for name in json.load(sys.stdin):
    thing = module
    for part in name.split("."):
        thing = getattr(thing, part, None)
        if thing is None:
            break
    else:
        lines = [l.strip() for l in (getattr(thing, "__doc__", None) or "").splitlines()]
        last = name.split(".")[-1]
        if isinstance(thing, type) and hasattr(thing, "__init__"):
            lines, last = [l.strip() for l in (thing.__init__.__doc__ or "").splitlines()], "__init__"
        calls = [re.match(r"(?:\\d+\\. )?" + last + r"\\((.*)\\)", l) for l in lines if "*args" not in l]
        ways = []
        for call in filter(None, calls):
            words = [w.strip() for w in re.sub(r"\\[[^]]*\\]", "", call[1].split(") ->")[0]).split(",") if w.strip()]
            names = [w.split("=")[0].split(":")[0].split()[-1] + ("=" if "=" in w else "") for w in words]
            ways.append([n for n in names if n != "self"])
        found[name] = ways
print(json.dumps(found))
"""


def main(folder: Path) -> None:
    """Read all wheels, write the facts."""
    wanted: dict[str, set[str]] = {"tensorrt": set(), "cuda-bindings": set()}
    for use in uses():
        wanted[use.library] |= {use.name, *(f for f in use.features if use.library == "tensorrt")}
    facts: dict[str, dict[str, dict[str, list[list[str]]]]] = {"tensorrt": {}, "cuda-bindings": {}}
    for wheel in sorted(folder.glob("*.whl")):
        project, version = wheel.name.split("-")[:2]
        with tempfile.TemporaryDirectory() as place:
            zipfile.ZipFile(wheel).extractall(place)
            if project.startswith("tensorrt"):
                found = look(Path(place), "tensorrt_bindings", sorted(wanted["tensorrt"]))
                facts["tensorrt"][version] = found
            elif project == "cuda_bindings":
                found = look(Path(place), "cuda.bindings.runtime", sorted(wanted["cuda-bindings"]))
                facts["cuda-bindings"][version] = found
        print(wheel.name, "read")
    FACTS.write_text(_text(facts))
    print(f"{FACTS.name}: {', '.join(f'{k} {sorted(v)}' for k, v in facts.items())}")


def look(place: Path, module: str, names: list[str]) -> dict[str, list[list[str]]]:
    """By name that the module has: the parameters of each way to call it, with "=" where one may be left out."""
    paths = [str(stand_ins(so, place / "stand-ins")) for so in place.rglob("tensorrt.so")]
    environment = os.environ | {"PYTHONPATH": str(place), "LD_LIBRARY_PATH": ":".join(paths)}
    command = [sys.executable, "-c", LOOK, module]
    done = subprocess.run(
        command, input=json.dumps(names), env=environment, text=True, capture_output=True, timeout=120, check=False
    )
    if done.returncode:
        raise SystemExit(f"{module} in {place}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def stand_ins(library: Path, folder: Path) -> Path:
    """Empty libraries with the functions that a TensorRT module is linked to; each gives a null pointer."""
    folder.mkdir(exist_ok=True)
    symbols = subprocess.run(["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True)
    names = {line.split()[-1].split("@")[0] for line in symbols.stdout.splitlines() if line.split()[0] == "U"}
    source = folder / "stand_ins.c"
    source.write_text("".join(f"void *{n}(void) {{ return 0; }}\n" for n in sorted(names) if STANDS_IN.match(n)))
    needed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    for name in re.findall(r"\[(libnv[a-z_]*\.so\.\d+)\]", needed):
        out = str(folder / name)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", out, f"-Wl,-soname,{name}", str(source)], check=True)
    return folder


def _text(facts: dict) -> str:
    """One line a name: version -> ways to call it; so that a change is read easily."""
    lines = ["{"]
    for k, (library, versions) in enumerate(facts.items()):
        lines.append(f"  {json.dumps(library)}: {{")
        lines.append(f'    "versions": {json.dumps(sorted(versions, key=_order))},')
        names = sorted({name for found in versions.values() for name in found})
        for i, name in enumerate(names):
            has = {v: versions[v][name] for v in sorted(versions, key=_order) if name in versions[v]}
            lines.append(f"    {json.dumps(name)}: {json.dumps(has)}{',' if i + 1 < len(names) else ''}")
        lines.append("  }," if k + 1 < len(facts) else "  }")
    return "\n".join([*lines, "}"]) + "\n"


def _order(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
