"""Which frames of a drive are stepped, and how: one plan for each way of replaying."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from perception.drives.frames import StoredFrame
from perception.drives.layout import ControlCall, Decision
from perception.errors import RecordingError
from perception.replay.follow import Planned
from perception.types import Frame

Window = tuple[int, int]
"""Stamps [ns] of the frames of a part of a drive, half open."""


def exact(decisions: Sequence[Decision], window: Window, steps: int, network_every: int, engine: str) -> list[Decision]:
    """Every captured frame in order, whatever became of it then.

    Args:
        steps: frames that were taken before the window.
    """
    frames = [d for d in decisions if window[0] <= d.stamp_ns < window[1] and d.what != "broken"]
    return [
        Decision(d.frame_seq, d.stamp_ns, "stepped", "", (steps + i) % network_every == 0, engine)
        for i, d in enumerate(frames)
    ]


def re_enacted(decisions: Sequence[Decision], window: Window) -> list[Decision]:
    """What was decided then, once more."""
    return [d for d in decisions if window[0] <= d.stamp_ns < window[1]]


def calls_after(stepped: Collection[int], calls: Mapping[int, Sequence[ControlCall]]) -> dict[int, list[ControlCall]]:
    """The calls by the frame that they are to follow now: their own, or the newest stepped one before it."""
    order, found = sorted(stepped), dict[int, list[ControlCall]]()
    for seq in sorted(calls):
        place = bisect.bisect_right(order, seq)
        if place:
            found.setdefault(order[place - 1], []).extend(calls[seq])
    return found


def of_source(frames: Iterable[Frame], network_every: int, engine: str) -> Iterator[Planned]:
    """Every frame of a source."""
    for i, frame in enumerate(frames):
        yield Planned(frame, Decision(frame.seq, frame.stamp_ns, "stepped", "", i % network_every == 0, engine))


def of_drive(
    decisions: Sequence[Decision],
    images: Iterable[StoredFrame],
    camera: str,
    calls: Mapping[int, Sequence[ControlCall]],
    is_strict: bool,
) -> Iterator[Planned]:
    """The stepped frames among these decisions with their images.

    Args:
        images: of the stepped frames; one that is missing or broken is left out, unless `is_strict`.

    Raises:
        RecordingError: `is_strict`, and an image is missing or broken.
    """
    wanted = {d.frame_seq: d for d in decisions if d.what == "stepped"}
    for image in images:
        decision = wanted.pop(image.seq, None)
        if decision is None:
            continue
        if image.image is not None:
            frame = Frame(image.seq, decision.stamp_ns, camera, image.image)
            yield Planned(frame, decision, tuple(calls.get(image.seq, ())))
        elif is_strict:
            raise RecordingError(f"the image of frame {image.seq} can't be decoded: what was decided can't be followed")
    if wanted and is_strict:
        raise RecordingError(
            f"{len(wanted)} frames that were stepped have no image, the first is {min(wanted)}: the recording is "
            "incomplete (perception drive info says why); replay it exactly, or another part of it"
        )
