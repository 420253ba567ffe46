"""Who may look: this machine, or whoever has the token; and no page of another address in a browser on this machine."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import re
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from perception.errors import EndpointError, reason

DEFAULT_PORT = 8600
PROTOCOL = "perception.view"
"""The WebSocket protocol; a token comes beside it, as `token.TOKEN`, so that it is in no address that is logged."""
_TRIED = 10  # ports from the default one on
_SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Guard:
    """Decides about requests. With `token` "" only this machine may ask, under one of its own names."""

    token: str = ""

    def refusal(self, host: str, origin: str) -> str:
        """Why a request with these headers is refused; "" where it is not.

        A page of another address that a browser on this machine shows may send requests here, and by DNS rebinding even
        read the answers; but its Host or its Origin gives it away.
        """
        if not self.token and not is_loopback(_name_of(host)):
            return f"this view is for its own machine: http://127.0.0.1, not {_shown(host)}; ssh -L brings it elsewhere"
        if origin and _place_of(origin) != host.lower():
            return f"a page of {_shown(origin)} may not look in here"
        return ""

    def knows(self, protocols: str) -> bool:
        """Whether a WebSocket's offered protocols hold the token."""
        offered = [word.strip() for word in protocols.split(",")]
        found = next((word.removeprefix("token.") for word in offered if word.startswith("token.")), "")
        return not self.token or hmac.compare_digest(found.encode(), self.token.encode())


def make_guard(host: str, token: str) -> Guard:
    """For a server at this address; beyond this machine it gets a token where none is given.

    Raises EndpointError for a token that is too short, or has characters that no WebSocket protocol may have.
    """
    if token and not re.fullmatch(f"[A-Za-z0-9_-]{{{_SHORTEST_TOKEN},200}}", token):
        raise EndpointError(f"--token: {_SHORTEST_TOKEN} or more letters, digits, - and _; or none, to get one")
    return Guard(token or ("" if is_loopback(host) else secrets.token_urlsafe(24)))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens there; without a port at the default one, or the next that is free.

    Raises EndpointError for an address that is taken or none of this machine's.
    """
    if port is not None:
        return _listen(host, port)
    for tried in range(DEFAULT_PORT, DEFAULT_PORT + _TRIED - 1):
        with contextlib.suppress(EndpointError):
            return _listen(host, tried)
    return _listen(host, DEFAULT_PORT + _TRIED - 1)


def _listen(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(16)
    except (OSError, OverflowError) as error:
        opened.close()
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise EndpointError(f"{host}:{port}: {why}: give another --port or --host") from None
    return opened


def link(opened: socket.socket, token: str) -> str:
    """What to open in a browser. The token is behind a `#`: browsers send that to nobody."""
    host, port = opened.getsockname()[:2]
    named = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{named}:{port}/{f'#token={token}' if token else ''}"


def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _place_of(origin: str) -> str | None:
    """Its host and port; None, which is no Host, for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80])
