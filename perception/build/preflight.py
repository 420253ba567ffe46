"""A launch file tried as a node would start from it: without a camera, a socket, or a file that is written."""

from __future__ import annotations

import re
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from perception.build.checks import Checked, check_calibration, check_node
from perception.build.model import build_model, build_pipeline
from perception.build.node import build_source
from perception.build.serving import build_serving, is_pinned
from perception.config import Launch
from perception.protocols import SourceInfo
from perception.sources.live import LiveSource
from perception.sources.redact import shown
from perception.sources.url import open_reader
from perception.stopwatch import Stopwatch

_DEVICE = re.compile(r"(?i)(?:(?:camera|v4l2):(?://)?)?(\d+|/[^?]+)(?:\?.*)?")


@dataclass(frozen=True)
class Preflight:
    """What a node that starts from a launch file would find."""

    checked: Checked
    source: str  # as people may see it
    absent: str  # the device that a live source waits for; "": it is there, or nobody knows
    is_pinned: bool  # nothing serves but the engine that is named


def preflight(launch: Launch) -> Preflight:
    """Do what a node does before its first frame, as far as it touches no device and binds no socket.

    A recorded source is opened, and so is the CPU's engine; a live one is looked at as it is written.

    Raises:
        PerceptionError: the line with which the node would end.
    """
    checked, stopwatch = check_node(launch), Stopwatch()
    info = _info_of(launch)
    check_calibration(checked, info)
    pinned = is_pinned(launch, info)
    with ExitStack() as opened:
        model = opened.enter_context(closing(build_model(checked.files, launch, stopwatch)))
        pipeline = build_pipeline(model, checked, stopwatch)
        opened.callback(pipeline.propagator.close)
        serving = build_serving(checked, pipeline, is_pinned=pinned)
        if serving:
            opened.callback(serving.close)
            serving.expect((info.width, info.height))
    url, is_live = launch.source.url, info.clock != "drive"
    return Preflight(checked, shown(url) or "rendered:", _absent_device(url) if is_live else "", pinned)


def _info_of(launch: Launch) -> SourceInfo:
    """Of a live source nothing is known before it is opened. Raises SourceError."""
    asked = launch.source
    with closing(build_source(launch)) as source:
        if isinstance(source, LiveSource):
            return source.info()
    # a recorded source tells it too, but reads all of the drive for its hash
    reader = open_reader(asked.url, asked.begin_s, asked.end_s)
    return SourceInfo(reader.width, reader.height, reader.fps, "drive", "")


def _absent_device(url: str) -> str:
    """The device file that a live source names, where it is not there now."""
    found = _DEVICE.fullmatch(url.strip())
    device = "" if found is None else f"/dev/video{found[1]}" if found[1].isdecimal() else found[1]
    return device if device and not Path(device).exists() else ""
