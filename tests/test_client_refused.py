"""A subscription that was refused is let in once the node, or what it knows, is another; and one in a forked child."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from perception.client import Subscription, subscribe
from perception.client.connection import open_link
from perception.client.reader import Reader
from perception.errors import EndpointError
from perception.keys import Curve, make_keys, read_keys
from tests.published import eventually, publishing


@pytest.fixture
def endpoint() -> str:
    """Where nobody listens, yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def curve(tmp_path: Path) -> Curve:
    make_keys(tmp_path, "node")
    make_keys(tmp_path, "stranger")
    make_keys(tmp_path / "clients", "planner")
    return Curve(read_keys(tmp_path / "node.secret"), tmp_path / "clients")


def keys_of(curve: Curve, name: str) -> dict[str, Any]:
    return {"server_key": curve.keys.public, "client_keys": curve.clients.parent / f"{name}.secret"}


def let_in(curve: Curve, name: str) -> None:
    (curve.clients.parent / f"{name}.public").rename(curve.clients / f"{name}.public")


def is_refused(road: Subscription) -> bool:
    return eventually(lambda: road.connection == "refused")


def test_one_whose_key_becomes_known_is_let_in(endpoint: str, curve: Curve) -> None:
    with (
        publishing(endpoint, rate_hz=30, curve=curve) as publisher,
        subscribe(endpoint, "front/road", timeout_s=10, **keys_of(curve, "stranger")) as road,
    ):
        assert is_refused(road)
        assert eventually(lambda: publisher.stats().rejected >= 2)  # goes on to ask
        let_in(curve, "stranger")
        assert next(road).topic == "front/road"
        assert road.connection == "connected"


def test_one_that_was_refused_is_let_in_by_the_node_s_next_start(endpoint: str, curve: Curve) -> None:
    with subscribe(endpoint, "front/road", timeout_s=10, **keys_of(curve, "stranger")) as road:
        with publishing(endpoint, rate_hz=30, curve=curve):
            assert is_refused(road)
        let_in(curve, "stranger")
        with publishing(endpoint, "run-2", rate_hz=30, curve=curve):
            assert next(road).header.run == "run-2"


def test_one_without_keys_is_met_when_the_node_is_started_without(endpoint: str, curve: Curve) -> None:
    with subscribe(endpoint, "front/road", timeout_s=10) as road:
        with publishing(endpoint, rate_hz=30, curve=curve) as publisher:
            assert is_refused(road)
            assert eventually(lambda: publisher.stats().rejected >= 3)  # libzmq itself would give up at a chance moment
        with publishing(endpoint, "run-2", rate_hz=30):
            assert next(road).header.run == "run-2"


def test_a_node_that_follows_a_socket_of_another_kind_is_met(endpoint: str) -> None:
    context = zmq.Context()
    other = context.socket(zmq.REP)
    monitor = other.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    other.bind(endpoint)
    try:
        with subscribe(endpoint, "front/road", timeout_s=10) as road:
            assert monitor.poll(5000)
            context.destroy(0)
            with publishing(endpoint, rate_hz=30):
                assert next(road).topic == "front/road"
    finally:
        context.destroy(0)


def test_a_node_is_met_again_after_a_message_that_is_too_large(endpoint: str) -> None:
    context = zmq.Context()
    other = context.socket(zmq.XPUB)
    other.bind(endpoint)
    try:
        with subscribe(endpoint, "front/road", timeout_s=10) as road:
            assert other.poll(5000)
            other.send(b"front/road\0" + bytes(70 << 20))
            assert eventually(lambda: road.connection == "connecting")
            context.destroy(0)
            with publishing(endpoint, rate_hz=30):
                assert next(road).topic == "front/road"
    finally:
        context.destroy(0)


def test_where_connecting_anew_fails_it_is_tried_again(endpoint: str) -> None:
    link = open_link(zmq.SUB, endpoint, None, None, lambda socket: None)
    try:
        assert link.connect_again()
        reader = Reader(replace(link, endpoint="tcp://nowhere"), (), 0)  # which libzmq refuses at once
        for least_s in (1.0, 2.0, 2.0):
            reader._again_at_s = before = time.monotonic()
            reader._watch_connection()
            assert reader._again_at_s is not None
            assert least_s <= reader._again_at_s - before < least_s + 1.0
        reader._link, reader._again_at_s = link, before
        reader._watch_connection()
        assert reader._again_at_s is None
    finally:
        link.close()


# -- a forked child ----------------------------------------------------------------------------------------------


def exit_code_in_fork(do: Callable[[], None]) -> int:
    """Of a forked child that does this and ends: 0 where nothing was raised; by a signal where it hangs."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            do()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("use", [next, Subscription.receive, lambda road: road.counters, lambda road: road.state])
def test_a_forked_child_is_told_that_the_subscription_is_its_parent_s(use: Callable[[Subscription], object]) -> None:
    def refused() -> None:
        with pytest.raises(EndpointError, match="subscribe again in this one"):
            use(road)

    with publishing(rate_hz=30) as publisher, subscribe(publisher.endpoints[0], "front/road", timeout_s=5) as road:
        assert next(road)
        assert exit_code_in_fork(refused) == 0
        assert next(road)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_closing_in_a_forked_child_takes_nothing_from_the_parent() -> None:
    with publishing(rate_hz=30) as publisher, subscribe(publisher.endpoints[0], "front/road", timeout_s=5) as road:
        first = next(road).seq
        assert exit_code_in_fork(road.close) == 0
        assert next(road).seq > first
