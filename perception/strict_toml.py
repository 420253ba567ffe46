"""TOML files checked against a typed schema: every mistake is one line with file, key path and what was expected."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar, get_args, get_origin

import msgspec

from perception.errors import ConfigError, reason

LIMIT = 1 << 20  # bytes; no hand-written file is larger
T = TypeVar("T")

_MESSAGE = re.compile(r"(?s)(.*) - at (`key` in )?`\$(.*)`")  # of msgspec, where it is about a place


def read_toml(path: Path, schema: type[T]) -> T:
    """Read and check a TOML file.

    Raises:
        ConfigError: unreadable, not TOML, an unknown key (with the likely one), a wrong type or value.
    """
    return check(read_tables(path), schema, str(path))


def read_tables(path: Path) -> dict[str, object]:
    """The bare tables of a TOML file; raises ConfigError where it can't be read or is not TOML."""
    try:
        with path.open("rb") as f:
            content = f.read(LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from None
    if len(content) > LIMIT:
        raise ConfigError(f"{path}: larger than 1 MiB, so not a file of this kind")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None


def check(tables: object, schema: type[T], where: str) -> T:
    """Convert plain tables to `schema`; raises ConfigError with the key path and, for a typo, the likely key."""
    try:
        return msgspec.convert(tables, schema)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), tables, schema)}") from None


def _explain(message: str, tables: object, schema: type) -> str:
    """The validator's message in our words, behind the key path that it tells."""
    found = _MESSAGE.fullmatch(message)
    text, is_key, path = (found[1], bool(found[2]), found[3]) if found else (message, False, "")
    keys = path.lstrip(".")
    if unknown := re.search(r"(?s)^Object contains unknown field `(.*?)`", message):
        name = f"{keys}.{unknown[1]}" if keys else unknown[1]
        return f"unknown key {name!r}{likely(unknown[1], _field_names(schema))}"
    parts, values = _place(schema, tables, path)
    if is_key:
        values = [key for value in values if isinstance(value, dict) for key in value]
    text = _value_in_words(text, parts, values)
    return f"{keys}: {text}" if keys else text


def _value_in_words(text: str, parts: list[object], values: list[object]) -> str:
    """What is wrong with the one of these values that the schema does not allow, where it is one of a kind."""
    if text.startswith("Invalid enum value"):
        choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        for wrong in (value for value in values if value not in choices):
            known = [str(choice) for choice in choices]
            return f"{wrong!r} is not one of {', '.join(known)}{likely(str(wrong), known)}"
    metas = (meta for part in parts for meta in getattr(part, "__metadata__", ()) if isinstance(meta, msgspec.Meta))
    for meta in metas:
        if not meta.pattern or not text.endswith(f"matching regex {meta.pattern!r}"):
            continue
        for wrong in (value for value in values if isinstance(value, str) and not re.search(meta.pattern, value)):
            return f"{wrong!r} is not {meta.description or f'of the form {meta.pattern}'}"
    return text


def likely(wrong: str, known: Collection[str]) -> str:
    """The end of a message about a word that is none of those known: the one that was probably meant."""
    near = difflib.get_close_matches(wrong, known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _place(schema: type, tables: object, path: str) -> tuple[list[object], list[object]]:
    """All that the schema says of the place at a path, and what stands there; in `[...]`, whatever any key has."""
    parts: list[object] = [schema]
    values: list[Any] = [tables]
    for name, index in re.findall(r"\.([^.\[]+)|\[([^\]]+)\]", path):
        if name:
            fields = [field for part in parts if _is_struct(part) for field in msgspec.structs.fields(part)]
            parts = [part for field in fields if field.encode_name == name for part in _parts(field.type)]
            values = [value[name] for value in values if isinstance(value, dict) and name in value]
        elif index == "...":
            values = [inner for value in values if isinstance(value, dict) for inner in value.values()]
        else:
            values = [value[int(index)] for value in values if isinstance(value, list | tuple)]
    return parts, values


def _field_names(schema: type, seen: frozenset[type] = frozenset()) -> list[str]:
    """All field names of a schema and of the schemas inside it."""
    names: list[str] = []
    for field in msgspec.structs.fields(schema):
        names.append(field.encode_name)
        for part in _parts(field.type):
            if _is_struct(part) and part not in seen:
                names += _field_names(part, seen | {part})
    return names


def _is_struct(part: object) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(part, type) and issubclass(part, msgspec.Struct)


def _parts(annotation: object) -> list[object]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(p for a in inner for p in _parts(a))]
