"""Which frames of a drive are stepped next, and how, with their images and what was asked after them."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from perception.drives.frames import StoredFrame
from perception.drives.layout import ControlCall, Decision
from perception.errors import RecordingError
from perception.pipeline import steps_after
from perception.protocols import Outlook
from perception.replay.deciding import Decider
from perception.replay.drive import RecordedDrive
from perception.replay.follow import Planned
from perception.replay.result import Sameness
from perception.types import Frame

STRETCH_NS = 20_000_000_000  # of a drive that is read at once [ns]
Part = tuple[int, int]
"""Stamps [ns] of the frames of a part of a drive, half open."""


def of_source(frames: Iterable[Frame], engine: str) -> Iterator[Planned]:
    """Every frame of a source."""
    for frame in frames:
        yield Planned(frame, Decision(frame.seq, frame.stamp_ns, "stepped", "", True, engine))


@dataclass(frozen=True)
class Turns:
    """When the network looks: as a pipeline decides it, but told some frames before the propagator gets there.

    It knows of cuts, which `what_if.Simulation` does not: of what-if, a decision's times may be those of another turn.

    Args:
        every: n of `Pipeline.network_every`.
        steps: those of the pipeline before the first frame.
    """

    every: int
    steps: int = 0

    def over(self, plan: Iterable[Planned], outlook: Outlook) -> Iterator[Planned]:
        """The plan with its looks decided; `outlook` of the propagator as the first frame meets it."""
        steps = self.steps
        for planned in plan:
            looks = outlook.is_blind(planned.frame) or steps % self.every == 0
            steps = steps_after(steps, looks)
            yield replace(planned, decision=msgspec.structs.replace(planned.decision, network=looks))


class Walk:
    """Goes through a part of a recording, a stretch at a time: an hour begins at once and needs no memory.

    Args:
        part: of the drive.
        camera: name of the frames' camera.
        sameness: is told what was said then, and the images must all be there; None where neither matters.

    Attributes:
        made: the decisions so far.
    """

    def __init__(
        self, drive: RecordedDrive, decider: Decider, part: Part, camera: str, sameness: Sameness | None
    ) -> None:
        self._drive, self._decider, self._part = drive, decider, part
        self._camera, self._sameness = camera, sameness
        self.made: list[Decision] = []

    @property
    def left_out(self) -> list[Decision]:
        """The decisions so far on frames that are not stepped."""
        return [decision for decision in self.made if decision.what != "stepped"]

    def __iter__(self) -> Iterator[Planned]:
        """Raises RecordingError for damage, and where an image is missing that must be there."""
        begin_ns, end_ns = self._part[0], min(self._part[1], self._drive.last_ns + 1)
        while begin_ns < end_ns:
            stretch = begin_ns, min(begin_ns + STRETCH_NS, end_ns)
            if self._sameness:
                self._sameness.expect(self._drive.messages_between(*stretch))
            calls = self._drive.calls_between(*stretch)
            yield from self._planned(self._decider.feed(self._drive.decisions_between(*stretch)), calls, stretch[1])
            begin_ns = stretch[1]
        yield from self._planned(self._decider.finish(), {}, end_ns)

    def _planned(
        self, decided: list[Decision], calls: Mapping[int, Sequence[ControlCall]], end_ns: int
    ) -> Iterator[Planned]:
        self.made += decided
        wanted = {d.frame_seq: d for d in decided if d.what == "stepped"}
        if not wanted:
            return
        begin_ns = min(d.stamp_ns for d in wanted.values())  # a frame may have waited since the stretch before
        images = self._drive.frames(set(wanted), begin_ns, end_ns)
        yield from self._with_images(wanted, images, calls_after(wanted, calls))

    def _with_images(
        self, wanted: dict[int, Decision], images: Iterable[StoredFrame], calls: Mapping[int, Sequence[ControlCall]]
    ) -> Iterator[Planned]:
        for image in images:
            decision = wanted.pop(image.seq, None)
            if decision is None:
                continue
            if image.image is not None:
                frame = Frame(image.seq, decision.stamp_ns, self._camera, image.image)
                yield Planned(frame, decision, tuple(calls.get(image.seq, ())))
            elif self._sameness:
                raise RecordingError(f"the image of frame {image.seq} can't be decoded: replay the drive exactly")
        if wanted and self._sameness:
            raise RecordingError(
                f"{len(wanted)} frames that were stepped have no image, the first is {min(wanted)}: the recording is "
                "incomplete (perception drive info says why); replay it exactly, or another part of it"
            )


def calls_after(stepped: Collection[int], calls: Mapping[int, Sequence[ControlCall]]) -> dict[int, list[ControlCall]]:
    """The calls by the frame that they are to follow now: their own, or the newest stepped one before it.

    Those before all of these follow the first one.
    """
    order, found = sorted(stepped), dict[int, list[ControlCall]]()
    for seq in sorted(calls):
        place = max(0, bisect.bisect_right(order, seq) - 1)
        found.setdefault(order[place], []).extend(calls[seq])
    return found
