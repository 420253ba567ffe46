"""Ctrl-C and a supervisor's SIGTERM as a question that a loop asks between its steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruption() -> Iterator[Callable[[], bool]]:
    """Yields `asked()`, True after the first SIGINT or SIGTERM; a second one acts as it always does.

    A signal that broke into the middle of an optimiser step would leave weights that are half old, half new.
    Beside the main thread, where Python takes no signals, `asked()` is always False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else handler)

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
