from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from torch import Tensor  # noqa: E402

from perception.training.networks.memory import SLOTS, Carried, MemoryReader  # noqa: E402
from perception.training.propagator.rollout import frame_losses, rollout_loss, sloppy, soft_masks  # noqa: E402
from perception.training.propagator.sequences import stacked  # noqa: E402
from tests.memory_fakes import sequence_of, walking_ids  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("ids", [walking_ids(4, objects=0), walking_ids(4)], ids=["without objects", "with objects"])
def test_the_loss_of_any_clip_is_a_number_and_so_is_its_gradient(ids):
    torch.manual_seed(0)
    reader = MemoryReader()
    loss, parts = rollout_loss(reader, sequence_of(ids))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(value == value for value in parts.values())
    assert all(torch.isfinite(p.grad).all() for p in reader.parameters() if p.grad is not None)
    assert ("jaccard" in parts) == bool(ids.any())


def test_objects_that_all_hide_after_the_first_frame_teach_presence():
    ids = walking_ids(4)
    ids[1:] = 0
    torch.manual_seed(0)
    reader = MemoryReader()
    loss, parts = rollout_loss(reader, sequence_of(ids))
    loss.backward()
    assert torch.isfinite(loss)
    assert set(parts) == {"ce", "presence", "hidden"}
    weight = dict(reader.named_parameters())["judge.2.weight"].grad
    assert weight is not None
    assert weight[0].abs().sum() > 0  # its first row says presence


def said(truth: Tensor, presence: float) -> Carried:
    """Logits that are as good as the truth."""
    background = 1 - truth.sum(1, keepdim=True)
    logits = 20 * torch.cat((background, truth), 1)
    flags = torch.full((1, SLOTS), presence)
    return Carried(logits, logits.softmax(1), flags, flags)


def test_what_is_right_costs_little_and_what_is_wrong_much():
    truth = soft_masks(walking_ids(2))
    active = (truth[:1].sum((2, 3)) > 0).float()
    right = frame_losses(said(truth[:1].round(), 9.0), truth[:1].round(), active)
    wrong = frame_losses(said(truth[1:].round(), -9.0), truth[:1].round(), active)
    assert right["iou"] == 1
    for name in ("ce", "jaccard", "presence", "quality"):
        assert right[name] < 0.01
        assert wrong[name] > 0.2


def test_an_object_that_is_not_followed_is_background():
    truth = soft_masks(walking_ids(1)).round()
    none = frame_losses(said(torch.zeros_like(truth), 0.0), truth, torch.zeros(1, SLOTS))
    assert set(none) == {"ce"}
    assert none["ce"] < 0.01


def test_sightings_are_now_and_then_too_large_or_too_small_and_keep_their_range():
    torch.manual_seed(0)
    truth = soft_masks(walking_ids(1)).expand(40, -1, -1, -1)
    areas = sloppy(truth).sum((2, 3))[:, 0] / truth.sum((2, 3))[:, 0]
    assert 3 <= int((areas > 1).sum()) <= 20
    assert 3 <= int((areas < 1).sum()) <= 20
    assert sloppy(truth).min() >= 0
    assert sloppy(truth).max() <= 1


def test_sequences_of_a_batch_share_their_length():
    parts = [(sequence_of(walking_ids(3)).features, walking_ids(3), torch.arange(3))] * 2
    batch = stacked(parts)
    assert batch.masks[0].shape[:2] == (2, SLOTS)
    assert batch.stamps_s.dtype == torch.float32
