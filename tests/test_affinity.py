"""Textured squares over textured ground, all of it synthetic features."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.propagation.affinity import AffinityCarrier
from perception.propagation.carrier import Carried, Kept
from perception.types import Features

H, W = 24, 40  # [cells of 1/8]
SIDE = 4  # [cells of 1/8] of a square
PERIOD_NS = 40_000_000
HELD = 0.75  # IoU of a mask that sits on its square; the keys are coarser than the squares
Place = tuple[int, int]  # row, column [cells of 1/8]


@pytest.fixture
def carrier() -> AffinityCarrier:
    return AffinityCarrier(slots=4)


def texture(seed: int, rows: int, columns: int, channels: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((channels, rows, columns), np.float32)


def view(*squares: tuple[int, Place]) -> Features:
    """Squares (seed of the texture, place) painted over one another on ground that stays; cut off at the edges."""
    fine8 = texture(0, H, W)
    for seed, (top, left) in squares:
        fine8[:, top : top + SIDE, left : left + SIDE] = texture(seed, SIDE, SIDE)[:, : H - top, : W - left]
    keys = fine8.reshape(-1, H // 2, 2, W // 2, 2).mean((2, 4))
    return Features(keys, keys, fine8, fine8.repeat(2, 1).repeat(2, 2))


def mask_at(place: Place) -> NDArray[np.float32]:
    mask = np.zeros((2 * H, 2 * W), np.float32)
    top, left = place
    mask[2 * top : 2 * (top + SIDE), 2 * left : 2 * (left + SIDE)] = 1
    return mask


def iou(mask: NDArray[np.float32], place: Place) -> float:
    found, truth = mask > 0.5, mask_at(place) > 0
    return float((found & truth).sum() / (found | truth).sum())


def keep(carrier: AffinityCarrier, carried: Carried, *slots: int, stamp_ns: int = 0, is_key: bool = False) -> None:
    active = np.isin(np.arange(carrier.slots), slots)
    masks = carried.masks * active[:, None, None]
    nothing, seen_ns = np.zeros(carrier.slots, np.float32), np.full(carrier.slots, stamp_ns, np.int64)
    carrier.keep(Kept(masks, active, nothing, seen_ns, True, is_key))


def follow(carrier: AffinityCarrier, views: Iterable[Features], *slots: int) -> Carried:
    """What is carried into the last view; every frame is kept as it was carried."""
    carried = None
    for i, features in enumerate(views, 1):
        carried = carrier.carry(features, i * PERIOD_NS)
        keep(carrier, carried, *slots)
    assert carried is not None
    return carried


def begin(carrier: AffinityCarrier, features: Features, *places: Place) -> None:
    """Slot k pinned at the k-th place in the first frame."""
    keep(carrier, carrier.carry(features, 0))
    for slot, place in enumerate(places):
        carrier.pin(slot, mask_at(place), 0)


def test_a_moving_square_is_carried(carrier):
    places = [(6, 4 + 2 * i) for i in range(12)]
    begin(carrier, view((1, places[0])), places[0])
    carried = follow(carrier, [view((1, place)) for place in places[1:]], 0)
    assert iou(carried.masks[0], places[-1]) > HELD


def test_masks_are_probabilities_that_leave_the_background_its_share(carrier):
    begin(carrier, view((1, (6, 6)), (2, (6, 10))), (6, 6), (6, 10))
    masks = carrier.carry(view((1, (7, 7)), (2, (7, 11))), PERIOD_NS).masks
    assert masks.min() >= 0
    assert masks.sum(0).max() <= 1 + 1e-5


def test_before_anything_is_kept_there_is_nothing(carrier):
    carried = carrier.carry(view(), 0)
    assert carried.masks.shape == (4, 2 * H, 2 * W)
    assert not carried.masks.any()
    assert not carried.presence.any()


def test_a_forgotten_slot_carries_nothing(carrier):
    begin(carrier, view((1, (6, 6))), (6, 6))
    carrier.forget(0)
    assert not carrier.carry(view((1, (6, 6))), PERIOD_NS).masks.any()


def test_a_slot_taken_again_does_not_inherit_its_past(carrier):
    both = view((1, (6, 6)), (2, (6, 12)))
    begin(carrier, both, (6, 6))
    carrier.forget(0)
    carrier.pin(0, mask_at((6, 12)), 0)
    carried = carrier.carry(both, PERIOD_NS)
    assert iou(carried.masks[0], (6, 12)) > HELD


def test_what_is_followed_no_more_is_carried_no_more(carrier):
    """Else its cost stays until its slot goes to another."""
    features = view((1, (6, 6)))
    begin(carrier, features, (6, 6))
    keep(carrier, follow(carrier, [features] * 2, 0))
    assert not carrier.carry(features, 3 * PERIOD_NS).masks.any()


def test_a_later_key_frame_does_not_replace_a_pinned_one(carrier):
    begin(carrier, view((1, (6, 6))), (6, 6))
    for i in range(1, 10):  # long enough for every other frame to be forgotten; the masks kept are wrong
        carried = carrier.carry(view((1, (6, 6))), i * PERIOD_NS)
        carried.masks[0] = mask_at((6, 8))
        keep(carrier, carried, 0, is_key=True)
    assert iou(carrier.carry(view((1, (6, 6))), 10 * PERIOD_NS).masks[0], (6, 6)) > 0.5


def test_a_key_frame_replaces_the_one_before(carrier):
    keep(carrier, carrier.carry(view((1, (6, 6))), 0))
    for i, place in enumerate([(6, 6), (6, 12)] * 5):
        carried = carrier.carry(view((1, place)), i * PERIOD_NS)
        carried.masks[0] = mask_at(place)
        keep(carrier, carried, 0, is_key=True)
    assert iou(carrier.carry(view((1, (6, 12))), 10 * PERIOD_NS).masks[0], (6, 12)) > HELD


def test_a_prompt_in_the_middle_is_not_outvoted_by_the_frames_before_it(carrier):
    features = view((1, (6, 6)), (2, (12, 20)))
    begin(carrier, features, (6, 6))
    follow(carrier, [features] * 5, 0)
    carrier.pin(1, mask_at((12, 20)), 5 * PERIOD_NS)
    masks = carrier.carry(features, 6 * PERIOD_NS).masks
    assert iou(masks[1], (12, 20)) > HELD
    assert iou(masks[0], (6, 6)) > HELD


def test_two_things_that_pass_each_other_do_not_swap(carrier):
    places = [((6, 4 + i), (8, 20 - i)) for i in range(16)]
    begin(carrier, view((1, places[0][0]), (2, places[0][1])), *places[0])
    carried = follow(carrier, [view((1, one), (2, other)) for one, other in places[1:]], 0, 1)
    assert iou(carried.masks[1], places[-1][1]) > HELD
    assert iou(carried.masks[0], places[-1][0]) > HELD


def test_a_hidden_thing_is_found_again_where_it_was(carrier):
    begin(carrier, view((1, (6, 6))), (6, 6))
    carried = follow(carrier, [view()] * 7, 0)
    assert carried.presence[0] < 0.5
    assert iou(carrier.carry(view((1, (7, 8))), 8 * PERIOD_NS).masks[0], (7, 8)) > HELD


def test_the_expected_iou_falls_with_the_time_unseen(carrier):
    features = view((1, (6, 6)))
    begin(carrier, features, (6, 6))
    qualities = []
    for i in range(1, 8):
        carried = carrier.carry(features, i * 1_000_000_000)
        keep(carrier, carried, 0, stamp_ns=0)
        qualities.append(float(carried.quality[0]))
    assert qualities == sorted(qualities, reverse=True)
    assert qualities[-1] < qualities[0]


def test_the_same_frames_give_the_same_masks():
    told = []
    for _ in range(2):
        carrier = AffinityCarrier(slots=4)
        begin(carrier, view((1, (6, 6))), (6, 6))
        told.append(carrier.carry(view((1, (7, 8))), PERIOD_NS).masks)
    np.testing.assert_array_equal(*told)


def test_reset_forgets_everything(carrier):
    begin(carrier, view((1, (6, 6))), (6, 6))
    carrier.reset()
    assert not carrier.carry(view((1, (6, 6))), PERIOD_NS).masks.any()


def test_a_thing_at_the_edge_is_carried_out_of_the_picture(carrier):
    begin(carrier, view((1, (H - SIDE, W - SIDE))), (H - SIDE, W - SIDE))
    carried = carrier.carry(view((1, (H - SIDE + 2, W - SIDE))), PERIOD_NS)
    assert iou(carried.masks[0], (H - SIDE + 2, W - SIDE)) > HELD


def test_memory_stays_bounded_over_many_things(carrier):
    def run(frames: range) -> int:
        for i in frames:
            place = (6, 2 + i % 30)
            features = view((1 + i % 7, place))
            if i % 5 == 0:
                carrier.forget(i // 5 % 4)
                carried = carrier.carry(features, i * PERIOD_NS)
                keep(carrier, carried)
                carrier.pin(i // 5 % 4, mask_at(place), i * PERIOD_NS)
            else:
                keep(carrier, carrier.carry(features, i * PERIOD_NS), 0, 1, 2, 3, is_key=True)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = run(range(25))
        after = run(range(25, 85))
    finally:
        tracemalloc.stop()
    assert after < before * 1.2
