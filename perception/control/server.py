"""The control socket: takes requests in a thread of its own; the pipeline's thread answers them between two frames."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import zmq

from perception.control.answers import Answers, refusal
from perception.errors import EndpointError, WireError
from perception.keys import Curve
from perception.protocols import Propagator
from perception.sinks.endpoints import IpcPlace, bind_error, checked
from perception.sinks.gate import Gate, encrypt
from perception.types import Frame, Scene
from perception.wire.control import MAX_CONTROL, PlayRequest, Reply, Request, decode_request, encode_reply

log = logging.getLogger(__name__)

ANSWER_S = 2.0
"""A request that no frame came for within this gets a reply that says so."""
_MOST_WAITING = 16
_MOST_ENVELOPE = 8  # parts of an address in front of a request: one per device between
_PAUSE_S = 0.005  # after each request: a flood of them can't take the interpreter from the pipeline
_IDLE_MS, _BUSY_MS = 50, 5  # how long to wait for a request, without and with answers to be sent
_HANDSHAKE_MS = 3000  # how long a peer may take to say who it is
_LAST_WORD_MS = 150  # how long close() waits for the last replies to leave
_QUEUED = 4  # requests or replies that ZeroMQ keeps for each peer


@dataclass(eq=False)
class _Waiting:
    """A request on its way."""

    envelope: list[bytes]  # where its reply goes
    request: Request
    deadline_s: float  # on the monotonic clock
    reply: Reply | None = field(default=None)


class ControlServer:
    """Takes REQ clients. A ROUTER underneath: a client that dies in the middle keeps nobody from being served."""

    def __init__(self, endpoint: str, answers: Answers, curve: Curve | None = None, answer_s: float = ANSWER_S) -> None:
        """Raises EndpointError for an endpoint that is taken, malformed, or open to strangers without `curve`."""
        self.answers, self._answer_s = answers, answer_s
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()  # not taken up yet
        self._open: list[_Waiting] = []  # not replied to yet, the oldest first
        self._stop = threading.Event()
        self._place: IpcPlace | None = None
        self._gate: Gate | None = None
        self._context = zmq.Context()
        try:
            self._socket = self._listen(checked(endpoint, encrypted=curve is not None, insecure=None), curve)
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where it listens, with the port that the system chose where `*` was asked for."""
        return self._endpoint

    def serve(self, propagator: Propagator, frame: Frame, scene: Scene) -> tuple[Request, Reply] | None:
        """Answer the request that has waited longest; to be called between two frames, by the pipeline's thread.

        One a frame, so that many prompts never add up to a long pause. Gives back what was answered.
        """
        self.answers.note(frame)
        with self._lock:
            waiting = self._queue.popleft() if self._queue else None
        if waiting is None:
            return None
        reply = self.answers.answer(waiting.request, propagator, frame, scene)
        waiting.reply = reply
        return waiting.request, reply

    def close(self) -> None:
        """Tell those who wait that the node stops, and free the endpoint. Twice is fine."""
        self._stop.set()
        self._thread.join()
        self._release()

    def _listen(self, endpoint: str, curve: Curve | None) -> zmq.Socket[bytes]:
        if curve:
            self._gate = Gate(self._context, curve.clients)
        if endpoint.startswith("ipc://"):
            self._place = IpcPlace(endpoint)
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, _LAST_WORD_MS)
        socket.setsockopt(zmq.SNDHWM, _QUEUED)
        socket.setsockopt(zmq.RCVHWM, _QUEUED)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 300)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 900)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_CONTROL)
        socket.setsockopt(zmq.IPV6, "[" in endpoint)
        if curve:
            encrypt(socket, curve)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close(0)
            raise bind_error(endpoint, error) from error
        self._endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return socket

    def _run(self) -> None:
        with self._socket:
            while not self._stop.is_set():
                if self._socket.poll(_BUSY_MS if self._open else _IDLE_MS):
                    self._take(self._socket.recv_multipart())
                    self._stop.wait(_PAUSE_S)
                self._send_answers(time.monotonic())
            for waiting in self._open:
                self._reply(waiting.envelope, waiting.reply or refusal("the node is stopping"))

    def _take(self, parts: list[bytes]) -> None:
        """One message: its address, an empty part, the request. What has no address of this form is dropped."""
        at = parts.index(b"") if b"" in parts else 0
        if not 0 < at <= _MOST_ENVELOPE or len(parts) != at + 2:
            return
        envelope = parts[: at + 1]
        try:
            request = decode_request(parts[-1])
        except WireError as error:
            self._reply(envelope, refusal(error))
            return
        if isinstance(request, PlayRequest):
            self._reply(envelope, self.answers.answer_at_once(request))
            return
        waiting = _Waiting(envelope, request, time.monotonic() + self._answer_s)
        with self._lock:
            is_full = len(self._open) >= _MOST_WAITING
            if not is_full:
                self._queue.append(waiting)
        if is_full:
            self._reply(envelope, refusal(f"{_MOST_WAITING} requests wait already: try again"))
        else:
            self._open.append(waiting)

    def _send_answers(self, now: float) -> None:
        """Reply to what is answered and to what has waited too long."""
        for waiting in list(self._open):
            reply = waiting.reply
            if reply is None and now >= waiting.deadline_s:
                reply = refusal(self._give_up(waiting))
            if reply is not None:
                self._open.remove(waiting)
                self._reply(waiting.envelope, reply)

    def _give_up(self, waiting: _Waiting) -> str:
        with self._lock:
            if waiting in self._queue:
                self._queue.remove(waiting)
                why = self.answers.why_no_frame()
                return f"no frame came within {self._answer_s:g} s, nothing was done: {why}"
        return f"taken up, and not done within {self._answer_s:g} s: list the tracks to see what became of it"

    def _reply(self, envelope: list[bytes], reply: Reply) -> None:
        try:
            self._socket.send_multipart([*envelope, encode_reply(reply)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            log.warning("a reply could not be sent: %s", error)

    def _release(self) -> None:
        if self._gate is not None:
            self._gate.stop()
        self._context.destroy(_LAST_WORD_MS)
        if self._place is not None:
            self._place.release()


def open_control(
    endpoint: str | None, fallback: str, answers: Answers, curve: Curve | None = None
) -> ControlServer | None:
    """The control socket that a launch file asks for; where it says nothing, one at `fallback` if that is free.

    Args:
        endpoint: "" for none; None where the launch file says nothing.

    Raises:
        EndpointError: the endpoint that was asked for can't be had.
    """
    if endpoint is not None:
        return ControlServer(endpoint, answers, curve) if endpoint else None
    try:
        return ControlServer(fallback, answers, curve)
    except EndpointError as error:
        log.warning('no control socket, prompts are not taken: %s; [control] endpoint = "" asks for none', error)
        return None
