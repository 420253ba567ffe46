"""Runs the chosen parts, one after the other, on an otherwise quiet machine."""

from __future__ import annotations

import socket
from collections.abc import Sequence

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
        match part:
            case "node":
                bench_node(settings, figures)
            case "wire":
                bench_wire(figures)
            case "propagator":
                bench_propagator(settings, figures)
            case "start":
                bench_start(settings, figures, free_endpoint())
            case "subscriber":
                bench_subscriber(settings, figures, free_endpoint())
            case "recording":
                bench_recording(settings, figures, say)
            case "replay":
                bench_replay(settings, figures, say)
            case "soak":
                bench_soak(settings, figures, free_endpoint(), say)
            case _:
                raise ValueError(part)
    return figures


def free_endpoint() -> str:
    """A loopback endpoint that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{s.getsockname()[1]}"
