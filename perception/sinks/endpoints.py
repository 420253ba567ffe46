"""Where a publisher may listen: what is refused, who else is there, and a lock that keeps a second node off."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import stat
from pathlib import Path
from typing import TextIO

import zmq

from perception.errors import EndpointError
from perception.lock_file import hold

_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:.%]+\]|[^\s\[\]/:;]+):(\d{1,5}|\*)")
_IPC_LONGEST = 107  # what the kernel's sockaddr_un holds


def checked(endpoint: str, *, encrypted: bool, insecure: bool | None) -> str:
    """The endpoint as it is to be bound; `insecure` None: a user may not choose to be open to strangers.

    Raises EndpointError for one that is malformed or open to strangers.
    """
    if endpoint.startswith("ipc://"):
        return _checked_ipc(endpoint)
    if not (match := _TCP.fullmatch(endpoint)) or (match[2] != "*" and int(match[2]) > 65535):
        raise EndpointError(f"endpoint {endpoint!r}: write tcp://ADDRESS:PORT or ipc:///FOLDER/NAME")
    host, port = match[1].strip("[]"), match[2]
    if host == "localhost":  # a bind takes no names
        host = "127.0.0.1"
    if not (encrypted or insecure or _is_loopback(host)):
        trusting = "" if insecure is None else ", or set insecure = true on a network that you trust"
        raise EndpointError(
            f"endpoint {endpoint!r} is open to the network without encryption: make keys with `perception keys` and "
            f"set them, or listen on 127.0.0.1{trusting}"
        )
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "lo"


def _checked_ipc(endpoint: str) -> str:
    path = endpoint.removeprefix("ipc://")
    if not path or path[0] in "@*" or path.endswith("/") or "\0" in path:
        raise EndpointError(f"endpoint {endpoint!r}: ipc needs the path of a file, as in ipc:///run/perception/front")
    if len(os.fsencode(path)) > _IPC_LONGEST:
        raise EndpointError(f"endpoint {endpoint!r}: a path of more than {_IPC_LONGEST} bytes: choose a shorter one")
    return endpoint


class IpcPlace:
    """The folder and lock of an ipc endpoint: held from construction to release().

    A second bind on an ipc path succeeds and steals the subscribers, so the lock alone says who may bind.
    """

    def __init__(self, endpoint: str) -> None:
        """Raises EndpointError where another node holds the endpoint or its folder is open to other users."""
        self.path = Path(endpoint.removeprefix("ipc://"))
        _private_folder(self.path.parent, endpoint)
        self._lock = self._acquire(endpoint)
        try:
            self._clear(endpoint)
        except EndpointError:
            self._lock.close()
            raise

    def _acquire(self, endpoint: str) -> TextIO:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            file = hold(lock)
        except BlockingIOError:
            who = _holder(lock)
            raise EndpointError(f"endpoint {endpoint} is in use by {who}: stop it or choose another") from None
        except OSError as error:
            raise EndpointError(f"endpoint {endpoint}: {lock}: {error.strerror}") from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file

    def _clear(self, endpoint: str) -> None:
        """Remove the socket that a dead node left; we hold the lock, so nobody listens on it."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise EndpointError(f"endpoint {endpoint}: there is a file that is no socket: move it away")
            self.path.unlink()

    def release(self) -> None:
        """Let others bind. The lock file stays: removing it would let two nodes lock two files of one name."""
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._lock.close()


def _private_folder(folder: Path, endpoint: str) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.stat()
    except OSError as error:
        raise EndpointError(f"endpoint {endpoint}: {error.filename}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise EndpointError(f"endpoint {endpoint}: {folder} is no folder")
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
        raise EndpointError(
            f"endpoint {endpoint}: {folder} is open to other users: chmod 700 {folder}, or name a folder of your own"
        )


def bind_error(endpoint: str, error: zmq.ZMQError) -> EndpointError:
    """The error of a bind in the user's words, with the process that is in the way where it can be known."""
    if error.errno == zmq.EADDRINUSE:
        port = endpoint.rpartition(":")[2]
        who = owner_of_port(int(port)) if port.isdigit() else ""
        return EndpointError(f"endpoint {endpoint} is in use{who and ' by ' + who}: stop it or choose another port")
    strange = error.errno in (errno.EADDRNOTAVAIL, errno.ENODEV)
    why = "this machine has no such address: name one of its own" if strange else error.strerror
    return EndpointError(f"endpoint {endpoint} can't be bound: {why}")


def owner_of_port(port: int) -> str:
    """The process that listens on a TCP port, as "pid 7 (name)"; "" where that can't be known."""
    inodes = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for folder in Path("/proc").glob("[0-9]*/fd") if inodes else ():
        # another user's process can't be looked into, and one may just have ended
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            if any(os.readlink(entry) in inodes for entry in entries):
                return _process(int(folder.parent.name))
    return ""


def _listening_inodes(port: int) -> list[str]:
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                    found.append(columns[9])
    return found


def _holder(lock: Path) -> str:
    """Who has written its number into the file that it holds."""
    with contextlib.suppress(OSError, ValueError):
        pid = lock.read_text()[:20].strip()
        if pid.isdigit():
            return _process(int(pid))
    return "another process"


def _process(pid: int) -> str:
    with contextlib.suppress(OSError):
        return f"pid {pid} ({Path(f'/proc/{pid}/comm').read_text().strip()})"
    return f"pid {pid}"
