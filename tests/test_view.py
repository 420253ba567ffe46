"""The view without a browser: who may come in, what is sent, and what bad input becomes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import struct
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import zmq

aiohttp = pytest.importorskip("aiohttp", reason="the view needs aiohttp")

from perception import wire  # noqa: E402
from perception.client import Clocks, Received  # noqa: E402
from perception.view.feed import Feed  # noqa: E402
from perception.view.frames import FrameAssembler, SeenFrame  # noqa: E402
from perception.view.guard import Guard, make_guard  # noqa: E402
from perception.view.packets import MOST_PIXELS, Packet, runs_of  # noqa: E402
from perception.view.server import PAGE, headers_of  # noqa: E402
from tests.published import BOOT_ID, health  # noqa: E402
from tests.test_cli import refused, say  # noqa: E402, F401 (a fixture)
from tests.view_fakes import publishing, running, tell, view_of  # noqa: E402

T = TypeVar("T")
CLOCKS = Clocks(BOOT_ID)


def received(data: bytes) -> Received:
    message = wire.decode(data)
    parts = {name: getattr(message, name) for name in wire.Message.__dataclass_fields__}
    return Received(**parts, clocks=CLOCKS, missed=0, skipped=0, restarted=False)


def message(name: str, kind: wire.Kind, content: Any, seq: int = 1, header: Any = None, **more: Any) -> Received:
    told = header or wire.Header(run="run-1", camera="front", classes=("road", "car"))
    place = {"seq": seq, "frame_seq": seq, "stamp_ns": seq}
    return received(wire.encode(f"front/{name}", told, kind, content, **place, **more))


def packet_of(*messages: Received) -> tuple[dict[str, Any], bytes, Packet]:
    """The header and the rest of a packet, as a page reads them."""
    packet = Packet(SeenFrame("front", "run-1", 1, {m.topic.partition("/")[2]: m for m in messages}))
    data = packet.encode(7, 0.5)
    length = struct.unpack("<I", data[:4])[0]
    return json.loads(data[4 : 4 + length]), data[4 + length + 7 & ~7 :], packet


def within(task: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(task, 60))


# -- masks and pictures as a page gets them -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [wire.Kind.BITS, wire.Kind.POSITIONS, wire.Kind.LABELS])
def test_runs_give_the_mask_back(kind: wire.Kind) -> None:
    noise = np.random.default_rng(kind).integers(0, 2, (9, 17)).astype({0: "bool", 1: "u2", 2: "u1"}[int(kind)])
    tracks = (wire.TrackRow(5, "car", "confirmed", 0.5, (0, 0, 1, 1), 0, 0),)
    header = wire.Header(run="run-1", camera="front", classes=("road", "car"), tracks=tracks)
    head, rest, _ = packet_of(message("x", kind, noise, header=header))
    (mask,) = head["masks"]
    ends = np.frombuffer(rest, "<u4", mask["runs"], mask["at"])
    values = np.frombuffer(rest, "<u2", mask["runs"], mask["at"] + 4 * mask["runs"])
    assert mask["at"] % 8 == 0
    assert np.array_equal(np.repeat(values, np.diff(ends, prepend=0)).reshape(9, 17), noise)
    assert (head["n"], head["age_ms"], head["size"]) == (7, 500.0, [17, 9])


def test_a_mask_of_one_value_is_one_run() -> None:
    ends, values = runs_of(np.zeros((4, 5), np.uint8))
    assert (ends.tolist(), values.tolist()) == ([20], [0])


def jpeg(width: int, height: int) -> bytes:
    """The header of a JPEG that claims a size."""
    return b"\xff\xd8\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03" * 20


@pytest.mark.parametrize(
    ("data", "size", "says"),
    [
        (jpeg(16000, 16000), (16000, 16000), "a picture of 16000x16000 px: too large to be shown"),
        (jpeg(16000, 16000), (64, 48), "a picture of 16000x16000 px that should be 64x48 px"),
        (b"GIF89a", (64, 48), "the image payload is not a JPEG"),
    ],
)
def test_a_picture_bomb_never_reaches_the_browser(data: bytes, size: tuple[int, int], says: str) -> None:
    head, rest, packet = packet_of(message("image", wire.Kind.IMAGE, data, size=size))
    assert (head["image"], rest, packet.complaint) == (None, b"", says)


def test_a_giant_mask_is_left_out_and_said() -> None:
    side = 1 + int(MOST_PIXELS**0.5)
    head, _, packet = packet_of(message("x", wire.Kind.BITS, np.zeros((side, side), np.bool_)))
    assert head["masks"] == []
    assert "too large to be shown" in packet.complaint


def test_names_are_cut_and_printable() -> None:
    row = wire.TrackRow(1, "a\x1b[31m" + "b" * 500, "confirmed", float("nan"), (0, 0, 1, 1), 0, 0)
    header = wire.Header(run="run-1", camera="front", tracks=(row,), reason="\u202e" * 900)
    head, _, _ = packet_of(message("tracks", wire.Kind.TRACKS, None, header=header, size=(4, 4)))
    assert head["tracks"][0]["class"] == "a?[31m" + "b" * 42
    assert head["reason"] == "?" * 200
    assert head["tracks"][0]["score"] == 0  # what is no number


def test_thousands_of_tracks_are_cut_and_said() -> None:
    rows = tuple(wire.TrackRow(k, "car", "confirmed", 0.5, (0, 0, 1, 1), 0, 0) for k in range(1, 3001))
    mask = np.arange(3000, dtype=np.uint16).reshape(30, 100) + 1
    header = wire.Header(run="run-1", camera="front", tracks=rows)
    head, rest, packet = packet_of(message("x", wire.Kind.POSITIONS, mask.astype("u2"), header=header))
    values = np.frombuffer(rest, "<u2", 3000, head["masks"][0]["at"] + 4 * head["masks"][0]["runs"])
    assert len(head["tracks"]) == 1000
    assert values[:1000].tolist() == list(range(1, 1001))
    assert "3000 tracks: 1000 are shown" in packet.complaint


def test_a_frame_is_whole_with_its_picture_and_older_ones_are_let_go() -> None:
    assembler, mask = FrameAssembler(), np.ones((2, 2), np.bool_)
    assert assembler.add(message("road", wire.Kind.BITS, mask, 1)) is None
    assert assembler.add(message("road", wire.Kind.BITS, mask, 2)) is None
    frame = assembler.add(message("image", wire.Kind.IMAGE, b"", 2))
    assert frame
    assert (frame.seq, sorted(frame.messages), assembler.left_out) == (2, ["image", "road"], 1)


def test_without_pictures_the_tracks_make_a_frame_whole() -> None:
    assembler = FrameAssembler()
    assert assembler.add(message("tracks", wire.Kind.TRACKS, None, 1, size=(4, 4)))


def test_frames_that_were_shown_without_a_picture_are_not_counted_as_left_out() -> None:
    assembler, mask = FrameAssembler(), np.ones((2, 2), np.bool_)
    for seq in range(1, 31):
        assembler.add(message("road", wire.Kind.BITS, mask, seq))
        assert assembler.add(message("tracks", wire.Kind.TRACKS, None, seq, size=(4, 4)))
    assert assembler.add(message("image", wire.Kind.IMAGE, b"", 31))  # older ones are let go
    assert assembler.left_out == 0
    for seq in range(32, 42):
        assert assembler.add(message("road", wire.Kind.BITS, mask, seq)) is None
    assert assembler.left_out == 2  # 8 wait


# -- who may look ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "origin", "is_fine"),
    [
        ("127.0.0.1:8600", "", True),
        ("localhost:9000", "http://localhost:9000", True),
        ("[::1]:8600", "http://[::1]:8600", True),
        ("127.0.0.2:8600", "http://127.0.0.2:8600", True),
        ("192.0.2.1:8600", "", False),
        ("127.0.0.1:8600", "http://[", False),
        ("evil.example:8600", "", False),
        ("127.0.0.1.evil.example", "", False),
        ("127.0.0.1:8600", "http://evil.example", False),
        ("127.0.0.1:8600", "http://127.0.0.1:9999", False),
        ("127.0.0.1:8600", "null", False),
        ("", "", False),
        ("[", "", False),
    ],
)
def test_only_this_machines_own_pages_may_ask(host: str, origin: str, is_fine: bool) -> None:
    assert (Guard().refusal(host, origin) == "") is is_fine


def test_beyond_this_machine_there_is_a_token() -> None:
    guard = make_guard("0.0.0.0", "")
    assert len(guard.token) >= 32
    assert guard.refusal("robot.local:8600", "http://robot.local:8600") == ""
    for origin in ("http://evil.example", "http://["):
        assert guard.refusal("robot.local:8600", origin) != ""
        assert guard.refusal("", origin) != ""
    assert guard.knows(f"perception.view, token.{guard.token}")
    for protocols in ("perception.view", "perception.view, token.", f"perception.view, token.{guard.token}x"):
        assert not guard.knows(protocols)
    assert make_guard("127.0.0.1", "").token == ""


def test_the_page_is_small_alone_and_under_a_strict_policy() -> None:
    text = PAGE.read_text()
    policy = headers_of(text)["Content-Security-Policy"]
    assert len(text.encode()) < 60_000
    unsafe = r"https?://|//[a-z]+\.|innerHTML|insertAdjacent|document\.write|eval\(| on[a-z]+=|style=\""
    assert not re.search(unsafe, text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "*" not in policy


async def _hello(link: str, protocols: tuple[str, ...] = ("perception.view",), **headers: str) -> Any:
    """The first status that a page gets; the number with which it is turned away."""
    address = link.partition("#")[0]
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(f"{address}ws", protocols=protocols, headers=headers) as socket:
                await socket.send_json({"do": "look", "camera": "", "frames": True})
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        return json.loads(message.data)
                return socket.close_code
        except aiohttp.WSServerHandshakeError as error:
            return error.status


def test_a_page_of_another_address_and_one_without_the_token_are_turned_away(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/s/front"
    with view_of(endpoint) as link:
        assert within(_hello(link))["kind"] == "status"
        assert within(_hello(link, Origin="http://evil.example")) == 403
        assert within(_hello(link, Origin="http://[")) == 403
        assert within(_hello(link, Host="evil.example")) == 403
    with view_of(endpoint, "--host", "127.0.0.2") as link:
        assert within(_hello(link))["kind"] == "status"
    with view_of(endpoint, "--host", "0.0.0.0") as link:
        token = link.partition("#token=")[2]
        local = f"http://127.0.0.1:{link.split(':')[2].partition('/')[0]}/"
        assert within(_hello(local)) == 4401
        assert within(_hello(local, ("perception.view", f"token.{token}")))["kind"] == "status"


async def _flight(link: str) -> tuple[int, int]:
    """Frames that come to a page that acknowledges nothing for a while, and then one of them."""
    counts, first = [0], None
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{link}ws", max_msg_size=0) as socket:

        async def count(seconds: float) -> None:
            nonlocal first
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                try:
                    message = await socket.receive(timeout=left)
                except TimeoutError:
                    return
                if message.type is aiohttp.WSMsgType.BINARY:
                    counts[0] += 1
                    length = struct.unpack("<I", message.data[:4])[0]
                    first = first or json.loads(message.data[4 : 4 + length])["n"]

        await socket.send_json({"do": "look", "camera": "", "frames": True})
        await count(1.5)
        before = counts[0]
        await socket.send_json({"do": "painted", "n": first})
        await count(0.5)
        return before, counts[0]


def test_at_most_two_frames_are_under_way_to_a_browser(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/s/front"
    with publishing(endpoint, rate_hz=60), view_of(endpoint) as link:
        assert within(_flight(link)) == (2, 3)


def test_topics_that_can_not_be_subscribed_to_are_passed_over(tmp_path: Path) -> None:
    feed = Feed(f"ipc://{tmp_path}/s/front", lambda: None)
    names = ("front/road", "front/<b>", "front/" + "x" * 99, "rear/road", "front/health", "nothing")
    told = health(published=dict.fromkeys(names, 1), rate_hz=float("nan"))
    place: dict[str, Any] = {"seq": 1, "frame_seq": 1, "stamp_ns": 1}
    feed._note(received(wire.encode("front/health", wire.Header("r", "front"), wire.Kind.HEALTH, told, **place)))
    assert feed.cameras["front"].topics == ("road",)
    feed.close()


def test_events_of_a_drive_played_again_are_shown_again(tmp_path: Path) -> None:
    feed = Feed(f"ipc://{tmp_path}/s/front", lambda: None)
    row = wire.EventRow(3, "car", "confirmed", "seen 3 times", 1, 1)
    told = message("events", wire.Kind.TRACKS, None, header=wire.Header("r", "front", events=(row,)))
    for again in (False, False, True):
        feed._note(dataclasses.replace(told, restarted=again, new_events=(row,)))
    assert [number for number, _ in feed.cameras["front"].events] == [1, 2]
    feed.close()


async def _garbage(link: str) -> bool:
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{link}ws") as socket:
        for text in ("", "[]", "{", '{"do":"look"', '{"do":"prompt","points":[[1e999,0]]}', "[" * 5000, '{"do":1}'):
            await socket.send_str(text)
        await socket.send_bytes(b"\x00\xff")
        await socket.send_json({"do": "look"})
        while (told := await socket.receive_json(timeout=5))["kind"] == "reply":
            assert told["text"].startswith("not a message of this page: ")
            assert len(told["text"]) <= 400
        return told["kind"] == "status"


def test_garbage_of_a_page_is_survived(tmp_path: Path) -> None:
    with view_of(f"ipc://{tmp_path}/s/front") as link:
        assert within(_garbage(link))
        assert within(_hello(link))["kind"] == "status"


async def _replies(link: str, *asked: str) -> list[str]:
    """What a page is told about each of its messages."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{link}ws") as socket:
        said = []
        for text in asked:
            await socket.send_str(text)
            while (told := await socket.receive_json(timeout=5))["kind"] != "reply":
                pass
            said.append(told["text"])
        return said


def test_a_track_id_that_no_track_can_have_gets_a_reply(tmp_path: Path) -> None:
    asked = [json.dumps({"do": "remove", "track_id": track_id}) for track_id in (2**63, 2**64, -1)]
    with view_of(f"ipc://{tmp_path}/s/front") as link:
        said = within(_replies(link, *asked))
    assert all("track_id" in line for line in said)


async def _status(link: str, test: str, camera: str = "") -> dict[str, Any]:
    """The first status for which a Python expression holds."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{link}ws", max_msg_size=0) as socket:
        await socket.send_json({"do": "look", "camera": camera, "frames": False})
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data)
                await socket.send_json({"do": "heard", "n": told["n"]})
                if eval(test, {"s": told}):
                    return told
    raise AssertionError(test)


def test_several_cameras_can_be_chosen_among(tmp_path: Path) -> None:
    endpoints = [f"ipc://{tmp_path}/s{n}/front" for n in range(2)]
    with publishing(endpoints[0], "run-a"), publishing(endpoints[1], "run-b"), view_of(*endpoints) as link:
        told = within(_status(link, "len(s['cameras']) == 2 and s['health']"))
        other = told["cameras"][1]
        assert other == f"front at {endpoints[1]}"
        chosen = within(_status(link, f"s['health'] and s['camera'] == {other!r}", other))
        assert (chosen["camera"], chosen["endpoint"]) == (other, endpoints[1])


def test_another_wire_version_and_garbage_are_said(tmp_path: Path) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.PUB)
    (tmp_path / "s").mkdir()
    endpoint = f"ipc://{tmp_path}/s/front"
    socket.bind(endpoint)
    encoder_health = wire.encode(
        "front/health", wire.Header(run="r", camera="front"), wire.Kind.HEALTH, health(), seq=1, frame_seq=1, stamp_ns=1
    )
    other = bytearray(encoder_health)
    version = len(b"front/health\0") + 4  # major, minor
    other[version] = 9

    async def told(data: bytes, test: str) -> dict[str, Any]:
        task = asyncio.create_task(_status(link, test))
        while not task.done():
            socket.send(data)
            await asyncio.sleep(0.02)
        return task.result()

    try:
        with view_of(endpoint) as link:
            within(told(b"front/road\0garbage" * 9, "'none of our messages' in s['problem']"))
            line = within(told(bytes(other), "'wire version' in s['problem']"))["problem"]
            told_version = f"wire version 9.{other[version + 1]}"
            assert line == f"{endpoint}: {told_version}, this reader knows 1.x: update the older side"
    finally:
        context.destroy(0)


def test_health_shows_the_stall_of_a_camera(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/s/front"
    with publishing(endpoint) as node, view_of(endpoint) as link:
        tell(node, "stall")
        told = within(_status(link, "s['health'] and s['health']['state'] == 'no_input'"))
        assert told["health"]["reason"] == "stalled for 0.2 s"


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tcp://nowhere",), "write tcp://ADDRESS:PORT or ipc:///FOLDER/NAME"),
        (("--host", "192.0.2.1", "--port", "8600"), "192.0.2.1:8600: cannot assign requested address"),
        (("--host", "0.0.0.0", "--token", "short"), "--token: 16 or more letters"),
        (("--server-key", "/nope.public"), "needs one's own keys too"),
    ],
)
def test_what_can_not_be_is_one_line(words: tuple[str, ...], says: str, say) -> None:  # noqa: F811
    assert says in refused(say("view", *words))


def test_a_port_in_use_is_one_line_and_the_default_one_gives_way(tmp_path: Path, say) -> None:  # noqa: F811
    with view_of(f"ipc://{tmp_path}/s/a") as link:
        port = link.split(":")[2].strip("/")
        line = refused(say("view", f"ipc://{tmp_path}/s/b", "--port", port))
        assert f"127.0.0.1:{port}: address already in use: give another --port or --host" in line


def test_a_signal_ends_it_in_order(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "perception.cli", "view", f"ipc://{tmp_path}/s/a", "--port", "0"]
    with running(command, r"open (\S+)", "stderr") as (process, _):
        process.terminate()
        assert process.wait(10) == 0


def test_a_view_beside_a_node_does_not_outlive_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "perception.cli", "view", f"ipc://{tmp_path}/s/a", "--port", "0", "--beside"]
    with running(command, r"open (\S+)", "stderr") as (process, _):
        assert process.stdin
        process.stdin.close()  # as the system does when its parent is killed
        assert process.wait(20) == 0


def test_without_aiohttp_the_fix_is_said(tmp_path: Path) -> None:
    code = "import sys; sys.modules['aiohttp'] = None; from perception.cli import main; sys.argv[1:] = ['view']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "perception: the view needs aiohttp: pip install 'perception-node[view]'",
    )
