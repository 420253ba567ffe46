"""Ask a running node to follow something: `Control("tcp://127.0.0.1:5602").prompt(box=(600, 380, 680, 450))`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zmq

from perception.client.connection import (
    EVENTS,
    FAILURES,
    ClientKeys,
    ServerKey,
    check_seconds,
    event_of,
    open_link,
    take,
)
from perception.errors import EndpointError, PromptError, WireError
from perception.wire import CONTROL_ENDPOINT
from perception.wire.control import (
    MAX_CONTROL,
    LiveRow,
    PlayRequest,
    PlayRow,
    PromptRequest,
    RelabelRequest,
    RemoveRequest,
    Reply,
    Request,
    SaveRequest,
    TracksRequest,
    decode_reply,
    encode_request,
    pack_mask,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CONNECT_S = 1.5  # a node that has not answered the handshake by then is not there
_FOR_EVER_S = 1e9  # what poll() takes
_REFUSED = (
    "what listens at {} refuses the handshake: a key is missing, wrong or unknown there, or it is no control socket "
    "(masks have an endpoint of their own)"
)


@dataclass(frozen=True, slots=True)
class Prompted:
    """A track that a prompt began."""

    track_id: int
    box: tuple[int, int, int, int]  # half open [frame px]
    frame_seq: int  # the frame that the prompt was applied to
    camera: str


@dataclass(frozen=True, slots=True)
class Control:
    """A node's control socket. Each call is a connection of its own, so any thread may call at any time.

    Every call raises PromptError for what the node refuses, EndpointError where no node answers or a key is wrong, and
    WireError for a request that can't be.

    Args:
        server_key: the node's `.public`, for an encrypted endpoint, with `client_keys`, one's own `.secret`.
        timeout_s: how long to wait for a reply; a node says within 2 s that no frame comes.
    """

    endpoint: str = CONTROL_ENDPOINT
    server_key: ServerKey = None
    client_keys: ClientKeys = None
    timeout_s: float = 5.0

    def prompt(
        self,
        *,
        points: Sequence[tuple[float, float]] = (),
        box: tuple[float, float, float, float] | None = None,
        mask: NDArray[np.bool_] | None = None,
        class_name: str = "",
        frame_seq: int | None = None,
    ) -> Prompted:
        """Begin a track of what is pointed at in the newest frame, by one of points, box (frame px) and mask.

        `mask` is (h, w), the whole frame at any size. `class_name` "" is a thing of no class of the model. A prompt for
        `frame_seq` is refused where the node is more than half a second past that frame.
        """
        row = None if mask is None else pack_mask(mask)
        reply = self._ask(PromptRequest(_plain(tuple(points)), _plain(box), row, class_name, _plain(frame_seq)))
        if reply.track_id is None or reply.box is None or reply.frame_seq is None:
            raise WireError(f"{self.endpoint}: a reply without track, box and frame: update the older side")
        return Prompted(reply.track_id, reply.box, reply.frame_seq, reply.camera)

    def remove(self, track_id: int) -> None:
        """End a track."""
        self._ask(RemoveRequest(_plain(track_id)))

    def relabel(self, track_id: int, class_name: str) -> None:
        """Give a track another class for the rest of its life; "" for none."""
        self._ask(RelabelRequest(_plain(track_id), class_name))

    def tracks(self) -> tuple[LiveRow, ...]:
        """The tracks that live, visible or not."""
        return self._ask(TracksRequest()).tracks

    def save(self, reason: str = "") -> None:
        """Save what the node's recording ring holds of the last seconds, and the next ones."""
        self._ask(SaveRequest(reason))

    def play(
        self,
        *,
        pause: bool | None = None,
        step: bool = False,
        seek_s: float | None = None,
        speed: float | None = None,
    ) -> PlayRow:
        """Pause, step, move or speed up the drive that the node plays; without arguments: where it stands.

        Answered at once, also in a pause. A live source is refused.
        """
        reply = self._ask(PlayRequest(pause=pause, step=step, seek_s=_plain(seek_s), speed=_plain(speed)))
        if not isinstance(reply.play, PlayRow):
            raise WireError(f"{self.endpoint}: a reply that does not say how the drive is played: update the node")
        return reply.play

    def _ask(self, request: Request) -> Reply:
        data = encode_request(request)
        check_seconds("timeout_s", self.timeout_s)
        keys, events = (self.server_key, self.client_keys), EVENTS | FAILURES | zmq.EVENT_CONNECTED
        with contextlib.closing(open_link(zmq.REQ, self.endpoint, *keys, _configure, events)) as link:
            self._await_handshake(link.monitor)
            link.socket.send(data)
            reply = self._await_reply(link.socket)
        if not reply.ok:
            raise PromptError(reply.error)
        return reply

    def _await_handshake(self, monitor: zmq.Socket[bytes]) -> None:
        deadline, is_there = time.monotonic() + _CONNECT_S, False
        while (left := deadline - time.monotonic()) > 0:
            if not monitor.poll(max(1, int(left * 1e3))):
                continue
            event = event_of(monitor)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return
            # a socket of another type fails without a word: it is met, lost, and met again
            if event is not None and (event & FAILURES or (event == zmq.EVENT_DISCONNECTED and is_there)):
                raise EndpointError(_REFUSED.format(self.endpoint))
            is_there |= event == zmq.EVENT_CONNECTED
        raise EndpointError(
            f"no node answers at {self.endpoint} within {_CONNECT_S:g} s: start one, or name its control endpoint"
        )

    def _await_reply(self, socket: zmq.Socket[bytes]) -> Reply:
        if socket.poll(int(min(self.timeout_s, _FOR_EVER_S) * 1e3)) and (parts := take(socket)) is not None:
            return decode_reply(b"".join(parts))
        raise EndpointError(f"{self.endpoint} did not reply within {self.timeout_s:g} s: is that a control socket?")


def _configure(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_CONTROL)
    socket.setsockopt(zmq.IPV6, 1)


def _plain(value: Any) -> Any:
    """With Python's numbers instead of numpy's, which msgpack can't hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else value
