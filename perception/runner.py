"""Runs a node as a process: signals, the display, and a last word however it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from perception.build import build_node
from perception.config import Launch
from perception.node import Node, Summary
from perception.protocols import Sink
from perception.types import Scene


def run_launch(
    launch: Launch,
    sinks: Sequence[Sink] = (),
    on_open: Callable[[Node], None] | None = None,
    on_scene: Callable[[Scene], None] | None = None,
) -> tuple[Summary, Node]:
    """Build a node, run it to its end or to SIGINT or SIGTERM, and close it; a second signal exits at once.

    Raises:
        PerceptionError: it can't be built, or its source ended in an error.
    """
    with stopping_signals() as on_stop, saving_signal() as on_save:
        node = build_node(launch, sinks, on_scene)
        on_stop.append(node.stop)
        if launch.recording and "signal" in launch.recording.triggers and node.logbook:
            on_save.append(node.logbook.ask_save)
        try:
            if on_open:
                on_open(node)
            return node.run(), node
        finally:
            node.close()


@contextmanager
def stopping_signals() -> Iterator[list[Callable[[str], None]]]:
    """SIGINT and SIGTERM call what the list holds, once; before it holds anything they end the process."""
    listeners: list[Callable[[str], None]] = []
    told = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal told
        if told or not listeners:
            os._exit(130 if told or number == signal.SIGINT else 143)
        told = True
        for listener in listeners:
            listener(signal.Signals(number).name)

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield listeners
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def saving_signal() -> Iterator[list[Callable[[str], None]]]:
    """SIGUSR1 calls what the list holds, every time; it ends nothing, whatever the list holds."""
    listeners: list[Callable[[str], None]] = []

    def handle(number: int, _: FrameType | None) -> None:
        for listener in listeners:
            listener("signal")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield listeners
    finally:
        signal.signal(signal.SIGUSR1, before)
