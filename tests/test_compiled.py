"""Things out of a lowered graph's map and table."""

from __future__ import annotations

import numpy as np
import pytest

from perception.errors import DeviceError
from perception.models.compiled import segments_of

MAP = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)


def table(*rows: tuple[float, float, float]) -> np.ndarray:
    """As a graph gives it: with room for more."""
    out = np.zeros((5, 3), np.float32)
    out[: len(rows)] = np.reshape(rows, (-1, 3))
    return out


def test_things_have_their_boxes() -> None:
    one, two = segments_of(MAP, table((3, 0.5, 2), (4, 0.25, 2)))
    assert (one.class_id, one.score, one.area_px, one.box_xyxy) == (3, 0.5, 2, (1, 0, 3, 1))
    assert (two.class_id, two.box_xyxy) == (4, (0, 1, 2, 2))
    assert segments_of(np.zeros_like(MAP), table()) == ()


@pytest.mark.parametrize("spoilt", [(np.nan, 0.5, 2), (3, np.nan, 2), (3, np.inf, 2)])
def test_a_table_that_is_no_number_is_a_failure_of_the_engine(spoilt: tuple[float, float, float]) -> None:
    with pytest.raises(DeviceError, match="no number"):
        segments_of(MAP, table(spoilt, (4, 0.25, 2)))


@pytest.mark.parametrize("rows", [[(3, 0.5, 2)], [(3, 0.5, 0), (4, 0.25, 2)]])
def test_a_table_of_other_things_than_the_map_shows_is_one_too(rows: list[tuple[float, float, float]]) -> None:
    with pytest.raises(DeviceError, match="its map shows 2 things, its table 1"):
        segments_of(MAP, table(*rows))
