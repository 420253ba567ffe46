"""The README says only what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "calibration" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_of_the_repository(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_figure_is_left_to_fill_in(page):
    assert "@@" not in page.read_text()


def test_ci_runs_the_second_command_of_the_readme():
    second = next(line for line in (ROOT / "README.md").read_text().splitlines() if "tests/check.py" in line)
    assert second in (ROOT / ".ci" / "run").read_text()


def test_python_examples_compile():
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
        compile(code, "README.md", "exec")
