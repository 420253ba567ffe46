"""What a node would have decided about the same captured frames, with another policy or on another machine.

A model of the machine: each step takes as long as one of its kind took when it was measured, drawn in the order of
the frames, so that the answer is the same every time. The node takes the newest frame that is there, as a live source
gives it, and works on one at a time. It has no pictures: it does not know of looks that a cut brings about, nor that
turns are counted from those (`plans.Turns`). So after a cut the frames that got the network's time here are up to n - 1
frames away from those at which it looks, until another cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perception.drives.layout import Decision
from perception.errors import RecordingError
from perception.stopwatch import percentile

NEWER = "a newer frame came before it was taken"
"""Why a live source drops a frame."""


@dataclass(frozen=True, slots=True)
class MachineSpeed:
    """How long a frame takes, from being taken to its messages being out [ns]; measured values, used in turn."""

    with_network: tuple[int, ...]
    without: tuple[int, ...]  # frames that the network skips; empty where none were measured

    def scaled(self, factor: float) -> MachineSpeed:
        """A machine that needs `factor` times as long."""
        return MachineSpeed(*(tuple(round(ns * factor) for ns in times) for times in (self.with_network, self.without)))

    def of(self, looks: bool, turn: int) -> int:
        """The duration of a step [ns]."""
        times = self.with_network if looks else self.without
        return times[turn % len(times)]


@dataclass(frozen=True, slots=True)
class Policy:
    """How a node chooses its work."""

    network_every: int = 1  # the network looks at every n-th frame taken
    every: int = 1  # of the captured frames, the camera gives only every n-th


def measured(decisions: Sequence[Decision]) -> MachineSpeed:
    """The speed of the machine that made these decisions.

    Raises:
        RecordingError: no frame was stepped, or the times were not recorded.
    """
    stepped = [d for d in decisions if d.what == "stepped" and d.sent_ns > d.taken_ns > 0]
    looked = tuple(d.sent_ns - d.taken_ns for d in stepped if d.network)
    skipped = tuple(d.sent_ns - d.taken_ns for d in stepped if not d.network)
    if not looked:
        raise RecordingError("no times of the network in this drive: give --network-ms and --carry-ms")
    return MachineSpeed(looked, skipped)


class Simulation:
    """Decides about captured frames as they come.

    Args:
        policy: how the node chooses its work.
        speed: of its machine.

    Raises:
        RecordingError: the network skips frames and nothing is known of how long such a frame takes.
    """

    def __init__(self, policy: Policy, speed: MachineSpeed) -> None:
        if policy.network_every > 1 and not speed.without:
            raise RecordingError(
                "no frame of this drive was skipped by the network: give --carry-ms, the time of such a one"
            )
        self._policy, self._speed = policy, speed
        self._waiting: Decision | None = None
        self._free_ns = self._steps = self._given = 0
        self._made: list[Decision] = []

    def feed(self, captured: Sequence[Decision]) -> list[Decision]:
        """What is decided by now, given the next captured frames in order.

        Stamps and arrivals are taken from what was decided then; broken frames stay broken.
        """
        for frame in captured:
            if frame.what == "broken":
                self._made.append(frame)
            elif (self._given_next() - 1) % self._policy.every:
                self._made.append(_dropped(frame, f"the camera gives every {self._policy.every}. frame only"))
            else:
                self._arrive(frame)
        made, self._made = self._made, []
        return made

    def finish(self) -> list[Decision]:
        """The rest: no frame comes any more."""
        if self._waiting:
            self._take(self._waiting)
        self._waiting = None
        return self.feed(())

    def _given_next(self) -> int:
        self._given += 1
        return self._given

    def _arrive(self, captured: Decision) -> None:
        arrived_ns = captured.arrived_ns or captured.stamp_ns
        frame = Decision(captured.frame_seq, captured.stamp_ns, "captured", arrived_ns=arrived_ns)
        if self._waiting:
            if self._free_ns <= arrived_ns:
                self._take(self._waiting)
            else:
                self._made.append(_dropped(self._waiting, NEWER))
        self._waiting = frame
        if self._free_ns <= arrived_ns:
            self._take(frame)
            self._waiting = None

    def _take(self, frame: Decision) -> None:
        looks = self._steps % self._policy.network_every == 0
        taken_ns = max(self._free_ns, frame.arrived_ns)
        self._free_ns = taken_ns + self._speed.of(looks, self._steps)
        self._steps += 1
        times = (frame.arrived_ns, taken_ns, self._free_ns, self._free_ns)
        self._made.append(Decision(frame.frame_seq, frame.stamp_ns, "stepped", "", looks, "", *times))


def _dropped(frame: Decision, reason: str) -> Decision:
    return Decision(frame.frame_seq, frame.stamp_ns, "dropped", reason, arrived_ns=frame.arrived_ns)


def summary(decisions: Sequence[Decision]) -> str:
    """One line: how many were stepped, dropped, and how old masks were."""
    stepped = [d for d in decisions if d.what == "stepped"]
    ages = [(d.sent_ns - d.stamp_ns) / 1e6 for d in stepped] or [0.0]
    seconds = (decisions[-1].stamp_ns - decisions[0].stamp_ns) / 1e9 if len(decisions) > 1 else 0.0
    rate = (len(stepped) - 1) / seconds if seconds else 0.0
    dropped = sum(d.what == "dropped" for d in decisions)
    old = f"capture to sent {percentile(ages, 50):.1f} / {percentile(ages, 99):.1f} ms (p50 / p99)"
    return f"{len(stepped)} of {len(decisions)} frames stepped ({rate:.1f} fps), {dropped} dropped; {old}"
