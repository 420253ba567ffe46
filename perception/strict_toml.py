"""TOML files checked against a typed schema: every mistake is one line with file, key path and what was expected."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from perception.errors import ConfigError, reason

LIMIT = 1 << 20  # bytes; no hand-written file is larger
T = TypeVar("T")


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
    text, _, path = message.partition(" - at `$")
    keys = path.rstrip("`").lstrip(".")
    unknown = re.search(r"unknown field `(.+?)`", text)
    if not unknown:
        return f"{keys}: {text}" if keys else text
    name = f"{keys}.{unknown[1]}" if keys else unknown[1]
    near = difflib.get_close_matches(unknown[1], _field_names(schema), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown key {name!r}{hint}"


def _field_names(schema: type, seen: frozenset[type] = frozenset()) -> list[str]:
    """All field names of a schema and of the schemas inside it."""
    names: list[str] = []
    for field in msgspec.structs.fields(schema):
        names.append(field.encode_name)
        for part in _parts(field.type):
            if isinstance(part, type) and issubclass(part, msgspec.Struct) and part not in seen:
                names += _field_names(part, seen | {part})
    return names


def _parts(annotation: object) -> list[object]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(p for a in inner for p in _parts(a))]
