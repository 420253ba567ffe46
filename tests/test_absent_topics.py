"""A topic that the node does not have: said so, with what it has, instead of looking like a node that is dead."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from perception.client import Subscription, subscribe
from perception.errors import EndpointError
from perception.sinks.publisher import Publisher
from perception.watch import watch
from tests.published import eventually, frame, health, publishing, scene

HAS = "it has front/road, front/lane, front/pedestrian, front/panoptic, front/instances, front/tracks, front/events"


@contextlib.contextmanager
def node(scenes: int = 1) -> Iterator[Publisher]:
    """A publisher that sent so many scenes, and then how it is, with what it has sent."""
    with publishing() as publisher:
        for seq in range(1, scenes + 1):
            publisher.send(frame(seq), scene(seq))
        publisher.send_health(health(published=publisher.stats().published))
        yield publisher


def silence(publisher: Publisher, *topics: str) -> str:
    """What a subscription to `topics`, of which none comes, says once it knows how the node is."""
    with subscribe(publisher.endpoints[0], *topics) as subscription:
        assert eventually(lambda: subscription.health is not None)
        return why(subscription)


def why(subscription: Subscription) -> str:
    with pytest.raises(TimeoutError) as error:
        subscription.receive(0.0)
    return str(error.value)


def test_a_mistyped_topic_is_told_with_those_that_the_node_has() -> None:
    with node() as publisher:
        told = silence(publisher, "front/rod")
    assert f"the node there has no front/rod; {HAS}; did you mean 'front/road'?" in told


def test_nothing_is_guessed_for_a_topic_that_is_like_none() -> None:
    with node() as publisher:
        told = silence(publisher, "front/xyzzy", "front/sidewalk")
    assert f"the node there has no front/xyzzy, front/sidewalk; {HAS}" in told
    assert "did you mean" not in told


@pytest.mark.parametrize("topic", ["front/image", "front/prompted"])
def test_a_topic_that_is_made_on_demand_is_not_called_missing(topic: str) -> None:
    with node() as publisher:
        assert "has no" not in silence(publisher, topic)


def test_a_mistyped_image_is_one() -> None:
    with node() as publisher:
        assert "did you mean 'front/image'?" in silence(publisher, "front/imge")


def test_a_node_that_had_no_frame_yet_may_have_any_topic() -> None:
    with node(scenes=0) as publisher:
        publisher.send_health(health(seq=2, published=publisher.stats().published))
        assert "has no" not in silence(publisher, "front/rod")


def test_names_that_a_node_could_not_have_are_not_repeated() -> None:
    with publishing() as publisher:
        publisher.send_health(health(published={"front/road": 1, "front/\x1b[2J": 1, "": 1}))
        told = silence(publisher, "front/rod")
    assert "the node there has no front/rod; it has front/road; did you mean 'front/road'?" in told


def test_a_camera_that_nobody_there_has_is_named() -> None:
    with node() as publisher, subscribe(publisher.endpoints[0], "frnt/road") as subscription:
        assert eventually(lambda: subscription.connection == "connected")
        assert "nothing of camera 'frnt' came: is it called so there?" in why(subscription)


def test_nobody_there_is_not_taken_for_another_camera() -> None:
    with subscribe("tcp://127.0.0.1:9", "front/road") as subscription:
        assert "is it called so" not in why(subscription)


def watched(publisher: Publisher, *topics: str, terminal: bool = False) -> tuple[str, str]:
    """What watch() shows within a second and a half, and with what it ends."""
    out, error = io.StringIO(), ""
    try:
        console = Console(file=out, width=240, force_terminal=terminal)
        watch(publisher.endpoints[0], topics, seconds=1.5, console=console)
    except EndpointError as raised:
        error = str(raised)
    return out.getvalue(), error


def test_watch_ends_with_what_the_node_has() -> None:
    with node() as publisher:
        shown, error = watched(publisher, "front/rod")
    assert error.endswith(f"): the node there has no front/rod; {HAS}; did you mean 'front/road'?")
    assert "the node there has no front/rod" in shown  # each second, for those who set no end


def test_watch_says_it_beside_topics_that_come() -> None:
    with node() as publisher:
        shown, error = watched(publisher, "front/road", "front/rod", terminal=True)
    assert "did you mean 'front/road'?" in shown
    assert not error


def test_watch_asks_for_the_camera_s_name() -> None:
    with node() as publisher:
        error = watched(publisher, "frnt/road")[1]
    assert error.endswith("(connected, waiting): nothing of camera 'frnt' came: is it called so there?")
