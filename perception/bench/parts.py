"""The parts of `perception bench`: the node under a camera, the wire, start-up, a slow subscriber, a long run."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from perception.bench.camera import load_pictures
from perception.bench.camera_run import run_camera
from perception.bench.figures import Figures
from perception.bench.process import Usage, child, usage
from perception.bench.settings import BenchSettings
from perception.client import subscribe
from perception.errors import PerceptionError
from perception.stopwatch import Stopwatch
from perception.wire import Header, Kind, TrackRow, decode, encode

Progress = Callable[[str], None]


def bench_node(settings: BenchSettings, figures: Figures) -> None:
    """A camera of fixed rate through the whole node: rate, drops, stage times, latency, CPU."""
    run = run_camera(settings, load_pictures(settings.drive), figures)
    figures.add("node", "run", **run.figures())
    _add_stages(figures, run.stopwatch, run.sent_ns)


def _add_stages(figures: Figures, stopwatch: Stopwatch, sent_ns: list[int]) -> None:
    stages = stopwatch.stages()
    for stage, times in stages.items():
        figures.add_times("stages", stage, times)
    figures.add_times("stages", "between two scenes", [(b - a) / 1e6 for a, b in pairwise(sent_ns)])
    own = [stages[s] for s in ("resize", "features", "grouping", "association", "encode", "send") if s in stages]
    network, rest = float(np.mean(stages["network"])), sum(float(np.mean(times)) for times in own)
    figures.add("share", "all but the network's call", percent=100 * rest / (rest + network), mean_ms=rest)


def bench_wire(figures: Figures, n: int = 500) -> None:
    """Encode + decode of one 640x360 mask of each kind, zstd, checked pixels included."""
    y, x = np.mgrid[0:360, 0:640]
    road = (y > 180) & (abs(x - 320) < (y - 150) * 1.2 + 4 * np.sin(y))
    people = np.where((x // 40 % 3 == 1) & (y > 150) & (y < 150 + x // 8), 1 + x // 120, 0)
    cases = {
        "road (bits)": (Kind.BITS, road.astype(np.uint8)),
        "ids (positions)": (Kind.POSITIONS, people.astype(np.uint16)),
    }
    cases["classes (labels)"] = (Kind.LABELS, (people + 3 * road).astype(np.uint8))
    rows = tuple(
        TrackRow(k, "pedestrian", "confirmed", 0.9, (0, 0, 9, 9), 0, 0) for k in range(1, int(people.max()) + 1)
    )
    header = Header(
        run="00000000-0000-0000-0000-000000000000",
        camera="front",
        validity="observed",
        classes=tuple(map(str, range(16))),
        tracks=rows,
    )
    for name, (kind, mask) in cases.items():
        encoded, both, data = [], [], b""
        for seq in range(n):
            start = time.perf_counter_ns()
            data = encode("front/road", header, kind, mask, seq=seq, frame_seq=seq, stamp_ns=seq)
            middle = time.perf_counter_ns()
            decode(data).mask()
            encoded.append((middle - start) / 1e6)
            both.append((time.perf_counter_ns() - start) / 1e6)
        figures.add_times("wire 640x360", f"{name} encode", encoded)
        figures.add_times("wire 640x360", f"{name} encode + decode", both)
        figures.parts["wire 640x360"][f"{name} encode + decode"]["bytes"] = len(data)


def bench_start(settings: BenchSettings, figures: Figures, endpoint: str, n: int = 3) -> None:
    """A new process to its first mask at a subscriber, n times; then what the running process holds."""
    waits: list[float] = []
    held = Usage(0.0, 0, 0, 0.0)
    for _ in range(n):
        start = time.monotonic()
        with child(_replay(settings, endpoint)) as process, subscribe(endpoint, "front/road", timeout_s=30) as masks:
            next(iter(masks))
            waits.append(time.monotonic() - start)
            for _, _scene in zip(range(60), masks, strict=False):
                held = usage(process.pid)
    figures.add("process", "start to first mask", median_s=float(np.median(waits)), worst_s=max(waits), n=n)
    figures.add("process", "running", rss_mb=held.rss_mb, threads=held.threads, descriptors=held.descriptors)


def bench_subscriber(settings: BenchSettings, figures: Figures, endpoint: str, busy_s: float = 0.1) -> None:
    """Age of each mask when it is handed to a subscriber that is busy 100 ms with each; first and last third."""
    ages: list[float] = []
    with child(_replay(settings, endpoint)), subscribe(endpoint, "front/road", timeout_s=30) as masks:
        end = None
        for scene in masks:
            if scene.age_s is not None:
                ages.append(1e3 * scene.age_s)
            end = end or time.monotonic() + settings.seconds
            if time.monotonic() > end:
                break
            time.sleep(busy_s)
    if not ages:
        raise PerceptionError("the subscriber got no mask with an age")
    third = max(1, len(ages) // 3)
    figures.add_times("subscriber busy 100 ms", "age at hand-over", ages)
    figures.add_times("subscriber busy 100 ms", "first third", ages[:third])
    figures.add_times("subscriber busy 100 ms", "last third", ages[-third:])


def bench_soak(settings: BenchSettings, figures: Figures, endpoint: str, say: Progress) -> None:
    """A replay in a loop: growth of memory, threads and descriptors after the first minute."""
    samples = []
    with child(_replay(settings, endpoint)) as process:
        start = time.monotonic()
        while (passed := time.monotonic() - start) < settings.seconds:
            time.sleep(min(5.0, settings.seconds - passed))
            samples.append((time.monotonic() - start, usage(process.pid)))
            say(f"{samples[-1][0]:.0f} s: {samples[-1][1].rss_mb:.0f} MB")
    settled = [u for at, u in samples if at >= min(60.0, settings.seconds / 2)]
    times = np.array([at for at, _ in samples[-len(settled) :]])
    slope = float(np.polyfit(times, [u.rss_mb for u in settled], 1)[0]) * 600 if len(settled) > 2 else 0.0
    first, last = settled[0], settled[-1]
    figures.add("soak", "memory MB", first=first.rss_mb, last=last.rss_mb, slope_per_10_min=slope)
    figures.add("soak", "threads", first=first.threads, last=last.threads)
    figures.add("soak", "descriptors", first=first.descriptors, last=last.descriptors)


def _replay(settings: BenchSettings, endpoint: str) -> list[str]:
    words = ["replay", *([settings.drive] if settings.drive else []), "-e", endpoint, "--model", settings.model]
    return [*words, "--engine", settings.engine, "--loop"]
