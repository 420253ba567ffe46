"""What is done about prompts and other requests over the control socket, and what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest

from perception.client import Control
from perception.control.answers import Answers
from perception.control.server import ControlServer
from perception.errors import PromptError
from perception.propagation.iou import IouPropagator
from perception.propagation.tracks import LifeCycle
from perception.types import VOID, Frame
from perception.wire import control as layout
from tests.control_fakes import BOX, NOISE, Following, Sockets, control, followed, frame, serving, sockets  # noqa: F401 (fixtures)
from tests.published import ANY_PORT, CLASSES, scene
from tests.test_node import until

# ruff: noqa: F811


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
