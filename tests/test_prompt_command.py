"""`perception prompt` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.control_fakes import Following, serving
from tests.test_cli import refused, say  # noqa: F401 (a fixture)


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
