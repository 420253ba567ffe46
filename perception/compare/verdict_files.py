"""Verdicts for programs: JSON, and JUnit XML for CI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from perception.compare.comparison import Comparison
from perception.compare.findings import KINDS
from perception.compare.plain import one_line
from perception.whole_file import write


def replace_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all. Raises OSError."""
    write(path, text.encode())


def write_json(path: Path, comparison: Comparison) -> None:
    """Raises OSError where it can't be written."""
    replace_text(path, json.dumps(comparison.to_json(), indent=2, allow_nan=False) + "\n")


def write_junit(path: Path, comparisons: Sequence[Comparison]) -> None:
    """JUnit XML as CI systems read it: a suite for each comparison, a test case for each check.

    Raises OSError where it can't be written.
    """
    root = ElementTree.Element("testsuites", name="perception compare")
    for comparison in comparisons:
        root.append(_suite(comparison))
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    replace_text(path, xml_text(root))


def xml_text(root: ElementTree.Element) -> str:
    """Indented, and said to be the UTF-8 that `replace_text` writes, whatever the locale."""
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True).decode() + "\n"


def _suite(comparison: Comparison) -> ElementTree.Element:
    name = one_line(f"{comparison.candidate} against {comparison.reference}")
    checks = comparison.checks
    counts = {
        "tests": len(checks),
        "failures": sum(not check.is_passed for check in checks),
        "errors": 0,
        "skipped": sum(bool(check.skipped) for check in checks),
    }
    suite = ElementTree.Element("testsuite", {"name": name, **{k: str(v) for k, v in counts.items()}, "time": "0"})
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase")
        case.attrib |= {"classname": f"perception.compare.{check.kind.replace(' ', '_')}", "time": "0"}
        case.set("name", one_line(f"{KINDS[check.kind]}: {check.subject}"))
        if check.skipped:
            ElementTree.SubElement(case, "skipped", message=one_line(check.skipped))
        elif check.findings:
            text = "\n".join(finding.text for finding in check.findings)
            ElementTree.SubElement(case, "failure", type=check.kind, message=check.findings[0].text).text = text
    return suite
