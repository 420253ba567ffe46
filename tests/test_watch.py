from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq
from rich.console import Console

from perception import wire
from perception.errors import ConfigError, EndpointError
from perception.labels import ClassTable
from perception.sinks.messages import SceneEncoder
from perception.sinks.overlay import draw_messages, draw_scene
from perception.sinks.publisher import Publisher
from perception.watch import Saver, watch
from tests.published import CLASSES, frame, identity, publishing, scene, topics

TABLE = ClassTable(CLASSES, frozenset({"car", "pedestrian"}), {})
NOWHERE = "tcp://127.0.0.1:9"


def watched(publisher: Publisher, *topics: str, terminal: bool = False, **more: object) -> str:
    out = io.StringIO()
    console = Console(file=out, width=160, force_terminal=terminal)
    watch(publisher.endpoints[0], topics, console=console, **{"seconds": 10.0, "count": 12, **more})  # type: ignore[arg-type]
    return out.getvalue()


def read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    return picture


def test_one_line_a_topic_says_rate_age_gaps_validity_and_tracks() -> None:
    with publishing(rate_hz=50) as publisher:
        lines = watched(publisher, "front/road", "front/pedestrian").splitlines()
    road, pedestrian = (next(line for line in lines if line.startswith(name)) for name in ("front/road", "front/ped"))
    assert all(word in road for word in (" Hz", "age", " ms", "gaps 0", "restarts 0", "observed"))
    assert pedestrian.endswith("#11 pedestrian")


def test_a_terminal_gets_a_table() -> None:
    with publishing(rate_hz=50) as publisher:
        text = watched(publisher, "front/instances", terminal=True)
    assert "age p50/max" in text
    assert "#10 car #11 pedestrian" in text
    assert "connected, live; node running" in text


def test_health_can_be_watched() -> None:
    with publishing(rate_hz=50) as publisher:
        assert "running" in watched(publisher, "front/health")


def test_everything_of_a_camera_can_be_watched() -> None:
    with publishing(rate_hz=50) as publisher:
        text = watched(publisher, "front/*", count=30)
    assert all(name in text for name in ("front/lane", "front/panoptic", "front/tracks", "front/image"))


def test_silence_is_an_error_that_names_the_endpoint() -> None:
    with pytest.raises(EndpointError, match=f"nothing came from {NOWHERE}"):
        watch(NOWHERE, ["front/road"], seconds=0.2, console=Console(file=io.StringIO()))


def test_pictures_are_saved_over_the_camera_image(tmp_path: Path) -> None:
    with publishing(rate_hz=50) as publisher:
        watched(publisher, "front/road", "front/instances", save_dir=tmp_path / "new", count=200)
    pictures = [read(path) for path in sorted((tmp_path / "new").glob("front-*.png"))]
    assert len(pictures) >= 2  # one a second, and the last
    assert pictures[-1].shape == (36, 64, 3)
    assert pictures[-1][16, 20, 0] > 150  # the image's red left half, above the road


def test_without_an_image_pictures_are_over_black(tmp_path: Path) -> None:
    with publishing(rate_hz=50, image=False) as publisher:
        watched(publisher, "front/road", save_dir=tmp_path)
    picture = read(sorted(tmp_path.glob("*.png"))[-1])
    assert tuple(picture[30, 5]) == (128, 64, 128)
    assert not picture[0, 40].any()


def test_an_unwritable_folder_is_an_error_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can be written"):
        watch(NOWHERE, ["front/road"], save_dir=tmp_path / "file")


def messages(seq: int) -> list[wire.Message]:
    return [wire.decode(data) for _, data in SceneEncoder(identity(), topics()).encode(scene(seq))]


def test_saving_ends_after_enough_pictures_and_says_so(tmp_path: Path) -> None:
    saver = Saver(tmp_path, every_s=0.0, most=3)
    for seq in range(10):
        for message in messages(seq):
            saver.note(message)  # type: ignore[arg-type]
    assert (saver.saved, len(os.listdir(tmp_path))) == (3, 3)
    assert "enough" in saver.ended


def test_pictures_come_no_faster_than_asked_for(tmp_path: Path) -> None:
    saver = Saver(tmp_path, every_s=60.0)
    for seq in range(10):
        for message in messages(seq):
            saver.note(message)  # type: ignore[arg-type]
    assert saver.saved == 1


def test_a_folder_that_vanishes_ends_the_saving_not_the_watching(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "new", every_s=0.0)
    (tmp_path / "new").rmdir()
    for seq in range(3):
        for message in messages(seq):
            saver.note(message)  # type: ignore[arg-type]
    assert saver.saved == 0
    assert "No such file" in saver.ended


def test_hostile_text_does_not_reach_the_terminal() -> None:
    header = wire.Header(run="r", camera="front", validity="\x1b[2Jobserved [red]", reason="a\nb")
    data = wire.encode("front/road", header, wire.Kind.BITS, np.ones((4, 4), bool), seq=1, frame_seq=1, stamp_ns=1)
    context = zmq.Context()
    try:
        out = context.socket(zmq.XPUB)
        endpoint = f"tcp://127.0.0.1:{out.bind_to_random_port('tcp://127.0.0.1')}"
        text = io.StringIO()

        def answer() -> None:
            for _ in range(2):
                out.recv()
            out.send(data)

        thread = threading.Thread(target=answer)
        thread.start()
        watch(endpoint, ["front/road"], count=1, seconds=5, console=Console(file=text, width=160))
        thread.join()
    finally:
        context.destroy(0)
    assert "?[2Jobserved [red]: a?b" in text.getvalue()
    assert "\x1b" not in text.getvalue()


# -- overlay -----------------------------------------------------------------------------------------------------


def test_a_scene_is_drawn_at_the_cameras_size_and_leaves_the_image_alone() -> None:
    image = frame().image
    before = image.copy()
    picture = draw_scene(image, scene(), TABLE)
    assert picture.shape == image.shape
    assert np.array_equal(image, before)
    assert np.array_equal(picture[300, 1200], image[300, 1200])  # void stays as it is
    assert not np.array_equal(picture[700, 100], image[700, 100])  # the road is coloured


def test_a_scene_without_an_image_is_drawn_over_black() -> None:
    picture = draw_scene(None, scene(), TABLE)
    assert tuple(picture[30, 5]) == (128, 64, 128)
    assert tuple(picture[30, 32]) == (255, 255, 255)
    assert not picture[17, 60].any()


def test_things_are_outlined_in_a_colour_of_their_own() -> None:
    picture = draw_scene(np.zeros((720, 1280, 3), np.uint8), scene(1), TABLE)
    car, pedestrian = picture[40:122, 39:42], picture[158:242, 399:402]
    assert car.max(axis=(0, 1)).tolist() != pedestrian.max(axis=(0, 1)).tolist()
    assert picture[60:100, 39:42].any()


def test_messages_without_masks_make_no_picture() -> None:
    tracks = [message for message in messages(1) if message.kind is wire.Kind.TRACKS]
    assert draw_messages(None, tracks) is None


def test_masks_of_several_topics_share_a_picture() -> None:
    picture = draw_messages(None, messages(1))
    assert picture is not None
    assert tuple(picture[30, 5]) == (128, 64, 128)  # road
    assert picture[10, 22].any()  # the pedestrian
