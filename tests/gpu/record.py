"""What the script has measured by now: on disk after each step, as JSON and as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from perception.engines.plan import Precision
from perception.errors import PerceptionError

Figures = dict[str, Any]


class Record:
    """Figures by precision, beside what they were measured on.

    Args:
        folder: where measured.json and measured.md are written.
        figures: what they were measured on: target, model, camera, pictures.
    """

    def __init__(self, folder: Path, figures: Figures) -> None:
        self.folder, self.figures = folder, figures

    @contextmanager
    def step(self, precision: Precision, name: str) -> Iterator[Figures]:
        """Gives the precision's figures, to put the step's into; on disk when the block ends.

        Whatever fails in the block is said in place of the figure `name`, and goes no further: time on a GPU is
        scarce, the steps before have had theirs and those after can have some.
        """
        figures = self.figures.setdefault(precision, {})
        try:
            yield figures
        except Exception as error:
            figures[name] = f"failed: {_said(error)}"
        (self.folder / "measured.json").write_text(json.dumps(self.figures, indent=1) + "\n")
        (self.folder / "measured.md").write_text(table(self.figures))


def _said(error: Exception) -> str:
    """One line; the kind, too, of errors that nobody words for people."""
    words = " ".join(str(error).split())
    return words if isinstance(error, PerceptionError) else f"{type(error).__name__}: {words}"


def table(figures: Figures) -> str:
    """Markdown, a column a precision."""
    told = ", ".join(f"{key} {value}" for key, value in figures["target"].items())
    names = [name for name in get_args(Precision) if name in figures]
    lines = [f"{told}; {figures['model']}, camera {figures['camera']}, {figures['pictures']} pictures", ""]
    lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for title, (key, show) in ROWS.items():
        lines.append(f"| {title} | " + " | ".join(_shown(figures[name], key, show) for name in names) + " |")
    return "\n".join(lines) + "\n"


def _shown(figures: Figures, key: str, show: Callable[[Figures], str]) -> str:
    value = figures.get(key, "not measured")
    return value[:90] if isinstance(value, str) else show(figures)


ROWS: dict[str, tuple[str, Callable[[Figures], str]]] = {  # title: the figure that it stands on, and how it is shown
    "build [s]": ("build_s", lambda f: f"{f['build_s']}"),
    "class pixels equal to float32 on the CPU, mean (worst frame) [%]": (
        "parity",
        lambda f: f"{100 * f['parity']['labels_mean']:.2f} ({100 * f['parity']['labels_worst']:.2f})",
    ),
    "frames with the same segments [%]": ("parity", lambda f: f"{100 * f['parity']['same_segments']:.0f}"),
    "replayed as CUDA graphs, always the same": (
        "replay",
        lambda f: f"{f['replay']['graphs']}, {f['replay']['equal']}",
    ),
    "network, bytes to masks, p50 / p99 [ms]": ("network_ms", lambda f: "{p50} / {p99}".format(**f["network_ms"])),
    "with the propagator, bytes to scene, p50 / p99 [ms]": (
        "with_propagator_ms",
        lambda f: "{p50} / {p99}".format(**f["with_propagator_ms"]),
    ),
    "kernels alone, p50 [ms]; the rest of the frame [%]": (
        "kernels_ms",
        lambda f: f"{f['kernels_ms']}; {f['outside_percent']}",
    ),
    "memory after more frames: GPU, process [MB]": (
        "memory",
        lambda f: "{gpu_mb}, {process_mb} ({frames} frames)".format(**f["memory"]),
    ),
    "mIoU: float32, this": (
        "loss",
        lambda f: "{}, {}".format(*f["loss"]["miou"]) + f" against {f['loss']['against']}",
    ),
    "class that loses most [points]": ("loss", lambda f: f["loss"]["worst"]),
}
