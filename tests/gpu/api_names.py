"""Which names of TensorRT and CUDA our sources use, and how: read from the source, without either library.

Variables have no types in Python, so VARIABLES says which class each holds; a wrong entry there shows as a name that no
version has.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENGINES = Path(__file__).resolve().parents[2] / "perception" / "engines"
VARIABLES = {
    "tensorrt.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "config": "IBuilderConfig",
        "parser": "OnnxParser",
        "wrong": "ParserError",
        "cache": "ITimingCache",
        "runtime": "Runtime",
    },
    "tensorrt_api.py": {"config": "IBuilderConfig", "network": "INetworkDefinition", "layer": "ILayer"},
    "tensorrt_engine.py": {"plan": "ICudaEngine", "self._context": "IExecutionContext"},
    "cuda.py": {},
    "device_tensor.py": {},
}
RETURNS = {"ILayer.get_output": "ITensor", "ICudaEngine.get_tensor_dtype": "DataType"}
OWN = {"Log", "Monitor"}  # classes of ours, that derive from theirs
ROOTS = {"trt": "tensorrt", "cudart": "cuda-bindings", "cuda.cudart": "cuda-bindings"}


@dataclass(frozen=True)
class Use:
    """A name as a source uses it."""

    library: str  # "tensorrt" or "cuda-bindings"
    name: str  # "Builder.create_network"; "cudaMalloc"
    where: str  # "tensorrt.py:12"
    function: str
    arguments: tuple[int, tuple[str, ...]] | None  # of a call: how many by position, and the keywords
    features: tuple[str, ...]  # names that the function around it looks for with hasattr


def uses() -> list[Use]:
    """All uses in the engines' sources."""
    return [use for file in VARIABLES for use in _Reader(file).uses()]


def dotted(node: ast.AST) -> str:
    """ "a.b.c" of an expression of names and attributes, "" of any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


class _Reader:
    def __init__(self, file: str) -> None:
        self.file, self.tree = file, ast.parse((ENGINES / file).read_text())
        self.functions = [n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)]

    def uses(self) -> Iterator[Use]:
        seen: set[int] = set()
        for function in sorted(self.functions, key=lambda f: -f.lineno):  # inner ones first
            known = self._aliases(function)
            around = [f for f in self.functions if f.lineno <= function.lineno <= (f.end_lineno or 0)]
            features = tuple(feature for f in around for feature in self._features(f))
            for node in ast.walk(function):
                if id(node) not in seen and isinstance(node, ast.Attribute | ast.Call | ast.ClassDef):
                    yield from self._uses_of(node, known, function.name, features)
                seen.add(id(node))

    def _aliases(self, function: ast.FunctionDef) -> dict[str, str]:
        """Variables that stand for a class or enumeration: `flags = trt.BuilderFlag`."""
        known = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = dotted(node.value)
                if value.split(".")[0] in ("trt", "cudart"):
                    known[node.targets[0].id] = value
        return known

    def _features(self, function: ast.FunctionDef) -> Iterator[str]:
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and dotted(node.func) == "hasattr":
                what = node.args[1]
                if isinstance(what, ast.Constant):
                    owner = self._resolved(dotted(node.args[0]), self._aliases(function)) or ("", "")
                    yield f"{owner[1]}.{what.value}".strip(".")
            if isinstance(node, ast.Call) and dotted(node.func) == "is_strongly_typed":
                yield "NetworkDefinitionCreationFlag.STRONGLY_TYPED"
        if "Only before 10." in (ast.get_docstring(function) or ""):
            yield "NetworkDefinitionCreationFlag.STRONGLY_TYPED"

    def _resolved(self, name: str, known: dict[str, str]) -> tuple[str, str] | None:
        """Library and name there of a dotted expression of our source; None where it is ours."""
        first, _, rest = name.partition(".")
        if first in known:
            return self._resolved(f"{known[first]}.{rest}".strip("."), {})
        for variable, kind in VARIABLES[self.file].items():
            if name.startswith(f"{variable}."):
                return "tensorrt", f"{kind}.{name.removeprefix(variable + '.')}"
        for root, library in ROOTS.items():
            if name == root or name.startswith(f"{root}."):
                return library, name.removeprefix(root).strip(".")
        return None

    def _name(self, node: ast.AST, known: dict[str, str]) -> tuple[str, str] | None:
        """As `_resolved`, also of an attribute of what a known method returns."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
            called = self._name(node.value.func, known)
            kind = RETURNS.get(called[1]) if called else None
            return ("tensorrt", f"{kind}.{node.attr}") if kind else None
        return self._resolved(dotted(node), known) if dotted(node) else None

    def _uses_of(self, node: ast.AST, known: dict[str, str], function: str, features: tuple[str, ...]) -> Iterator[Use]:
        where = f"{self.file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ClassDef):  # the methods that a class of ours overrides
            for base in filter(None, (self._name(b, known) for b in node.bases)):
                for method in (n for n in node.body if isinstance(n, ast.FunctionDef)):
                    own = [a.arg for a in method.args.args[1:]]
                    if not method.name.startswith("__") and self._is_theirs(method):
                        yield Use(base[0], f"{base[1]}.{method.name}", where, function, (0, tuple(own)), features)
            return
        target, arguments = (node.func, node) if isinstance(node, ast.Call) else (node, None)
        called = None
        if arguments is not None and dotted(target).split(".")[-1] == "call" and arguments.args:  # cuda.call(f, ...)
            target, count = arguments.args[0], len(arguments.args) - 1
            is_open = any(isinstance(a, ast.Starred) for a in arguments.args)
            called = None if is_open else (count, ())
        elif arguments is not None:
            own = dotted(target).endswith(".__init__")  # of a base: called with self
            called = (len(arguments.args) - own, tuple(k.arg or "" for k in arguments.keywords))
        found = self._name(target, known)
        if found and found[1]:
            yield Use(*found, where, function, called, features)

    def _is_theirs(self, method: ast.FunctionDef) -> bool:
        """Not a helper that only our class has."""
        return method.name != "last"
