"""The feed behind a view: what goes wrong is said, and tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception.keys import Curve, make_keys, read_keys
from perception.view.feed import Feed
from tests.published import ANY_PORT, eventually, publishing


def test_a_key_that_can_not_be_read_for_a_while_is_said_and_the_feed_goes_on(tmp_path: Path) -> None:
    server, _ = make_keys(tmp_path, "node")
    _, ours = make_keys(tmp_path, "viewer")
    (tmp_path / "clients").mkdir()
    (tmp_path / "viewer.public").rename(tmp_path / "clients" / "viewer.public")
    curve = Curve(read_keys(tmp_path / "node.secret"), tmp_path / "clients")
    with publishing(ANY_PORT, rate_hz=20, curve=curve) as publisher:
        feed = Feed(publisher.endpoints[0], lambda: None, server, ours)
        ours.chmod(0o644)  # the subscription to its camera, which follows the first to all, needs it again
        feed.start()
        try:
            assert eventually(lambda: "chmod 600" in feed.problem)
            ours.chmod(0o600)
            heard_s = feed.cameras["front"].heard_s
            assert eventually(lambda: not feed.problem and feed.cameras["front"].heard_s > heard_s)
        finally:
            feed.close()


def test_a_fault_in_the_feed_is_said_and_the_feed_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    faults = [ZeroDivisionError("a fault")]

    def on_change() -> None:
        if faults and "front" in feed.cameras:
            problems.append("")
            raise faults.pop()
        problems.append(feed.problem)

    problems: list[str] = []
    with publishing(rate_hz=20) as publisher:
        feed = Feed(publisher.endpoints[0], on_change)
        feed.start()
        try:
            assert eventually(lambda: any("ZeroDivisionError: a fault" in problem for problem in problems))
            heard_s = feed.cameras["front"].heard_s
            assert eventually(lambda: not feed.problem and feed.cameras["front"].heard_s > heard_s)
        finally:
            feed.close()
    assert "can't be followed" in caplog.text
