"""Write the tables of docs/launch.md from perception/config.py: `python -m tests.launch_page`, then review the diff."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from perception import config

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "launch.md"
SOURCE = (ROOT / "perception" / "config.py").read_text()
TABLE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
TOP = "top"  # of the keys before the first table
HEAD = "| key | default | may be | what it does |\n|---|---|---|---|\n"
Struct = type[msgspec.Struct]


def main() -> None:
    PAGE.write_text(written(PAGE.read_text()))


def written(page: str) -> str:
    """The page with every table as config.py says it now. Raises KeyError for a table that there is not."""
    found = tables()
    return TABLE.sub(lambda place: place[1] + table(found[place[2]]) + place[3], page)


def tables() -> dict[str, Struct]:
    """The structs of a launch file by the name of their TOML table."""
    found: dict[str, Struct] = {TOP: config.Launch}
    for name, struct in _nested(config.Launch):
        found[name] = struct
    return found


def _nested(struct: Struct, prefix: str = "") -> Iterator[tuple[str, Struct]]:
    for field in msgspec.structs.fields(struct):
        for inner in _structs(field.type):
            name = f"{prefix}{field.encode_name}"
            yield name, inner
            yield from _nested(inner, f"{name}.")


def _structs(annotation: Any) -> list[Struct]:
    parts = [annotation, *get_args(annotation)]
    return [part for part in parts if isinstance(part, type) and issubclass(part, msgspec.Struct)]


def is_table(field: Any) -> bool:
    """It has a table of its own, and nothing else can stand in its place."""
    return isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)


def table(struct: Struct) -> str:
    """The struct's docstring, and a row for each key that is no table. Raises KeyError for one without a comment."""
    said, told = comments(struct.__name__), (struct.__doc__ or "").strip()
    rows = [
        f"| `{field.encode_name}` | {default(field)} | {allowed(field.type)} | {_linked(said[field.name])} |\n"
        for field in msgspec.structs.fields(struct)
        if not is_table(field)
    ]
    return f"{_linked(told)}.\n\n{HEAD}{''.join(rows)}"


def comments(name: str) -> dict[str, str]:
    """What config.py says of each field of a class: behind it, or in the lines above it."""
    told = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(SOURCE).readline)
        if token.type == tokenize.COMMENT
    }
    lines = SOURCE.splitlines()
    body = next(n for n in ast.parse(SOURCE).body if isinstance(n, ast.ClassDef) and n.name == name).body
    found: dict[str, str] = {}
    for field in (node for node in body if isinstance(node, ast.AnnAssign)):
        assert isinstance(field.target, ast.Name)
        first = field.lineno
        while lines[first - 2].lstrip().startswith("#"):
            first -= 1
        above = [told[number] for number in range(first, field.lineno)]
        if text := " ".join(above) or told.get(field.end_lineno or field.lineno):
            found[field.target.id] = text
    return found


def default(field: Any) -> str:
    """As it is written in TOML."""
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is msgspec.NODEFAULT:
        return "must be given"
    if value is None:
        return "not given"
    return f"`{json.dumps(value)}`" if value != {} else "none"


def allowed(annotation: Any) -> str:
    """What a value may be, in words."""
    inner = [part for part in get_args(annotation) if part is not type(None)]
    metas = [meta for meta in getattr(annotation, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    if metas:
        return _limited(allowed(annotation.__origin__), metas[0])
    match get_origin(annotation) or annotation:
        case kind if kind is Literal:
            return ", ".join(f"`{json.dumps(choice)}`" for choice in inner)
        case kind if kind is tuple:
            return f"list of {allowed(inner[0])}"
        case kind if kind is dict:
            return f"keys of {allowed(inner[0])}; each a {allowed(inner[1])}"
        case kind if kind in WORDS:
            return WORDS[kind]
    if inner:  # of a union
        return " or ".join(allowed(part) for part in inner)
    return "table"


WORDS = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}


def _limited(kind: str, meta: msgspec.Meta) -> str:
    if meta.description:
        return meta.description
    if meta.max_length is not None:
        return kind.replace("list of", f"list of {meta.min_length} to {meta.max_length}:")
    low = f"{meta.ge:g}" if meta.ge is not None else f"above {meta.gt:g}"
    high = f" to {meta.le:g}" if meta.le is not None else " or more" if meta.ge is not None else ""
    return f"{kind}, {low}{high}"


def _linked(text: str) -> str:
    """A cell's text: a sentence without its full stop, pages of docs/ as links from a page beside them."""
    text = re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text).replace("|", "\\|").removesuffix(".")
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    main()
