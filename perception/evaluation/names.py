"""The order of pictures by their names."""

from __future__ import annotations

import re


def natural_key(name: str) -> list[tuple[list[str | int], str]]:
    """A key that sorts numbers in names by value, so that 9 comes before 10; each folder's names stay together."""
    return [(_pieces(step), step) for step in name.split("/")]


def _pieces(step: str) -> list[str | int]:
    """Text and numbers in turn, text first, so that like is compared with like."""
    return [int(piece) if k % 2 else piece for k, piece in enumerate(re.split(r"(\d+)", step))]
