"""What a process costs, read from /proc; and a node as a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from perception.errors import PerceptionError


@dataclass(frozen=True, slots=True)
class Usage:
    rss_mb: float
    threads: int
    descriptors: int
    cpu_s: float


def usage(pid: int) -> Usage:
    """What a process uses now. Raises PerceptionError when it is gone."""
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        rss = int(status["VmRSS"].split()[0]) / 1024
    except (OSError, KeyError) as error:
        raise PerceptionError(f"process {pid} is gone: {error}") from None
    ticks = os.sysconf("SC_CLK_TCK")
    return Usage(rss, int(status["Threads"]), descriptors, (int(stat[11]) + int(stat[12])) / ticks)


@contextmanager
def child(arguments: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A `perception` command in a process of its own, ended by SIGTERM when the block ends."""
    command = [sys.executable, "-m", "perception.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
