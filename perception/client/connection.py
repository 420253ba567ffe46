"""What every socket of a client does alike: endpoints, keys, and what became of the handshake."""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from perception.errors import EndpointError
from perception.keys import KeyPair, as_public, read_keys

ServerKey = str | bytes | Path | None
"""A node's public key, or the path of its `.public` file."""
ClientKeys = str | Path | KeyPair | None
"""One's own keys, or the path of their `.secret` file."""

EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
FAILURES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH

_PORT = "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_ENDPOINT = re.compile(rf"tcp://(\[[^\[\]\s]+\]|[^\[\]\s:/]+):(?!0+$)({_PORT})|ipc://[^\0]+")
_MALFORMED = "endpoint {!r}: write tcp://ADDRESS:PORT or ipc:///FOLDER/NAME"


@dataclass(frozen=True, slots=True)
class Link:
    """A socket that connects to one endpoint. Of one thread at a time, as ZeroMQ's sockets are."""

    context: zmq.Context[zmq.Socket[bytes]]
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    endpoint: str

    def connect_again(self) -> bool:
        """Connect anew: libzmq itself gives a peer up for good when that refuses us or breaks the protocol.

        False where that can't be now, as when files run out: nothing connects then until this is called again.
        """
        with contextlib.suppress(zmq.ZMQError):  # nothing to leave
            self.socket.disconnect(self.endpoint)
        try:
            self.socket.connect(self.endpoint)
        except zmq.ZMQError:
            return False
        return True

    def close(self) -> None:
        """One socket left open would make term() wait for ever: this closes them all. Twice is fine."""
        self.context.destroy(0)


def open_link(
    kind: int,
    endpoint: str,
    server_key: ServerKey,
    client_keys: ClientKeys,
    configure: Callable[[zmq.Socket[bytes]], None],
    events: int = EVENTS | FAILURES,
) -> Link:
    """Begin to connect a socket of this kind to a node that need not be there yet.

    Raises EndpointError for an endpoint or keys that can't be; whatever is raised, no socket stays open.
    """
    if not isinstance(endpoint, str) or not _ENDPOINT.fullmatch(endpoint):
        raise EndpointError(_MALFORMED.format(endpoint))
    keys = _keys(server_key, client_keys)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(kind)
        configure(socket)
        if keys is not None:
            _encrypt(socket, *keys)
        link = Link(context, socket, socket.get_monitor_socket(events), endpoint)
        socket.connect(endpoint)
    except BaseException as error:
        context.destroy(0)
        if isinstance(error, zmq.ZMQError):
            raise EndpointError(f"{_MALFORMED.format(endpoint)} ({error.strerror})") from error
        raise
    return link


def check_seconds(name: str, seconds: float | None) -> None:
    """Raises EndpointError for a time that is no number; inf is one."""
    if seconds is not None and math.isnan(seconds):
        raise EndpointError(f"{name}={seconds}: a number of seconds")


def _keys(server_key: ServerKey, client_keys: ClientKeys) -> tuple[bytes, KeyPair] | None:
    """None: plain text. Raises EndpointError for a key that is missing or none; one alone would not encrypt."""
    if server_key is None and client_keys is None:
        return None
    if client_keys is None:
        raise EndpointError(
            "server_key without client_keys: an encrypted endpoint needs one's own keys too, a .secret file (--key)"
        )
    if server_key is None:
        raise EndpointError(
            "client_keys without server_key: an encrypted endpoint needs the node's key too, its .public (--server-key)"
        )
    return as_public(server_key), client_keys if isinstance(client_keys, KeyPair) else read_keys(client_keys)


def _encrypt(socket: zmq.Socket[Any], server_key: bytes, pair: KeyPair) -> None:
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, pair.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, pair.secret)


def event_of(monitor: zmq.Socket[bytes]) -> int | None:
    """The next of a socket's events; None where there is none now."""
    told = take(monitor)
    return None if told is None else int.from_bytes(told[0][:2], sys.byteorder)


def take(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """The next message; None where there is none now."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.ZMQError:
        return None
