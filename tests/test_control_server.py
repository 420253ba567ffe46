"""The control socket: its thread, who may ask, and the node that has it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from perception.build import build_node
from perception.client import Control, subscribe
from perception.config import Launch, SourceConfig
from perception.control.answers import Answers
from perception.control.server import ControlServer, open_control
from perception.errors import EndpointError, PromptError
from perception.sources.replay import ReplaySource
from perception.sources.url import open_source
from perception.types import Prompt
from perception.wire import control as layout
from tests.control_fakes import BOX, Following, Sockets, control, followed, frame, serving, sockets, stepping  # noqa: F401 (fixtures)
from tests.published import ANY_PORT, CLASSES, eventually, process, scene
from tests.test_node import running, until
from tests.test_publisher import Ring, ring  # noqa: F401 (a fixture)

# ruff: noqa: F811

# -- the socket --------------------------------------------------------------------------------------------------


def test_garbage_gets_an_error_reply(control: Control, sockets: Sockets) -> None:
    random = np.random.default_rng(2)
    for data in (b"", b"\xc1", random.bytes(100), msgspec.msgpack.encode({"do": "dance", "v": 1})):
        asking = sockets.ask(control.endpoint, data)
        assert asking.poll(3000)
        reply = layout.decode_reply(asking.recv())
        assert not reply.ok
        assert "not a request" in reply.error
    assert control.tracks()


def test_what_is_no_request_of_a_req_socket_is_dropped(control: Control, sockets: Sockets) -> None:
    bare = sockets.open(zmq.DEALER, control.endpoint)
    for parts in ([b"x"], [b"x", b""], [b"", b"a", b"b"], [b"a"] * 20 + [b"", b"b"]):
        bare.send_multipart(parts)
    assert control.tracks()
    assert not bare.poll(50)


def test_a_dealer_with_an_address_of_several_parts_is_answered(control: Control, sockets: Sockets) -> None:
    asking = sockets.open(zmq.DEALER, control.endpoint)
    asking.send_multipart([b"device", b"", layout.encode_request(layout.TracksRequest())])
    assert asking.poll(3000)
    device, empty, reply = asking.recv_multipart()
    assert (device, empty, layout.decode_reply(reply).ok) == (b"device", b"", True)


DYING = """
import sys, zmq
socket = zmq.Context().socket(zmq.REQ)
socket.connect(sys.argv[1])
socket.send(bytes.fromhex(sys.argv[2]))
print("sent", flush=True)
sys.stdin.read()
"""


def test_in_a_paused_drive_the_reply_says_how_to_go_on(picture_drive: Path) -> None:
    with (
        contextlib.closing(open_source(str(picture_drive), camera="front")) as source,
        serving(Following(), frames=False, answer_s=0.1) as server,
    ):
        assert isinstance(source, ReplaySource)
        server.answers.player = source
        control = Control(server.endpoint)
        with pytest.raises(PromptError, match="nothing was done: see the health topic"):
            control.prompt(box=BOX)
        control.play(pause=True)
        with pytest.raises(PromptError, match="nothing was done: the drive is paused: go on with p in its terminal"):
            control.prompt(box=BOX)


def test_a_client_that_dies_before_its_reply_wedges_nobody() -> None:
    followed = Following()
    with serving(followed, frames=False) as server:
        data = layout.encode_request(layout.PromptRequest(box=BOX)).hex()
        with process("-c", DYING, server.endpoint, data) as child:
            assert eventually(lambda: server._queue)
            child.kill()
            child.wait()
        server.serve(followed, frame(), scene())
        assert len(followed.prompts) == 1
        with stepping(server, followed):
            assert Control(server.endpoint).prompt(box=BOX).track_id == 18


def test_without_frames_the_reply_says_so_and_nothing_is_done_later() -> None:
    followed = Following()
    with serving(followed, frames=False, answer_s=0.1) as server:
        with pytest.raises(PromptError, match=r"no frame came within 0.1 s, nothing was done"):
            Control(server.endpoint).prompt(box=BOX)
        server.serve(followed, frame(), scene())
    assert followed.prompts == []


def test_a_step_that_takes_too_long_is_not_called_undone() -> None:
    hold = threading.Event()

    class Slow(Following):
        def prompt(self, prompt: Prompt) -> int:
            hold.wait(10)
            return super().prompt(prompt)

    with serving(Slow(), answer_s=0.1) as server:
        try:
            with pytest.raises(PromptError, match="taken up, and not done within"):
                Control(server.endpoint).prompt(box=BOX)
        finally:
            hold.set()
        assert Control(server.endpoint).prompt(box=BOX).track_id == 18


def test_requests_beyond_the_queue_are_turned_away(sockets: Sockets) -> None:
    data = layout.encode_request(layout.TracksRequest())
    with serving(frames=False) as server:
        askers = [sockets.ask(server.endpoint, data) for _ in range(17)]
        poller = zmq.Poller()
        for asker in askers:
            poller.register(asker, zmq.POLLIN)
        answered = [asker for asker, _ in poller.poll(1500)]
        assert len(answered) == 1
        assert "16 requests wait already" in layout.decode_reply(answered[0].recv()).error


def test_one_request_is_answered_a_frame(sockets: Sockets) -> None:
    followed = Following()
    with serving(followed, frames=False) as server:
        data = layout.encode_request(layout.PromptRequest(box=BOX))
        for _ in range(3):
            sockets.ask(server.endpoint, data)
        assert eventually(lambda: len(server._queue) == 3)
        server.serve(followed, frame(), scene())
        assert len(followed.prompts) == 1


def test_those_who_wait_hear_that_the_node_stops(sockets: Sockets) -> None:
    with serving(frames=False) as server:
        asking = sockets.ask(server.endpoint, layout.encode_request(layout.TracksRequest()))
        assert eventually(lambda: server._open)
    assert asking.poll(3000)
    assert "stopping" in layout.decode_reply(asking.recv()).error


def test_closing_twice_is_fine_and_frees_the_endpoint(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/run/control"
    for _ in range(2):
        server = ControlServer(endpoint, Answers("front", CLASSES))
        server.close()
        server.close()


def test_a_giant_request_is_dropped_and_others_are_served(control: Control) -> None:
    port = int(control.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(b"\xff" + b"\0" * 8 + b"\x7f" + b"\3\0" + b"NULL".ljust(20, b"\0") + b"\0" * 32)
        ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 3) + b"REQ"
        peer.sendall(bytes([4, len(ready)]) + ready)
        peer.sendall(b"\x02" + struct.pack(">Q", 1 << 30))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            peer.sendall(bytes(64 << 20))
    assert control.tracks()


# -- who may ask -------------------------------------------------------------------------------------------------


def test_a_known_client_is_answered_over_curve_and_others_are_refused(ring: Ring) -> None:
    with serving(curve=ring.curve) as server:
        assert len(Control(server.endpoint, ring.vehicle, ring.secret("planner")).tracks()) == 3
        for keys in ((ring.vehicle, ring.secret("stranger")), (None, None)):
            with pytest.raises(EndpointError, match="refuses the handshake"):
                Control(server.endpoint, *keys).tracks()


@pytest.mark.parametrize("endpoint", ["tcp://*:5602", "tcp://0.0.0.0:5602"])
def test_an_open_endpoint_without_keys_is_refused_and_no_setting_allows_it(endpoint: str) -> None:
    with pytest.raises(EndpointError, match=r"listen on 127.0.0.1$"):
        ControlServer(endpoint, Answers("front", CLASSES))


def test_no_node_is_said_within_two_seconds() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(EndpointError, match=f"no node answers at {endpoint}"):
            Control(endpoint).tracks()
        assert time.monotonic() - begin < 2


def test_a_socket_of_masks_is_no_control_socket(sockets: Sockets) -> None:
    masks = sockets.open(zmq.XPUB)
    port = masks.bind_to_random_port("tcp://127.0.0.1")
    with pytest.raises(EndpointError, match="it is no control socket"):
        Control(f"tcp://127.0.0.1:{port}").tracks()


def test_a_taken_endpoint_is_an_error_where_it_was_asked_for_and_a_warning_where_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = Answers("front", CLASSES)
    with serving() as first:
        with pytest.raises(EndpointError, match="in use by pid"):
            open_control(first.endpoint, ANY_PORT, answers)
        assert open_control(None, first.endpoint, answers) is None
        assert "no control socket, prompts are not taken" in caplog.text
    assert open_control("", ANY_PORT, answers) is None


# -- in the node -------------------------------------------------------------------------------------------------


def following_node(launch: Launch, **more: Any) -> Any:
    source = SourceConfig(url=launch.source.url, loop=True, realtime=True)
    node = build_node(msgspec.structs.replace(launch, source=source, **more))
    node.pipeline.propagator = Following()
    return node


def test_a_prompt_is_followed_on_the_topic_of_prompted_tracks(launch: Launch) -> None:
    node = following_node(launch)
    masks, endpoint = launch.publish.endpoints[0], f"{launch.publish.endpoints[0]}.control"
    with running(node), subscribe(masks, "front/prompted", timeout_s=5) as prompted:
        until(lambda: node.pulse.frames > 1)
        got = Control(endpoint).prompt(box=(10, 6, 50, 26), class_name="person")
        rows = next(m.header for m in prompted if m.frame_seq > got.frame_seq)
        assert rows.validity
        assert [(row.id, row.prompted) for row in Control(endpoint).tracks()] == [(got.track_id, True)]


def test_a_node_without_control_runs(launch: Launch) -> None:
    from perception.config import ControlConfig

    node = following_node(launch, control=ControlConfig(endpoint=""))
    assert node.control is None
    with running(node):
        until(lambda: node.pulse.frames > 1)
