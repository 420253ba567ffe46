"""What the live view costs and how late it is: a node, or a publisher alone, with a view and a browser beside it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perception.bench.browser import Tab, browsing, find_browser
from perception.bench.camera import load_pictures
from perception.bench.camera_run import run_camera
from perception.bench.figures import Figures
from perception.bench.process import Usage, usage
from perception.bench.settings import BenchSettings
from perception.build import build_model, build_pipeline, build_publisher, check_launch, identity_of
from perception.clock import boot_id
from perception.errors import PerceptionError
from perception.health import HealthReport, Published, Pulse
from perception.images import decode_image
from perception.protocols import SourceInfo, SourceStatus
from perception.sinks.publisher import Publisher
from perception.stopwatch import Stopwatch
from perception.types import Frame, Scene

Progress = Callable[[str], None]

LOW = 10
"""Niceness of the view, as by default, and of the browser beside a node: a person who looks should not slow it."""
_START_S = 30.0  # in which a page has to show something
_SETTLE_S = 3.0  # in which a browser starts, and a node's caches warm up
_PART = "view"


@dataclass
class Watched:
    """What a page saw."""

    painted: list[tuple[int, float]] = field(default_factory=list)  # frame seq, and when it was on the screen [s UTC]
    clock_error_ms: float = 0.0  # of the browser's clock against ours, at most
    counts: dict[str, float] = field(default_factory=dict)

    def delays_ms(self, sent_s: dict[int, float]) -> list[float]:
        """From sent to painted, of each painted frame [ms]."""
        return [(at - sent_s[seq]) * 1e3 for seq, at in self.painted if seq in sent_s]


@contextmanager
def view_process(endpoint: str, niceness: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A `perception view` of this endpoint; its link. Raises PerceptionError where it does not start."""
    words = [sys.executable, "-m", "perception.cli", "view", endpoint, "--port", "0", "--control", ""]
    process = subprocess.Popen([*words, "--nice", str(niceness)], stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline() if process.stderr else ""
        if not (found := re.search(r"open (\S+)", line)):
            raise PerceptionError(f"the view does not start: {line.strip()}")
        yield found[1], process
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def watching(endpoint: str, niceness: int) -> Iterator[Watched]:
    """A view and a browser that shows it, in a thread, until the block ends."""
    watched, stop = Watched(), threading.Event()
    failed: list[BaseException] = []
    with view_process(endpoint, niceness) as (link, _):

        def watch() -> None:
            try:
                asyncio.run(_watch(link, niceness, stop, watched))
            except BaseException as error:  # told in the thread that measures
                failed.append(error)

        thread = threading.Thread(target=watch, name="browser")
        thread.start()
        try:
            yield watched
        finally:
            stop.set()
            thread.join(60)
    if failed:
        raise failed[0]


async def _watch(link: str, niceness: int, stop: threading.Event, watched: Watched) -> None:
    async with browsing(niceness) as tab:
        await tab.open(link)
        with contextlib.suppress(PerceptionError):  # then it has painted nothing, which is a figure too
            await tab.until("view.count > 0", _START_S)
        while not stop.is_set():
            await asyncio.sleep(0.2)
        watched.painted = [(seq, at / 1e3) for seq, at, _ in await tab.evaluate("view.painted")]
        watched.clock_error_ms = await _clock_error_ms(tab)
        watched.counts = await tab.evaluate("({ painted: view.count, skipped: view.skipped })")


async def _clock_error_ms(tab: Tab) -> float:
    """How far the page's clock may be from ours: what a question and its answer leave open."""
    errors = []
    for _ in range(5):
        before = time.time()
        there = await tab.evaluate("performance.timeOrigin + performance.now()") / 1e3
        after = time.time()
        errors.append(max(before - there, there - after, 0.0) * 1e3)
    return min(errors)


def bench_view(settings: BenchSettings, figures: Figures, say: Progress) -> None:
    """A publisher of real scenes at a fixed rate, then a whole node alone and with a view: delays and rates.

    Raises:
        PerceptionError: there is no Chromium, or the view does not start.
    """
    if find_browser() is None:
        raise PerceptionError("measuring the view needs a Chromium on the PATH (Debian: apt install chromium)")
    say("the scenes")
    pictures = load_pictures(settings.drive)
    frames = _scenes(settings, pictures[0])
    say("a publisher and a view")
    _bench_publisher(settings, figures, frames)
    say("the node alone")
    alone = run_camera(settings, pictures, figures)
    say("the node with a view")
    _bench_node(settings, figures, pictures, alone.frames / alone.seconds)


def _bench_publisher(settings: BenchSettings, figures: Figures, frames: Sequence[tuple[Frame, Scene]]) -> None:
    with publishing(settings, frames) as (endpoint, sent_s), watching(endpoint, 0) as watched:
        time.sleep(_SETTLE_S + settings.seconds)
    delays = _settled(watched, sent_s)
    figures.add_times(_PART, "published to painted", delays)
    figures.add(_PART, "painted", fps=_rate(watched), **watched.counts)
    figures.add(_PART, "browser clock", error_ms=watched.clock_error_ms)


def _bench_node(settings: BenchSettings, figures: Figures, pictures: Any, fps_alone: float) -> None:
    sent_s: dict[int, float] = {}
    found: list[Watched] = []

    @contextmanager
    def beside(publisher: Publisher) -> Iterator[None]:
        with watching(publisher.endpoints[0], LOW) as watched:
            yield
        found.append(watched)

    longer = replace(settings, seconds=settings.seconds + _SETTLE_S)
    run = run_camera(
        longer, pictures, figures, on_scene=lambda s: sent_s.update({s.frame_seq: time.time()}), beside=beside
    )
    fps = run.frames / run.seconds
    delays = _settled(found[0], sent_s)
    figures.add(_PART, "node alone", fps=fps_alone)
    figures.add(_PART, "node, viewed", fps=fps, change_percent=100 * (fps / fps_alone - 1))
    figures.add_times(_PART, "sent to painted, beside the node", delays)
    figures.add(_PART, "painted, beside the node", fps=_rate(found[0]))


def _settled(watched: Watched, sent_s: dict[int, float]) -> list[float]:
    """Delays without those of the first seconds."""
    begin = min((at for _, at in watched.painted), default=0.0) + _SETTLE_S / 2
    kept = replace(watched, painted=[(seq, at) for seq, at in watched.painted if at >= begin])
    return kept.delays_ms(sent_s)


def _rate(watched: Watched) -> float:
    """Frames a second on the screen, from the first one to the last."""
    times = sorted(at for _, at in watched.painted)
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


def _scenes(settings: BenchSettings, pictures: Sequence[bytes]) -> list[tuple[Frame, Scene]]:
    """What the node says of the first frames of the drive."""
    launch = settings.launch()
    checked, stopwatch = check_launch(launch), Stopwatch()
    found = []
    with closing(build_model(checked.files, launch, stopwatch)) as model:
        pipeline = build_pipeline(model, checked, stopwatch)
        for n, data in enumerate(pictures):
            frame = Frame(n, round(n * 1e9 / settings.fps), "front", decode_image(data, "picture"))
            found.append((frame, pipeline.step(frame)))
        pipeline.close()
    return found


@contextmanager
def publishing(
    settings: BenchSettings, frames: Sequence[tuple[Frame, Scene]]
) -> Iterator[tuple[str, dict[int, float]]]:
    """The frames published forth and back at a fixed rate; the endpoint, and when each was sent [s UTC]."""
    checked, sent_s, ended = check_launch(settings.launch()), dict[int, float](), threading.Event()
    size = frames[0][1].frame_size
    identity = identity_of(checked, SourceInfo(*size, settings.fps, boot_id(), ""))
    with ExitStack() as stack:
        publisher = stack.enter_context(closing(build_publisher(checked, identity, Stopwatch())))
        pulse = Pulse()
        report = HealthReport(identity.run, boot_id(), identity.clock, "none", checked.files.name, pulse, Stopwatch())

        def publish() -> None:
            begin, seq, beats = time.monotonic(), 0, 0
            while not ended.wait(0.002):
                publisher.service()
                now = time.monotonic() - begin
                if now * settings.fps >= seq:
                    seq += 1
                    _publish(publisher, pulse, frames, seq, sent_s)
                if now * 10 >= beats:
                    beats += 1
                    stats = publisher.stats()
                    told = Published(stats.published, stats.validity, stats.subscribers, 0, 0)
                    publisher.send_health(report.make(SourceStatus("running", "", seq, 0, 0, 0), told))

        thread = threading.Thread(target=publish, name="publisher")
        thread.start()
        try:
            yield publisher.endpoints[0], sent_s
        finally:
            ended.set()
            thread.join()


def _publish(
    publisher: Publisher, pulse: Pulse, frames: Sequence[tuple[Frame, Scene]], seq: int, sent_s: dict[int, float]
) -> None:
    n = len(frames)
    place = seq % max(1, 2 * n - 2)
    frame, scene = frames[min(place, 2 * n - 2 - place)] if n > 1 else frames[0]
    stamp_ns = time.monotonic_ns()
    pulse.took(seq, stamp_ns, None)
    publisher.send(frame, replace(scene, frame_seq=seq, stamp_ns=stamp_ns))
    sent_s[seq] = time.time()
    pulse.sent()
    sent_s.pop(seq - 5000, None)


def bench_view_soak(settings: BenchSettings, figures: Figures, say: Progress) -> None:
    """A view whose tab sleeps and wakes: growth of the view's and the browser's memory after the first fifth.

    Raises:
        PerceptionError: there is no Chromium, or the view does not start.
    """
    frames = _scenes(settings, load_pictures(settings.drive)[0])
    with publishing(settings, frames) as (endpoint, _), view_process(endpoint, 0) as (link, process):
        samples = asyncio.run(_soak(link, process.pid, settings.seconds, say))
    kept = [sample for sample in samples if sample[0] >= settings.seconds / 5]
    for name, at in (("view MB", 1), ("browser page MB", 2), ("page's own heap MB", 3), ("view's descriptors", 4)):
        values = [sample[at] for sample in kept]
        third = max(1, len(values) // 3)
        first, last = sum(values[:third]) / third, sum(values[-third:]) / third
        figures.add("view soak", name, first_third=first, last_third=last, most=max(values))
    figures.add("view soak", "sleeps", n=samples[-1][5], minutes=settings.seconds / 60)


async def _soak(link: str, pid: int, seconds: float, say: Progress) -> list[tuple[float, ...]]:
    """Samples of (time, the view's MB, the page's process MB, its heap MB, the view's descriptors, sleeps so far)."""
    samples, sleeps, begin = [], 0, time.monotonic()
    async with browsing() as tab:
        await tab.open(link)
        await tab.until("view.count > 0", 30)
        while (passed := time.monotonic() - begin) < seconds:
            await asyncio.sleep(min(6.0, seconds - passed))
            heap = await tab.evaluate("performance.memory.usedJSHeapSize")
            own, page = usage(pid), _page_usage(tab.pid)
            samples.append((passed, own.rss_mb, page.rss_mb, heap / 1e6, float(own.descriptors), float(sleeps)))
            say(f"{passed:.0f} s: view {own.rss_mb:.0f} MB, page {page.rss_mb:.0f} MB")
            async with tab.hidden():
                await asyncio.sleep(3.0)
            count = await tab.evaluate("view.count")
            await tab.until(f"view.count > {count}", 20)
            sleeps += 1
    return samples


def _page_usage(browser: int) -> Usage:
    """Of the browser's largest process that shows a page."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
                group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
            except OSError:
                continue
            if b"--type=renderer" in words and group == browser:
                found.append(usage(int(folder.name)))
    if not found:
        raise PerceptionError("the browser's page is gone")
    return max(found, key=lambda each: each.rss_mb)
