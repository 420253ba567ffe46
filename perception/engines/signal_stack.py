"""Keeps a library from leaving its own stack behind for this thread's signal handlers."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator


class _Stack(ctypes.Structure):
    """stack_t of Linux's signal.h."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """This thread's alternate signal stack is after the block what it was before.

    OpenVINO's CPU plugin installs one of its own when it loads a model and frees it with the model. With two models
    the second keeps the first's to put it back later, by then freed memory: the next signal, a Ctrl-C, ends the
    process with a segmentation fault.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
