"""Whether what an engine says of a picture can be at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from perception.errors import DeviceError
from perception.propagation.flaws import flaw
from perception.types import Features, Panoptic, Segment

NEAR_AREA = 0.02  # share by which a count may be off that was rounded on its way


def require_numbers(features: Features | None, segments: Sequence[Segment] = ()) -> None:
    """What is looked at in every frame: scores, and those features that are here and say most, which takes 0.03 ms.

    Raises:
        DeviceError: they hold what is no number. Of features that stay on a device the propagator tells.
    """
    if features and isinstance(features.keys, np.ndarray) and flaw({"keys": features.keys}):
        raise DeviceError("its features hold what is no number")
    if not math.isfinite(sum(segment.score for segment in segments)):
        raise DeviceError("its scores hold what is no number")


def inconsistency(seen: Panoptic, classes: int) -> str:
    """Why the segments can't be those of the id map, or are no numbers; "" where they can.

    Args:
        classes: how many the model has.
    """
    count, highest = len(seen.segments), int(seen.id_map.max(initial=0))
    if highest > count:
        return f"its id map tells of {highest} things, its list of {count}"
    if seen.looks is not None and (len(seen.looks) != count or not np.isfinite(seen.looks).all()):
        return f"looks of {len(seen.looks)} things, of {count}, or no numbers"
    areas = np.bincount(seen.id_map.ravel(), minlength=count + 1)[1:]
    places = ndimage.find_objects(seen.id_map.astype(np.int32), count)
    for k, (segment, place, area) in enumerate(zip(seen.segments, places, areas.tolist(), strict=True), 1):
        if not (math.isfinite(segment.score) and 0 <= segment.score <= 1 and 0 <= segment.class_id < classes):
            return f"thing {k} has score {segment.score:g} and class {segment.class_id}"
        if place is None or abs(segment.area_px - area) > max(1.0, NEAR_AREA * area):
            return f"thing {k} has {segment.area_px} px, in its id map {area}"
        rows, columns = place
        box = (columns.start, rows.start, columns.stop, rows.stop)
        if segment.box_xyxy != box:
            return f"thing {k} has the box {segment.box_xyxy}, in its id map {box}"
    return ""
