from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perception.propagation import painting
from perception.propagation.carrier import CELL
from perception.propagation.publishing import ClassMap, Picture
from perception.propagation.tracks import LifeCycle, LiveTrack
from perception.types import VOID
from tests.fakes import MASKS, picture, view

FULL = (0, 0, *MASKS)
masks = arrays(np.bool_, (12, 20))
CELLS = (MASKS[1] // CELL, MASKS[0] // CELL)


def track(k: int, class_id: int = 2) -> LiveTrack:
    segment = view((class_id, 0, 0, 8, 8)).segments[0]
    return LiveTrack(k, segment, np.ones((8, 8), bool), 0, 0)


def test_cells_are_their_middles():
    cells = painting.cells_of(view((2, 32, 16, 64, 48)).id_map, [(32, 16, 64, 48)])
    assert cells.shape == CELLS
    assert (cells[4:12, 8:16] == 1).all()
    assert cells.sum() == 64


def test_a_thing_between_the_middles_gets_a_cell_unless_another_has_it():
    seen = view((2, 0, 0, 16, 16), (3, 4, 4, 6, 6), (2, 64, 32, 66, 34))
    cells = painting.cells_of(seen.id_map, [s.box_xyxy for s in seen.segments])
    assert np.bincount(cells.ravel(), minlength=4)[1:].tolist() == [16, 0, 1]


def test_a_thing_in_the_last_corner_has_a_cell():
    seen = view((2, 127, 63, 128, 64))
    assert painting.cells_of(seen.id_map, [seen.segments[0].box_xyxy])[-1, -1] == 1


@given(st.integers(0, 100), st.integers(0, 50), st.integers(2, 28), st.integers(2, 14))
def test_a_soft_mask_has_the_area_of_its_thing(x, y, w, h):
    box = (x, y, x + w, y + h)
    out = np.zeros(CELLS, np.float32)
    painting.soft_mask(view((2, *box)).id_map, 1, box, out)
    assert out.max() <= 1
    assert abs(out.sum() * CELL * CELL - w * h) <= 2 * (w + h) + 4  # every second pixel is asked
    assert not out[:, : x // CELL].any()
    assert not out[:, -(-(x + w) // CELL) :].any()


@given(st.integers(0, 24), st.integers(0, 10), st.integers(2, 8), st.integers(2, 6))
def test_what_is_kept_and_enlarged_is_what_it_was(x, y, w, h):
    box = (x * CELL, y * CELL, (x + w) * CELL, (y + h) * CELL)
    soft = np.zeros(CELLS, np.float32)
    painting.soft_mask(view((2, *box)).id_map, 1, box, soft)
    large, (x0, y0, x1, y1) = painting.enlarged(soft)
    assert large.shape == (y1 - y0, x1 - x0)
    shown = np.zeros(MASKS[::-1], bool)
    shown[y0:y1, x0:x1] = large > 0.5
    truth = view((2, *box)).id_map == 1
    assert (shown & truth).sum() / (shown | truth).sum() > 0.9


def test_specks_and_pinholes_go_and_thin_things_stay():
    mask = np.zeros((30, 40), bool)
    mask[5:20, 5:20] = True
    mask[10, 10] = False
    mask[25, 30] = True
    cleaned = painting.without_specks(mask)
    assert cleaned[5:20, 5:20].all()
    assert cleaned.sum() == 225
    alone = np.zeros((30, 40), bool)
    alone[3:5, 3:6] = True  # smaller than a speck, but all there is
    assert (painting.without_specks(alone) == alone).all()


@given(masks)
def test_without_specks_never_empties_a_mask_nor_changes_its_argument(mask):
    before = mask.copy()
    cleaned = painting.without_specks(mask)
    assert cleaned.any() == mask.any()
    assert (mask == before).all()


@given(masks, st.integers(0, 50), st.integers(0, 50))
def test_a_tight_crop_holds_every_pixel_where_it_was(mask, x, y):
    found = painting.tight(mask, (x, y, x + 20, y + 12))
    if found is None:
        assert not mask.any()
        return
    crop, (x0, y0, x1, y1) = found
    assert crop.shape == (y1 - y0, x1 - x0)
    for edge in (crop[0], crop[-1], crop[:, 0], crop[:, -1]):
        assert edge.any()
    again = np.zeros_like(mask)
    again[y0 - y : y1 - y, x0 - x : x1 - x] = crop
    assert (again == mask).all()


@given(masks, st.integers(-40, 140), st.integers(-30, 80))
def test_a_moved_mask_stays_in_the_picture(mask, x, y):
    found = painting.moved(mask, (x, y), MASKS)
    whole = np.zeros((200, 400), bool)
    whole[y + 60 : y + 72, x + 100 : x + 120] = mask
    truth = whole[60 : 60 + MASKS[1], 100 : 100 + MASKS[0]]
    shown = np.zeros(MASKS[::-1], bool)
    if found is not None:
        crop, (x0, y0, x1, y1) = found
        shown[y0:y1, x0:x1] = crop
    assert (shown == truth).all()


def test_a_union_has_the_class_of_its_largest_part():
    seen = view((2, 0, 0, 10, 10), (3, 10, 0, 40, 10))
    segment, mask = painting.union(seen, [0, 1])
    assert (segment.class_id, segment.area_px, segment.box_xyxy) == (3, 400, (0, 0, 40, 10))
    assert mask.shape == (10, 40)
    assert mask.all()


def test_unowned_detections_are_left_out_of_the_id_map():
    seen = view((2, 0, 0, 8, 8), (2, 16, 0, 24, 8), (2, 32, 0, 40, 8))
    assert np.unique(painting.renumbered(seen, {0: 2, 2: 1})).tolist() == [0, 1, 2]
    assert painting.renumbered(seen, {0: 2})[0, 0] == 2


def carried(x0: int, y0: int, x1: int, y1: int, value: float = 1.0) -> np.ndarray:
    mask = np.zeros(CELLS, np.float32)
    mask[y0 // CELL : y1 // CELL, x0 // CELL : x1 // CELL] = value
    return mask


def test_a_seen_thing_is_never_painted_over():
    seen = view((2, 32, 16, 64, 48))
    owner, other = track(1), track(2)
    paper = Picture(MASKS, {0: owner}, seen)
    found = paper.add_carried(other, carried(48, 16, 80, 48))
    assert found is not None
    assert found[1] == (64, 16, 80, 48)
    assert (paper.id_map == 1).sum() == 32 * 32
    assert paper.place(other) == 2


def test_what_is_wholly_covered_is_not_shown():
    seen = view((2, 32, 16, 64, 48))
    paper = Picture(MASKS, {0: track(1)}, seen)
    assert paper.add_carried(track(2), carried(40, 20, 56, 40)) is None
    assert paper.add_moved(track(3), (40, 20)) is None
    assert len(paper.tracks) == 1


def test_the_likelier_of_two_carried_masks_has_the_pixel():
    paper = Picture(MASKS, {}, None)
    paper.add_carried(track(1), carried(0, 0, 64, 32, 0.6))
    paper.add_carried(track(2), carried(32, 0, 96, 32, 0.9))
    assert paper.id_map[16, 48] == 2
    paper.add_carried(track(3), carried(32, 0, 96, 32, 0.8))
    assert paper.id_map[16, 48] == 2


def test_an_unlikely_mask_is_not_there():
    paper = Picture(MASKS, {}, None)
    assert paper.add_carried(track(1), carried(0, 0, 64, 32, 0.5)) is None


def test_a_mask_that_is_only_moved_leaves_no_carried_one_without_a_pixel():
    paper = Picture(MASKS, {}, None)
    paper.add_carried(track(1), carried(32, 16, 36, 20))
    paper.add_moved(track(2), (30, 14))
    assert set(np.unique(paper.id_map)) == {0, *range(1, len(paper.tracks) + 1)}


def test_a_mask_moved_out_of_the_picture_is_gone():
    paper = Picture(MASKS, {}, None)
    assert paper.add_moved(track(1), (-8, 0)) is None
    found = paper.add_moved(track(1), (124, 60))
    assert found is not None
    assert found[1] == (124, 60, 128, 64)


def test_the_class_map_keeps_the_last_stuff_where_the_network_did_not_look():
    classes = ClassMap(MASKS, 4, (2, 3), smooths=False)
    assert (classes.under(picture(0), None) == VOID).all()
    seen = view((1, 0, 0, 128, 64), (2, 32, 16, 64, 48))
    labels = classes.under(picture(1), seen)
    assert (labels == seen.labels).all()
    later = classes.under(picture(2), None)
    assert (later[seen.labels == 1] == 1).all()
    assert (later[seen.labels == 2] == VOID).all()
    classes.reset()
    assert (classes.under(picture(3), None) == VOID).all()


def test_a_carried_thing_is_painted_with_its_class_and_one_of_no_class_is_not():
    classes = ClassMap(MASKS, 4, (2, 3), smooths=False)
    paper = Picture(MASKS, {}, None)
    life = LifeCycle()
    for k, (x, class_id) in enumerate(((0, 2), (64, VOID)), 1):
        new = track(k, class_id)
        life.tracks.append(new)
        paper.add_carried(new, carried(x, 0, x + 32, 32))
    labels, id_map = paper.compose(classes, picture(0), view((1, 0, 0, 128, 64)))
    assert set(labels[id_map == 1]) == {2}
    assert set(labels[id_map == 2]) == {1}
