"""The card of an exported graph, and the graphs and it put in place together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from perception.errors import ConfigError, ModelError, reason
from perception.models.card import Card
from perception.strict_toml import check
from perception.whole_file import beside

MIN_AREA = {"car": 160, "pedestrian": 60, "bicyclist": 80}  # [px at 640x360]; a person of 60 px is about 70 m away
TOPICS = {"road": ("road", "lane marking"), "lane": ("lane marking",), "pedestrian": ("pedestrian",)}
TOPICS |= {"vehicle": ("car",), "bicyclist": ("bicyclist",), "sidewalk": ("sidewalk",)}


def encoder_place(out: Path) -> Path:
    """Where the encoder of the graph `out` lies: NAME-encoder.onnx beside NAME.onnx."""
    return out.with_name(f"{out.stem}-encoder.onnx")


def card_text(
    graph: Path,
    encoder: Path | None,
    size: tuple[int, int],
    outputs: Sequence[str],
    classes: Sequence[str],
    things: Sequence[str],
    texts: Mapping[str, str],
    figures: Mapping[str, str],
) -> str:
    """The card of a graph that `export` made, with the graphs' hashes.

    Args:
        encoder: the part of the graph that gives features, named as it will be beside the card; None without one.
        size: width and height of its input.
        outputs: their names; `centre` among them makes it panoptic.
        texts: description, data and licence.
    """
    is_panoptic = "centre" in outputs
    lines = ["card = 1", f'kind = "{"panoptic" if is_panoptic else "semantic"}"']
    lines += [f"{key} = {_text(value)}" for key, value in texts.items() if value]
    lines += [_sha256(graph), "", "[input]", 'name = "image"']
    lines += [f"width = {size[0]}", f"height = {size[1]}", 'layout = "NHWC"', 'colour = "RGB"', ""]
    lines += ["[output]", 'name = "labels"', 'form = "labels"']
    lines += [f'{name} = "{name}"' for name in outputs if name != "labels"]
    lines += ["", "[encoder]", f"graph = {_text(encoder.name)}", _sha256(encoder)] if encoder else []
    lines += ["", "[topics]"]
    lines += [f"{name} = {json.dumps(wanted)}" for name, wanted in _topics(classes).items()]
    lines += ["", "[figures]", *(f"{_text(key)} = {_text(value)}" for key, value in figures.items())]
    for name in classes:
        lines += ["", "[[classes]]", f"name = {_text(name)}"]
        if name in things:
            lines += ["thing = true", *([f"min_area = {MIN_AREA[name]}"] if name in MIN_AREA else [])]
    return "\n".join(lines) + "\n"


def require_card(text: str, out: Path) -> None:
    """Raise ModelError where the node would refuse a card: a class of the checkpoint without a name, for one."""
    try:
        check(tomllib.loads(text), Card, str(out.with_suffix(".toml"))).class_table()
    except (ConfigError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{out}: the node would refuse its card: {error}") from None


def _sha256(graph: Path) -> str:
    return f'sha256 = "{hashlib.sha256(graph.read_bytes()).hexdigest()}"'


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML basic string


def _topics(classes: Sequence[str]) -> dict[str, list[str]]:
    """The usual topics, of the classes that there are; a class without one is in none."""
    found = {name: [c for c in wanted if c in classes] for name, wanted in TOPICS.items()}
    return {name: wanted for name, wanted in found.items() if wanted}


def install(graph: Path, encoder: Path | None, card: str, out: Path) -> None:
    """Write all files beside their places, then rename them: a full disk leaves what was there.

    Raises:
        ModelError: the folder can't be written or the disk is full.
    """
    graphs = {out: graph} | ({encoder_place(out): encoder} if encoder else {})
    replace_all(graphs, {out.with_suffix(".toml"): card})


def replace_all(files: Mapping[Path, Path], texts: Mapping[Path, str]) -> None:
    """Copies and texts to their places, all or none of them; raises ModelError as `install`."""
    partial = {place: beside(place) for place in (*files, *texts)}
    try:
        for place, source in files.items():
            shutil.copyfile(source, partial[place])
        for place, text in texts.items():
            partial[place].write_text(text)
        for place, written in partial.items():
            written.replace(place)
    except OSError as error:
        raise ModelError(f"{next(iter(partial))}: can't be written: {reason(error)}") from None
    finally:
        for written in partial.values():
            with contextlib.suppress(OSError):
                written.unlink(missing_ok=True)
