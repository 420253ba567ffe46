"""The `?key=value&key=value` part of a source setting."""

from __future__ import annotations

import math
from collections.abc import Callable

from perception.errors import SourceError

_FASTEST_FPS = 1000.0
_LONGEST_S = 1e9


class Options:
    """Values that are taken out one by one; what is left at the end is a mistake."""

    def __init__(self, values: dict[str, str], name: str) -> None:
        """`name` is the setting as shown in errors."""
        self._values = dict(values)
        self._known: list[str] = []
        self._name = name

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text(self, key: str, default: str) -> str:
        self._known.append(key)
        return self._values.pop(key, default)

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`, or the default. Raises SourceError."""
        text = self.text(key, "")
        if not text:
            return default
        value = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else low - 1
        if not low <= value <= high:
            raise SourceError(f"{self._name}: {key}={text!r} must be a whole number from {low} to {high}")
        return value

    def rate(self, key: str, default: float) -> float:
        """A rate above 0 [1/s], or the default. Raises SourceError."""
        limits = f"a number above 0, at most {_FASTEST_FPS:.0f}"
        value = self._number(key, lambda value: 0 < value <= _FASTEST_FPS, limits)
        return default if value is None else value

    def seconds(self, key: str) -> float | None:
        """A time of 0 or more [s], None when not given. Raises SourceError."""
        return self._number(key, lambda value: 0 <= value <= _LONGEST_S, "0 or more seconds")

    def _number(self, key: str, is_within: Callable[[float], bool], limits: str) -> float | None:
        text = self.text(key, "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not is_within(value):
            raise SourceError(f"{self._name}: {key}={text!r} must be {limits}")
        return value

    def require_empty(self) -> None:
        """Raises SourceError when a value was given that nobody took."""
        for key in self._values:
            known = ", ".join(self._known) or "none"
            raise SourceError(f"{self._name}: unknown option {key!r}: known here: {known}")


def split_options(text: str, name: str) -> tuple[str, Options]:
    """What stands before the first `?`, and the options after it. Raises SourceError on one that has no value."""
    head, _, query = text.partition("?")
    values: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if not value or key in values:
            raise SourceError(f"{name}: {part!r}: write each option once, as key=value")
        values[key] = value
    return head, Options(values, name)
