"""The layout of requests and replies of the control socket."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.client import Control
from perception.errors import WireError
from perception.wire import control as layout
from tests import golden_wire


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
