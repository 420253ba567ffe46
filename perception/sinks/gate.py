"""Who may come in over CURVE: the ZeroMQ authentication thread of a socket that listens."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from perception.errors import EndpointError
from perception.keys import Curve, known_clients

log = logging.getLogger(__name__)

_ASK_AGAIN_MS = 50  # how long stop() may take
_MOST_NAMED = 100  # unknown keys that are written to the log


def encrypt(socket: zmq.Socket[Any], curve: Curve) -> None:
    """Make a socket that is about to listen one that only a Gate's known clients get through to."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, curve.keys.secret)
    socket.setsockopt_string(zmq.ZAP_DOMAIN, "perception")


class Gate:
    """Lets in the clients whose `.public` files lie in a folder; what comes or goes counts from the next handshake."""

    def __init__(self, context: zmq.Context, clients: Path) -> None:
        """Raises EndpointError where the folder is missing or a file in it holds no key."""
        self._clients = clients
        self._seen = _signature(clients)
        self._known = known_clients(clients)
        self._named: set[bytes] = set()
        self._stop = threading.Event()
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind("inproc://zeromq.zap.01")
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close its socket."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with self._socket:
            while not self._stop.is_set():
                if self._socket.poll(_ASK_AGAIN_MS):
                    self._answer(self._socket.recv_multipart())

    def _answer(self, request: list[bytes]) -> None:
        """One question of the ZeroMQ authentication protocol (RFC 27): version, id, domain, address, ..., key."""
        name = None
        if len(request) == 7 and request[5] == b"CURVE" and len(request[6]) == 32:
            name = self._name_of(z85.encode(request[6]), request[3].decode("ascii", "replace"))
        status = (b"200", b"OK", name.encode()) if name is not None else (b"400", b"unknown key", b"")
        self._socket.send_multipart([b"1.0", request[1] if len(request) > 1 else b"", *status, b""])

    def _name_of(self, key: bytes, address: str) -> str | None:
        self._reload()
        if key not in self._known and key not in self._named and len(self._named) < _MOST_NAMED:
            self._named.add(key)
            log.warning("a client at %s with the unknown key %s was refused", address, key.decode())
        return self._known.get(key)

    def _reload(self) -> None:
        try:
            if (seen := _signature(self._clients)) != self._seen:
                self._known = known_clients(self._clients)
                self._seen = seen
        except (EndpointError, OSError) as error:
            log.warning("the known clients stay as they were: %s", error)


def _signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    found = ((path.name, path.stat()) for path in sorted(folder.glob("*.public")))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)
