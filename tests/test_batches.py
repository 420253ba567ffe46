from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.errors import ConfigError  # noqa: E402
from perception.opencv import cv2  # noqa: E402
from perception.training.batches import chosen  # noqa: E402
from perception.training.checkpoint import load_checkpoint  # noqa: E402
from perception.training.command import Request, train_command  # noqa: E402
from tests.training_fakes import CONFIG, write_config  # noqa: E402
from tests.training_runs import REALTIME, mixture, quiet, validated  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_batch_is_the_same_whenever_it_is_asked_for(tmp_path):
    a, b = mixture(tmp_path), mixture(tmp_path, CONFIG.replace("cache_mb = 16", "cache_mb = 0\nworkers = 3"))
    ahead = list(b.batches(2, 6))
    for step in (5, 3):
        assert torch.equal(a.batch(step).images, ahead[step - 2].images)
        assert torch.equal(a.batch(step).codes, ahead[step - 2].codes)


def test_every_sample_comes_once_a_pass():
    passes = [sorted(i for step in range(3 * e, 3 * e + 3) for i in chosen(6, 2, step, (1,))) for e in range(2)]
    assert passes == [list(range(6))] * 2
    assert chosen(6, 6, 0, (1,)) != chosen(6, 6, 1, (1,))


def test_beyond_the_picture_no_centre_is_not_known_either(tmp_path):
    """A batch of crops that are larger than the pictures: there may be a thing beyond their borders."""
    batch = mixture(tmp_path, REALTIME.replace("crop = [32, 48]", "crop = [96, 128]")).batch(0)
    assert batch.is_known is not None
    is_labelled = batch.codes[:, 1::2, 1::2] != 255
    assert not bool(is_labelled.all())
    assert torch.equal(batch.is_known[:, 0] > 0, is_labelled)


def test_a_panoptic_network_gets_centres_and_offsets(tmp_path):
    batch = mixture(tmp_path, REALTIME).batch(0)
    shapes = [batch.centre, batch.offset, batch.is_thing, batch.is_known]
    assert [tuple(t.shape) for t in shapes if t is not None] == [(2, 1, 16, 24), (2, 2, 16, 24)] + [(2, 1, 16, 24)] * 2


def test_all_wrong_files_are_counted_before_training(tmp_path):
    config = write_config(tmp_path)
    for name in ("0.png", "3.png"):
        cv2.imwrite(str(tmp_path / "a" / "labels" / name), np.full((48, 64), 77, np.uint8))
    with pytest.raises(ConfigError, match=r"data set 'a': 2 of 5 samples are wrong; first: .*0\.png: label value 77"):
        train_command(Request(config, tmp_path / "run", device="cpu"), quiet)
    assert not (tmp_path / "run").exists()


def test_a_file_that_goes_bad_during_a_run_takes_nothing_with_it(tmp_path):
    def spoil(what: str, done: int, _total: int) -> None:
        if what.startswith("loss") and done == 2:
            (tmp_path / "a" / "labels" / "0.png").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"0\.png: broken or cut off"):
        validated(tmp_path, progress=spoil)  # the validation reads it
    assert load_checkpoint(tmp_path / "run" / "last.safetensors")[1].step == 4
