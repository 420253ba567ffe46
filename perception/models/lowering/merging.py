"""`models.merging` as a graph: a class map and instances on a coarser grid to segments of the class map's size.

The steps and their names are those of `models.merging`; a test holds the two together. What is static here and open
there: at most REGIONS connected regions of things without a centre, each as far as `first_of_region` reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.errors import ModelError
from perception.models.card import Card
from perception.models.grouping import MOST, REFERENCE_AREA
from perception.models.lowering.arrays import FLOAT, Tensor
from perception.models.lowering.centres import assign, find_centres, first_of_region
from perception.models.small_stuff import ROUNDS
from perception.types import VOID

REGIONS = 56  # without a centre, in one image, of all classes; 22 were the most on 215 frames of two kinds
REGION_ROUNDS = 8  # 7 were the most that a region took there
LARGEST = 1 << 28  # elements of what each cell is compared with; 1 GiB


@dataclass(frozen=True)
class Grid:
    """What the steps share. C thing classes, P = h * w cells, M = K + REGIONS instance numbers."""

    things: list[int]  # C class indices
    least: list[float]  # C least sizes of a thing [px]
    size: tuple[int, int]  # H, W of the class map
    shape: tuple[int, int]  # h, w
    most: int  # K

    @property
    def step(self) -> int:
        """Size of a cell [px of the class map]."""
        return self.size[0] // self.shape[0]

    @property
    def cells(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def numbers(self) -> int:
        return self.most + REGIONS


@dataclass(frozen=True)
class Seen:
    """What the network says of one image."""

    labels: Tensor  # (1, 1, H, W) class indices
    heat: Tensor  # (1, 1, h, w)
    offset: Tensor  # (1, 2, h, w) [px of the input]
    confidence: Tensor | None  # (1, 1, h, w) 0..1


@dataclass(frozen=True)
class Grouped:
    """What a lowered graph gives of a panoptic network."""

    labels: Tensor  # (1, 1, H, W)
    instances: Tensor  # (1, 1, H, W) 0 = no thing, k = row k - 1 of `segments`
    segments: Tensor  # (1, MOST, 3) class index, score and area [px]; area 0 where there is none


def grid_of(card: Card, size: tuple[int, int], shape: tuple[int, int]) -> Grid:
    """Raises ModelError where a grid and the things of a card are more than a graph should compare at once."""
    things = sorted(card.class_table().thing_ids)
    scale = size[0] * size[1] / REFERENCE_AREA
    least = [max(1.0, card.classes[i].min_area * scale) for i in things]
    grid = Grid(things, least, size, shape, min(card.grouping.most, shape[0] * shape[1]))
    if len(things) * grid.numbers * grid.cells > LARGEST:
        raise ModelError(
            f"{len(things)} classes of things and {grid.most} centres on {shape[1]}x{shape[0]} cells are too many to "
            "group in the graph; lower grouping.most, or use onnxruntime or openvino"
        )
    return grid


def grouped(seen: Seen, card: Card, grid: Grid) -> Grouped:
    """As `models.panoptic.group_by_centres`."""
    writer, unit = seen.labels.writer, card.input.width / grid.shape[1]
    labels = _without_small_stuff(seen.labels, card, grid)
    if not grid.things:
        return Grouped(labels, labels * 0.0, writer.constant(np.zeros((1, MOST, 3), np.float32)))
    mask = labels.equals(_by_class(grid)).cast(FLOAT)  # (1, C, H, W)
    pixels = (mask.cell_mean(grid.step) * float(grid.step**2)).rounded()  # (1, C, h, w)
    centres = find_centres(seen.heat, grid.shape, unit, card.grouping)
    nearest, stray = assign(centres, seen.offset, grid.shape, unit)
    number, one_hot = _instances_of(mask, pixels, nearest, grid)
    parts = _parts(one_hot, pixels, seen.confidence, stray * card.grouping.vote_weight(grid.step / unit), grid)
    order, area = _ordered(parts, grid)
    segment = _segment_of_part(order, area, parts, grid)
    instances, labels = _painted(labels, mask, number, segment, parts.owner, grid)
    hot = writer.op("Concat", centres.heat, np.full((1, REGIONS), card.grouping.threshold, np.float32), axis=1)
    hot, power = _in_unit(hot), card.grouping.heat_power
    hot = hot if power == 1 else writer.op("Pow", hot, np.float32(power))
    return Grouped(labels, instances, _segments(order, area, parts, segment, hot, grid))


def _by_class(grid: Grid) -> np.ndarray:
    return np.array(grid.things, np.float32).reshape(1, -1, 1, 1)


def _in_unit(value: Tensor) -> Tensor:
    return value.writer.op("Clip", value, np.float32(0), np.float32(1))


def _without_small_stuff(labels: Tensor, card: Card, grid: Grid) -> Tensor:
    """As `models.small_stuff.settle_small_stuff`."""
    stuff, kept = [i for i in range(len(card.classes)) if i not in grid.things], card.kept_stuff()
    least = round(card.grouping.stuff_area * grid.size[0] * grid.size[1] / REFERENCE_AREA)
    may_go = np.array([[i not in kept] for i in stuff], np.float32).reshape(1, -1, 1, 1)
    if not least or not may_go.any():
        return labels
    mask = labels.equals(np.array(stuff, np.float32).reshape(1, -1, 1, 1)).cast(FLOAT)
    is_small = (~(mask.sum(2).sum(3) >= float(least))).cast(FLOAT) * may_go
    goes = (mask * is_small).sum(1)  # (1, 1, H, W)
    writer = labels.writer
    if card.grouping.small_stuff == "void":
        return writer.where(goes > 0.5, float(VOID), labels)
    beside = writer.where(mask.sum(1) - goes > 0.5, labels + 1.0, 0.0)
    for _ in range(ROUNDS):
        beside = writer.where((goes > 0.5) & (~(beside > 0.5)), beside.neighbours_max(3), beside)
    return writer.where((goes > 0.5) & (beside > 0.5), beside - 1.0, labels)


def _instances_of(mask: Tensor, pixels: Tensor, nearest: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """(1, C, h, w) number of the instance of each cell's pixels of each class, and (C, M, P) whether it is k.

    What is connected and near no centre has one of the numbers above K.
    """
    writer, count, half = mask.writer, len(grid.things), grid.step // 2
    has = pixels > 0.5
    own = writer.where(has, nearest, 0.0)
    is_core = mask.slices([half, half], [1 << 30, 1 << 30], [2, 3], [grid.step, grid.step]) > 0.5
    core = writer.where(is_core, own, 0.0)
    around = writer.where(has, core.neighbours_max(3), 0.0)
    number = writer.where(core > 0.5, core, writer.where(around > 0.5, around, own))
    first, place = first_of_region(has & (number <= 0.5), (count, *grid.shape), 1, REGION_ROUNDS)
    roots = writer.where(first.equals(place), first, 0.0).reshape(1, -1)
    slots = writer.ints([min(REGIONS, count * grid.cells)])
    regions, _ = writer.ops("TopK", 2, roots, slots, axis=1, largest=1, sorted=1)
    regions = writer.where(regions > 0.5, regions, -1.0).reshape(1, -1, 1)
    in_region = first.reshape(count, 1, grid.cells).equals(regions)  # (C, REGIONS, P)
    above = np.arange(grid.most + 1, grid.numbers + 1, dtype=np.float32)
    above = above[: min(REGIONS, count * grid.cells)].reshape(1, -1, 1)
    found = writer.where(in_region, above, 0.0).max(1).reshape(1, count, *grid.shape)
    number = writer.op("Max", number, found)
    every = np.arange(1, grid.numbers + 1, dtype=np.float32).reshape(1, -1, 1)
    return number, number.reshape(count, 1, grid.cells).equals(every)


@dataclass(frozen=True)
class Parts:
    """What each instance has of each class; (C, M) each."""

    pixels: Tensor
    sure: Tensor  # the same times confidence
    strayed: Tensor  # the same times how far votes are from their centre, weighted as in `Evidence`
    is_thing: Tensor  # bool: large enough to be a thing of its own class
    owner: Tensor  # place 0..C-1 of the class that the part takes on


def _parts(one_hot: Tensor, pixels: Tensor, confidence: Tensor | None, stray: Tensor, grid: Grid) -> Parts:
    writer, count = pixels.writer, len(grid.things)
    sure = pixels if confidence is None else pixels * confidence
    summed = (t.reshape(count, grid.cells, 1) for t in (pixels, sure, pixels * stray))
    # Of the pixels, whole numbers up to step^2, and ones: exact in TensorFloat-32 too.
    sums = writer.op("MatMul", one_hot.cast(FLOAT), writer.op("Concat", *summed, axis=2))
    area, certain, strayed = (sums.slices([i], [i + 1], [2], [1]).reshape(count, grid.numbers) for i in range(3))
    area = area.rounded()
    is_thing = area >= np.array(grid.least, np.float32).reshape(-1, 1)
    mode = writer.op("ArgMax", area, axis=0, keepdims=1).cast(FLOAT)
    return Parts(area, certain, strayed, is_thing, writer.where(is_thing, _places(grid), mode))


def _places(grid: Grid) -> np.ndarray:
    return np.arange(len(grid.things), dtype=np.float32).reshape(-1, 1)


def _ordered(parts: Parts, grid: Grid) -> tuple[Tensor, Tensor]:
    """(1, T) flat places of (C, M) that own the largest segments, and their areas; 0 where there is none."""
    writer, count = parts.pixels.writer, len(grid.things)
    to = parts.owner.reshape(count, 1, grid.numbers).equals(_places(grid).reshape(1, -1, 1))
    taken = parts.pixels.reshape(count, 1, grid.numbers)
    total = writer.where(to, taken, 0.0).sum(0).reshape(count, grid.numbers)
    total = writer.where(parts.is_thing, total, 0.0).reshape(1, -1)
    area, order = writer.ops("TopK", 2, total, writer.ints([_most(grid)]), axis=1, largest=1, sorted=1)
    return order.cast(FLOAT), area


def _most(grid: Grid) -> int:
    return min(MOST, len(grid.things) * grid.numbers)


def _segment_of_part(order: Tensor, area: Tensor, parts: Parts, grid: Grid) -> Tensor:
    """(C, M) the segment 1..T that a part belongs to, 0 where it is noise."""
    writer, count, most = order.writer, len(grid.things), _most(grid)
    every = np.arange(count * grid.numbers, dtype=np.float32).reshape(1, -1)
    ranks = np.arange(1, most + 1, dtype=np.float32).reshape(-1, 1)
    is_owner = order.reshape(most, 1).equals(every) & (area.reshape(most, 1) > 0.5)
    number = writer.where(is_owner, ranks, 0.0).max(0).reshape(-1)
    column = np.arange(grid.numbers, dtype=np.float32).reshape(1, -1)
    return number.take(parts.owner * float(grid.numbers) + column)


def _painted(
    labels: Tensor, mask: Tensor, number: Tensor, segment: Tensor, owner: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """(1, 1, H, W) segments, and labels with the classes that parts have taken on."""
    count = len(grid.things)
    cells = _looked_up(segment, number, grid)
    taken = _looked_up(_class_of(owner.reshape(-1), grid).reshape(count, grid.numbers), number, grid)
    change = labels.writer.where(cells > 0.5, taken - _by_class(grid), 0.0)
    instances = (cells.enlarged(grid.step) * mask).sum(1)
    return instances, labels + (change.enlarged(grid.step) * mask).sum(1)


def _class_of(places: Tensor, grid: Grid) -> Tensor:
    """Flat places of thing classes -> class indices."""
    return places.writer.constant(np.array(grid.things, np.float32)).take(places)


def _looked_up(table: Tensor, number: Tensor, grid: Grid) -> Tensor:
    """(C, M) values of parts -> (1, C, h, w) by cell, 0 in those without a number."""
    writer, count = table.writer, len(grid.things)
    padded = writer.op("Concat", np.zeros((count, 1), np.float32), table, axis=1).reshape(-1)
    return padded.take(number + (_places(grid) * (grid.numbers + 1)).reshape(1, -1, 1, 1))


def _segments(order: Tensor, area: Tensor, parts: Parts, segment: Tensor, hot: Tensor, grid: Grid) -> Tensor:
    """(1, MOST, 3): mean confidence over a segment's pixels, its heat and how well they agree make its score."""
    writer, most = order.writer, _most(grid)
    ranks = np.arange(1, most + 1, dtype=np.float32).reshape(-1, 1)
    is_of = segment.reshape(1, -1).equals(ranks)  # (T, C * M)
    weighted, strayed = (
        writer.where(is_of, part.reshape(1, -1), 0.0).sum(1).reshape(1, most)
        for part in (parts.sure * hot, parts.strayed)
    )
    least = writer.op("Max", area, np.float32(1))
    score = writer.where(area > 0.5, weighted / least, 0.0)
    disagreement = strayed / least
    score = score / (disagreement * disagreement / least + 1.0)
    place = ((order + 0.5) / float(grid.numbers)).floor().reshape(-1)
    columns = (_class_of(place, grid).reshape(1, most, 1), score.reshape(1, most, 1), area.reshape(1, most, 1))
    table = writer.op("Concat", *columns, axis=2)
    missing = MOST - most
    return writer.op("Concat", table, np.zeros((1, missing, 3), np.float32), axis=1) if missing else table
