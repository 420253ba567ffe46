"""Figures with the conditions they were taken under."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from perception import __version__
from perception.machine import cores, cpu_name
from perception.stopwatch import percentile


@dataclass
class Figures:
    """Named groups of rows, each row a name and its values."""

    conditions: dict[str, str] = field(default_factory=dict)
    parts: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def add(self, part: str, row: str, **values: float) -> None:
        self.parts.setdefault(part, {})[row] = {k: round(float(v), 3) for k, v in values.items()}

    def add_times(self, part: str, row: str, ms: Sequence[float]) -> None:
        """p50, p99 and how often, of durations in milliseconds."""
        if ms:
            times = list(ms)
            self.add(part, row, p50_ms=percentile(times, 50), p99_ms=percentile(times, 99), n=len(times))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"conditions": self.conditions, **self.parts}, indent=2) + "\n")

    def shown(self) -> Group:
        """Tables for a terminal."""
        shown: list[Table | Text] = [Text(" · ".join(self.conditions.values()))]
        for part, rows in self.parts.items():
            columns = list(dict.fromkeys(key for values in rows.values() for key in values))
            table = Table(f"[bold]{part}[/]", *columns, box=None, pad_edge=False)
            for row, values in rows.items():
                table.add_row(row, *(f"{values[c]:g}" if c in values else "" for c in columns))
            shown += [Text(), table]
        return Group(*shown)


def conditions(**more: str) -> dict[str, str]:
    """The machine and the version, and what the caller adds."""
    machine = f"{cpu_name()}, {cores()} cores, {platform.system()} {platform.machine()}"
    load = f"load {os.getloadavg()[0]:.1f}"
    return {"version": f"perception {__version__}", "machine": machine, "load": load, **more}
