from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.errors import ConfigError  # noqa: E402
from perception.opencv import cv2  # noqa: E402
from perception.training.command import Request, check_command, configured  # noqa: E402
from perception.training.networks import build_network  # noqa: E402
from perception.training.trainer import Trainer  # noqa: E402
from tests.training_fakes import CONFIG, write_config  # noqa: E402
from tests.training_runs import REALTIME, checked, quiet, trained  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_check_draws_a_batch(tmp_path):
    config = write_config(tmp_path)
    counts = check_command(Request(config), tmp_path / "sheet" / "batch.png", quiet)
    assert counts == {"a": 5, "validation": 3}
    picture = cv2.imread(str(tmp_path / "sheet" / "batch.png"))
    assert picture is not None
    assert picture.shape == (3 * 32, 3 * 48, 3)


def test_the_check_refuses_start_weights_that_training_would_refuse(tmp_path):
    with pytest.raises(ConfigError, match=r"nope: start weights are"):
        checked(tmp_path, start=Path("nope"))
    with pytest.raises(ConfigError, match="--start FILE"):
        checked(tmp_path, REALTIME.replace("warmup = 2", "frozen_stages = 2"))


def test_the_check_counts_wrong_files_before_it_takes_the_start_weights(tmp_path):
    write_config(tmp_path)
    for path in (tmp_path / "a" / "labels").iterdir():
        cv2.imwrite(str(path), np.full((48, 64), 77, np.uint8))
    with pytest.raises(ConfigError, match="data set 'a': 5 of 5 samples are wrong"):
        checked(tmp_path, start=Path("nope"))


VALID = CONFIG.replace("width = 8", 'width = 8\npadding = "valid"').replace("crop = [32, 48]", "crop = [112, 128]")


def test_the_check_refuses_sizes_that_the_network_does_not_take(tmp_path):
    """Not after hours, at the first validation."""
    with pytest.raises(ConfigError, match=r"validation.size: \[96, 128\]: .* give 108 px a side"):
        checked(tmp_path, VALID.replace("take_every = 2", "take_every = 2\nsize = [96, 128]"))
    with pytest.raises(ConfigError, match=r"a/images/0\.png: .* give 108 px a side; or set validation.size"):
        checked(tmp_path, VALID)  # the pictures' own size
    assert checked(tmp_path, VALID.replace("take_every = 2", "take_every = 2\nsize = [112, 128]"))["validation"] == 3


def test_the_check_tries_each_size_of_the_validation_pictures(tmp_path):
    write_config(tmp_path)
    for kind in ("images", "labels"):
        path = str(tmp_path / "a" / kind / "2.png")
        cv2.imwrite(path, np.full((128, 112, 3)[: 3 if kind == "images" else 2], 3, np.uint8))
        for other in (0, 1, 3, 4):
            path = str(tmp_path / "a" / kind / f"{other}.png")
            cv2.imwrite(path, np.full((112, 128, 3)[: 3 if kind == "images" else 2], 3, np.uint8))
    assert checked(tmp_path, VALID)["validation"] == 3
    for kind in ("images", "labels"):
        path = str(tmp_path / "a" / kind / "2.png")
        cv2.imwrite(path, np.full((96, 112, 3)[: 3 if kind == "images" else 2], 3, np.uint8))
    with pytest.raises(ConfigError, match=r"a/images/2\.png: .* give 108 px a side; or set validation.size"):
        checked(tmp_path, VALID)


def test_the_check_refuses_a_batch_without_a_variance(tmp_path):
    """A batch norm can't train on one cell of one sample."""
    text = REALTIME.replace("crop = [32, 48]", "crop = [32, 32]").replace("samples = 2", "samples = 1")
    text = text.replace('kind = "realtime"\nwidth = 16', 'kind = "panoptic-deeplab"\noutput_stride = 32')
    with pytest.raises(ConfigError, match=r"crop: \[32, 32\]: too small for batches of one sample"):
        checked(tmp_path, text)
    assert checked(tmp_path, text.replace("samples = 1", "samples = 2"))["validation"] == 3


def test_the_check_tries_the_teacher(tmp_path):
    trained(tmp_path, "valid", VALID, steps=1)
    shutil.copy(tmp_path / "valid" / "last.safetensors", tmp_path / "t.safetensors")
    text = CONFIG + '[teacher]\ncheckpoint = ["road", "t.safetensors"]\n'
    with pytest.raises(ConfigError, match=r"crop: \[32, 48\]: the teacher t.safetensors: .* give 108 px a side"):
        checked(tmp_path, text)
    with pytest.raises(ConfigError, match=r"the teacher t\.safetensors"):
        trained(tmp_path, text=text)
    assert not (tmp_path / "run").exists()


def test_a_size_is_tried_without_a_trace(tmp_path):
    config, base = configured(Request(write_config(tmp_path, REALTIME), device="cpu"))
    torch.manual_seed(config.seed)
    fresh = build_network(config.network, len(config.classes)).state_dict()
    trainer = Trainer(config, base, tmp_path, torch.device("cpu"))
    trainer.try_sizes()
    network = trainer.learner.network
    assert network.training
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in network.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_check_looks_for_the_device(tmp_path):
    with pytest.raises(ConfigError, match="device 'cuda': no GPU"):
        checked(tmp_path, device="cuda")
    with pytest.raises(ConfigError, match="precision 'float16' needs a GPU"):
        checked(tmp_path, CONFIG.replace("steps = 8", 'steps = 8\nprecision = "float16"'))


def test_the_check_of_a_run_that_goes_on_reads_its_last_checkpoint(tmp_path):
    trained(tmp_path, steps=1)
    assert checked(tmp_path, resume=True, steps=1, without=["validation"]) == {"a": 5}
    with pytest.raises(ConfigError, match="seed"):
        checked(tmp_path, resume=True, steps=1, seed=5, without=["validation"])
