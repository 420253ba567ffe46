"""Verdicts on a set of drives for programs, CI and people: JSON, JUnit XML and one HTML page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec

from perception.compare import Comparison, write_html
from perception.compare.plain import one_line
from perception.compare.verdict_files import replace_text, xml_text
from perception.errors import ConfigError, PerceptionError, reason
from perception.fleet.judge import Verdict, comparison_of
from perception.fleet.task import Progress

FORMAT = 1
PICTURES = 20
"""Worst frames of a drive that are drawn."""
_FAILURES = {"differs", "no reference"}


def write_json(path: Path, verdicts: Sequence[Verdict]) -> None:
    """All that is known of each drive. Raises ConfigError where it can't be written."""
    told = {"format": FORMAT, "counts": counts(verdicts), "drives": [_told(verdict) for verdict in verdicts]}
    _write(path, json.dumps(told, indent=2, allow_nan=False) + "\n")


def write_junit(path: Path, verdicts: Sequence[Verdict]) -> None:
    """A test case a drive: a failure where it differs, an error where it could not be replayed. Raises ConfigError."""
    found = counts(verdicts)
    numbers = {
        "tests": len(verdicts),
        "failures": sum(found.get(status, 0) for status in _FAILURES),
        "errors": found.get("failed", 0),
        "skipped": 0,
        "time": f"{sum(v.outcome.seconds for v in verdicts if v.outcome):.3f}",
    }
    root = ElementTree.Element("testsuites", name="perception test")
    suite = ElementTree.SubElement(root, "testsuite", {"name": "drives", **{k: str(v) for k, v in numbers.items()}})
    for verdict in verdicts:
        seconds = f"{verdict.outcome.seconds if verdict.outcome else 0:.3f}"
        name = one_line(verdict.drive.shown)
        case = ElementTree.SubElement(suite, "testcase", classname="perception.drives", name=name, time=seconds)
        text = "\n".join(map(one_line, (verdict.text, *verdict.findings)))
        if verdict.status == "failed":
            ElementTree.SubElement(case, "error", message=one_line(verdict.text)).text = text
        elif verdict.status in _FAILURES:
            first = verdict.findings[0] if verdict.findings else verdict.text
            ElementTree.SubElement(case, "failure", type=verdict.status, message=one_line(first)).text = text
    _write(path, xml_text(root))


def write_page(path: Path, verdicts: Sequence[Verdict], level: str, progress: Progress) -> list[str]:
    """One HTML page with every drive that was held against a reference, the worst frames of those that differ.

    Returns:
        a line for each drive that is not in it.

    Raises:
        ConfigError: it can't be written.
    """
    held = [verdict for verdict in verdicts if verdict.reference and verdict.outcome]
    comparisons: list[Comparison] = []
    left_out: list[str] = []
    for done, verdict in enumerate(sorted(held, key=lambda verdict: verdict.status != "differs"), start=1):
        assert verdict.outcome is not None
        pictures = PICTURES if verdict.status == "differs" else 0
        try:
            asked = verdict.level or level
            comparisons.append(comparison_of(verdict.outcome, Path(verdict.reference), asked, pictures))
        except PerceptionError as error:
            left_out.append(f"{verdict.drive.shown}: not in the page: {error}")
        progress("page", done, len(held))
    try:
        write_html(path, comparisons)
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from None
    return left_out


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Of drives by status."""
    return dict(sorted(Counter(verdict.status for verdict in verdicts).items()))


def _told(verdict: Verdict) -> dict[str, Any]:
    told = msgspec.to_builtins(verdict)
    outcome = told.pop("outcome") or {}
    outcome.pop("drive", None)
    return told | {"drive": verdict.drive.shown, "name": verdict.drive.name} | outcome


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: {reason(error)}") from None
