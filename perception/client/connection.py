"""What every socket of a client does alike: endpoints, keys, and what became of the handshake."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import zmq

from perception.errors import EndpointError
from perception.keys import KeyPair, as_public, read_keys

EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
FAILURES = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH

_PORT = "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_ENDPOINT = re.compile(rf"tcp://(\[[^\[\]\s]+\]|[^\[\]\s:/]+):({_PORT})|ipc://[^\0]+")
_MALFORMED = "endpoint {!r}: write tcp://ADDRESS:PORT or ipc:///FOLDER/NAME"


def connect(socket: zmq.Socket[Any], endpoint: str) -> None:
    """Begin to connect, to a node that need not be there yet. Raises EndpointError for an endpoint that can't be."""
    if not _ENDPOINT.fullmatch(endpoint):
        raise EndpointError(_MALFORMED.format(endpoint))
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise EndpointError(_MALFORMED.format(endpoint)) from error


def use_keys(
    socket: zmq.Socket[Any], server_key: str | bytes | Path | None, client_keys: str | Path | KeyPair | None
) -> None:
    """Encrypt, where the node's public key is given. Raises EndpointError for a key that is missing or none."""
    if server_key is None:
        return
    if client_keys is None:
        raise EndpointError("an encrypted endpoint needs one's own keys too: client_keys=PATH_OF_THE_SECRET_FILE")
    pair = client_keys if isinstance(client_keys, KeyPair) else read_keys(client_keys)
    socket.setsockopt(zmq.CURVE_SERVERKEY, as_public(server_key))
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
