"""docs/launch.md lists every key of a launch file, as perception/config.py says it."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import fields

from perception.config import Launch, read_launch
from perception.sources.url import FORMS
from tests.launch_page import PAGE, TABLE, default, is_table, tables, written

TEXT = PAGE.read_text() if PAGE.exists() else ""
KEYS = [(name, field) for name, struct in tables().items() for field in fields(struct)]


def test_the_tables_are_those_of_the_structs():
    assert written(TEXT) == TEXT, "config.py says something else: python -m tests.launch_page"


def test_there_is_a_table_for_every_struct():
    assert [place[2] for place in TABLE.finditer(TEXT)] == list(tables())


@pytest.mark.parametrize(("name", "field"), KEYS, ids=lambda value: getattr(value, "name", value))
def test_every_key_is_there_with_its_default(name, field):
    rows = next(place[0] for place in TABLE.finditer(TEXT) if place[2] == name)
    if is_table(field):
        assert f"\n## [{field.encode_name}]\n" in TEXT
    else:
        assert f"| `{field.encode_name}` | {default(field)} |" in rows


def test_every_example_is_a_launch_file(tmp_path):
    examples = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert examples
    for text in examples:
        path = tmp_path / "launch.toml"
        path.write_text(text)
        assert isinstance(read_launch(path), Launch)


def test_every_form_of_a_source_is_listed():
    section = TEXT.partition("## Where frames come from")[2]
    for form in ("camera:", "v4l2:", "gst:", "exec:", "rtsp:", "http", "rendered:", "FIFO", "MCAP", "bag", "topic="):
        assert form in FORMS
        assert form in section
