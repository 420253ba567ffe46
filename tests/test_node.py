from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq

from perception.build import build_node
from perception.client import subscribe
from perception.config import Launch, SourceConfig
from perception.errors import ModelError, PerceptionError
from perception.node import Node
from perception.types import TrackState
from perception.wire import Health, decode


def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


@contextmanager
def running(node: Node) -> Iterator[threading.Thread]:
    """The node in a thread; stopped and closed at the end."""
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        yield thread
    finally:
        node.stop("the test is over")
        thread.join(10)
        node.close()


def messages_of(launch: Launch) -> list[bytes]:
    """All mask messages of one run, with a subscriber that was there before it began."""
    node = build_node(launch)
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    for topic in (b"front/road", b"front/pedestrian", b"front/tracks"):
        socket.subscribe(topic)
    socket.connect(node.publisher.endpoints[0])

    def all_are_known() -> bool:
        node.publisher.service()
        return all(node.publisher.is_wanted(f"front/{t}") for t in ("road", "pedestrian", "tracks"))

    try:
        until(all_are_known)
        node.run()
        got = []
        while socket.poll(300):
            got.append(socket.recv())
        return got
    finally:
        node.close()
        context.destroy(0)


def with_source(launch: Launch, url: str, **more) -> Launch:
    return msgspec.structs.replace(launch, source=SourceConfig(url=url, **more))


def healths(endpoint: str, enough: Callable[[Health], bool], deadline_s: float = 10.0) -> list[Health]:
    """Health messages up to the first that is `enough`."""
    got = []
    end = time.monotonic() + deadline_s
    with subscribe(endpoint, "front/health", latest=False, timeout_s=deadline_s) as messages:
        for message in messages:
            got.append(message.health())
            if enough(got[-1]):
                return got
            assert time.monotonic() < end, got[-1]
    raise AssertionError("no health")


def test_two_replays_of_a_drive_give_identical_bytes(launch):
    first, second = messages_of(launch), messages_of(launch)
    assert len(first) == 3 * 20
    assert first == second


def test_another_model_setting_is_another_run(launch):
    other = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, network_every=2))
    runs = {decode(messages_of(each)[0]).header.run for each in (launch, other)}
    assert len(runs) == 2


def test_the_moving_thing_is_one_confirmed_track(launch):
    people = [m for m in map(decode, messages_of(launch)) if m.topic == "front/pedestrian"]
    assert {row.id for m in people for row in m.header.tracks} == {1}
    assert people[-1].header.tracks[0].state == TrackState.CONFIRMED
    assert people[-1].mask().max() == 1


def test_between_key_frames_masks_are_marked_as_propagated(launch):
    launch = msgspec.structs.replace(launch, model=msgspec.structs.replace(launch.model, network_every=4))
    roads = [m for m in map(decode, messages_of(launch)) if m.topic == "front/road"]
    assert [m.header.since_network for m in roads[:5]] == [0, 1, 2, 3, 0]
    assert roads[1].header.validity == "propagated"


def test_health_says_no_input_while_the_camera_gives_nothing(launch):
    node = build_node(with_source(launch, "exec:sleep 60", stall_s=0.1))
    with running(node):
        got = healths(node.publisher.endpoints[0], lambda h: h.state == "no_input")
    assert got[-1].reason


def test_health_comes_ten_times_a_second_without_any_frame(launch):
    node = build_node(with_source(launch, "exec:sleep 60", stall_s=0.1))
    with running(node):
        start = time.monotonic()
        got = healths(node.publisher.endpoints[0], lambda h: h.seq >= 15)
        passed = time.monotonic() - start
    assert passed < 4.0
    assert [h.seq for h in got[1:]] == [h.seq + 1 for h in got[:-1]]


class Failing:
    """A model around a real one that fails or waits when told to."""

    def __init__(self, model) -> None:
        self.model, self.mask_size, self.engine = model, model.mask_size, model.engine
        self.error = ""
        self.hold: threading.Event | None = None

    def __call__(self, image):
        if self.hold:
            self.hold.wait(20)
        if self.error:
            raise ModelError(self.error)
        return self.model(image)

    def features(self, image):
        return None

    def close(self) -> None:
        self.model.close()


def test_a_failing_engine_is_said_and_survived(launch):
    node = build_node(msgspec.structs.replace(launch, source=SourceConfig(url=launch.source.url, loop=True)))
    node.pipeline.model = model = Failing(node.pipeline.model)
    model.error = "out of memory"
    with running(node):
        endpoint = node.publisher.endpoints[0]
        assert "out of memory" in healths(endpoint, lambda h: h.state == "failed")[-1].reason
        model.error = ""
        assert healths(endpoint, lambda h: h.state == "running")[-1].rate_hz >= 0


def test_an_engine_that_always_fails_ends_the_process(launch, monkeypatch):
    monkeypatch.setattr("perception.node.GIVE_UP_S", 0.2)
    node = build_node(msgspec.structs.replace(launch, source=SourceConfig(url=launch.source.url, loop=True)))
    node.pipeline.model = model = Failing(node.pipeline.model)
    model.error = "device lost"
    try:
        with pytest.raises(PerceptionError, match="device lost"):
            node.run()
    finally:
        node.close()


def test_a_hung_engine_is_degraded_within_a_second(launch):
    node = build_node(msgspec.structs.replace(launch, source=SourceConfig(url=launch.source.url, loop=True)))
    node.pipeline.model = model = Failing(node.pipeline.model)
    with running(node):
        endpoint = node.publisher.endpoints[0]
        healths(endpoint, lambda h: h.state == "running")
        model.hold = threading.Event()
        got = healths(endpoint, lambda h: h.state == "degraded", 5.0)
        model.hold.set()
    assert "in the pipeline" in got[-1].reason


def test_ages_survive_a_wall_clock_that_is_set_back(launch, monkeypatch):
    node = build_node(msgspec.structs.replace(launch, source=SourceConfig(url=launch.source.url, loop=True)))
    true_ns = time.time_ns
    with running(node):
        endpoint = node.publisher.endpoints[0]
        before = healths(endpoint, lambda h: h.state == "running")[-1]
        monkeypatch.setattr(time, "time_ns", lambda: true_ns() - 3_600_000_000_000)
        after = healths(endpoint, lambda h: h.wall_offset_ns < before.wall_offset_ns - 3_000_000_000_000)[-1]
        with subscribe(endpoint, "front/road", timeout_s=5) as masks:
            scene = next(m for m in masks if m.age_s is not None)  # known once health has come
    assert after.state == "running"
    assert after.last_frame_age_ms is not None
    assert after.last_frame_age_ms < 2000
    assert scene.age_s is not None
    assert 0 <= scene.age_s < 2


def test_the_last_word_is_stopping(launch):
    node = build_node(msgspec.structs.replace(launch, source=SourceConfig(url=launch.source.url, loop=True)))
    got: list[Health] = []

    def listen() -> None:
        got.extend(healths(node.publisher.endpoints[0], lambda h: h.state == "stopping"))

    listener = threading.Thread(target=listen)
    with running(node):
        until(lambda: node.pulse.frames > 3)
        listener.start()
        until(lambda: node.publisher.stats().subscribers >= 1)
    listener.join(10)
    assert got[-1].reason == "the test is over"


def test_a_sink_gets_every_frame_with_its_scene(launch):
    pairs = []

    class Collect:
        def send(self, frame, scene) -> None:
            pairs.append((frame.seq, scene.frame_seq))

        def close(self) -> None: ...

    node = build_node(launch, [Collect()])
    try:
        node.run()
    finally:
        node.close()
    assert pairs == [(i, i) for i in range(20)]


def test_systemd_hears_ready_watchdog_and_stopping(launch, tmp_path: Path, monkeypatch):
    import socket

    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    node = build_node(msgspec.structs.replace(launch, source=SourceConfig(url=launch.source.url, loop=True)))
    with heard:
        with running(node):
            said = [heard.recv(100)]
            while said[-1] != b"WATCHDOG=1":
                said.append(heard.recv(100))
        while said[-1] != b"STOPPING=1":
            said.append(heard.recv(100))
    assert said[0] == b"READY=1"


def test_with_curve_only_known_keys_get_masks_and_strangers_are_counted(launch, tmp_path):
    from perception.config import CurveConfig
    from perception.keys import make_keys

    _, secret = make_keys(tmp_path / "keys", "server")
    make_keys(tmp_path / "keys" / "clients", "planner")
    make_keys(tmp_path / "keys", "stranger")
    curve = CurveConfig(secret=str(secret), clients=str(tmp_path / "keys" / "clients"))
    publish = msgspec.structs.replace(launch.publish, endpoints=("tcp://127.0.0.1:*",), curve=curve)
    source = SourceConfig(url=launch.source.url, loop=True)
    node = build_node(msgspec.structs.replace(launch, publish=publish, source=source))

    def client(name: str):
        keys = {"server_key": tmp_path / "keys" / "server.public", "client_keys": tmp_path / "keys" / f"{name}.secret"}
        return subscribe(node.publisher.endpoints[0], "front/road", timeout_s=5, **keys)

    with running(node):
        with client("clients/planner") as masks:
            assert next(iter(masks)).topic == "front/road"
        with client("stranger") as masks:
            until(lambda: node.publisher.stats().rejected >= 1)
            assert masks.counters.received == 0
