"""Temporal smoothing of the class map: less flicker, no lag."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.evaluation.flicker import Flicker
from perception.evaluation.segmentation import Confusion
from perception.propagation.stuff import StuffSmoother
from perception.types import VOID, Frame, Panoptic

SIZE = (320, 176)  # width, height
CLASSES, THING = 5, 4
CAMVID = Path(__file__).parents[2] / "shared" / "data" / "camvid" / "val"


def smoother() -> StuffSmoother:
    return StuffSmoother(SIZE, CLASSES, (THING,))


def textured(seed: int, width: int = 2 * SIZE[0], height: int = SIZE[1]) -> NDArray[np.uint8]:
    """Smooth texture that optical flow can follow."""
    coarse = np.random.default_rng(seed).integers(0, 120, (height // 8, width // 8, 1), np.uint8)
    return np.repeat(coarse.repeat(8, 0).repeat(8, 1), 3, 2)


def frame(i: int, image: NDArray[np.uint8]) -> Frame:
    return Frame(i, i * 66_666_667, "front", image)


def seen(labels: NDArray[np.uint8], sure: NDArray[np.uint8] | int = 255) -> Panoptic:
    cells = (SIZE[1] // 2, SIZE[0] // 2)
    confidence = np.broadcast_to(np.asarray(sure, np.uint8), cells).copy()
    return Panoptic(labels, np.zeros(labels.shape, np.uint16), (), None, confidence)


def halves(edge: int) -> NDArray[np.uint8]:
    """Class 0 left of `edge` [px], 1 right of it."""
    labels = np.zeros(SIZE[::-1], np.uint8)
    labels[:, max(0, edge) :] = 1
    return labels


def picture_of(labels: NDArray[np.uint8], shift: int = 0) -> NDArray[np.uint8]:
    """A textured scene that moves by `shift` [px], brighter where class 1 is."""
    scene = textured(1)[:, SIZE[0] // 2 - shift : SIZE[0] // 2 - shift + SIZE[0]]
    return scene + (100 * (labels == 1)[..., None]).astype(np.uint8)


def noisy(truth: NDArray[np.uint8], rng: np.random.Generator) -> Panoptic:
    """What a network says that is not sure of 30 blobs of the map and wrong in half of them."""
    labels, sure = truth.copy(), np.full((SIZE[1] // 2, SIZE[0] // 2), 240, np.uint8)
    for y, x in zip(rng.integers(0, 160, 30), rng.integers(0, 300, 30), strict=True):
        sure[y // 2 : y // 2 + 8, x // 2 : x // 2 + 8] = 120
        if rng.random() < 0.5:
            labels[y : y + 16, x : x + 16] = 2
    return seen(labels, sure)


def flicker_of(maps: list[NDArray[np.uint8]], truth: list[NDArray[np.uint8]]) -> float:
    score = Flicker(CLASSES)
    for t, m in zip(truth, maps, strict=True):
        score.add(t, m, True)
    return score.overall()


@pytest.mark.parametrize("speed", [0, 4])
def test_flicker_of_unsure_pixels_is_more_than_halved(speed):
    rng, smooth = np.random.default_rng(0), smoother()
    truth = [halves(80 + speed * i) for i in range(15)]
    said = [noisy(t, rng) for t in truth]
    maps = [
        smooth.step(frame(i, picture_of(t, speed * i)), s) for i, (t, s) in enumerate(zip(truth, said, strict=True))
    ]
    assert flicker_of(maps, truth) < 0.5 * flicker_of([s.labels for s in said], truth)


def test_a_moving_edge_does_not_lag():
    smooth = smoother()
    for i in range(12):
        truth = halves(60 + 6 * i)
        labels = smooth.step(frame(i, picture_of(truth, 6 * i)), seen(truth, 180))
        assert (labels != truth).mean() < 0.002  # half a column


def test_a_thin_class_that_moves_is_taken_as_the_network_says():
    smooth = smoother()
    for i in range(10):
        truth = np.zeros(SIZE[::-1], np.uint8)
        truth[20:150, 40 + 9 * i : 43 + 9 * i] = 3
        image = textured(1)[:, : SIZE[0]] + (120 * (truth == 3)[..., None]).astype(np.uint8)
        labels = smooth.step(frame(i, image), seen(truth, 140))
        np.testing.assert_array_equal(labels, truth)


def test_things_are_neither_smoothed_away_nor_left_behind():
    smooth = smoother()
    for i in range(10):
        truth = halves(160)
        if i % 2:
            truth[60:120, 100 + 8 * i : 140 + 8 * i] = THING
        labels = smooth.step(frame(i, picture_of(halves(160))), seen(truth, 100))
        np.testing.assert_array_equal(labels == THING, truth == THING)


def test_after_a_cut_the_map_is_the_networks():
    smooth = smoother()
    for i in range(4):
        smooth.step(frame(i, picture_of(halves(160))), seen(halves(160)))
    other = np.full(SIZE[::-1], 2, np.uint8)
    image = np.random.default_rng(9).integers(0, 255, (*SIZE[::-1], 3), np.uint8)
    np.testing.assert_array_equal(smooth.step(frame(4, image), seen(other, 60)), other)


@pytest.mark.parametrize("stamp_ns", [0, 10_000_000_000])
def test_after_a_jump_in_time_the_map_is_the_networks(stamp_ns):
    smooth, image = smoother(), picture_of(halves(160))
    for i in range(1, 4):
        smooth.step(frame(i, image), seen(halves(160)))
    other = np.full(SIZE[::-1], 2, np.uint8)
    np.testing.assert_array_equal(smooth.step(Frame(9, stamp_ns, "front", image), seen(other, 60)), other)


def test_a_frozen_camera_gives_one_map_and_it_is_the_networks():
    smooth, image = smoother(), picture_of(halves(160))
    smooth.step(frame(0, image), seen(halves(160)))
    maps = [smooth.step(frame(i, image), seen(halves(190), 140)) for i in range(1, 20)]
    for labels in maps[8:]:
        np.testing.assert_array_equal(labels, halves(190))


def test_a_pixel_is_not_held_for_longer_than_its_time():
    smooth, image = smoother(), picture_of(halves(160))
    smooth.step(frame(0, image), seen(halves(160), 250))
    wrong_for = 0
    for i in range(1, 30):
        wrong_for += int(smooth.step(frame(i, image), seen(halves(190), 110))[88, 175] == 1)
    assert 1 <= wrong_for * 67 <= 500  # 200 ms on top of the evidence's own two or three frames


def test_without_the_network_the_map_moves_with_the_picture():
    smooth, labels = smoother(), halves(0)
    for i in range(6):
        labels = smooth.step(
            frame(i, picture_of(halves(80 + 4 * i), 4 * i)), seen(halves(80 + 4 * i)) if i < 4 else None
        )
    assert (labels != halves(100)).mean() < 0.02
    assert (labels != halves(92)).mean() > 0.01


def test_before_the_network_has_looked_all_is_void():
    assert (smoother().step(frame(0, textured(1)), None) == VOID).all()


def test_a_map_of_another_size_begins_anew():
    smooth = smoother()
    smooth.step(frame(0, picture_of(halves(160))), seen(halves(160)))
    for shape in ((90, 160), (33, 51), (1, 3)):
        other = np.full(shape, 2, np.uint8)
        for i in range(1, 4):
            labels = smooth.step(frame(i, textured(2)), Panoptic(other, np.zeros(shape, np.uint16), ()))
            np.testing.assert_array_equal(labels, other)


def test_it_is_deterministic_after_a_reset():
    rng = np.random.default_rng(3)
    truth = [halves(80 + 4 * i) for i in range(6)]
    said = [noisy(t, rng) for t in truth]
    smooth = smoother()

    def run() -> list[NDArray[np.uint8]]:
        return [
            smooth.step(frame(i, picture_of(t, 4 * i)), s) for i, (t, s) in enumerate(zip(truth, said, strict=True))
        ]

    first = run()
    smooth.reset()
    np.testing.assert_array_equal(first, run())


@pytest.mark.skipif(not CAMVID.is_dir(), reason="CamVid val is not beside the checkout")
def test_on_a_real_clip_flicker_falls_by_a_tenth_and_miou_does_not():
    """The whole of it, as in docs/history.md."""
    from perception.build import open_model
    from perception.images import load_image
    from perception.models.card import find
    from perception.opencv import cv2

    model = open_model(find("road"), "auto", 1)
    smooth = StuffSmoother(model.mask_size, 12, model.things)
    scores = [(Flicker(12), Confusion(12)) for _ in range(2)]
    for i, path in enumerate(sorted((CAMVID / "images").iterdir())):
        truth = np.asarray(cv2.imread(str(CAMVID / "labels" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED), np.uint8)
        image = load_image(path)
        alone = model(image)
        for labels, (flicker, confusion) in zip(
            (alone.labels, smooth.step(frame(i, image), alone)), scores, strict=True
        ):
            scaled = np.asarray(cv2.resize(labels, truth.shape[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            flicker.add(truth, scaled, True)
            confusion.add(truth, scaled)
    model.close()
    (flicker, confusion), (smoothed, after) = scores
    assert smoothed.overall() < 0.9 * flicker.overall()
    assert np.nanmean(after.iou()) >= np.nanmean(confusion.iou()) - 0.001
