"""Pictures with class maps, and instance maps where there are any, found by file-name patterns and checked as read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.errors import ConfigError, SourceError, reason
from perception.evaluation.picture_headers import require_depth, require_upright
from perception.images import SUFFIXES, load_image
from perception.opencv import cv2
from perception.training.config import CLASSES, DataConfig, ValidationConfig
from perception.training.instances import clean_components, without_instances
from perception.training.label_set import IGNORE, Codes, read_label_set, unlisted
from perception.training.targets import UNKNOWN

__all__ = ["CLASSES", "IGNORE", "Dataset", "Files", "Sample", "find_files", "open_dataset"]


class Sample(NamedTuple):
    """One picture and what is known about its pixels."""

    image: NDArray[np.uint8]  # (h, w, 3) RGB
    labels: NDArray[np.uint8]  # (h, w) codes of `label_set.Codes`, IGNORE where nothing is known
    instances: NDArray[np.uint16]  # (h, w) 0 stuff, UNKNOWN a thing of unknown extent, else one number an instance


class Files(NamedTuple):
    """The files of one sample."""

    image: Path
    labels: Path
    instances: Path | None


@dataclass(frozen=True)
class Dataset:
    """Pictures of one label set; `table` (256,) turns its label values into codes."""

    name: str
    files: tuple[Files, ...]
    table: NDArray[np.uint8]
    thing_codes: NDArray[np.bool_]  # (256,) codes that can be a thing
    instances: Literal["exact", "components", "none"] = "none"
    least_instance: int = 1  # instance values below it are crowds
    components: tuple[str, ...] = ()  # class of each exact code, for the shapes of "components"

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int) -> Sample:
        """Decode and check the i-th sample.

        Raises:
            ConfigError: a file can't be read, the picture is stored turned, sizes differ, or a label value is not in
                the label set.
        """
        files = self.files[i]
        try:
            image = load_image(files.image)
        except SourceError as error:
            raise ConfigError(str(error)) from None
        require_upright(files.image)
        labels = _read_map(files.labels, np.uint8, image.shape[:2])
        wrong = unlisted(self.table, labels)
        if wrong is not None:
            raise ConfigError(
                f"{files.labels}: label value {wrong} is not one of data set {self.name!r}'s label set; "
                "mend the file, or list or ignore the value there"
            )
        codes = self.table[labels]
        return Sample(image, codes, self._instances(files, codes))

    def _instances(self, files: Files, codes: NDArray[np.uint8]) -> NDArray[np.uint16]:
        is_thing = self.thing_codes[codes]
        if self.instances == "none":
            return without_instances(is_thing)
        if files.instances is None:
            return clean_components(codes, is_thing, self.components)
        numbers = _read_map(files.instances, np.uint16, codes.shape)
        unknown = is_thing & ((numbers < self.least_instance) | (numbers == 0))
        return np.where(unknown, UNKNOWN, np.where(is_thing, numbers, 0)).astype(np.uint16)


def _read_map(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray:
    """A one-channel PNG of `shape`; raises ConfigError naming what is wrong. 8 bits are taken where 16 are asked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from None
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if found is None or (path.suffix == ".png" and b"IEND" not in data[-64:]):  # OpenCV fills what is cut off with 0
        raise ConfigError(f"{path}: broken or cut off; write a one-channel PNG")
    if found.ndim != 2 or not np.can_cast(found.dtype, dtype):
        channels = 1 if found.ndim == 2 else found.shape[2]
        raise ConfigError(f"{path}: {channels} channels of {found.dtype}; write one channel of {np.dtype(dtype)}")
    require_depth(path)
    if found.shape != shape:
        size, wanted = (f"{s[1]}x{s[0]}" for s in (found.shape, shape))
        raise ConfigError(f"{path}: {size} pixels, its picture has {wanted}; make them equal")
    return found.astype(dtype)


def open_dataset(
    name: str, config: DataConfig | ValidationConfig, codes: Codes, things: Sequence[str], base: Path
) -> Dataset:
    """Find the files of a data set and read its label set; `base` is where relative paths start.

    Raises:
        ConfigError: no folder was given, no picture was found, labels are missing, or the label set does not fit.
    """
    if not config.folder:
        raise ConfigError(f"data set {name!r} has no folder; give it with --data {name}=FOLDER")
    root = base / config.folder
    label_set = read_label_set(config.label_set, base)
    table = codes.table(label_set, f"data set {name!r}, label set {config.label_set!r}")
    meaning = codes.meaning()
    thing_codes = np.zeros(256, bool)
    thing_codes[: len(meaning)] = meaning[:, [c in things for c in codes.classes]].any(1)
    if isinstance(config, ValidationConfig):
        if not label_set.is_exact:
            raise ConfigError(f"validation.label_set: {config.label_set!r} is coarse; a score needs an exact label set")
        files = find_files(root, config.image_files, config.label_files, None)
        return Dataset(name, files[:: config.take_every], table, thing_codes)
    wanted = config.instance_files if config.instances == "exact" else None
    files = find_files(root, config.image_files, config.label_files, wanted)
    return Dataset(name, files, table, thing_codes, config.instances, config.least_instance, codes.classes)


def find_files(root: Path, images: str, labels: str, instances: str | None) -> tuple[Files, ...]:
    """All pictures below `root` that match the pattern `images`, each with its label file (and instance file).

    `{word}` in a pattern stands for a part of one path step and means the same in all patterns; `*` stands for
    anything.

    Raises:
        ConfigError: there is no picture, a pattern uses a word that `images` does not, or labels are missing.
    """
    pattern = _compiled(images, [labels, *([instances] if instances else [])])
    found = []
    for path in sorted(root.glob(_WORD.sub("*", images))):
        match = pattern.fullmatch(path.relative_to(root).as_posix())
        if match and path.suffix.lower() in SUFFIXES:
            parts = match.groupdict()
            extra = root / instances.format(**parts) if instances else None
            found.append(Files(path, root / labels.format(**parts), extra))
    if not found:
        raise ConfigError(f"{root}: no picture matches {images}; give the folder that holds it")
    for kind, paths in (("label", [f.labels for f in found]), ("instance map", [f.instances for f in found])):
        missing = [p for p in paths if p is not None and not p.is_file()]
        if missing:
            raise ConfigError(f"{root}: {len(missing)} of {len(found)} pictures have no {kind}, first {missing[0]}")
    return tuple(found)


_WORD = re.compile(r"\{([A-Za-z]\w*)\}")


def _compiled(images: str, others: Sequence[str]) -> re.Pattern[str]:
    """The pattern `images` as a regular expression; raises ConfigError where the patterns don't fit together."""
    words = _WORD.findall(images)
    if len(set(words)) != len(words) or set(_WORD.sub("", images)) & set("{}") or images.startswith("/"):
        raise ConfigError(f"pattern {images!r}: write a relative path with each {{word}} once and no other braces")
    for pattern in others:
        rest = _WORD.sub("", pattern)
        if not set(_WORD.findall(pattern)) <= set(words) or set(rest) & set("{}*"):
            raise ConfigError(f"pattern {pattern!r}: use only the words in braces of {images!r}, and no *")
    regex = "".join(
        f"(?P<{piece}>[^/]+)" if i % 2 else re.escape(piece).replace(r"\*", "[^/]*")
        for i, piece in enumerate(_WORD.split(images))
    )
    return re.compile(regex)
