from __future__ import annotations

import weakref
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from perception.drives.rendered import RenderedDrive
from perception.propagation.change import FLICKER_NS, SceneChange, is_cut, thumbnail
from perception.types import Frame
from tests.fakes import PERIOD_NS

DATA = Path(__file__).parents[2] / "shared" / "data"
Image = NDArray[np.uint8]


def frames_of(images: list[Image], step_ns: int = PERIOD_NS) -> list[Frame]:
    return [Frame(i, i * step_ns, "front", image) for i, image in enumerate(images)]


def cuts(images: list[Image]) -> list[str]:
    change = SceneChange()
    return [change.cut(frame) for frame in frames_of(images)]


def rendered(seed: int, count: int = 12, every: int = 1, size: tuple[int, int] = (320, 180)) -> list[Image]:
    return [f.image for f in RenderedDrive(seed, *size, fps=15.0, truth=False).at(range(0, count * every, every))]


def exposed(image: Image, stops: float) -> Image:
    return np.clip(image * 2.0**stops, 0, 255).astype(np.uint8)


def test_another_scene_is_a_cut_and_only_its_first_frame():
    a, b = rendered(1, 3), rendered(2, 3)
    assert cuts(a + b) == ["", "", "", "the picture jumped", "", ""]


@pytest.mark.parametrize("seed", [3, 700, 703])
def test_a_rendered_drive_is_never_cut(seed: int):
    assert not any(cuts(rendered(seed, 40)))


@pytest.mark.parametrize("stops", [-2, -1, -0.5, 0.5, 1, 2])
def test_another_exposure_is_no_cut(stops: float):
    for a, b in pairwise(rendered(4, 6)):
        assert not is_cut(thumbnail(a), thumbnail(exposed(b, stops)))


@pytest.mark.parametrize("shift", [(12, 0), (-32, 0), (24, -16)])
def test_a_camera_that_pans_is_no_cut(shift: tuple[int, int]):
    image = rendered(5, 1)[0]
    moved = cv2.warpAffine(image, np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]]), (320, 180), borderMode=1)
    assert not is_cut(thumbnail(image), thumbnail(np.asarray(moved, np.uint8)))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_nothing_can_not_tell(level: int):
    image = rendered(6, 1)[0]
    flat = np.full_like(image, level)
    assert cuts([image, flat, image, flat]) == [""] * 4


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (720, 1280), (35, 2000)])
def test_pictures_of_any_size_are_looked_at(shape: tuple[int, int]):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert cuts([image, image]) == ["", ""]


def banded(image: Image, phase: float) -> Image:
    """As lamps that flicker light it, behind a rolling shutter."""
    rows = np.arange(image.shape[0])[:, None, None]
    return np.clip(image * (1 + 0.6 * np.sin(rows / 20 + phase)), 0, 255).astype(np.uint8)


def noisy_rows(image: Image, rng: np.random.Generator) -> Image:
    """As a sensor in the dark gives it."""
    return np.clip(image * 0.03 + 6 + rng.normal(0, 5, (image.shape[0], 1, 1)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["lamps", "dark"])
def test_a_picture_that_flickers_jumps_once(kind: str):
    rng = np.random.default_rng(0)
    images = rendered(3, 40)
    said = cuts([banded(x, 2.0 * i) if kind == "lamps" else noisy_rows(x, rng) for i, x in enumerate(images)])
    assert [reason for reason in said if reason] == ["the picture jumped"]


@pytest.mark.parametrize(("gap_ns", "count"), [(FLICKER_NS - 1, 1), (FLICKER_NS, 2)])
def test_a_jump_soon_after_another_is_no_cut(gap_ns: int, count: int):
    a, b = rendered(1, 1)[0], rendered(2, 1)[0]
    change = SceneChange()
    jumps = [(0, a), (PERIOD_NS, b), (PERIOD_NS + gap_ns, a)]
    said = [change.cut(Frame(i, stamp_ns, "front", image)) for i, (stamp_ns, image) in enumerate(jumps)]
    assert sum(map(bool, said)) == count


def test_an_outlook_knows_of_the_flicker_and_tells_it_nobody():
    a, b = rendered(1, 1)[0], rendered(2, 1)[0]
    change = SceneChange()
    frames = frames_of([a, b, a, b])
    for frame in frames[:2]:
        change.cut(frame)
    assert not change.outlook(has_seen=True).is_blind(frames[2])
    before = SceneChange()
    before.cut(frames[0])
    assert before.outlook(has_seen=True).is_blind(frames[1])
    assert before.cut(frames[1]) == "the picture jumped"


def test_a_frame_looked_at_ahead_is_made_small_once_and_no_picture_is_held(monkeypatch):
    made: list[int] = []

    def counted(image: Image) -> NDArray[np.float32]:
        made.append(id(image))
        return thumbnail(image)

    monkeypatch.setattr("perception.propagation.change.thumbnail", counted)
    change = SceneChange()
    frames = frames_of(rendered(1, 3))
    for frame in frames:
        change.outlook(has_seen=True).is_blind(frame)
        change.cut(frame)
    assert made == [id(frame.image) for frame in frames]
    seen_ahead = weakref.ref(ahead := rendered(2, 1)[0])
    change.outlook(has_seen=True).is_blind(Frame(3, 3 * PERIOD_NS, "front", ahead))
    del ahead
    assert seen_ahead() is None


def test_another_size_and_jumps_in_time_are_said_with_their_numbers():
    image = np.zeros((48, 64, 3), np.uint8)
    change = SceneChange()
    said = [
        change.cut(Frame(i, stamp_ns, "front", picture))
        for i, (stamp_ns, picture) in enumerate(
            [(0, image), (10**9, image), (0, image), (0, image), (2 * 10**9, image), (4_100_000_000, image)]
        )
    ]
    assert said == ["", "", "time jumped by -1.00 s", "", "", "time jumped by 2.10 s"]
    assert change.cut(Frame(6, 4_200_000_000, "front", image[:36])) == "frames of 64x36 after 64x48"


def test_a_frozen_camera_is_told_by_time_and_by_every_pixel():
    image = rendered(7, 1)[0]
    change = SceneChange()
    stamps = [0, 100_000_000, 300_000_000, 301_000_000, 900_000_000]
    said = []
    for i, stamp_ns in enumerate(stamps):
        change.cut(Frame(i, stamp_ns, "front", image.copy()))
        said.append(change.frozen(stamp_ns))
    assert said[:3] == ["", "", ""]
    assert said[3:] == [f"the camera has given the same picture for {s} s" for s in ("0.3", "0.9")]
    speck = image.copy()
    speck[3, 5, 1] ^= 1  # a single pixel that differs: a living sensor
    change.cut(Frame(5, 1_000_000_000, "front", speck))
    assert change.frozen(1_000_000_000) == ""


def sequence(folder: str, pattern: str, limit: int) -> list[Image]:
    paths = sorted((DATA / folder).glob(pattern))
    return [np.asarray(cv2.imread(str(path)), np.uint8) for path in paths[:limit]]


def film(path: Path, limit: int) -> list[Image]:
    capture = cv2.VideoCapture(str(path))
    read = (capture.read() for _ in range(limit))
    return [np.asarray(image, np.uint8) for is_read, image in read if is_read]


@pytest.fixture(scope="module")
def thumbnails() -> dict[str, list[NDArray[np.float32]]]:
    """Real sequences at their own rates."""
    if not (DATA / "davis").is_dir():
        pytest.skip("../shared/data is not here")
    images = {
        **{
            folder.name: sequence(f"davis/JPEGImages/{folder.name}", "*.jpg", 100)
            for folder in sorted((DATA / "davis" / "JPEGImages").iterdir())
        },
        "camvid": sequence("camvid/val/images", "*.webp", 30),
        "bdd": sequence("bdd_mots/images", "*/*.jpg", 6),
        **{path.stem: film(path, 30) for path in sorted((DATA / "drives").glob("*.mp4"))},
    }
    return {name: [thumbnail(image) for image in found] for name, found in images.items()}


def test_no_real_sequence_is_cut(thumbnails):
    for name, found in thumbnails.items():
        assert [i for i, (a, b) in enumerate(pairwise(found)) if is_cut(a, b)] == [], name


def test_nearly_every_pair_from_two_sequences_is_a_cut(thumbnails):
    names = sorted(thumbnails)
    pairs = [(a, b) for a in names for b in names if a != b]
    told = [is_cut(thumbnails[a][len(thumbnails[a]) // 3], thumbnails[b][-1]) for a, b in pairs]
    assert np.mean(told) > 0.9
