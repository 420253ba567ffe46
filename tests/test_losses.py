from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from torch import Tensor  # noqa: E402

from perception.training.losses import (  # noqa: E402
    LOSSES,
    border_weights,
    boundary_loss,
    centre_loss,
    cross_entropy,
    dice_cross_entropy,
    dice_loss,
    focal_loss,
    hausdorff_loss,
    offset_loss,
    ohem_cross_entropy,
    set_cross_entropy,
    small_instance_weights,
)
from perception.training.losses.distance import signed_distance  # noqa: E402
from perception.training.targets import UNKNOWN  # noqa: E402

IGNORE = 255
HALF = [torch.float16, torch.bfloat16]
MEANING = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
CLASS_WEIGHT = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
PIXEL_WEIGHT = torch.linspace(0.1, 3.0, 60, dtype=torch.float64).reshape(2, 6, 5)
Array = NDArray[np.float64]


@pytest.fixture
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def target() -> Tensor:
    """Two pictures of 6 x 5; a third of the first is unlabelled and class 3 is in the second only."""
    target = torch.randint(0, 3, (2, 6, 5), generator=torch.Generator().manual_seed(1))
    target[0, :2] = IGNORE
    target[1, 2:4, 1:3] = 3
    return target


# The references: plain loops over pixels, in float64.


def labelled(target: Tensor) -> list[tuple[int, int, int]]:
    return [place for place in np.ndindex(*target.shape) if target[place] != IGNORE]


def softmax(logits: Tensor) -> Array:
    e = np.exp(logits.detach().numpy())
    return e / e.sum(1, keepdims=True)


def true_probabilities(logits: Tensor, target: Tensor) -> Array:
    p = softmax(logits)
    return np.array([p[n, int(target[n, y, x]), y, x] for n, y, x in labelled(target)])


def slow_cross_entropy(logits: Tensor, target: Tensor) -> float:
    return float(-np.log(true_probabilities(logits, target)).mean())


def slow_weighted(logits: Tensor, target: Tensor) -> float:
    places = labelled(target)
    weights = [float(CLASS_WEIGHT[target[place]] * PIXEL_WEIGHT[place]) for place in places]
    losses = -np.log(true_probabilities(logits, target))
    return float(sum(w * x for w, x in zip(weights, losses, strict=True)) / sum(weights))


def slow_hardest(logits: Tensor, target: Tensor) -> float:
    losses = sorted(-np.log(true_probabilities(logits, target)), reverse=True)
    return float(np.mean(losses[: len(losses) // 3]))


def slow_weighted_hardest(logits: Tensor, target: Tensor) -> float:
    weights = [float(PIXEL_WEIGHT[place]) for place in labelled(target)]
    losses = -np.log(true_probabilities(logits, target))
    weighted = sorted((w * x for w, x in zip(weights, losses, strict=True)), reverse=True)
    return float(np.mean(weighted[: len(weighted) // 5]))


def slow_set(logits: Tensor, target: Tensor) -> float:
    p = softmax(logits)
    sums = [p[n, MEANING[target[n, y, x]].numpy(), y, x].sum() for n, y, x in labelled(target)]
    return float(-np.log(sums).mean())


def slow_dice(logits: Tensor, target: Tensor) -> float:
    p, dice = softmax(logits), []
    for k in range(p.shape[1]):
        both = [(p[n, k, y, x], float(target[n, y, x] == k)) for n, y, x in labelled(target)]
        if any(g for _, g in both):
            dice.append(2 * sum(a * g for a, g in both) / sum(a * a + g * g for a, g in both))
    return 1 - float(np.mean(dice))


def slow_dice_cross_entropy(logits: Tensor, target: Tensor) -> float:
    return slow_dice(logits, target) + slow_cross_entropy(logits, target)


def slow_focal(logits: Tensor, target: Tensor) -> float:
    p = true_probabilities(logits, target)
    return float(np.mean(-((1 - p) ** 2) * np.log(p)))


def slow_signed_distance(inside: NDArray[np.bool_], outside: NDArray[np.bool_]) -> Array:
    distance = np.zeros(inside.shape)
    if not inside.any() or not outside.any():
        return distance
    for mine, other, sign in ((inside, outside, -1), (outside, inside, 1)):
        for place in np.argwhere(mine):
            distance[tuple(place)] = sign * (np.sqrt(((np.argwhere(other) - place) ** 2).sum(1)).min() - 0.5)
    return distance


def slow_boundary(logits: Tensor, target: Tensor) -> float:
    p, labels, total = softmax(logits), target.numpy(), 0.0
    for n, k in np.ndindex(p.shape[:2]):
        total += (p[n, k] * slow_signed_distance(labels[n] == k, (labels[n] != k) & (labels[n] != IGNORE))).sum()
    return total / len(labelled(target))


def slow_hausdorff(logits: Tensor, target: Tensor) -> float:
    p, labels, total = softmax(logits), target.numpy(), 0.0
    for n, k in np.ndindex(p.shape[:2]):
        true, said, valid = labels[n] == k, p[n, k] > 0.5, labels[n] != IGNORE
        d_true = slow_signed_distance(true & valid, ~true & valid)
        d_said = slow_signed_distance(said & valid, ~said & valid)
        total += ((p[n, k] - true) ** 2 * (d_true**2 + d_said**2))[valid].sum()
    return total / len(labelled(target))


FORMULAS = {
    "ce": (cross_entropy, slow_cross_entropy),
    "weighted ce": (partial(cross_entropy, class_weight=CLASS_WEIGHT, pixel_weight=PIXEL_WEIGHT), slow_weighted),
    "ohem": (ohem_cross_entropy, slow_hardest),
    "weighted ohem": (partial(ohem_cross_entropy, share=0.2, pixel_weight=PIXEL_WEIGHT), slow_weighted_hardest),
    "set": (partial(set_cross_entropy, meaning=MEANING, share=1.0), slow_set),
    "focal": (focal_loss, slow_focal),
    "dice": (dice_loss, slow_dice),
    "dice+ce": (dice_cross_entropy, slow_dice_cross_entropy),
    "boundary": (boundary_loss, slow_boundary),
    "hausdorff": (hausdorff_loss, slow_hausdorff),
}
every = pytest.mark.parametrize("loss", [fast for fast, _ in FORMULAS.values()], ids=FORMULAS.keys())


@pytest.mark.parametrize("name", LOSSES)
def test_a_name_in_the_table_is_the_loss_of_that_formula(logits, target, name):
    assert float(LOSSES[name](logits, target).detach()) == pytest.approx(FORMULAS[name][1](logits, target), rel=1e-5)


@pytest.mark.parametrize(("fast", "slow"), FORMULAS.values(), ids=FORMULAS.keys())
def test_the_value_is_that_of_the_formula_written_as_loops(logits, target, fast, slow):
    assert float(fast(logits, target).detach()) == pytest.approx(slow(logits, target), rel=1e-5)


@every
def test_the_gradient_agrees_with_differences(logits, target, loss):
    assert torch.autograd.gradcheck(lambda z: loss(z, target), (logits,))


@every
def test_unlabelled_pixels_neither_matter_nor_learn(logits, target, loss):
    value = loss(logits, target)
    value.backward()
    other = torch.where((target == IGNORE).unsqueeze(1), 7 * logits.detach().flip(1), logits.detach())
    assert torch.equal(loss(other, target), value.detach())
    assert float(logits.grad[0, :, :2].abs().max()) == 0.0


@every
def test_a_batch_without_labels_costs_nothing(logits, loss):
    value = loss(logits, torch.full((2, 6, 5), IGNORE))
    value.backward()
    assert float(value.detach()) == 0.0
    assert float(logits.grad.abs().sum()) == 0.0


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_a_batch_without_pictures_costs_nothing(loss):
    logits = torch.zeros(0, 4, 6, 5, requires_grad=True)
    value = loss(logits, torch.zeros(0, 6, 5, dtype=torch.long))
    value.backward()
    assert float(value.detach()) == 0.0


@every
def test_float32_and_very_sure_logits_stay_finite(logits, target, loss):
    sure = (1e4 * logits.detach()).float().requires_grad_()
    value = loss(sure, target)
    value.backward()
    assert value.dtype == torch.float32
    assert bool(value.isfinite())
    assert bool(sure.grad.isfinite().all())


@every
def test_a_label_beyond_the_classes_is_an_error(logits, target, loss):
    target[1, 0, 0] = 4
    with pytest.raises((IndexError, RuntimeError)):
        loss(logits, target)


def sure_of(target: Tensor, classes: int, logit: float = 100.0) -> Tensor:
    """Logits of a network that says exactly this label map."""
    return torch.nn.functional.one_hot(target, classes).permute(0, 3, 1, 2) * logit


def test_cross_entropy_of_even_odds_is_log_2():
    assert float(cross_entropy(torch.zeros(1, 2, 3, 3), torch.ones(1, 3, 3).long())) == pytest.approx(np.log(2))


def test_focal_loss_without_focus_is_cross_entropy(logits, target):
    assert torch.allclose(focal_loss(logits, target, gamma=0.0), cross_entropy(logits, target))


def test_focal_loss_of_nine_tenths_is_a_hundredth_of_cross_entropy():
    logits = torch.tensor([0.9, 0.1]).log().reshape(1, 2, 1, 1)
    target = torch.zeros(1, 1, 1, dtype=torch.long)
    assert float(focal_loss(logits, target)) == pytest.approx(0.01 * -np.log(0.9), rel=1e-5)


def test_focal_loss_counts_a_class_by_its_weight(logits):
    target = torch.full((2, 6, 5), 3)
    assert torch.allclose(focal_loss(logits, target, class_weight=CLASS_WEIGHT), 4 * focal_loss(logits, target))


@pytest.mark.parametrize("loss", [dice_loss, dice_cross_entropy, hausdorff_loss])
def test_a_sure_and_right_prediction_costs_nothing(loss):
    target = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    assert float(loss(sure_of(target, 2), target)) == pytest.approx(0.0, abs=1e-6)


def test_dice_of_half_a_lane_found():
    target, said = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 0, 0]]])
    lane, rest = 2 * 1 / (1 + 2), 2 * 2 / (3 + 2)
    assert float(dice_loss(sure_of(said, 2), target)) == pytest.approx(1 - (lane + rest) / 2)


def test_dice_leaves_out_a_class_that_the_batch_lacks():
    target = torch.tensor([[[0, 1, 1, 0]]])
    assert float(dice_loss(sure_of(target, 5), target)) == pytest.approx(0.0, abs=1e-6)


def test_set_cross_entropy_with_exact_meaning_is_cross_entropy(logits, target):
    meaning = torch.eye(4, dtype=torch.bool)
    assert torch.allclose(set_cross_entropy(logits, target, meaning), ohem_cross_entropy(logits, target))


def test_signed_distance_of_a_line():
    inside = np.array([[False, False, True, True, True, False]])
    assert signed_distance(inside, ~inside).tolist() == [[1.5, 0.5, -0.5, -1.5, -0.5, 0.5]]


def test_ignored_pixels_border_nothing():
    labels = np.array([[1, 1, IGNORE, 0]])
    assert signed_distance(labels == 1, labels == 0).tolist() == [[-2.5, -1.5, 0, 1.5]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 1, IGNORE]), min_size=7, max_size=7), min_size=1, max_size=6))
def test_signed_distance_is_that_of_every_pair_of_pixels(rows):
    labels = np.array(rows)
    found = signed_distance(labels == 1, labels == 0)
    assert np.allclose(found, slow_signed_distance(labels == 1, labels == 0), atol=1e-5)


@pytest.mark.parametrize("loss", [boundary_loss, hausdorff_loss])
def test_a_far_error_costs_more_than_a_near_one(loss):
    target = torch.zeros(1, 1, 20, dtype=torch.long)
    target[..., :2] = 1
    near, far = target.clone(), target.clone()
    near[..., 2], far[..., 19] = 1, 1
    assert float(loss(sure_of(far, 2), target)) > float(loss(sure_of(near, 2), target))


def test_the_boundary_loss_of_a_right_line_is_minus_its_distances():
    target = torch.tensor([[[0, 0, 1, 1, 0]]])
    assert float(boundary_loss(sure_of(target, 2), target)) == pytest.approx(-(1.5 + 0.5 + 0.5 + 0.5 + 0.5) / 5)


def test_hausdorff_of_one_pixel_too_many():
    target, said = torch.tensor([[[1, 0, 0, 0]]]), torch.tensor([[[1, 1, 0, 0]]])
    assert float(hausdorff_loss(sure_of(said, 2), target)) == pytest.approx(2 * (0.5**2 + 0.5**2) / 4)


@pytest.mark.parametrize("loss", [boundary_loss, hausdorff_loss])
def test_a_picture_of_one_class_has_no_border(loss):
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    assert float(loss(logits, torch.zeros(1, 4, 4, dtype=torch.long)).detach()) == 0.0


@pytest.fixture
def instances() -> NDArray[np.uint16]:
    """Two things with a gap of two pixels between them, a third far away, and a crowd."""
    instances = np.zeros((20, 30), np.uint16)
    instances[2:8, 2:6] = 1
    instances[2:8, 8:12] = 2
    instances[18:, 28:] = 9
    instances[15:, :4] = UNKNOWN
    return instances


def test_border_weights_are_the_formula_written_as_loops(instances):
    expected = np.ones(instances.shape)
    for place in np.argwhere(instances == 0):
        nearest = sorted(np.sqrt(((np.argwhere(instances == n) - place) ** 2).sum(1)).min() for n in (1, 2, 9))
        expected[tuple(place)] += 10 * np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * 5**2))
    assert np.allclose(border_weights(instances), expected, atol=1e-5)


def test_the_gap_between_two_things_weighs_most(instances):
    weights = border_weights(instances)
    assert weights[4, 6] == pytest.approx(1 + 10 * np.exp(-((1 + 2) ** 2) / 50), rel=1e-5)
    assert weights.max() == weights[4, 6]


def test_one_thing_alone_has_no_gap():
    instances = np.zeros((10, 10), np.uint16)
    instances[2:4, 2:4] = 1
    assert (border_weights(instances) == 1).all()


def test_only_small_instances_weigh_more(instances):
    weights = small_instance_weights(instances, small=24)
    assert (weights[instances == 9] == 3).all()
    assert (weights[instances != 9] == 1).all()


def test_centre_loss_is_the_mean_square_over_known_cells():
    heat = torch.tensor([[[[1.0, 0.5, 9.0]]]])
    known = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    assert float(centre_loss(heat, torch.zeros(1, 1, 1, 3), known)) == pytest.approx((1 + 0.25) / 2)


def test_offset_loss_is_the_mean_distance_over_thing_cells():
    offset = torch.tensor([[[[3.0, 50.0]], [[-1.0, 50.0]]]])
    thing = torch.tensor([[[[1.0, 0.0]]]])
    assert float(offset_loss(offset, torch.zeros(1, 2, 1, 2), thing)) == pytest.approx((3 + 1) / 2)


def test_cells_count_as_much_as_they_are_said_to():
    offset = torch.tensor([[[[3.0, 5.0]], [[3.0, 5.0]]]])
    weight = torch.tensor([[[[0.3, 0.1]]]])
    assert float(offset_loss(offset, torch.zeros(1, 2, 1, 2), weight)) == pytest.approx(3.5)


@pytest.mark.parametrize(("loss", "channels"), [(centre_loss, 1), (offset_loss, 2)])
def test_instance_losses_agree_with_loops_and_differences(loss, channels):
    generator = torch.Generator().manual_seed(2)
    said = torch.randn(2, channels, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    truth = torch.randn(2, channels, 4, 5, generator=generator, dtype=torch.float64)
    mask = (torch.rand(2, 1, 4, 5, generator=generator) > 0.4).double()
    differences = [
        float((said - truth)[n, k, y, x].detach()) for n, k, y, x in np.ndindex(*said.shape) if mask[n, 0, y, x] > 0
    ]
    expected = np.mean(np.square(differences)) if loss is centre_loss else np.mean(np.abs(differences))
    assert float(loss(said, truth, mask).detach()) == pytest.approx(expected)
    assert torch.autograd.gradcheck(lambda x: loss(x, truth, mask), (said,))


@pytest.mark.parametrize(("loss", "channels"), [(centre_loss, 1), (offset_loss, 2)])
def test_pictures_without_things_cost_nothing(loss, channels):
    said = torch.randn(1, channels, 4, 4, requires_grad=True)
    value = loss(said, torch.zeros(1, channels, 4, 4), torch.zeros(1, 1, 4, 4))
    value.backward()
    assert float(value.detach()) == 0.0
    assert float(said.grad.abs().sum()) == 0.0


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", [*LOSSES, "set"])
def test_half_precision_logits_of_many_pixels_cost_what_they_do_in_double(name, dtype):
    """A sum over more than 65504 pixels is infinite in float16."""
    generator = torch.Generator().manual_seed(0)
    loss = LOSSES[name] if name in LOSSES else partial(set_cross_entropy, meaning=MEANING)
    logits = (3 * torch.randn(1, 4, 260, 260, generator=generator)).to(dtype).requires_grad_()
    target = torch.randint(0, 4, (1, 260, 260), generator=generator)
    value = loss(logits, target)
    value.backward()
    assert float(value.detach()) == pytest.approx(float(loss(logits.detach().double(), target)), rel=1e-4)
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("loss", "channels"), [(centre_loss, 1), (offset_loss, 2)])
def test_half_precision_instances_cost_what_they_do_in_double(loss, channels, dtype):
    generator = torch.Generator().manual_seed(0)
    said, truth = (20 * torch.randn(1, channels, 260, 260, generator=generator).to(dtype) for _ in range(2))
    everywhere = torch.ones(1, 1, 260, 260, dtype=dtype)
    wanted = loss(said.double(), truth.double(), everywhere.double())
    assert float(loss(said, truth, everywhere)) == pytest.approx(float(wanted), rel=1e-4)
