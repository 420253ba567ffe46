"""Label sets: what each value of a data set's label maps is called, and which of the network's classes it can be.

A label set that is coarser than the network's classes is trained with what it does say: a pixel of IDD's "living
thing" is a pedestrian *or* a bicyclist, and the loss asks only that the two together are likely
(`losses.set_cross_entropy`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError
from perception.strict_toml import read_toml

IGNORE = 255
_UNLISTED = 254  # of a lookup table: a value that the label set does not list
_MOST_CODES = 250
FOLDER = Path(__file__).parent / "label_sets"


class Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One value of a label map."""

    value: Annotated[int, msgspec.Meta(ge=0, le=255)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    can_be: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]  # the network's classes; several: coarse


class LabelSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label-set file."""

    version: Literal[1]
    labels: Annotated[tuple[Label, ...], msgspec.Meta(min_length=1, max_length=256)]
    ignore: tuple[Annotated[int, msgspec.Meta(ge=0, le=255)], ...] = (IGNORE,)

    @property
    def is_exact(self) -> bool:
        """True where every value means one class."""
        return all(len(set(label.can_be)) == 1 for label in self.labels)


def shipped_label_sets() -> tuple[str, ...]:
    return tuple(sorted(p.stem for p in FOLDER.glob("*.toml")))


def read_label_set(name: str, folder: Path) -> LabelSet:
    """A shipped label set by its name, or a file; a relative path starts in `folder`.

    Raises:
        ConfigError: there is none of that name, or the file breaks a rule (a value twice, listed and ignored).
    """
    path = folder / name if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(shipped_label_sets())
        raise ConfigError(f"label set {name!r}: no such file; name a .toml file or one of {known}")
    label_set = read_toml(path, LabelSet)
    values = [*(label.value for label in label_set.labels), *label_set.ignore]
    twice = next((v for v in values if values.count(v) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: value {twice} is listed twice; give each value one label, or ignore it")
    return label_set


class Codes:
    """One numbering of what pixels can be, common to all label sets of a run.

    Codes below the number of classes are exact and are the class itself; each further one stands for a set of
    classes. IGNORE stays IGNORE.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._sets: list[frozenset[str]] = [frozenset([name]) for name in classes]

    def table(self, label_set: LabelSet, where: str) -> NDArray[np.uint8]:
        """(256,) lookup from label value to code, for `read_codes`.

        Raises:
            ConfigError: the label set names a class that the network does not have, or there are too many sets.
        """
        table = np.full(256, _UNLISTED, np.uint8)
        table[list(label_set.ignore)] = IGNORE
        for label in label_set.labels:
            unknown = next((name for name in label.can_be if name not in self.classes), None)
            if unknown is not None:
                raise ConfigError(
                    f"{where}: label {label.name!r} can be {unknown!r}, which is not one of the network's classes: "
                    f"{', '.join(self.classes)}"
                )
            meaning = frozenset(label.can_be)
            if meaning not in self._sets:
                self._sets.append(meaning)
            table[label.value] = self._sets.index(meaning)
        if len(self._sets) > _MOST_CODES:
            raise ConfigError(f"{where}: more than {_MOST_CODES} different sets of classes in one run")
        return table

    def meaning(self) -> NDArray[np.bool_]:
        """(codes, classes): which classes each code can be; the first rows are the identity."""
        return np.array([[name in one for name in self.classes] for one in self._sets])

    def fingerprint(self, table: NDArray[np.uint8]) -> str:
        """Of what each label value of a `table` can be, whatever code stands for it: 16 hexadecimal digits."""
        meaning = np.zeros((256, len(self.classes)), np.bool_)  # of values that are not listed or ignored: nothing
        meaning[: len(self._sets)] = self.meaning()
        return hashlib.sha256(meaning[table].tobytes()).hexdigest()[:16]


def unlisted(table: NDArray[np.uint8], values: NDArray[np.uint8]) -> int | None:
    """The least label value in `values` that the label set does not list; None where all are listed."""
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    wrong = present[table[present] == _UNLISTED]
    return int(wrong[0]) if len(wrong) else None
