"""Two recordings held against each other, frame by frame: what a reference said, and what a candidate says of the
same drive."""

from __future__ import annotations

from perception.compare.comparison import Comparison, Options, compare
from perception.compare.findings import Check, Finding
from perception.compare.page import write_html
from perception.compare.side import Incomparable
from perception.compare.verdict_files import write_json, write_junit

__all__ = [
    "Check",
    "Comparison",
    "Finding",
    "Incomparable",
    "Options",
    "compare",
    "write_html",
    "write_json",
    "write_junit",
]
