from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from perception.drives.foxglove import Place, calibration_record, image_record, picture_of, picture_topic
from perception.drives.layout import Record
from perception.drives.schemas import message_type
from perception.errors import WireError
from perception.geometry import Camera, load_camera, mounted
from perception.sinks.messages import SceneEncoder
from tests import published
from tests.published import identity, topics

PLACE = Place(1_700_000_000_123_456_789, 1_700_000_000_223_456_789, 7)


def wire_records() -> dict[str, Record]:
    messages = SceneEncoder(identity(), topics()).encode(published.scene(stamp_ns=5))
    return {
        topic.split("/")[1]: Record(topic, "", "perception", PLACE.log_ns, PLACE.publish_ns, PLACE.sequence, data)
        for topic, data in messages
    }


def picture(name: str) -> Record:
    found = picture_of(wire_records()[name])
    assert found
    return found


def parsed(record: Record):
    return message_type(record.schema).FromString(record.data)


def pixels(message, dtype) -> np.ndarray:
    return np.frombuffer(message.data, dtype).reshape(message.height, message.width)


def test_bits_are_black_and_white():
    record = picture("road")
    message = parsed(record)
    assert (record.topic, record.schema, record.encoding) == ("/front/masks/road", "foxglove.RawImage", "protobuf")
    assert (record.log_ns, record.publish_ns, record.sequence) == (PLACE.log_ns, PLACE.publish_ns, PLACE.sequence)
    assert (message.width, message.height, message.encoding, message.step) == (64, 36, "mono8", 64)
    assert message.timestamp.ToNanoseconds() == PLACE.log_ns
    expected = np.isin(published.scene().labels, (0, 1)) * 255
    np.testing.assert_array_equal(pixels(message, np.uint8), expected)


def test_labels_are_class_indices():
    np.testing.assert_array_equal(pixels(parsed(picture("panoptic")), np.uint8), published.scene().labels)


def test_positions_are_16_bits_little_endian():
    message = parsed(picture("instances"))
    assert (message.encoding, message.step) == ("mono16", 128)
    np.testing.assert_array_equal(pixels(message, "<u2"), published.scene().id_map)


def test_visible_tracks_are_boxes_with_labels_in_camera_pixels():
    record = picture("tracks")
    message = parsed(record)
    assert record.topic == "/front/annotations"
    assert [t.text for t in message.texts] == ["car 10", "pedestrian 11"]  # not the lost one
    box = [(p.x, p.y) for p in message.points[0].points]
    assert box == [(40, 40), (160, 40), (160, 120), (40, 120)]  # mask 64x36, camera 1280x720
    assert message.points[0].type == message.points[0].LINE_LOOP
    assert (message.texts[0].position.x, message.texts[0].position.y) == (40, 40)


def test_a_carried_box_is_thinner_than_a_seen_one():
    from dataclasses import replace

    scene = published.scene()
    carried = replace(scene, tracks=(scene.tracks[0], replace(scene.tracks[1], observed=False), scene.tracks[2]))
    data = dict(SceneEncoder(identity(), topics()).encode(carried))["front/tracks"]
    found = picture_of(Record("/front/wire/tracks", "", "perception", 1, 1, 1, data))
    assert found
    seen, thin = parsed(found).points
    assert seen.thickness > thin.thickness


def test_events_have_no_picture():
    assert picture_of(wire_records()["events"]) is None
    assert picture_topic(wire_records()["events"]) == ""


@pytest.mark.parametrize("name", ["road", "instances", "tracks"])
def test_the_topic_of_a_picture_is_known_beforehand(name):
    assert picture_topic(wire_records()[name]) == picture(name).topic


def test_a_damaged_message_is_refused():
    with pytest.raises(WireError):
        picture_of(Record("/front/wire/road", "", "perception", 1, 1, 1, b"front/road\0nonsense"))


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_a_compressed_image_can_be_decoded(form):
    image = published.frame().image
    record = image_record("front", image, form, 95, PLACE)
    message = parsed(record)
    assert (record.topic, record.schema) == ("/front/image", "foxglove.CompressedImage")
    assert (message.format, message.frame_id) == (form, "front")
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    assert np.abs(decoded.astype(int) - image).max() <= (0 if form == "png" else 40)


def test_a_raw_image_is_the_very_pixels():
    image = published.frame().image
    message = parsed(image_record("front", image, "raw", 90, PLACE))
    assert (message.encoding, message.step, message.width, message.height) == ("rgb8", 3840, 1280, 720)
    assert message.data == image.tobytes()


def test_an_image_that_is_encoded_already_is_taken_as_it_is():
    record = image_record("front", published.frame().image, "jpeg", 90, PLACE, b"encoded")
    assert parsed(record).data == b"encoded"


def test_the_calibration_is_that_of_the_camera():
    K = np.array([[1000.0, 0, 640], [0, 900.0, 360], [0, 0, 1]])
    camera = Camera("front", 1280, 720, K, mounted((1, 0, 1.5)), np.array([0.1, -0.2, 0.01, 0.02, 0.05]))
    record = calibration_record("front", camera, PLACE)
    message = parsed(record)
    assert (record.topic, record.schema) == ("/front/calibration", "foxglove.CameraCalibration")
    assert (message.width, message.height, message.distortion_model) == (1280, 720, "plumb_bob")
    assert list(message.D) == [0.1, -0.2, 0.01, 0.02, 0.05]
    assert list(message.K) == K.ravel().tolist()
    assert list(message.P) == [1000, 0, 640, 0, 0, 900, 360, 0, 0, 0, 1, 0]


def test_the_shipped_calibration_can_be_told():
    camera = load_camera(Path(__file__).parent.parent / "calibration" / "front.toml")
    assert len(parsed(calibration_record("front", camera, PLACE)).K) == 9
