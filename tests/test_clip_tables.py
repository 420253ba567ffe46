from __future__ import annotations

from io import StringIO

import pytest

pytest.importorskip("typer")

from rich.console import Console

from perception.cli.clip_tables import COUNTS, TRACKING, percent, tracking_table


def test_figures_of_tracks_fit_a_terminal_of_80_columns():
    row = dict.fromkeys(TRACKING, 1.0) | dict.fromkeys(COUNTS, 123456)
    written = StringIO()
    console = Console(width=80, file=written)
    for keys, shown in ((TRACKING, percent), (COUNTS, str)):
        console.print(tracking_table({**row, "by_class": {"bicyclist": row}}, keys, shown))
    text = written.getvalue()
    assert "…" not in text
    assert (text.count("100.0"), text.count("123456")) == (2 * len(TRACKING), 2 * len(COUNTS))
