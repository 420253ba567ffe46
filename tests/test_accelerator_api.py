"""Every name and call of TensorRT and CUDA in our sources against the real bindings' 8.6, 10.x, 11.x; 12.x and 13.x.

What the bindings have lies in tests/gpu/api_facts.json, made by tests/gpu/api_facts.py. No GPU is used, and none of
the two libraries.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.gpu.api_facts import FACTS
from tests.gpu.api_names import Use, uses

ROOT = Path(__file__).resolve().parents[1]
KNOWN = json.loads(FACTS.read_text())
USES = uses()


def problem(use: Use) -> str:
    """What is wrong with a use in some version; "" where nothing is."""
    library = KNOWN[use.library]
    versions, has = set(library["versions"]), library.get(use.name, {})
    if not has:
        return "no version has it: a mistake, or run tests/gpu/api_facts.py"
    missing = versions - set(has)
    if missing and not any(_is_covered(library, versions, set(has), feature) for feature in use.features):
        return f"{', '.join(sorted(missing))} lack it, and nothing looks for it first"
    for version, ways in has.items():
        if use.arguments is not None and ways and not any(_fits(use.arguments, way) for way in ways):
            return f"{version} takes {' or '.join(map(str, ways))}"
    return ""


def _is_covered(library: dict, versions: set[str], has: set[str], feature: str) -> bool:
    """The function around it looks for a feature, and all versions with it have the name, or all without it."""
    featured = set(library.get(feature, {}))
    return bool(featured) and featured < versions and (featured <= has or versions - featured <= has)


def _fits(arguments: tuple[int, tuple[str, ...]], way: list[str]) -> bool:
    count, keywords = arguments
    names = [name.rstrip("=") for name in way if name != "/"]
    given = {*names[:count], *keywords}
    needed = {name for name in way if not name.endswith("=") and name != "/"}
    return count <= len(names) and set(keywords) <= set(names) and needed <= given


@pytest.mark.parametrize("use", USES, ids=lambda u: f"{u.where}-{u.name}")
def test_every_version_has_what_the_sources_use(use):
    assert not problem(use), f"{use.where}: {use.library} {use.name}: {problem(use)}"


def test_the_facts_are_of_the_versions_that_are_promised():
    majors = {library: {v.split(".")[0] for v in KNOWN[library]["versions"]} for library in KNOWN}
    assert majors == {"tensorrt": {"8", "10", "11"}, "cuda-bindings": {"12", "13"}}


def test_the_oldest_bindings_are_those_that_an_installation_may_have():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = [d.split(";")[0] for extra in extras.values() for d in extra if d.startswith("cuda-bindings")]
    assert asked == [f"cuda-bindings>={KNOWN['cuda-bindings']['versions'][0]}"] * 2


def test_the_reader_finds_what_the_engine_stands_on():
    names = {use.name for use in USES}
    assert {"IExecutionContext.execute_async_v3", "OnnxParser.parse", "IProgressMonitor.step_complete"} <= names
    assert {"cudaGraphLaunch", "cudaMemcpyAsync", "cudaHostAlloc", "ILayer.precision", "ITensor.dtype"} <= names
    assert len(names) > 90


def use(name: str, arguments=None, features=(), library="tensorrt") -> Use:
    return Use(library, name, "test", "test", arguments, features)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (use("Builder.build_engine"), "no version has it"),
        (use("BuilderFlag.FP16"), "11.0.0.114, 11.4.0.106 lack it"),
        (use("IBuilderConfig.progress_monitor"), "8.6.1 lack it"),
        (use("IExecutionContext.set_tensor_address", (1, ())), "takes"),
        (use("Builder.create_network", (0, ("flag",))), "takes"),
        (use("cudaMemcpyAsync", (4, ()), library="cuda-bindings"), "takes"),
        (use("BuilderFlag.FP16", features=("IBuilderConfig.set_flag",)), "lack it"),
        (use("LayerType.NO_SUCH", features=("IProgressMonitor",)), "no version has it"),
    ],
)
def test_what_some_version_lacks_is_found(wrong, says):
    assert says in problem(wrong)


def test_a_feature_that_is_looked_for_may_be_missing():
    assert not problem(use("BuilderFlag.FP16", features=("NetworkDefinitionCreationFlag.STRONGLY_TYPED",)))
    assert not problem(use("IBuilderConfig.progress_monitor", features=("IProgressMonitor",)))
