"""Temporal smoothing of the class map, along the motion of the image.

Three cues decide whether a pixel keeps its class against the network's word:

- Evidence. Per cell of about 4 px, a moving average of each class's probability is carried along optical flow (DIS:
  Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search") and dropped where the carried image does not
  fit, as Gadde et al. (2017, "Semantic Video CNNs through Representation Warping") and Nilsson and Sminchisescu (2018,
  "Semantic Video Segmentation by Gated Recurrent Flow Propagation") do with features and logits. A pixel takes the
  class carried to it where that has more evidence than what the network says. An edge moves with the image.
- Stillness. A pixel that looks as it did, of which the network is not sure and to which no motion brings another
  class, keeps its class for a limited time: an edge that passes changes what the pixel looks like.
- Width. Poles and lane markings are a few pixels wide and gone in a frame: they are put where the network says.
  Which classes are thin is read off the maps (a morphological opening), not configured.

Things are never touched: neither their pixels nor pixels that they have just left.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.opencv import cv2
from perception.types import VOID, Frame, Panoptic

# Chosen on CamVid val: the numbers by its first half, the kind of cues by all of it.
CELLS = 160  # across the map: 4 px at 640
NEW = 0.4  # weight of the newest frame in the evidence
MISFIT = 20.0  # grey levels by which the carried image may differ from what is there
STILL = 2.75  # what a pixel must say for its new class: see _still_pixels
SURENESS = 0.8  # weight of the log-odds of the new class in it
MOVED = 1.0  # weight of the new class having come by motion
HOLD_MS = 200  # longest that a pixel keeps a class against the network's word
THIN_SHARE = 0.75  # of a class's cells that a 3 x 3 opening leaves
CUT_SHARE = 0.5  # of cells whose carried image does not fit: another scene
LONGEST_STEP_NS = 500_000_000  # a longer gap between two frames begins anew
LEAST_CELLS = 16  # in height and width; with fewer there is no flow

_LOG_DIFFERENCE = np.log1p(2 * np.arange(256, dtype=np.float32))  # by grey levels
_SQUARE = np.ones((3, 3), np.uint8)
_ONE_MAP: Any = None  # `remap` wants no second map beside one of both coordinates; its stub does not know


class _Motion(NamedTuple):
    """From this frame's cells to the last frame's; (h', w') cells."""

    flow: NDArray[np.float32]  # (h', w', 2) [cells]
    source: tuple[
        NDArray[np.int16], NDArray[np.uint16]
    ]  # where in the last frame, within it, as cv2.convertMaps says it
    fits: NDArray[np.bool_]  # (h', w') what is carried looks like what is there


class _Where(NamedTuple):
    """Between which four cells pixels lie; (n,) each."""

    first: NDArray[np.int32]  # the upper left one's place in a plane of four classes
    down: NDArray[np.float32]  # how far towards the lower ones, 0..1
    right: NDArray[np.float32]


class StuffSmoother:
    """Smooths the class map of one camera; deterministic, and its state does not grow.

    A frame unlike the last (more than `CUT_SHARE` of the image does not fit what motion carries there), a gap in
    time, a stamp that goes back and a map of another size begin anew: the network's map as it is.

    Args:
        mask_size: width, height of the maps [px], for frames before the network has looked at one.
        classes: number of the model's classes.
        things: class indices that are countable, and left alone.
    """

    def __init__(self, mask_size: tuple[int, int], classes: int, things: Collection[int]) -> None:
        self._blank = np.full(mask_size[::-1], VOID, np.uint8)
        self._classes = classes
        self._untouched = np.ones(256, bool)  # by class index: things, VOID and what is no class
        self._untouched[:classes] = False
        self._untouched[list(things)] = True
        self._flow = _dense_inverse_search()
        self._size_up(self._blank.shape)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._labels: NDArray[np.uint8] | None = None
        self._stamp_ns = 0

    def step(self, frame: Frame, seen: Panoptic | None) -> NDArray[np.uint8]:
        """The smoothed class map of this frame, the caller's own.

        Where the network did not look (`seen` is None), the last map is carried along the motion; VOID before it
        ever looked. `seen` is not changed; without `confidence` it counts as sure.
        """
        if seen is not None and seen.labels.shape != self._shape:
            self._size_up(seen.labels.shape)
            self.reset()
        full = _grey(frame.image, self._shape)
        cells = cv2.resize(full, self._cells[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        look = np.asarray(cv2.blur(full, (3, 3)), np.uint8)
        motion = self._motion(cells, frame.stamp_ns - self._stamp_ns)
        if motion is None:
            self._labels = None
        if seen is None:
            labels = self._carried_on(motion)
        else:
            labels = self._begun(seen) if motion is None else self._smoothed(seen, motion, look, frame.stamp_ns)
            self._labels = labels
        self._grey_cells, self._look, self._stamp_ns = cells, look, frame.stamp_ns
        return labels.copy()

    def _size_up(self, shape: tuple[int, ...]) -> None:
        """Everything that follows from the size of the map."""
        h, w = shape
        self._shape = (h, w)
        self._step = max(1, round(w / CELLS))
        self._cells = (-(-h // self._step), -(-w // self._step))
        self._grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).astype(np.int16)
        rows, columns = np.indices(self._cells, np.float32)
        self._cell_grid = np.stack([columns, rows], -1)
        count = self._cells[0] * self._cells[1]
        classes = np.arange(256, dtype=np.int32)
        self._first = classes // 4 * (4 * count) + classes % 4  # of each class in planes of four
        self._places = 4 * np.arange(count, dtype=np.int32)
        self._held_ms = np.zeros(shape, np.uint16)  # since when a pixel keeps its class against the network's word
        self._evidence = np.zeros((-(-self._classes // 4), *self._cells, 4), np.uint8)  # as `_said` makes it
        self._grey_cells, self._look = np.zeros(self._cells, np.uint8), np.zeros(shape, np.uint8)  # of the last frame

    def _motion(self, cells: NDArray[np.uint8], step_ns: int) -> _Motion | None:
        """None where this frame has nothing to do with the last one, or there is none."""
        if self._labels is None or not 0 <= step_ns <= LONGEST_STEP_NS:
            return None
        last, height, width = self._grey_cells, *self._cells
        if min(height, width) < LEAST_CELLS or np.array_equal(cells, last):
            flow = np.zeros((height, width, 2), np.float32)
        else:
            flow = np.asarray(self._flow.calc(cells, last, None), np.float32)  # type: ignore[call-overload]
        source = self._cell_grid + flow
        source[..., 0].clip(0, width - 1, out=source[..., 0])
        source[..., 1].clip(0, height - 1, out=source[..., 1])
        place = cv2.convertMaps(source, None, cv2.CV_16SC2)  # type: ignore[call-overload]
        misfit = cv2.absdiff(_taken(last, place), cells)
        if (misfit >= MISFIT).mean() > CUT_SHARE:
            return None
        return _Motion(flow, place, np.asarray(cv2.blur(misfit, (3, 3))) < MISFIT)  # type: ignore[arg-type]

    def _carried_on(self, motion: _Motion | None) -> NDArray[np.uint8]:
        """The last map where it has moved to; the next frame that the network sees goes on from there."""
        if motion is None or self._labels is None:
            return np.full(self._shape, VOID, np.uint8)
        self._labels = cv2.remap(
            self._labels, self._sources(motion), _ONE_MAP, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.uint8, copy=False)
        for plane in self._evidence:
            plane[...] = _taken(plane, motion.source)
        self._held_ms.fill(0)
        return self._labels  # type: ignore[return-value]

    def _begun(self, seen: Panoptic) -> NDArray[np.uint8]:
        self._evidence = self._said(seen)
        self._held_ms.fill(0)
        return seen.labels.copy()

    def _smoothed(self, seen: Panoptic, motion: _Motion, look: NDArray[np.uint8], stamp_ns: int) -> NDArray[np.uint8]:
        last = self._labels
        assert last is not None
        self._gather(self._said(seen), motion)
        carried = cv2.remap(
            last, self._sources(motion), _ONE_MAP, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=VOID
        ).astype(np.uint8, copy=False)
        kept = self._untouched | self._thin(seen.labels)
        labels = seen.labels.copy()
        self._follow_motion(labels, carried, kept)
        at = self._still_pixels(labels, seen.labels, last, carried, look, kept)
        self._hold(labels, last, at, (stamp_ns - self._stamp_ns) // 1_000_000)
        return labels

    def _said(self, seen: Panoptic) -> NDArray[np.uint8]:
        """(planes, h', w', 4) the network's probability of the winning class of each cell, times 255; 0 of others."""
        height, width = self._cells
        winner = seen.labels[:: self._step, :: self._step].ravel()
        sure = np.full(self._cells, 255, np.uint8) if seen.confidence is None else seen.confidence
        if sure.shape != self._cells:
            sure = cv2.resize(sure, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8, copy=False)
        said = np.zeros((-(-self._classes // 4), height, width, 4), np.uint8)
        known = winner < self._classes
        said.reshape(-1)[self._first[winner[known]] + self._places[known]] = sure.ravel()[known]
        return said

    def _gather(self, said: NDArray[np.uint8], motion: _Motion) -> None:
        """The moving average along the motion: e <- (1 - NEW) e(carried) + NEW p, or p where nothing fits."""
        old = motion.fits * np.float32(1 - NEW)
        for plane, new in zip(self._evidence, said, strict=True):
            plane[...] = cv2.blendLinear(_taken(plane, motion.source), new, old, 1 - old)

    def _sources(self, motion: _Motion) -> NDArray[np.int16]:
        """(h, w, 2) x, y of the last map for each pixel of this one [px]."""
        moves = np.rint(motion.flow * self._step).astype(np.int16)
        height, width = self._shape
        whole = (self._cells[1] * self._step, self._cells[0] * self._step)
        large = cv2.resize(moves, whole, interpolation=cv2.INTER_LINEAR)[:height, :width]
        return cv2.add(large, self._grid)  # type: ignore[return-value]

    def _thin(self, labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(256,) classes that are a few pixels wide wherever they are in this map."""
        cells = np.ascontiguousarray(labels[:: self._step, :: self._step])
        is_inner = (cv2.erode(cells, _SQUARE) == cv2.dilate(cells, _SQUARE)).astype(np.uint8)
        opened = np.bincount(cells.ravel(), cv2.dilate(is_inner, _SQUARE).ravel(), 256)
        return opened < THIN_SHARE * np.bincount(cells.ravel(), minlength=256)

    def _follow_motion(self, labels: NDArray[np.uint8], carried: NDArray[np.uint8], kept: NDArray[np.bool_]) -> None:
        """Pixels whose carried class has more evidence than the network's take it on, in place."""
        at = np.flatnonzero(carried != labels)
        new, old = labels.ravel()[at], carried.ravel()[at]
        changes = ~(kept[new] | self._untouched[old])
        at, new, old = at[changes], new[changes], old[changes]
        where = self._where(at)
        gain = self._at(self._evidence, where, old) - self._at(self._evidence, where, new)
        takes = gain > 0
        labels.reshape(-1)[at[takes]] = old[takes]

    def _still_pixels(
        self,
        labels: NDArray[np.uint8],
        seen: NDArray[np.uint8],
        last: NDArray[np.uint8],
        carried: NDArray[np.uint8],
        look: NDArray[np.uint8],
        kept: NDArray[np.bool_],
    ) -> NDArray[np.intp]:
        """Places of pixels that changed their class without having changed."""
        at = np.flatnonzero(labels != last)
        new, old = labels.ravel()[at], last.ravel()[at]
        changes = ~(kept[new] | kept[seen.ravel()[at]] | self._untouched[old])
        changes &= self._held_ms.ravel()[at] < HOLD_MS
        at, new = at[changes], new[changes]
        differs = np.abs(np.subtract(look.ravel()[at], self._look.ravel()[at], dtype=np.int16))
        odds = np.clip(self._at(self._evidence, self._where(at), new) / 255, 0.002, 0.998)
        surprise = _LOG_DIFFERENCE[differs] + SURENESS * np.log(odds / (1 - odds))
        return at[surprise + MOVED * (carried.ravel()[at] == new) < STILL]

    def _hold(self, labels: NDArray[np.uint8], last: NDArray[np.uint8], at: NDArray[np.intp], step_ms: int) -> None:
        labels.reshape(-1)[at] = last.ravel()[at]
        held = self._held_ms.ravel()[at] + np.uint16(step_ms)
        self._held_ms.fill(0)
        self._held_ms.reshape(-1)[at] = held

    def _where(self, at: NDArray[np.intp]) -> _Where:
        """Pixels as places among the cells, whose values lie half a pixel right of and below their first pixel."""
        y, x = np.divmod(at.astype(np.int32), np.int32(self._shape[1]))
        rows, columns = (np.maximum(v.astype(np.float32) - 0.5, 0) / self._step for v in (y, x))
        top = np.minimum(rows.astype(np.int32), self._cells[0] - 2)
        left = np.minimum(columns.astype(np.int32), self._cells[1] - 2)
        return _Where(4 * (top * self._cells[1] + left), np.minimum(rows - top, 1), np.minimum(columns - left, 1))

    def _at(self, planes: NDArray[np.uint8], where: _Where, classes: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n,) what the planes say of one class each at n places, bilinearly."""
        values, row = planes.reshape(-1), 4 * self._cells[1]
        first = self._first[classes] + where.first
        above = values[first] * (1 - where.right) + values[first + 4] * where.right
        below = values[first + row] * (1 - where.right) + values[first + row + 4] * where.right
        return (above * (1 - where.down) + below * where.down).astype(np.float32, copy=False)


def _taken(plane: NDArray[np.uint8], source: tuple[NDArray[np.int16], NDArray[np.uint16]]) -> NDArray[np.uint8]:
    return np.asarray(cv2.remap(plane, *source, cv2.INTER_LINEAR), np.uint8)


def _grey(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) RGB of any size -> (h', w') grey."""
    if image.shape[:2] != shape:
        image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _dense_inverse_search() -> cv2.DISOpticalFlow:
    """At the cells' own resolution, with few steps and without refinement: 0.6 ms for 160 x 88 cells."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow.setFinestScale(0)
    flow.setPatchSize(8)
    flow.setPatchStride(6)
    flow.setGradientDescentIterations(8)
    return flow
