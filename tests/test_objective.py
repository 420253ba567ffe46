from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from perception.training.batches import Batch  # noqa: E402
from perception.training.config import LossConfig  # noqa: E402
from perception.training.losses import dice_loss, ohem_cross_entropy, set_cross_entropy  # noqa: E402
from perception.training.networks.prediction import Prediction  # noqa: E402
from perception.training.objective import Objective  # noqa: E402
from tests.training_runs import MEANING, prediction  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_exact_pixels_get_the_semantic_losses_and_coarse_ones_the_set_loss():
    codes = torch.randint(0, 4, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    codes[:, :2] = 255
    logits = prediction().semantic
    parts = Objective(LossConfig(), MEANING)(prediction(), Batch(torch.zeros(0), codes))
    exact, coarse = codes.masked_fill(codes == 3, 255), codes.masked_fill(codes != 3, 255)
    share = (codes == 3).sum() / (codes != 255).sum()
    assert parts.keys() == {"ohem", "dice", "coarse"}
    assert torch.allclose(parts["ohem"], ohem_cross_entropy(logits, exact))
    assert torch.allclose(parts["dice"], 0.5 * dice_loss(logits, exact))
    assert torch.allclose(parts["coarse"], share * set_cross_entropy(logits, coarse, MEANING))


def test_a_batch_without_a_label_costs_nothing():
    parts = Objective(LossConfig(), MEANING)(prediction(), Batch(torch.zeros(0), torch.full((2, 16, 16), 255)))
    assert {name: float(v) for name, v in parts.items()} == {"ohem": 0.0, "dice": 0.0}


def test_all_heads_have_their_part():
    ones = torch.ones(2, 1, 4, 4)
    heads = {"centre": ones * 0.5, "offset": torch.ones(2, 2, 4, 4) * 3, "auxiliary": torch.zeros(2, 3, 2, 2)}
    batch = Batch(torch.zeros(0), torch.zeros(2, 16, 16).long(), ones, torch.zeros(2, 2, 4, 4), ones, ones)
    parts = Objective(LossConfig(), MEANING)(prediction(**heads), batch)
    assert float(parts["centre"]) == pytest.approx(200 * 0.25)
    assert float(parts["offset"]) == pytest.approx(0.01 * 3)
    assert float(parts["auxiliary"]) == pytest.approx(0.4 * math.log(3))


def test_logits_of_any_stride_are_compared_on_the_losses_grid():
    codes = torch.zeros(2, 32, 32).long()
    for stride in (1, 2, 4):
        parts = Objective(LossConfig(stride=stride), MEANING)(prediction(), Batch(torch.zeros(0), codes))
        assert torch.isfinite(parts["ohem"])


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_what_validation_would_see_as_right_costs_nothing(stride):
    """Half a pixel between the two and a lane marking loses several points."""
    semantic = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = torch.nn.functional.interpolate(semantic, (16, 16), mode="bilinear", align_corners=False)
    config = LossConfig(semantic={"ce": 1.0}, stride=stride)
    parts = Objective(config, MEANING)(Prediction(1e6 * semantic), Batch(torch.zeros(0), full.argmax(1)))
    assert float(parts["ce"]) == 0
