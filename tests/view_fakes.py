"""A publisher whose picture and masks say which frame they are of, in a process of its own; and a view of it.

`python tests/view_fakes.py ENDPOINT RUN RATE TRACKS`; what it is told on stdin: `stall` (no frames, health says
no_input), `go`, `degrade`.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from perception.sinks.publisher import Publisher
from perception.types import VOID, Frame, Scene, Track, TrackEvent, TrackState, Validity
from perception.wire import SourceRow
from tests.published import CLASSES, health, identity, topics

SIZE = (128, 72)  # width, height of the masks
CAR, PERSON = 2, 3
EVIL = "<img src=x onerror=window.hacked=1>"


def grey(seq: int) -> int:
    """The brightness of the picture of a frame."""
    return 40 + 20 * (seq % 8)


def car_at(seq: int) -> int:
    """Where the car of a frame begins [mask px]."""
    return 4 + 8 * (seq % 8)


def scene(seq: int, stamp_ns: int, tracks: int = 2, validity: Validity = Validity.OBSERVED) -> Scene:
    """A road in the lower half with a lane, a car that jumps from frame to frame, and people that stand."""
    width, height = SIZE
    labels = np.full((height, width), VOID, np.uint8)
    labels[height // 2 :] = 0
    labels[height // 2 :, width // 2 : width // 2 + 4] = 1
    id_map = np.zeros((height, width), np.uint16)
    x = car_at(seq)
    id_map[10:26, x : x + 16] = 1
    boxes = [(CAR, (x, 10, x + 16, 26))]
    for k in range(1, tracks):
        left, top = 100 + k % 7 * 4, 2 + k // 7 % 17 * 4
        boxes.append((PERSON, (left, top, left + 3, top + 3)))
        id_map[top : top + 3, left : left + 3] = k + 1
    for k, (class_id, _) in enumerate(boxes, 1):
        labels[id_map == k] = class_id
    rows = tuple(
        Track(10 + k, class_id, TrackState.CONFIRMED, 0.75, box, 0, stamp_ns, observed=k % 2 == 0)
        for k, (class_id, box) in enumerate(boxes)
    )
    events = (TrackEvent(10, CAR, TrackState.CONFIRMED, f"seen in {seq} {EVIL}", stamp_ns),) if seq % 20 == 1 else ()
    place = (seq, stamp_ns, "front", (1280, 720))
    reason = "" if validity is Validity.OBSERVED else f"dark {EVIL}"
    return Scene(*place, labels, id_map, rows, events, validity, reason, 0)


def frame(seq: int, stamp_ns: int) -> Frame:
    return Frame(seq, stamp_ns, "front", np.full((720, 1280, 3), grey(seq), np.uint8))


def publish(endpoint: str, run: str, rate_hz: float, tracks: int) -> None:
    """Until stdin is closed."""
    classes = (*CLASSES[:3], f"pedestrian {EVIL}")
    told: set[str] = set()
    publisher = Publisher(endpoint, replace(identity(run), classes=classes), topics())
    ended = threading.Event()

    def serve() -> None:
        seq, due, beat, n = 0, time.monotonic(), 0.0, 0
        while not ended.wait(0.004):
            publisher.service()
            now = time.monotonic()
            if now >= due and "stall" not in told:
                seq, due = seq + 1, max(due + 1 / rate_hz, now - 0.1)
                stamp = time.monotonic_ns()
                validity = Validity.DEGRADED if "degrade" in told else Validity.OBSERVED
                publisher.send(frame(seq, stamp), scene(seq, stamp, tracks, validity))
            if now >= beat:
                beat, n = now + 0.1, n + 1
                state = ("no_input", "stalled for 0.2 s") if "stall" in told else ("running", "")
                stats, source = publisher.stats(), SourceRow("running", "", seq, 0, 0, 0)
                more: dict[str, Any] = {"published": stats.published, "validity": stats.validity, "source": source}
                publisher.send_health(health(run, n, state=state[0], reason=state[1], rate_hz=rate_hz, **more))

    thread = threading.Thread(target=serve)
    thread.start()
    print("ready", flush=True)
    for line in sys.stdin:
        word = line.strip()
        told.clear() if word == "go" else told.add(word)
    ended.set()
    thread.join()
    publisher.close()


@contextlib.contextmanager
def publishing(endpoint: str, run: str = "run-1", rate_hz: float = 20, tracks: int = 2) -> Iterator[subprocess.Popen]:
    words = [sys.executable, __file__, endpoint, run, str(rate_hz), str(tracks)]
    with running(words, r"ready", "stdout") as (process, _):
        yield process


def tell(process: subprocess.Popen, word: str) -> None:
    process.stdin.write(f"{word}\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]


@contextlib.contextmanager
def view_of(*words: object) -> Iterator[str]:
    """A `perception view` on a port of its own; its link."""
    command = [sys.executable, "-m", "perception.cli", "view", "--port", "0", "--nice", "0", *map(str, words)]
    with running(command, r"open (\S+)", "stderr") as (_, found):
        yield found


@contextlib.contextmanager
def running(command: list[str], pattern: str, stream: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A process that has said what the pattern finds; killed in the end."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, stream: subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    said = ""
    try:
        for line in getattr(process, stream):
            said += line
            if match := re.search(pattern, line):
                yield process, match[match.lastindex or 0]
                break
        else:
            raise AssertionError(f"{command}: {said}")
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


if __name__ == "__main__":
    sys.path.insert(0, str(__import__("pathlib").Path(__file__).parent.parent))
    publish(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
