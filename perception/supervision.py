"""Word to systemd (sd_notify), when it started us; nothing otherwise."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=...` or `STOPPING=1`; True when somebody was there to hear it.

    Never blocks and never raises: a supervisor in trouble must not take the node with it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as s:
            s.sendto(state.encode(), address)
    except OSError:
        return False
    return True
