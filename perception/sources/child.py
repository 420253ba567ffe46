"""Live video from a pipe: a GStreamer pipeline, any command that writes YUV4MPEG2, or a FIFO."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence

from perception.errors import SourceError
from perception.sources.live import LiveTiming
from perception.sources.redact import one_line
from perception.sources.shots import Shot
from perception.sources.stop import Stop
from perception.sources.y4m import MAGIC, MAX_LINE, Y4mHeader, frame_to_rgb, parse_header

_PIPE_BYTES = 1 << 20  # what Linux lets anyone have; the default of 64 KiB costs 20 wake-ups per 720p frame
_POLL_S = 0.05
_STDERR_BYTES = 4096
_TERM_S = 0.5


def open_fifo(path: str, timing: LiveTiming, stop: Stop) -> PipeDevice:
    """Open a FIFO for reading; waits for a writer as long as it takes. Raises SourceError when it can't be opened."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from None
    return PipeDevice(fd, timing, stop, patience_s=float("inf"))


def open_pipeline(pipeline: Sequence[str], timing: LiveTiming, stop: Stop) -> ChildDevice:
    """Run a GStreamer pipeline, given as the words after gst-launch-1.0, up to its video. Raises SourceError."""
    read_fd, write_fd = os.pipe()
    # A descriptor of its own, because GStreamer's elements may print to stdout.
    tail = f"! videoconvert ! video/x-raw,format=I420 ! y4menc ! fdsink fd={write_fd}".split()
    argv = ["gst-launch-1.0", "-q", *pipeline, *tail]
    return _spawn(argv, subprocess.DEVNULL, (read_fd, write_fd), timing, stop)


def open_command(argv: Sequence[str], timing: LiveTiming, stop: Stop) -> ChildDevice:
    """Run a command that writes YUV4MPEG2 to its stdout. Raises SourceError when it can't be started."""
    read_fd, write_fd = os.pipe()
    return _spawn(argv, write_fd, (read_fd, write_fd), timing, stop)


def _spawn(argv: Sequence[str], stdout: int, pipe: tuple[int, int], timing: LiveTiming, stop: Stop) -> ChildDevice:
    read_fd, write_fd = pipe
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=(write_fd,),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        os.close(read_fd)
        raise SourceError(f"{one_line(argv[0])}: can't be started: {getattr(error, 'strerror', error)}") from None
    finally:
        os.close(write_fd)
    return ChildDevice(process, PipeDevice(read_fd, timing, stop, patience_s=timing.first_timeout_s))


class _PipeEnded(SourceError):
    """Nobody writes to the pipe any more."""


class PipeDevice:
    """YUV4MPEG2 frames from a descriptor, which it owns. Never blocks longer than it has patience."""

    def __init__(self, fd: int, timing: LiveTiming, stop: Stop, *, patience_s: float) -> None:
        self._fd = fd
        self._timing = timing
        self._stop = stop
        self._patience_s = patience_s
        self._header: Y4mHeader | None = None
        self._payload = bytearray()
        self._stderr_fd = -1
        self.stderr = b""  # the last of what came on the watched descriptor
        self.fps = 0.0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # a limit of this machine: slower, not wrong
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def watch(self, stderr_fd: int) -> None:
        """Drain this descriptor too, so that its writer never blocks."""
        self._stderr_fd = stderr_fd
        os.set_blocking(stderr_fd, False)
        self._poll.register(stderr_fd, select.POLLIN)

    def read(self) -> Shot:
        """The next frame. Raises SourceError on a stall, at the end and when the bytes are not YUV4MPEG2."""
        deadline = time.monotonic() + self._patience_s
        if self._header is None:
            self._header = parse_header(self._line(deadline))
            self._payload = bytearray(self._header.frame_bytes)
            self.fps = self._header.fps
        line = self._line(deadline)
        if line.split(b" ")[0] != b"FRAME":
            raise SourceError(f"the pipe carries garbage: {line[:16]!r} where a frame should begin")
        self._fill(memoryview(self._payload), deadline)
        stamp_ns = time.monotonic_ns()
        self._patience_s = self._timing.timeout_s
        return Shot(frame_to_rgb(self._header, self._payload), stamp_ns)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def drain_stderr(self) -> None:
        """Read what has come on the watched descriptor, and keep its end."""
        if self._stderr_fd < 0:
            return
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._stderr_fd, 65536):
                self.stderr = (self.stderr + data)[-_STDERR_BYTES:]
            self._poll.unregister(self._stderr_fd)  # at its end it would wake us for ever
            self._stderr_fd = -1

    def _line(self, deadline: float) -> bytes:
        """One line without its end. Byte by byte: what follows belongs to the frame."""
        line = bytearray()
        byte = bytearray(1)
        while len(line) < MAX_LINE:
            self._fill(memoryview(byte), deadline)
            if byte == b"\n":
                return bytes(line)
            line += byte
            if self._header is None and not MAGIC.startswith(line[: len(MAGIC)]):
                parse_header(bytes(line))  # raises now: a line end may never come
        raise SourceError(f"the pipe carries garbage, not YUV4MPEG2: no line end in {MAX_LINE} bytes")

    def _fill(self, view: memoryview, deadline: float) -> None:
        while view.nbytes:
            try:
                count = os.readv(self._fd, [view])
            except BlockingIOError:
                self._wait(deadline)
                continue
            if count == 0 and self._waits_for_writer():
                self._wait(deadline)
            elif count == 0:
                raise _PipeEnded("the pipe was closed by its writer")
            view = view[count:]

    def _waits_for_writer(self) -> bool:
        """True for a FIFO that no writer has opened yet: it reads as ended, but does not say so when polled."""
        return self._header is None and not any(fd == self._fd for fd, _ in self._poll.poll(0))

    def _wait(self, deadline: float) -> None:
        if self._stop.is_set:
            raise SourceError("closed")
        if time.monotonic() > deadline:
            raise SourceError(f"no frame for {self._patience_s:.1f} s")
        for fd, _ in self._poll.poll(_POLL_S * 1000):
            if fd == self._stderr_fd:
                self.drain_stderr()


class ChildDevice:
    """The frames of a child process in a process group of its own, all of which ends with it."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: PipeDevice) -> None:
        self._process = process
        self._pipe = pipe
        self.fps = 0.0
        assert process.stderr is not None
        pipe.watch(process.stderr.fileno())
        atexit.register(self.close)

    def read(self) -> Shot:
        """The next frame. Raises SourceError with the last line that the child wrote to stderr."""
        try:
            shot = self._pipe.read()
        except SourceError as error:
            raise SourceError(self._reason(error)) from None
        self.fps = self._pipe.fps
        return shot

    def close(self) -> None:
        """End the group: SIGTERM, and SIGKILL for what is left after half a second, or is frozen."""
        atexit.unregister(self.close)
        self._pipe.close()
        if self._process.returncode is None:
            _signal_group(self._process.pid, signal.SIGTERM)
            self._await_exit(_TERM_S)
            # Before the child is reaped: until then nobody else can get its group's number.
            _signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _reason(self, error: SourceError) -> str:
        ended = isinstance(error, _PipeEnded)
        if ended:
            self._await_exit(_POLL_S)  # a pipe ends a moment before its process does
        self._pipe.drain_stderr()
        lines = [line for line in self._pipe.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        status = self._exit_status() if ended else None
        what = f"the command ended with {status}" if status else str(error)
        return f"{what}: {one_line(lines[-1])}" if lines else what

    def _exit_status(self) -> str | None:
        """How the child ended, without reaping it; None while it runs."""
        result = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if result is None:
            return None
        by_signal = result.si_code != os.CLD_EXITED
        return f"signal {result.si_status}" if by_signal else f"exit code {result.si_status}"

    def _await_exit(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while self._exit_status() is None and time.monotonic() < end:
            time.sleep(0.005)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
