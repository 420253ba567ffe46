"""The progress bar: what is done, and of how many where that is known."""

from __future__ import annotations

import pytest

from perception.cli.progress import lines_of, progress_bar


@pytest.mark.parametrize(("total", "shown"), [(0, "24"), (48, "24/48")])
def test_a_total_that_nobody_knows_is_not_shown(capsys, monkeypatch, total, shown):
    monkeypatch.setenv("COLUMNS", "100")
    with progress_bar() as bar:
        lines_of(bar)("exact", 24, total)
    err = capsys.readouterr().err
    assert shown in err.split(), err


def test_a_bar_without_a_task_leaves_no_line(capsys):
    with pytest.raises(ValueError, match="first"), progress_bar():
        raise ValueError("first")
    assert capsys.readouterr().err == ""
