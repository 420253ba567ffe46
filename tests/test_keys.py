from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq

from perception import keys
from perception.errors import EndpointError


def test_a_pair_is_written_and_read_back(tmp_path: Path) -> None:
    public, secret = keys.make_keys(tmp_path / "new" / "folder", "vehicle")
    pair = keys.read_keys(secret)
    assert (public.name, secret.name) == ("vehicle.public", "vehicle.secret")
    assert keys.read_public(public) == pair.public == zmq.curve_public(pair.secret)


def test_a_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    _, secret = keys.make_keys(tmp_path, "vehicle")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    _, secret = keys.make_keys(tmp_path, "vehicle")
    secret.chmod(0o640)
    with pytest.raises(EndpointError, match="chmod 600"):
        keys.read_keys(secret)


@pytest.mark.parametrize("part", ["public", "secret"])
def test_keys_are_never_overwritten(tmp_path: Path, part: str) -> None:
    (tmp_path / f"vehicle.{part}").write_text("dear\n")
    with pytest.raises(EndpointError, match="there already"):
        keys.make_keys(tmp_path, "vehicle")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(f"vehicle.{part}", "dear\n")]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a\0b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EndpointError, match="key name"):
        keys.make_keys(tmp_path, name)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EndpointError):
        keys.make_keys(tmp_path / "file", "vehicle")


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, b"x" * 5000])
def test_files_without_a_key_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.public").write_bytes(content)
    with pytest.raises(EndpointError, match="holds no key"):
        keys.read_public(tmp_path / "a.public")


def test_missing_files_say_how_to_make_them(tmp_path: Path) -> None:
    for read in (keys.read_public, keys.read_keys):
        with pytest.raises(EndpointError, match="perception keys"):
            read(tmp_path / "none")


def test_known_clients_are_the_public_files_of_a_folder(tmp_path: Path) -> None:
    made = {keys.read_public(keys.make_keys(tmp_path, name)[0]): name for name in ("planner", "recorder")}
    assert keys.known_clients(tmp_path) == made
    with pytest.raises(EndpointError, match="no folder"):
        keys.known_clients(tmp_path / "none")


def test_a_public_key_is_given_by_itself_or_by_its_file(tmp_path: Path) -> None:
    public, _ = keys.make_keys(tmp_path, "vehicle")
    key = keys.read_public(public)
    assert keys.as_public(key) == keys.as_public(key.decode()) == keys.as_public(public) == keys.as_public(str(public))


def test_a_printed_pair_does_not_show_its_secret(tmp_path: Path) -> None:
    pair = keys.read_keys(keys.make_keys(tmp_path, "vehicle")[1])
    assert pair.secret.decode() not in repr(pair)
