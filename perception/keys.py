"""CURVE keys: who may subscribe over a network. A secret is one file that only its owner may read."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from perception.errors import EndpointError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_KEY = re.compile(rb"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A CURVE key pair, both parts in Z85 (40 characters)."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Curve:
    """What a publisher needs to let known clients in and nobody else."""

    keys: KeyPair
    clients: Path  # folder of the `.public` files of those who may subscribe; read again when it changes


def make_keys(directory: str | Path, name: str) -> tuple[Path, Path]:
    """Write `name.public` and `name.secret` (readable by the owner only) and return their paths.

    Raises EndpointError where one of them is there already, the name has a slash, or the folder can't be written.
    """
    if not _NAME.fullmatch(name):
        raise EndpointError(f"key name {name!r}: letters, digits, _ - and . only")
    public, secret = Path(directory, f"{name}.public"), Path(directory, f"{name}.secret")
    for path in (public, secret):
        if path.exists():
            raise EndpointError(f"{path} is there already: choose another name, or remove it if nobody uses it")
    public_key, secret_key = zmq.curve_keypair()
    try:
        public.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(secret, secret_key, 0o600)
        _write(public, public_key, 0o644)
    except OSError as error:
        raise EndpointError(f"{error.filename}: {error.strerror}: give a folder that can be written") from error
    return public, secret


def _write(path: Path, key: bytes, mode: int) -> None:
    # O_EXCL: never through a link that somebody else put there; the mode is there from the first byte on
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(key + b"\n")


def read_public(path: str | Path) -> bytes:
    """The public key in a `.public` file. Raises EndpointError where there is none."""
    return _read_key(Path(path))


def read_keys(path: str | Path) -> KeyPair:
    """The key pair of a `.secret` file. Raises EndpointError where others than the owner may read it."""
    path = Path(path)
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise EndpointError(f"{path}: {error.strerror}: make one with `perception keys`") from error
    if mode & 0o077:
        raise EndpointError(f"{path} may be read by others (mode {mode:o}): chmod 600 {path}")
    secret = _read_key(path)
    return KeyPair(zmq.curve_public(secret), secret)


def known_clients(folder: str | Path) -> dict[bytes, str]:
    """The names of those who may subscribe, by their public keys: the `.public` files of a folder.

    Raises EndpointError where there is no such folder or a file in it holds no key.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise EndpointError(f"{folder} is no folder: make it and put the clients' .public files there")
    return {_read_key(path): path.stem for path in sorted(folder.glob("*.public"))}


def as_public(key: str | bytes | Path) -> bytes:
    """A public key given as its 40 characters or as its file."""
    text = key if isinstance(key, bytes) else str(key).encode()
    return text if _KEY.fullmatch(text) else read_public(Path(os.fsdecode(text)))


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            key = file.read(200).strip()
    except OSError as error:
        raise EndpointError(f"{path}: {error.strerror}: make one with `perception keys`") from error
    if not _KEY.fullmatch(key):
        raise EndpointError(f"{path} holds no key: one line of 40 characters, as `perception keys` writes it")
    return key
