"""The card of an exported graph, and both files put in place together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from perception.errors import ModelError

MIN_AREA = {"car": 160, "pedestrian": 60, "bicyclist": 80}  # [px at 640x360]; a person of 60 px is about 70 m away
TOPICS = {"road": ("road", "lane marking"), "lane": ("lane marking",), "pedestrian": ("pedestrian",)}
TOPICS |= {"vehicle": ("car",), "bicyclist": ("bicyclist",), "sidewalk": ("sidewalk",)}


def card_text(
    graph: Path,
    size: tuple[int, int],
    outputs: Sequence[str],
    classes: Sequence[str],
    things: Sequence[str],
    texts: Mapping[str, str],
    figures: Mapping[str, str],
) -> str:
    """The card of a graph that `export` made, with the graph's hash.

    Args:
        size: width and height of its input.
        outputs: their names; `centre` among them makes it panoptic.
        texts: description, data and licence.
    """
    is_panoptic = "centre" in outputs
    lines = ["card = 1", f'kind = "{"panoptic" if is_panoptic else "semantic"}"']
    lines += [f"{key} = {_text(value)}" for key, value in texts.items() if value]
    lines += [f'sha256 = "{hashlib.sha256(graph.read_bytes()).hexdigest()}"', "", "[input]", 'name = "image"']
    lines += [f"width = {size[0]}", f"height = {size[1]}", 'layout = "NHWC"', 'colour = "RGB"', ""]
    lines += ["[output]", 'name = "labels"', 'form = "labels"']
    lines += [f'{name} = "{name}"' for name in outputs if name != "labels"]
    lines += ["", "[topics]"]
    lines += [f"{name} = {json.dumps(wanted)}" for name, wanted in _topics(classes).items()]
    lines += ["", "[figures]", *(f"{_text(key)} = {_text(value)}" for key, value in figures.items())]
    for name in classes:
        lines += ["", "[[classes]]", f"name = {_text(name)}"]
        if name in things:
            lines += ["thing = true", *([f"min_area = {MIN_AREA[name]}"] if name in MIN_AREA else [])]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML basic string


def _topics(classes: Sequence[str]) -> dict[str, list[str]]:
    """The usual topics, of the classes that there are; a class without one is in none."""
    found = {name: [c for c in wanted if c in classes] for name, wanted in TOPICS.items()}
    return {name: wanted for name, wanted in found.items() if wanted}


def install(graph: Path, card: str, out: Path) -> None:
    """Write both files beside their places, then rename them: a full disk leaves what was there.

    Raises:
        ModelError: the folder can't be written or the disk is full.
    """
    partial = {out: _beside(out), out.with_suffix(".toml"): _beside(out.with_suffix(".toml"))}
    try:
        shutil.copyfile(graph, partial[out])
        partial[out.with_suffix(".toml")].write_text(card)
        for place, written in partial.items():
            written.replace(place)
    except OSError as error:
        raise ModelError(f"{out}: can't be written: {(error.strerror or str(error)).lower()}") from None
    finally:
        for written in partial.values():
            with contextlib.suppress(OSError):
                written.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")
