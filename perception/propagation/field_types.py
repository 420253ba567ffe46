"""Whether values are what the annotations of a dataclass say: the only check that bytes from elsewhere get."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

_NUMBERS = {int: (int, np.integer), float: (float, int, np.floating), bool: (bool, np.bool_)}


@cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """The fields of a dataclass in their order, with their types."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as dataclasses of this package are annotated with; of arrays the dtype only."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and (hint is bool or not isinstance(value, bool))
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and value.dtype == np.dtype(get_args(args[1])[0])
    if origin is tuple:
        return isinstance(value, tuple) and _all_fit(value, args)
    if origin in (list, deque):
        return isinstance(value, origin) and all(fits(item, args[0]) for item in value)
    if origin in (dict, Counter):
        keys, values = (args[0], args[1] if origin is dict else int)
        return isinstance(value, origin) and all(fits(k, keys) and fits(v, values) for k, v in value.items())
    return isinstance(value, NoneType if hint is None else hint)


def _all_fit(value: tuple, args: tuple) -> bool:
    if args[-1] is Ellipsis:
        return all(fits(item, args[0]) for item in value)
    return len(value) == len(args) and all(map(fits, value, args))
