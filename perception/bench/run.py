"""Runs the chosen parts, one after the other, on an otherwise quiet machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from perception.bench.figures import Figures, conditions
from perception.bench.parts import (
    Progress,
    bench_node,
    bench_soak,
    bench_start,
    bench_subscriber,
    bench_wire,
)
from perception.bench.propagator import bench_propagator
from perception.bench.recording import bench_recording, bench_replay
from perception.bench.settings import BenchSettings


def run_bench(parts: Sequence[str], settings: BenchSettings, say: Progress) -> Figures:
    """Figures of each part, with the conditions they were taken under. Raises PerceptionError."""
    figures = Figures(conditions(drive=settings.drive or "rendered drive"))
    for part in parts:
        say(f"measuring: {part}")
        MEASURES[part](settings, figures, say)
    return figures


def _bench_view(settings: BenchSettings, figures: Figures, say: Progress) -> None:
    from perception.bench.view import bench_view  # here: it needs aiohttp

    bench_view(settings, figures, say)


def _bench_view_soak(settings: BenchSettings, figures: Figures, say: Progress) -> None:
    from perception.bench.view import bench_view_soak

    bench_view_soak(settings, figures, say)


MEASURES: dict[str, Callable[[BenchSettings, Figures, Progress], None]] = {
    "node": lambda settings, figures, _: bench_node(settings, figures),
    "wire": lambda _, figures, __: bench_wire(figures),
    "propagator": lambda settings, figures, _: bench_propagator(settings, figures),
    "start": lambda settings, figures, _: bench_start(settings, figures, free_endpoint()),
    "subscriber": lambda settings, figures, _: bench_subscriber(settings, figures, free_endpoint()),
    "recording": bench_recording,
    "replay": bench_replay,
    "view": _bench_view,
    "view-soak": _bench_view_soak,
    "soak": lambda settings, figures, say: bench_soak(settings, figures, free_endpoint(), say),
}


def free_endpoint() -> str:
    """A loopback endpoint that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"
