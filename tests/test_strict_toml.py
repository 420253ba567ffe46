"""What a person reads when a value is none that a key may have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from perception.cli.replay import with_choices
from perception.config import Launch, read_launch
from perception.errors import ConfigError
from perception.strict_toml import check
from tests.test_cli import perception

ENGINES = "auto, onnxruntime, openvino, tensorrt, onnxruntime-cuda, onnxruntime-tensorrt"
NAME = "1 to 64 letters, digits, _ or -"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[model]\nengine = 'cuda'", f"model.engine: 'cuda' is not one of {ENGINES}"),
        (
            "[model]\nengine = 'openvno'",
            f"model.engine: 'openvno' is not one of {ENGINES}; did you mean 'openvino'?",
        ),
        ("[tracking]\nkind = 'sort'", "tracking.kind: 'sort' is not one of auto, iou, affinity, memory"),
        (
            "[record]\ntriggers = ['signal', 'healt']",
            "record.triggers[1]: 'healt' is not one of health, id_switch, signal, control; did you mean 'health'?",
        ),
        ("camera = 'front camera'", f"camera: 'front camera' is not {NAME}"),
        ("topics = ['road', 'a/b']", f"topics[1]: 'a/b' is not {NAME}"),
        ("[groups]\n'a/b' = ['car']", f"groups: 'a/b' is not {NAME}"),
    ],
)
def test_a_value_that_is_none_of_the_choices_is_told_with_them(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "launch.toml"
    path.write_text(f"version = 1\n{text}\n")
    with pytest.raises(ConfigError) as error:
        read_launch(path)
    assert str(error.value) == f"{path}: {says}"


class Part(msgspec.Struct, forbid_unknown_fields=True):
    form: Literal["labels", "logits"] | None = None
    strides: tuple[Literal[1, 2, 4], ...] = ()
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{4}$")] = "0000"


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    parts: dict[str, Part] = {}
    several: list[list[Literal["a", "b"]]] = []


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"parts": {"x": {"form": "labels"}, "y": {"form": "label"}}}, "'label' is not one of labels, logits;"),
        ({"parts": {"x": {"strides": [1, 3]}}}, "strides[1]: 3 is not one of 1, 2, 4"),
        ({"several": [["a"], ["b", "c"]]}, "several[1][1]: 'c' is not one of a, b"),
        ({"parts": {"x": {"digest": "zz"}}}, "'zz' is not of the form ^[0-9a-f]{4}$"),
    ],
)
def test_the_choices_are_found_wherever_the_schema_says_them(tables: object, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(tables, Whole, "file")
    assert says in str(error.value)


@pytest.mark.parametrize("word", ["a - at `$.parts[x]`", "a - at `$.several[7]`", "", "`", "[", "\n"])
def test_whatever_a_key_or_a_value_says_the_message_is_one(word: str) -> None:
    for tables in ({word: 1}, {"parts": {word: {word: 1}}}, {"parts": {word: {"form": word}}}, {"several": [[word]]}):
        with pytest.raises(ConfigError, match="file: ") as error:
            check(tables, Whole, "file")
        assert "\n" not in str(error.value)


def test_an_option_is_told_as_a_launch_file_is() -> None:
    with pytest.raises(ConfigError, match=f"model.engine: 'foo' is not one of {ENGINES}"):
        with_choices(Launch(version=1), None, {"engine": "foo"})


@pytest.mark.parametrize("command", ["replay", "test", "evaluate", "bench"])
def test_every_command_lists_all_engines(capsys, monkeypatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = perception(capsys, monkeypatch, command, "--help")
    shown = " ".join(word for word in out.replace("│", " ").split())
    assert "auto, onnxruntime, openvino, tensorrt, onnxruntime-cuda or onnxruntime-tensorrt" in shown
