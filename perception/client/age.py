"""A received message, and how old its picture is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from perception.wire import EventRow, Health, Message


class Clocks:
    """What ages are computed from: this host's boot id, and the publisher's last word on its clocks."""

    def __init__(self, boot_id: str) -> None:
        self.boot_id = boot_id
        self.health: Health | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Received(Message):
    """A message with what happened before it came."""

    clocks: Clocks
    missed: int  # messages of this topic, since the one handed over before, that never came
    skipped: int  # the same that came, and were replaced by newer ones
    restarted: bool  # another run, or the same drive played again, since then: track ids begin anew
    new_events: tuple[EventRow, ...] = ()  # of an `events` message: what none handed over before it told
    lost_events: int = 0  # those before them that no message could tell any more

    @property
    def age_s(self) -> float | None:
        """How old the picture is now [s]; None where the publisher's clock can't be told from here."""
        return age_of(self, self.clocks, time.monotonic_ns(), time.time_ns())[0]

    @property
    def age_is_estimate(self) -> bool:
        """Whether the age relies on the wall clocks of two machines, which may differ."""
        return age_of(self, self.clocks, time.monotonic_ns(), time.time_ns())[1]


def age_of(message: Message, clocks: Clocks, monotonic_ns: int, utc_ns: int) -> tuple[float | None, bool]:
    """Age [s] and whether it is an estimate, at a time given on both of this host's clocks.

    On the publisher's own machine the monotonic clock alone counts, so that a clock that is set makes nothing older.
    """
    stamp, clock, wall_offset_ns = message.stamp_ns, message.header.clock, message.header.wall_offset_ns
    health = clocks.health
    if clock == "drive":
        if health is None or health.drive_offset_ns is None or health.run != message.header.run:
            return None, False
        stamp, clock = stamp + health.drive_offset_ns, health.boot_id
    if clock and clock == clocks.boot_id:
        return (monotonic_ns - stamp) / 1e9, False
    if health is not None and health.boot_id == clock:
        wall_offset_ns = health.wall_offset_ns or wall_offset_ns
    return ((utc_ns - stamp - wall_offset_ns) / 1e9, True) if wall_offset_ns else (None, False)
