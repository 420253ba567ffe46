"""The classes that are scored: a model's own, or fewer after a merge."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.evaluation.segmentation import IGNORE


@dataclass(frozen=True)
class ScoredClasses:
    """Names and things after merging; `target` is the scored class of each of the model's classes."""

    names: tuple[str, ...]
    things: frozenset[int]  # scored classes
    target: tuple[int, ...]  # by class of the model
    model_names: tuple[str, ...]  # before merging

    @cached_property
    def lut(self) -> NDArray[np.uint8]:
        """(256,) from a label of the model to a scored one; what is no class becomes IGNORE."""
        table = np.full(256, IGNORE, np.uint8)
        table[: len(self.target)] = self.target
        return table


def scored_classes(names: Sequence[str], things: Collection[str], merge: Sequence[str] = ()) -> ScoredClasses:
    """Score each `from=to` of `merge` as one class; a merged class is a thing where `to` is.

    Raises:
        ConfigError: a pair that is not `class=class` with names of the model, or whose `to` is merged itself.
    """
    goal = {name: name for name in names}
    for pair in merge:
        source, _, target = (part.strip() for part in pair.partition("="))
        if source not in goal or target not in goal or source == target:
            raise ConfigError(f"--merge {pair!r}: write 'class=class' with two names of {', '.join(names)}")
        goal[source] = target
    for source, target in goal.items():
        if goal[target] != target:
            raise ConfigError(f"--merge: {source!r} goes into {target!r}, which goes into {goal[target]!r}; name that")
    kept = tuple(name for name in names if goal[name] == name)
    is_thing = frozenset(i for i, name in enumerate(kept) if name in things)
    return ScoredClasses(kept, is_thing, tuple(kept.index(goal[name]) for name in names), tuple(names))
