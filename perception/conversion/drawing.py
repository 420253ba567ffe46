"""One recorded frame as a picture: its masks over the camera's image, and boxes for tracks that no mask shows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from perception.conversion.reading import RecordedFrame
from perception.labels import spread_colour
from perception.opencv import cv2
from perception.sinks.overlay import Thing, dashes, draw_messages, write_text
from perception.types import TrackState
from perception.wire import Kind, Message, TrackRow

Image = NDArray[np.uint8]

_VISIBLE = (TrackState.TENTATIVE, TrackState.CONFIRMED)
_HIDDEN = (TrackState.OCCLUDED,)


def draw_frame(image: Image | None, frame: RecordedFrame, size: tuple[int, int]) -> Image:
    """(height, width, 3) RGB of `size`: over black where there is no image.

    Masks have their class's colour; things have an outline, or a box where no mask shows them, with id, class and
    score: unbroken where the network saw them in this frame, broken where they were carried there. Things that are
    hidden now have a thin broken box.
    """
    if image is not None and (image.shape[1], image.shape[0]) != size:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    masks = [message for message in frame.messages.values() if message.kind is not Kind.TRACKS]
    canvas = draw_messages(image, masks)
    if canvas is None:
        canvas = np.zeros((size[1], size[0], 3), np.uint8) if image is None else image.copy()
    elif (canvas.shape[1], canvas.shape[0]) != size:
        canvas = np.asarray(cv2.resize(canvas, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    if tracks := frame.messages.get("tracks"):
        _draw_boxes(canvas, tracks, _masked_ids(masks))
    return canvas


def frame_size(frame: RecordedFrame) -> tuple[int, int] | None:
    """Width and height of the camera's image, as the messages say it [px]."""
    heads = (message.header for message in frame.messages.values())
    return next(((head.frame_width, head.frame_height) for head in heads if head.frame_width), None)


def _masked_ids(masks: Iterable[Message]) -> set[int]:
    return {row.id for message in masks if message.kind is Kind.POSITIONS for row in message.header.tracks}


def _draw_boxes(canvas: Image, tracks: Message, masked: set[int]) -> None:
    names = []
    for row in tracks.header.tracks:
        is_visible = row.state in _VISIBLE
        if (is_visible and row.id in masked) or not (is_visible or row.state in _HIDDEN):
            continue
        colour = spread_colour(row.id)
        x0, y0, x1, y1 = in_image(row, tracks, (canvas.shape[1], canvas.shape[0]))
        outline = _rectangle(x0, y0, x1 - 1, y1 - 1)
        lines = [outline] if is_visible and row.observed else dashes(outline)
        cv2.polylines(canvas, lines, False, colour, max(1, canvas.shape[1] // 500) if is_visible else 1)
        label = Thing(row.id, row.class_name, row.box, row.score).label
        names.append((label if is_visible else f"{label} {row.state}", (x0, y0 - 2), colour))
    for text, corner, colour in names:
        write_text(canvas, text, corner, colour, above=True)


def in_image(row: TrackRow, message: Message, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A track's box, half open, in an image of this width and height that shows the whole frame [px]."""
    head = message.header
    x, y, width, height = head.roi
    shown = (size[0] / max(1, head.frame_width), size[1] / max(1, head.frame_height))
    scale = (width / max(1, message.width), height / max(1, message.height))
    x0, y0, x1, y1 = row.box
    left, right = ((x + side * scale[0]) * shown[0] for side in (x0, x1))
    top, bottom = ((y + side * scale[1]) * shown[1] for side in (y0, y1))
    return round(left), round(top), round(right), round(bottom)


def _rectangle(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.int32]:
    """(n, 1, 2) its outline, one pixel after the other."""
    xs, ys = np.arange(x0, x1 + 1), np.arange(y0, y1 + 1)
    sides = [
        np.stack([xs, np.full_like(xs, y0)], 1),
        np.stack([np.full_like(ys, x1), ys], 1),
        np.stack([xs, np.full_like(xs, y1)], 1)[::-1],
        np.stack([np.full_like(ys, x0), ys], 1)[::-1],
    ]
    return np.concatenate(sides)[:, None].astype(np.int32)
