"""What a person sees of a running node: one living line on a terminal, one line every few seconds in a log."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from perception.config import Launch
from perception.health import stage_rows
from perception.node import Node, Summary
from perception.sinks.recorder import Recorder
from perception.sources.redact import shown
from perception.types import Scene, TrackState

LOG_EVERY_S = 5.0
SHOW_EVERY_S = 0.2


class Display:
    """Writes to stderr, so that stdout stays for data."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._console = Console(stderr=True)
        self._status = self._console.status("starting") if self._console.is_terminal else None
        self._next = 0.0
        self._start = time.monotonic()
        self._node: Node | None = None

    def opened(self, node: Node) -> None:
        """The node is built: say what runs and how to subscribe."""
        self._node = node
        info, camera = node.source.info(), self._launch.camera
        engine = node.serving.engine if node.serving else node.report.engine
        size = f"{info.width}x{info.height}" if info.width else "waiting for the camera"
        source = escape(shown(self._launch.source.url)) or "rendered drive"
        self._say(f"[bold]{source}[/] {size} -> {escape(str(self._launch.model.path))} on {engine}")
        self._say(f"masks on {', '.join(node.publisher.endpoints)}: {' '.join(node.publisher.encoder.topics)}")
        where = "" if node.publisher.endpoints[0].endswith(":5601") else f" -e {node.publisher.endpoints[0]}"
        self._say(f"see them in a second shell: perception watch{where} {camera}/{self._launch.topics[0]}")
        if node.logbook:
            self._say(recording(node.logbook.recorder.folder, self._launch))
        if self._status:
            self._status.start()

    def scene(self, scene: Scene) -> None:
        now = time.monotonic()
        if now < self._next or self._node is None:
            return
        self._next = now + (SHOW_EVERY_S if self._status else LOG_EVERY_S)
        shown = sum(t.state is TrackState.CONFIRMED for t in scene.tracks)
        status = self._node.source.status()
        line = f"frame {scene.frame_seq}  {self._node.pulse.rate_hz():.1f} fps  {shown} tracks  {scene.validity}"
        line += f"  dropped {status.dropped}" if status.dropped else ""
        if self._status:
            self._status.update(line)
        else:
            self._say(line)

    def ended(self, summary: Summary, node: Node, save: Path | None) -> None:
        if self._status:
            self._status.stop()
        rate = summary.frames / summary.seconds if summary.seconds else 0.0
        failed = f", {summary.failed} failed" if summary.failed else ""
        self._say(f"{summary.frames} frames in {summary.seconds:.1f} s ({rate:.1f} fps){failed}; {summary.reason}")
        table = Table("stage", "p50 ms", "p99 ms", box=None, pad_edge=False)
        for stage, row in stage_rows(node.pipeline.stopwatch).items():
            table.add_row(stage, f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}")
        self._console.print(table)
        if save:
            self._say(f"pictures in {save}")
        if node.logbook:
            self._say(recorded(node.logbook.recorder))

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def recording(folder: Path, launch: Launch) -> str:
    """Where a recording will be, in one line."""
    config = launch.recording
    if config is None or not config.ring_s:
        return f"recording into {folder}"
    words = {
        "health": "trouble",
        "id_switch": "a suspected id switch",
        "signal": "SIGUSR1",
        "control": "perception save",
    }
    triggers = ", ".join(words[trigger] for trigger in config.triggers) or "nothing: record.triggers is empty"
    return f"keeping the last {config.ring_s:g} s in memory; what saves them into {folder}: {triggers}"


def recorded(recorder: Recorder) -> str:
    """What became of a recording that is closed, in one line."""
    stats, certificate = recorder.stats(), recorder.certificate
    frames = f"{stats.frames} frames" if stats.frames else "no frame"
    size = f"{frames}, {stats.size / 1e6:.1f} MB in {recorder.folder}"
    if stats.stopped:
        return f"recording stopped: {stats.stopped}; {size}"
    if certificate is None:  # of a ring: its recordings were finished before, if there were any
        return f"recorded {size}" if stats.size else "recorded nothing: no trigger came"
    if certificate.is_complete and not stats.frames:
        return "recorded no frame"
    return f"recorded {size}: {'complete' if certificate.is_complete else 'INCOMPLETE, see perception drive info'}"
