"""A checkpoint as a model: the average over sizes and mirror images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception import cli
from perception.errors import ConfigError, ModelError

pytest.importorskip("torch", reason="torch is not installed")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from perception.training.checkpoint import AVERAGED, About, save_checkpoint
from perception.training.networks import NetworkConfig, build_network
from perception.training.networks.config import Kind
from perception.training.networks.prediction import Prediction
from perception.training.predict_checkpoint import CheckpointModel, checkpoint_predictor, parse_sizes

CLASSES = ("sky", "road", "person")


class ColourNet(nn.Module):
    """Logits are the colours at 1/2. With `things`, the left and the right half of what is blue have a centre each."""

    def __init__(self, things: bool = False) -> None:
        super().__init__()
        self.things = things
        self.sizes: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Prediction:
        self.sizes.append((x.shape[-1], x.shape[-2]))
        semantic = 5 * F.avg_pool2d(x, 2)
        if not self.things:
            return Prediction(semantic)
        person = F.avg_pool2d(x, 4)[:, 2:] > 0
        heat = torch.zeros_like(person, dtype=torch.float32)
        offset = torch.zeros(1, 2, *heat.shape[-2:])
        columns = torch.nonzero(person[0, 0].any(0)).flatten()
        rows = torch.nonzero(person[0, 0].any(1)).flatten()
        for half in (columns[: len(columns) // 2], columns[len(columns) // 2 :]):
            cy, cx = rows[len(rows) // 2], half[len(half) // 2]
            heat[0, 0, cy, cx] = 1.0
            offset[0, 1][:, half] = 4.0 * (cx - half).float()
            offset[0, 0][:, half] = 4.0 * (cy - torch.arange(heat.shape[2])).float()[:, None]
        return Prediction(semantic, heat, offset)


def street(height: int = 64, width: int = 96) -> np.ndarray:
    """Sky is red, road green, two people who touch are blue, left of the middle."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, :, 0], image[height // 2 :, :, 1] = 250, 250
    image[16:48, 8:40] = (0, 0, 250)
    return image


def test_sizes_are_read_and_nonsense_is_refused():
    assert parse_sizes("640x352, 768x432") == ((640, 352), (768, 432))
    for text in ("640", "640x", "640x352;768x432", "8x352", "640x352,"):
        with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
            parse_sizes(text)


def test_every_size_is_looked_at_and_mirrored():
    net = ColourNet()
    seen = CheckpointModel([net], CLASSES, ("person",), [(96, 64), (48, 32)], flip=True)(street())
    assert net.sizes == [(96, 64), (96, 64), (48, 32), (48, 32)]
    assert seen.labels.shape == (64, 96)
    assert np.mean(seen.labels == street().argmax(-1)) > 0.97


def test_the_average_is_of_probabilities():
    class OneSided(nn.Module):
        """Sure of class 0 on wide pictures, less sure of class 1 on others."""

        def forward(self, x: Tensor) -> Prediction:
            logits = torch.tensor([2.0, 0.0]) if x.shape[-1] == 32 else torch.tensor([0.0, 1.0])
            return Prediction(logits[None, :, None, None].expand(1, 2, *x.shape[-2:]))

    seen = CheckpointModel([OneSided()], ("a", "b"), (), [(32, 16), (16, 16)], flip=False)(
        np.zeros((16, 32, 3), np.uint8)
    )
    assert (seen.labels == 0).all()  # 0.881 and 0.269 for class 0, on average 0.575


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("sizes", [[(96, 64)], [(96, 64), (192, 128)]])
def test_touching_people_stay_two_things(sizes, flip):
    model = CheckpointModel([ColourNet(things=True)], CLASSES, ("person",), sizes, flip)
    seen = model(street())
    assert [s.class_id for s in seen.segments] == [2, 2]
    boxes = sorted(s.box_xyxy for s in seen.segments)
    assert boxes[0][2] == pytest.approx(24, abs=5)
    assert boxes[1][0] == pytest.approx(24, abs=5)


def written(path: Path, kind: Kind = "realtime") -> Path:
    config = NetworkConfig(kind=kind, width=16)
    torch.manual_seed(0)
    tensors = {AVERAGED + k: v for k, v in build_network(config, len(CLASSES)).state_dict().items()}
    save_checkpoint(path, tensors, About(network=config, classes=CLASSES, things=("person",), step=7))
    return path


def test_a_checkpoint_is_opened_and_says_who_it_is(tmp_path):
    predictor = checkpoint_predictor([written(tmp_path / "run.safetensors")], "64x32", flip=True)
    assert predictor.about.classes == CLASSES
    assert predictor.about.model == "run.safetensors step 7 at 64x32 and mirrored"
    assert predictor.model(np.zeros((30, 50, 3), np.uint8)).labels.shape == (32, 48)


def test_several_networks_are_one_model_of_the_mean_of_their_probabilities():
    class Sure(nn.Module):
        """Sure of one class, whatever it sees."""

        def __init__(self, logits: tuple[float, float]) -> None:
            super().__init__()
            self.logits = torch.tensor(logits)

        def forward(self, x: Tensor) -> Prediction:
            return Prediction(self.logits[None, :, None, None].expand(1, 2, *x.shape[-2:]))

    networks = [Sure((2.0, 0.0)), Sure((0.0, 1.0))]
    seen = CheckpointModel(networks, ("a", "b"), (), [(32, 16)], flip=False)(np.zeros((16, 32, 3), np.uint8))
    assert (seen.labels == 0).all()  # 0.881 and 0.269 for class 0, on average 0.575


def test_several_checkpoints_say_who_they_are(tmp_path):
    paths = [written(tmp_path / "a.safetensors"), written(tmp_path / "b.safetensors")]
    predictor = checkpoint_predictor(paths, "64x32", flip=False)
    assert predictor.about.model == "a.safetensors step 7 + b.safetensors step 7 at 64x32"
    assert predictor.model(np.zeros((30, 50, 3), np.uint8)).labels.shape == (32, 48)


def test_checkpoints_whose_centres_lie_on_other_grids_have_no_mean(tmp_path):
    paths = [written(tmp_path / "a.safetensors"), written(tmp_path / "b.safetensors", "panoptic-deeplab")]
    with pytest.raises(ModelError, match=r"b\.safetensors: its centres and offsets are not on the grid of .*a\.safe"):
        checkpoint_predictor(paths, "96x64", flip=False)


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"--size 640x360: .*multiples of 16"):
        checkpoint_predictor([written(tmp_path / "run.safetensors")], "640x360", flip=False)


def test_the_command_line_evaluates_a_checkpoint(tmp_path, monkeypatch, capfd):
    import cv2

    for folder, picture in (("images", street()), ("labels", np.zeros((64, 96), np.uint8))):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "one.png"), picture)
    checkpoint = written(tmp_path / "run.safetensors")
    words = ["evaluate", str(tmp_path), "--checkpoint", str(checkpoint), "--size", "96x64", "--flip"]
    monkeypatch.setattr("sys.argv", ["perception", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capfd.readouterr()
    assert end.value.code == 0, err
    assert "run.safetensors step 7 at 96x64 and mirrored, pytorch, 1 pictures" in out
