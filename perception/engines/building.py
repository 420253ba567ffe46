"""Compiling a graph into the cache, in a process of its own: `python -m perception.engines.building` is the child.

A build takes minutes, all the memory that it likes, and may crash; the process that serves masks must not feel it. The
child runs at the lowest priority, tells its progress over a pipe, and ends when its parent does, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from perception.engines.cache import PLAN, PlanCache, PlanKey, Refusal, sha256_of
from perception.engines.plan import PlanCompiler, Precision, Progress
from perception.errors import DeviceError, ModelError, PerceptionError, reason

LOWEST = 19  # niceness. Not SCHED_IDLE: beside a loop that is always busy such a build would never end


class Order(msgspec.Struct, frozen=True):
    """What a child is to build."""

    compiler: str  # "module:Class"
    graph: str
    precision: Precision
    root: str  # of the cache
    profile: dict[str, list[int]] = {}
    what: str = ""  # for people
    niceness: int = LOWEST


class News(msgspec.Struct, frozen=True):
    """A line of the child's."""

    what: str
    done: int = 0
    of: int = 0
    ended: bool = False
    error: str = ""
    is_device: bool = False  # the error is the accelerator's, not the graph's


def named(compiler: PlanCompiler) -> str:
    """By what a child finds the compiler's class."""
    return f"{type(compiler).__module__}:{type(compiler).__qualname__}"


def open_compiler(name: str) -> PlanCompiler:
    """The compiler of a class "module:Class". Raises ModelError where there is none."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise ModelError(f"{name}: this version has no such compiler: {error}") from None


def key_of(
    compiler: PlanCompiler, graph: Path, precision: Precision, profile: dict[str, list[int]] | None = None
) -> PlanKey:
    """The cache's key of a graph on this machine.

    Raises:
        ModelError: the graph can't be read, or the compiler or an accelerator is missing.
        DeviceError: the accelerator can't be asked what it is.
    """
    try:
        digest = sha256_of(graph)
    except OSError as error:
        raise ModelError(f"{graph}: {reason(error)}") from None
    return PlanKey(digest, compiler.target(), precision, profile or {}, compiler.flags)


def build(
    compiler: PlanCompiler, cache: PlanCache, key: PlanKey, graph: Path, progress: Progress, what: str = ""
) -> Path:
    """Compile a graph into the cache, unless its plan is there by then; the plan's path.

    Raises:
        ModelError: it can't be compiled, or the cache can't be written to. DeviceError: the accelerator failed.
    """
    progress("waiting", 0, 0)  # for another process that builds the same, if there is one
    with cache.building(key) as partial:
        with contextlib.suppress(Refusal):
            return cache.find(key)
        progress("begins", 0, 1)
        timing, plan, began = partial / "timing", partial / PLAN, time.monotonic()
        cache.take_timing(key.target, timing)
        compiler.compile(graph, plan, key.precision, timing, progress)
        cache.keep_timing(key.target, timing)
        cache.adopt(key, partial, time.monotonic() - began, what)
    return cache.find(key)


def main(order: Order, pipe: int) -> int:
    """The child: builds, and writes `News` as lines into the pipe."""
    os.setpriority(os.PRIO_PROCESS, 0, max(order.niceness, os.getpriority(os.PRIO_PROCESS, 0)))

    def say(news: News) -> None:
        os.write(pipe, msgspec.json.encode(news) + b"\n")

    threading.Thread(target=_end_with_the_parent, name="parent", daemon=True).start()
    try:
        compiler, graph = open_compiler(order.compiler), Path(order.graph)
        key = key_of(compiler, graph, order.precision, order.profile)
        cache = PlanCache(Path(order.root))
        build(compiler, cache, key, graph, lambda what, done, of: say(News(what, done, of)), order.what)
    except PerceptionError as error:
        say(News("failed", ended=True, error=str(error), is_device=isinstance(error, DeviceError)))
        return error.exit_code
    except MemoryError:
        say(News("failed", ended=True, error="out of memory"))
        return 1
    say(News("done", 1, 1, ended=True))
    return 0


def _end_with_the_parent() -> None:
    """Its end of our stdin closes when it ends, also by SIGKILL. What is left half made the next build removes."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(msgspec.convert(json.loads(sys.argv[1]), Order), int(sys.argv[2])))
