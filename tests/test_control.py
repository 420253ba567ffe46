"""Prompts over the control socket: its layout, its thread, and the node and the command that use it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.build import build_node
from perception.client import Control, subscribe
from perception.config import Launch, SourceConfig
from perception.control.answers import Answers
from perception.control.server import ControlServer, open_control
from perception.errors import EndpointError, PromptError, WireError
from perception.propagation.change import SceneChange
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.protocols import Outlook
from perception.sources.replay import ReplaySource
from perception.sources.url import open_source
from perception.types import VOID, Features, Frame, Panoptic, Prompt, Scene, Track, TrackState
from perception.wire import control as layout
from tests import golden_wire
from tests.published import ANY_PORT, CLASSES, eventually, process, scene
from tests.test_cli import refused, say  # noqa: F401 (a fixture)
from tests.test_node import running, until
from tests.test_publisher import Ring, ring  # noqa: F401 (a fixture)

BOX = (40.0, 40.0, 160.0, 120.0)  # of the car of tests.published.scene, in frame pixels

NOISE = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)


class Following:
    """A propagator that does as it is told, and follows nothing: prompted tracks stay where they began."""

    needs_features = False

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self.classes: dict[int, int] = {}
        self.failure: Exception | None = None

    def step(self, frame: Frame, seen: Panoptic | None, features: Features | None = None) -> Scene:
        tracks = tuple(self._track(track_id, frame) for track_id in self.classes)
        plain = dataclasses.replace(scene(frame.seq, (32, 16), frame.stamp_ns), events=(), camera=frame.camera)
        return dataclasses.replace(
            plain,
            frame_size=frame.image.shape[1::-1],
            labels=np.zeros((16, 32), np.uint8),
            id_map=np.zeros((16, 32), np.uint16),
            tracks=tracks,
        )

    def _track(self, track_id: int, frame: Frame) -> Track:
        state, stamp = TrackState.CONFIRMED, frame.stamp_ns
        return Track(track_id, self.classes[track_id], state, 1.0, (1, 2, 3, 4), stamp, stamp, False, 0.5, True)

    def outlook(self) -> Outlook:
        return SceneChange().outlook(has_seen=True)

    def prompt(self, prompt: Prompt) -> int:
        if self.failure:
            raise self.failure
        self.prompts.append(prompt)
        track_id = 16 + len(self.prompts)
        self.classes[track_id] = prompt.class_id
        return track_id

    def remove(self, track_id: int) -> None:
        self._alive(track_id)
        del self.classes[track_id]

    def relabel(self, track_id: int, class_id: int) -> None:
        self._alive(track_id)
        self.classes[track_id] = class_id

    def close(self) -> None:
        pass

    def reset(self) -> None:
        self.classes.clear()

    def _alive(self, track_id: int) -> None:
        if track_id not in self.classes:
            raise PromptError(f"track {track_id} does not live")


def frame(seq: int = 1, stamp_ns: int | None = None) -> Frame:
    return Frame(seq, seq * 100_000_000 if stamp_ns is None else stamp_ns, "front", NOISE)


@contextlib.contextmanager
def stepping(server: ControlServer, propagator: Any) -> Iterator[None]:
    """Frames that come every few milliseconds, with the scene of tests.published."""
    ended = threading.Event()

    def step() -> None:
        seq = 0
        while not ended.wait(0.003):
            seq += 1
            server.serve(propagator, frame(seq), scene(seq))

    thread = threading.Thread(target=step)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def serving(
    propagator: Any = None, endpoint: str = ANY_PORT, frames: bool = True, **more: Any
) -> Iterator[ControlServer]:
    """A control socket, and frames that come."""
    server = ControlServer(endpoint, Answers("front", CLASSES), **more)
    with contextlib.ExitStack() as stack:
        stack.callback(server.close)
        if frames:
            stack.enter_context(stepping(server, propagator or Following()))
        yield server


# -- layout ------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_requests_come_back_as_they_went(data: st.DataObject) -> None:
    numbers = st.floats(-1e6, 1e6)
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    ids = st.integers(0, 2**62)
    request = data.draw(
        st.one_of(
            st.builds(
                layout.PromptRequest,
                points=st.lists(st.tuples(numbers, numbers), max_size=4).map(tuple),
                box=st.none() | st.tuples(numbers, numbers, numbers, numbers),
                class_name=words,
                frame_seq=st.none() | ids,
            ),
            st.builds(layout.RemoveRequest, track_id=ids),
            st.builds(layout.RelabelRequest, track_id=ids, class_name=words),
            st.just(layout.TracksRequest()),
        )
    )
    assert layout.decode_request(layout.encode_request(request)) == request


@pytest.mark.parametrize("path", sorted(golden_wire.CONTROL.glob("*.bin")), ids=lambda path: path.stem)
def test_golden_requests_and_replies_are_written_and_read(path: Path) -> None:
    data = path.read_bytes()
    assert data == golden_wire.requests()[path.stem]
    if path.stem.startswith("reply"):
        assert layout.encode_reply(layout.decode_reply(data)) == data
    else:
        assert layout.encode_request(layout.decode_request(data)) == data


@given(height=st.integers(1, 60), width=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_masks_come_back_as_they_went(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    assert np.array_equal(layout.unpack_mask(layout.pack_mask(mask)), mask)


@given(st.binary(max_size=200))
def test_random_bytes_are_wire_errors(data: bytes) -> None:
    for read in (layout.decode_request, layout.decode_reply):
        with pytest.raises(WireError):
            read(data)


def test_a_4k_mask_of_noise_fits_a_request() -> None:
    mask = np.random.default_rng(0).random((2160, 3840)) < 0.5
    data = layout.encode_request(layout.PromptRequest(mask=layout.pack_mask(mask)))
    assert len(data) < 1.2e6
    request = layout.decode_request(data)
    assert isinstance(request, layout.PromptRequest)
    assert request.mask is not None
    assert np.array_equal(layout.unpack_mask(request.mask), mask)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (layout.MaskRow(1 << 14, 1 << 11, b"", "zstd"), "send a smaller one"),
        (layout.MaskRow(0, 4, b""), "px a side"),
        (layout.MaskRow(16, 2, b"\0\0\0"), "holds 3 bytes where its header says 4"),
        (layout.MaskRow(16, 2, b"\0\0\0\0", "zstd"), "zstd"),
        (layout.MaskRow(16, 2, b"\0\0\0\0", "rle"), "'rle'"),
    ],
)
def test_masks_that_can_not_be_are_refused(row: layout.MaskRow, says: str) -> None:
    with pytest.raises(WireError, match=re.escape(says)):
        layout.unpack_mask(row)


@pytest.mark.parametrize(
    "ask",
    [
        lambda control: control.remove(2**64),
        lambda control: control.relabel(-(2**63) - 1, "car"),
        lambda control: control.relabel(1, "\ud800"),
        lambda control: control.prompt(points=[(10**400, 1)]),
        lambda control: control.prompt(box=(object(),) * 4),
    ],
)
def test_a_request_that_can_not_be_is_refused_before_it_is_sent(ask: Callable[[Control], object]) -> None:
    with pytest.raises(WireError, match="not a request that can be sent: "):
        ask(Control("tcp://127.0.0.1:1"))


def test_another_version_is_said_and_unknown_fields_are_ignored() -> None:
    with pytest.raises(WireError, match="control version 7; this side knows 1: update the older side"):
        layout.decode_request(msgspec.msgpack.encode({"do": "dance", "v": 7}))
    newer = msgspec.msgpack.encode({"do": "remove", "v": 1, "track_id": 3, "gently": True})
    assert layout.decode_request(newer) == layout.RemoveRequest(3)


class Sockets:
    """Plain sockets, closed in the end."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self._context, self._made = context, []

    def open(self, kind: int, endpoint: str = "") -> zmq.Socket[bytes]:
        self._made.append(made := self._context.socket(kind))
        if endpoint:
            made.connect(endpoint)
        return made

    def ask(self, endpoint: str, data: bytes) -> zmq.Socket[bytes]:
        asking = self.open(zmq.REQ, endpoint)
        asking.send(data)
        return asking

    def close(self) -> None:
        for made in self._made:
            made.close(0)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with zmq.Context() as context, contextlib.closing(Sockets(context)) as sockets:
        yield sockets


# -- what is done ------------------------------------------------------------------------------------------------


@pytest.fixture
def followed() -> Following:
    return Following()


@pytest.fixture
def control(followed: Following) -> Iterator[Control]:
    with serving(followed) as server:
        yield Control(server.endpoint)


def test_a_box_begins_a_track_with_the_mask_that_is_told(control: Control, followed: Following) -> None:
    got = control.prompt(box=BOX, class_name="car")
    assert (got.track_id, got.camera) == (17, "front")
    assert got.box == (40, 40, 160, 120)
    prompt = followed.prompts[0]
    assert prompt.class_id == CLASSES.index("car")
    assert prompt.mask is not None
    assert np.array_equal(prompt.mask, scene().id_map == 1)


def test_numpy_s_numbers_are_taken(control: Control) -> None:
    box: Any = tuple(np.array(BOX, np.float32))
    points: Any = np.array([[100, 100]])
    as_id: Any = np.uint16
    begun = control.prompt(box=box, frame_seq=as_id(1))
    assert control.prompt(points=points).track_id != begun.track_id
    control.relabel(as_id(begun.track_id), "car")
    control.remove(as_id(begun.track_id))
    assert begun.track_id not in {row.id for row in control.tracks()}


def test_a_point_and_a_mask_begin_tracks_of_no_class(control: Control, followed: Following) -> None:
    mask = np.zeros((180, 320), np.bool_)
    mask[40:60, 100:120] = True
    assert [control.prompt(points=[(100, 100)]).track_id, control.prompt(mask=mask).track_id] == [17, 18]
    assert [prompt.class_id for prompt in followed.prompts] == [VOID, VOID]
    assert control.prompt(points=[(100, 100)], class_name="object").track_id == 19


def test_a_mask_of_a_camera_of_another_ratio_than_the_masks(followed: Following) -> None:
    """A camera of 4:3 whose masks are 64x36: its own size is right, a part of the masks' ratio is not."""
    mask = np.zeros((480, 640), np.bool_)
    mask[240:360, 160:320] = True
    camera, seen = Frame(1, 1, "front", NOISE[:480, :640]), dataclasses.replace(scene(), frame_size=(640, 480))
    answers = Answers("front", CLASSES)
    with contextlib.closing(ControlServer(ANY_PORT, answers)) as server, ThreadPoolExecutor(1) as pool:
        control = Control(server.endpoint)
        for given_, box in ((mask, (160, 240, 320, 360)), (mask[:352], None)):
            asked = pool.submit(control.prompt, mask=given_)
            until(lambda: server.serve(followed, camera, seen) is not None)
            if box:
                assert asked.result(5).box == box
            else:
                with pytest.raises(PromptError, match=r"640x352.*640:480"):
                    asked.result(5)
    assert followed.prompts[0].mask is not None
    assert np.argwhere(followed.prompts[0].mask).min(0).tolist() == [18, 16]


def test_tracks_are_removed_relabelled_and_listed(control: Control, followed: Following) -> None:
    track_id = control.prompt(box=BOX).track_id
    control.relabel(track_id, "pedestrian")
    assert followed.classes == {17: 3}
    control.relabel(track_id, "")
    assert followed.classes == {17: VOID}
    control.remove(track_id)
    assert followed.classes == {}
    rows = control.tracks()
    assert [(row.id, row.class_name, row.state) for row in rows] == [
        (10, "car", "confirmed"),
        (11, "pedestrian", "tentative"),
        (12, "pedestrian", "lost"),
    ]
    assert rows[0].box == (40, 40, 160, 120)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"points": [(1280, 5)]}, "point 1280,5 is outside the image, which is 1280x720"),
        ({"points": [(float("nan"), 5)]}, "point nan,5"),
        ({}, "a prompt of nothing"),
        ({"points": [(1, 1)], "box": BOX}, "a prompt of points and box"),
        ({"box": BOX, "class_name": "cow"}, "no class 'cow'; the model has road"),
        ({"box": BOX, "frame_seq": 10**9}, "look again"),
        ({"mask": np.zeros((90, 160), np.bool_)}, "empty"),
    ],
)
def test_what_can_not_be_followed_is_said_in_one_line(control: Control, what: dict[str, Any], says: str) -> None:
    with pytest.raises(PromptError, match=re.escape(says)) as caught:
        control.prompt(**what)
    assert "\n" not in str(caught.value)


def test_what_a_request_is_made_of_does_not_swell_its_refusal(control: Control, sockets: Sockets) -> None:
    long = "cow\n" * 100_000
    with pytest.raises(PromptError, match="no class") as caught:
        control.prompt(box=BOX, class_name=long)
    assert len(str(caught.value)) <= 400
    asking = sockets.ask(control.endpoint, msgspec.msgpack.encode({"do": long, "v": 1}))
    assert asking.poll(3000)
    error = layout.decode_reply(asking.recv()).error
    assert len(error) <= 400
    assert "\n" not in error


def test_a_dead_track_is_said(control: Control) -> None:
    with pytest.raises(PromptError, match="track 99"):
        control.remove(99)
    with pytest.raises(PromptError, match="track 99"):
        control.relabel(99, "car")


def test_the_baseline_says_that_it_follows_no_prompts() -> None:
    with serving(IouPropagator((64, 36), LifeCycle())) as server, pytest.raises(PromptError, match="'iou'"):
        Control(server.endpoint).prompt(box=BOX)


def test_a_fault_of_the_propagator_is_said_and_survived(control: Control, followed: Following) -> None:
    followed.failure = ZeroDivisionError("oh")
    with pytest.raises(PromptError, match="the node failed at this: ZeroDivisionError"):
        control.prompt(box=BOX)
    followed.failure = None
    assert control.prompt(box=BOX).track_id == 17


def test_a_look_at_a_frame_of_long_ago_is_refused_and_one_of_just_now_is_not() -> None:
    answers, followed = Answers("front", CLASSES), Following()
    for seq in range(1, 11):
        answers.note(frame(seq))
    replies = [
        answers.answer(layout.PromptRequest(box=BOX, frame_seq=seq), followed, frame(10), scene(10)) for seq in (7, 3)
    ]
    assert (replies[0].ok, replies[0].frame_seq) == (True, 10)
    assert "frame 3 was 0.7 s before frame 10" in replies[1].error
    assert len(followed.prompts) == 1


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


def test_a_known_client_is_answered_over_curve_and_others_are_refused(ring: Ring) -> None:  # noqa: F811
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


# -- in the node, and by the command -----------------------------------------------------------------------------


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


def test_the_command_prompts_lists_relabels_and_removes(say, tmp_path: Path) -> None:  # noqa: F811
    picture = np.zeros((72, 128), np.uint8)
    picture[20:40, 30:50] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), picture)
    followed = Following()
    with serving(followed) as server:
        at = ("-e", server.endpoint)
        code, out, _ = say("prompt", "--box", "40,40,160,120", "--class", "car", *at)
        assert code == 0
        assert out.startswith("track 17 (car), box 40,40,160,120, from frame ")
        assert "perception watch front/prompted" in out
        assert say("prompt", "--mask", tmp_path / "mask.png", *at)[1].startswith(
            "track 18 (object), box 300,200,500,400"
        )
        assert say("prompt", "--point", "100,100", "--point", "110,100", *at)[1].startswith("track 19 (object)")
        assert "10  car               confirmed" in say("prompt", "--list", *at)[1]
        assert say("prompt", "--relabel", 17, "pedestrian", *at)[:2] == (0, "track 17 is of class pedestrian now\n")
        code, out, _ = say("prompt", "--remove", 17, *at)
        assert (code, out.splitlines()[0]) == (0, "track 17 is followed no more")
        assert "under a new id where the network still sees it" in out
        assert "track 17" in refused(say("prompt", "--remove", 17, *at))
        assert "1280x720" in refused(say("prompt", "--point", "5000,1", *at))


def masks_of_editors() -> dict[str, np.ndarray]:
    """One thing at 30..50, 20..40 of a picture of 128x72, in every form in which masks are usual (OpenCV's BGRA)."""
    is_thing = np.zeros((72, 128), np.bool_)
    is_thing[20:40, 30:50] = True
    white = np.full((72, 128, 4), 255, np.uint8)
    photo = np.random.default_rng(0).integers(0, 255, (72, 128, 4), np.uint8)
    white[..., 3], photo[..., 3] = 255 * is_thing, 255 * is_thing
    opaque = np.dstack([np.where(is_thing, 255, 0).astype(np.uint8)] * 3 + [np.full((72, 128), 255, np.uint8)])
    deep = np.where(is_thing, 65535, 0).astype(np.uint16)
    deep_cut = np.dstack([np.full((72, 128, 3), 65535, np.uint16), deep])
    soft = np.where(is_thing, 255, 40).astype(np.uint8)  # what is bright counts, where anything is
    indices = {f"index {k}": (k * is_thing).astype(np.uint8) for k in (1, 2, 127)}
    return indices | {
        "white cut-out": white,
        "photo cut-out": photo,
        "opaque": opaque,
        "16 bits": deep,
        "16 bits of 255": np.where(is_thing, 255, 0).astype(np.uint16),
        "16 bits cut-out": deep_cut,
        "soft": soft,
    }


def test_masks_of_every_usual_form_mean_the_thing(say, tmp_path: Path) -> None:  # noqa: F811
    with serving() as server:
        for number, (name, picture) in enumerate(masks_of_editors().items(), 17):
            path = tmp_path / f"{name}.png"
            assert cv2.imwrite(str(path), picture)
            code, out, err = say("prompt", "--mask", path, "-e", server.endpoint)
            assert code == 0, (name, err)
            assert out.startswith(f"track {number} (object), box 300,200,500,400"), name


def test_a_mask_without_an_opaque_pixel_means_its_colours(say, tmp_path: Path) -> None:  # noqa: F811
    """As in a bitmap of 32 bits whose fourth byte is not used."""
    picture = np.zeros((72, 128, 4), np.uint8)
    picture[20:40, 30:50, :3] = 255
    cv2.imwrite(str(tmp_path / "clear.bmp"), picture)
    with serving() as server:
        out = say("prompt", "--mask", tmp_path / "clear.bmp", "-e", server.endpoint)[1]
    assert out.startswith("track 17 (object), box 300,200,500,400")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "nothing asked: give one of --point, --box"),
        (("--list", "--remove", 3), "--remove and --list"),
        (("--point", "1,2,3"), "write X,Y"),
        (("--box", "a,b,c,d"), "write X0,Y0,X1,Y1"),
        (("--mask", "/no/such.png"), "/no/such.png"),
        (("--list", "-e", "nonsense"), "endpoint 'nonsense'"),
    ],
)
def test_the_command_refuses_in_one_line(say, words: tuple[object, ...], says: str) -> None:  # noqa: F811
    assert says in refused(say("prompt", *words))
