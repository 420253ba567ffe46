"""One URL-like setting to a source."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from perception.errors import SourceError
from perception.protocols import Source
from perception.sources.live import LiveSource, LiveTiming
from perception.sources.options import Options, split_options
from perception.sources.redact import one_line, shown
from perception.sources.replay import ReplaySource
from perception.sources.shots import Device, Reader
from perception.sources.span import Span, SpanReader, make_span, take_span
from perception.sources.stop import Stop

FORMS = (
    "a video file, a folder of pictures, an MCAP recording, a ROS 2 or ROS 1 bag (?topic=/cam/image_raw), each with"
    " ?from=12.5&to=20; a FIFO, rendered:?seed=1&frames=300, camera:0 or /dev/video0,"
    " v4l2:///dev/video0?width=1280&height=720&fps=30&fourcc=MJPG, gst:PIPELINE, exec:COMMAND, rtsp://..., http(s)://..."
)
"""What `open_source` takes, for people."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_INSTALL_GST = "install gstreamer1.0-tools, gstreamer1.0-plugins-base and gstreamer1.0-plugins-good"

Opener = Callable[[Stop], Device]
Recorded = tuple[Reader, Span]


def open_source(
    url: str,
    *,
    camera: str,
    realtime: bool | None = None,
    loop: bool = False,
    speed: float = 1.0,
    begin_s: float = 0.0,
    end_s: float | None = None,
    timing: LiveTiming | None = None,
) -> Source:
    """The source that `url` names; "" is the rendered drive. Its frames carry the name `camera`.

    `realtime` (default: no), `loop` and `speed` are for recorded sources, `timing` is for live ones; `begin_s` and
    `end_s` are for recorded ones too, and say the same as `?from=12.5&to=20` in `url`. A live source whose device is
    absent now is given all the same, and says so in its status. Raises SourceError, without credentials, for what can
    never work: an unknown form, a wrong option, a missing file or program; and ConfigError for a drive that can't be
    rendered.
    """
    url = url.strip()
    asked = make_span(begin_s, end_s, shown(url) or "rendered:")
    opened = _open(url, timing or LiveTiming())
    if callable(opened):
        if not asked.is_all:
            raise SourceError(f"{shown(url)}: a live source has no begin and no end: leave the times out")
        return LiveSource(opened, camera=camera, url=url, timing=timing)
    return ReplaySource(_within(opened, asked, url), camera=camera, realtime=bool(realtime), loop=loop, speed=speed)


def open_reader(url: str, begin_s: float = 0.0, end_s: float | None = None) -> Reader:
    """What reads the recorded source that `url` names, for those who want its pictures as they are stored.

    Raises SourceError as `open_source` does, and for a live source.
    """
    url = url.strip()
    asked = make_span(begin_s, end_s, shown(url) or "rendered:")
    opened = _open(url, LiveTiming())
    if callable(opened):
        raise SourceError(f"{shown(url)}: a live source: `perception record` records it")
    return _within(opened, asked, url)


def _within(opened: Recorded, asked: Span, url: str) -> Reader:
    reader, span = opened
    if not (asked.is_all or span.is_all):
        raise SourceError(f"{shown(url)}: from and to are given twice: leave them out in one place")
    span = asked if span.is_all else span
    return reader if span.is_all else SpanReader(reader, span)


def _open(url: str, timing: LiveTiming) -> Recorded | Opener:
    if "\0" in url:
        raise SourceError(f"{shown(url)!r}: holds a NUL byte: give one of: {FORMS}")
    if url.isdecimal() or url.startswith("/dev/video"):
        return _camera(url, url, timing)
    match = _SCHEME.match(url)
    scheme, rest = (match[1].lower(), url[match.end() :]) if match else ("", url)
    match scheme:
        case "camera" | "v4l2":
            return _camera(rest, url, timing)
        case "rtsp" | "rtsps" | "http" | "https":
            return _stream(url, timing)
        case "gst":
            return _pipeline(rest, url, timing)
        case "exec":
            return _command(rest, url, timing)
        case "rendered":
            return _rendered(rest, url)
        case "file":
            return _path(unquote(rest.removeprefix("//")) if rest.startswith("//") else rest, timing)
    return _rendered("", url) if not url else _path(url, timing, scheme)


def _camera(text: str, url: str, timing: LiveTiming) -> Opener:
    from perception.sources.camera import CameraSettings, open_camera

    device, options = split_options(text.removeprefix("//"), shown(url))
    device = f"/dev/video{device}" if device.isascii() and device.isdecimal() else device
    if not device.startswith("/"):
        raise SourceError(f"{shown(url)}: {device!r} names no camera: give its number, or a path like /dev/video0")
    fourcc = options.text("fourcc", "")
    if fourcc and not (len(fourcc) == 4 and fourcc.isascii()):
        raise SourceError(f"{shown(url)}: fourcc={fourcc!r} must be four letters, like MJPG or YUYV")
    settings = CameraSettings(
        options.whole("width", 0, 1, 16384), options.whole("height", 0, 1, 16384), options.rate("fps", 0.0), fourcc
    )
    options.require_empty()
    return partial(open_camera, device, settings, timing)


def _stream(url: str, timing: LiveTiming) -> Opener:
    from perception.sources.stream import open_stream

    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or any(c.isspace() for c in url):
        raise SourceError(f"{shown(url)}: not an address: give it like rtsp://user:password@host:554/path")
    return partial(open_stream, url, timing)


def _pipeline(text: str, url: str, timing: LiveTiming) -> Opener:
    from perception.sources.child import open_pipeline

    words = _words(text, url, "a GStreamer pipeline, like gst:v4l2src ! videoconvert")
    if shutil.which("gst-launch-1.0") is None:
        raise SourceError(f"{shown(url)}: gst-launch-1.0 is not on the PATH: {_INSTALL_GST}")
    return partial(open_pipeline, words, timing)


def _command(text: str, url: str, timing: LiveTiming) -> Opener:
    from perception.sources.child import open_command

    words = _words(text, url, "a command that writes YUV4MPEG2, like exec:ffmpeg -i ... -f yuv4mpegpipe -")
    if shutil.which(words[0]) is None:
        raise SourceError(f"{shown(url)}: no program {one_line(words[0])!r} on the PATH: install it")
    return partial(open_command, words, timing)


def _words(text: str, url: str, form: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SourceError(f"{shown(url)}: {str(error).lower()}: give {form}") from None
    if not words:
        raise SourceError(f"{url}: empty: give {form}")
    return words


def _rendered(text: str, url: str) -> Recorded:
    from perception.sources.rendered import RenderedReader

    rest, options = split_options(text, shown(url))
    if rest:
        raise SourceError(f"{shown(url)}: {rest!r} is not an option: write rendered:?seed=1&frames=300")
    reader = RenderedReader(
        seed=options.whole("seed", 0, 0, 2**31 - 1),
        frames=options.whole("frames", 600, 1, 10**9),
        width=options.whole("width", 1280, 64, 4096),
        height=options.whole("height", 720, 36, 4096),
        fps=options.rate("fps", 30.0),
    )
    span = take_span(options, shown(url))
    options.require_empty()
    return reader, span


def _path(text: str, timing: LiveTiming, scheme: str = "") -> Recorded | Opener:
    name, options = shown(text), Options({}, shown(text))
    if not _exists(Path(text), name):
        text, options = split_options(text, name)
    path = Path(text)
    if not _exists(path, name):
        if scheme:
            raise SourceError(f"{name}: unknown form {scheme}: give one of: {FORMS}")
        raise SourceError(f"{name}: no such file or folder: give one of: {FORMS}")
    mode = path.stat().st_mode
    if stat.S_ISCHR(mode):
        return _camera(text, text, timing)
    if stat.S_ISFIFO(mode):
        from perception.sources.child import open_fifo

        options.require_empty()
        return partial(open_fifo, text, timing)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise SourceError(f"{name}: neither a file nor a folder nor a FIFO: give one of: {FORMS}")
    from perception.sources.recorded import open_recorded

    span = take_span(options, name)
    return open_recorded(path, options), span


def _exists(path: Path, name: str) -> bool:
    """Raises SourceError where that can't be told."""
    try:
        path.stat()
    except PermissionError:
        raise SourceError(f"{name}: permission denied") from None
    except OSError:  # a name that is too long, too
        return False
    return True
