"""What became of things from A to B: who vanished, who appeared, whose class or id is another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from perception.compare.areas import Swap
from perception.compare.things import ThingPairs

MOST_SWITCHES = 10_000
MOST_STAYS = 20_000


@dataclass(slots=True)
class Stay:
    """A thing that only one of the two shows, over frames that may have gaps."""

    side: int  # 0: A alone has it, so it vanished; 1: B alone, so it appeared
    track_id: int
    class_name: str
    frames: list[int] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)  # [px]


@dataclass(frozen=True, slots=True)
class Switch:
    """B gives a thing of A another id than before, or one id to two things of A."""

    frame: int
    class_name: str
    a_id: int
    b_id: int
    before: int  # what stood in the place of the one that changed
    is_join: bool  # A's id changed under B's, not B's under A's


class Identities:
    """Follows who is who over the matched frames.

    A switch is, as in CLEAR MOT, a thing of A whose partner in B has another id than its last partner had. Where it is
    A's id that changes while B's stays, it is a join: B takes two things of A for one.
    """

    def __init__(self) -> None:
        self.stays: dict[tuple[int, str, int], Stay] = {}
        self.swaps: dict[tuple[str, str], Swap] = {}
        self.switches: list[Switch] = []
        self.switch_count = 0
        self.things = [0, 0]  # shown in all frames of A, B
        self._partner: tuple[dict[int, int], dict[int, int]] = ({}, {})

    def add(self, frame: int, met: ThingPairs) -> tuple[int, int]:
        """Count one frame; returns how many things are alone, and how many have another id or class than before."""
        alone = changed = 0
        self.things[0] += len(met.a.rows)
        self.things[1] += len(met.b.rows)
        for side, things in enumerate((met.a, met.b)):
            for k in met.alone(side):
                row = things.rows[k]
                self._note_stay(frame, side, row.id, row.class_name, int(things.areas[k]))
                alone += 1
        for i, j in met.pairs:
            one, other = met.a.rows[i], met.b.rows[j]
            changed += self._note_ids(frame, one.class_name, one.id, other.id)
            if one.class_name != other.class_name:
                swap = self.swaps.setdefault((one.class_name, other.class_name), Swap())
                swap.frames.append(frame)
                swap.pixels.append(int(met.a.areas[i]))
                swap.shares.append(1.0)
                changed += 1
        return alone, changed

    def stayed(self, side: int, least_px: int) -> Iterator[Stay]:
        """Things that vanished (0) or appeared (1), in the frames where they have this many pixels."""
        for stay in self.stays.values():
            kept = [k for k, area in enumerate(stay.areas) if area >= max(least_px, 1)]
            if stay.side == side and kept:
                frames, areas = [stay.frames[k] for k in kept], [stay.areas[k] for k in kept]
                yield Stay(side, stay.track_id, stay.class_name, frames, areas)

    def _note_stay(self, frame: int, side: int, track_id: int, class_name: str, area: int) -> None:
        key = (side, class_name, track_id)
        if key not in self.stays and len(self.stays) >= MOST_STAYS:
            key = (side, class_name, -1)  # too many to be named: counted together
        stay = self.stays.setdefault(key, Stay(side, key[2], class_name))
        stay.frames.append(frame)
        stay.areas.append(area)

    def _note_ids(self, frame: int, class_name: str, a_id: int, b_id: int) -> bool:
        to_b, to_a = self._partner
        before_b, before_a = to_b.get(a_id), to_a.get(b_id)
        to_b[a_id], to_a[b_id] = b_id, a_id
        if before_b is not None and before_b != b_id:
            switch = Switch(frame, class_name, a_id, b_id, before_b, is_join=False)
        elif before_a is not None and before_a != a_id:
            switch = Switch(frame, class_name, a_id, b_id, before_a, is_join=True)
        else:
            return False
        self.switch_count += 1
        if len(self.switches) < MOST_SWITCHES:
            self.switches.append(switch)
        return True
