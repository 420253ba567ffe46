"""A node's scenes over Foxglove's WebSocket, read by a plain client: https://github.com/foxglove/ws-protocol."""

from __future__ import annotations

import asyncio
import json
import re
import struct
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("foxglove", reason="foxglove-sdk is not installed")
aiohttp = pytest.importorskip("aiohttp", reason="the client of this test is aiohttp's")

from perception.drives.schemas import message_type  # noqa: E402
from perception.images import decode_image  # noqa: E402
from tests.test_cli import refused, say  # noqa: E402, F401 (a fixture)
from tests.view_fakes import SIZE, car_at, grey, publishing, running  # noqa: E402

WANTED = ("/front/image", "/front/masks/instances", "/front/masks/road", "/front/annotations", "/front/health")
_MESSAGE_DATA = 1


async def _talk(address: str) -> dict[str, Any]:
    """Subscribe to what is advertised; the newest message of each topic once the pictures came, by topic."""
    found: dict[str, bytes] = {}
    topics: dict[int, str] = {}
    talk = {"protocols": ["foxglove.sdk.v1"], "max_msg_size": 0}
    async with aiohttp.ClientSession() as session, session.ws_connect(address, **talk) as socket:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data)
                new = [c for c in told.get("channels", []) if told["op"] == "advertise" and c["topic"] in WANTED]
                topics |= {c["id"]: c["topic"] for c in new}
                # the server may advertise a channel a moment before it takes subscriptions to it
                again = re.findall(r"Unknown channel ID: (\d+)", told.get("message", ""))
                wishes = [{"id": int(n), "channelId": int(n)} for n in (*(c["id"] for c in new), *again)]
                await socket.send_json({"op": "subscribe", "subscriptions": wishes})
            elif message.type is aiohttp.WSMsgType.BINARY and message.data[0] == _MESSAGE_DATA:
                number, _ = struct.unpack("<IQ", message.data[1:13])
                found[topics[number]] = message.data[13:]
                if set(found) == set(WANTED):
                    return found
    raise AssertionError(sorted(found))


def test_camera_masks_and_boxes_come_in_foxgloves_schemas(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/s/front"
    command = [sys.executable, "-m", "perception.cli", "foxglove", endpoint, "--port", "0"]
    with publishing(endpoint), running(command, r"open (ws://\S+)", "stderr") as (_, address):
        found = asyncio.run(asyncio.wait_for(_talk(address), 60))
    image = message_type("foxglove.CompressedImage").FromString(found["/front/image"])
    assert image.format == "jpeg"
    assert decode_image(image.data, "it").shape == (SIZE[1], SIZE[0], 3)
    mask = message_type("foxglove.RawImage").FromString(found["/front/masks/instances"])
    positions = np.frombuffer(mask.data, "<u2").reshape(SIZE[1], SIZE[0])
    assert (mask.encoding, mask.width, mask.height) == ("mono16", *SIZE)
    places = np.flatnonzero((positions == 1).any(axis=0))
    assert places[0] in {car_at(seq) for seq in range(8)}
    assert decode_image(image.data, "it")[0, 0, 0] in range(grey(0) - 3, grey(7) + 3)
    boxes = message_type("foxglove.ImageAnnotations").FromString(found["/front/annotations"])
    assert {text.text.split()[0] for text in boxes.texts} == {"car", "pedestrian"}
    assert max(point.x for line in boxes.points for point in line.points) <= SIZE[0]  # pixels of the picture that came
    assert json.loads(found["/front/health"])["state"] == "running"


async def _stamps(address: str, count: int) -> list[int]:
    """When the first `count` messages of frames are of [ns]."""
    stamps: list[int] = []
    talk = {"protocols": ["foxglove.sdk.v1"], "max_msg_size": 0}
    async with aiohttp.ClientSession() as session, session.ws_connect(address, **talk) as socket:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data)
                new = [c["id"] for c in told.get("channels", []) if c["topic"] in WANTED[:-1]]
                again = re.findall(r"Unknown channel ID: (\d+)", told.get("message", ""))
                wishes = [{"id": int(n), "channelId": int(n)} for n in (*new, *again)]
                await socket.send_json({"op": "subscribe", "subscriptions": wishes})
            elif message.type is aiohttp.WSMsgType.BINARY and message.data[0] == _MESSAGE_DATA:
                stamps.append(struct.unpack("<Q", message.data[5:13])[0])
                if len(stamps) == count:
                    return stamps
    raise AssertionError(stamps)


def test_all_of_a_frame_is_of_one_time(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/s/front"
    command = [sys.executable, "-m", "perception.cli", "foxglove", endpoint, "--port", "0"]
    with publishing(endpoint), running(command, r"open (ws://\S+)", "stderr") as (_, address):
        times = sorted(set(asyncio.run(asyncio.wait_for(_stamps(address, 60), 60))))
    assert len(times) >= 10
    assert min(after - before for before, after in pairwise(times)) > 1_000_000  # frames come every 50 ms


def test_a_port_that_is_taken_is_one_line(say, tmp_path: Path) -> None:  # noqa: F811
    command = [sys.executable, "-m", "perception.cli", "foxglove", f"ipc://{tmp_path}/s/a", "--port", "0"]
    with running(command, r"open ws://[^:]+:(\d+)", "stderr") as (_, port):
        line = refused(say("foxglove", f"ipc://{tmp_path}/s/b", "--port", port))
        assert f"127.0.0.1:{port}: address already in use" in line
