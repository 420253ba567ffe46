"""What a node would have decided with another policy or on another machine."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.drives.layout import Decision
from perception.errors import RecordingError
from perception.replay.what_if import NEWER, MachineSpeed, Policy, Simulation, measured, summary

MS = 1_000_000


def camera(count: int, period_ms: float = 33.0) -> list[Decision]:
    """Captured frames that arrive 2 ms after their stamp."""
    stamps = [round(i * period_ms * MS) for i in range(count)]
    return [Decision(i, stamp, "stepped", arrived_ns=stamp + 2 * MS) for i, stamp in enumerate(stamps)]


def decide(captured: list[Decision], policy: Policy, speed: MachineSpeed) -> list[Decision]:
    simulation = Simulation(policy, speed)
    return sorted(simulation.feed(captured) + simulation.finish(), key=lambda d: d.frame_seq)


def what(decisions: list[Decision]) -> list[str]:
    return [d.what for d in decisions]


def test_a_machine_that_is_quick_enough_steps_every_frame():
    decided = decide(camera(30), Policy(), MachineSpeed((20 * MS,), ()))
    assert what(decided) == ["stepped"] * 30
    assert decided[7].taken_ns == decided[7].arrived_ns
    assert decided[7].sent_ns == decided[7].taken_ns + 20 * MS


def test_a_slow_machine_takes_the_newest_frame_and_drops_the_one_it_replaced():
    decided = decide(camera(7), Policy(), MachineSpeed((80 * MS,), ()))
    assert what(decided) == ["stepped", "dropped", "stepped", "dropped", "stepped", "dropped", "stepped"]
    assert decided[1].reason == NEWER
    assert decided[2].taken_ns == decided[0].sent_ns


def test_the_network_looks_at_every_nth_frame_that_was_taken():
    speed = MachineSpeed((40 * MS,), (10 * MS,))
    decided = decide(camera(40), Policy(network_every=2), speed)
    stepped = [d for d in decided if d.what == "stepped"]
    assert [d.network for d in stepped] == [i % 2 == 0 for i in range(len(stepped))]
    assert len(stepped) > 38


def test_skipping_the_network_needs_the_time_of_a_skipped_frame():
    with pytest.raises(RecordingError, match="--carry-ms"):
        decide(camera(3), Policy(network_every=2), MachineSpeed((40 * MS,), ()))


def test_a_slower_camera_drops_the_frames_it_would_not_have_given():
    decided = decide(camera(6), Policy(every=2), MachineSpeed((5 * MS,), ()))
    assert what(decided) == ["stepped", "dropped"] * 3


def test_broken_frames_stay_broken():
    captured = camera(3)
    captured[1] = Decision(1, captured[1].stamp_ns, "broken", "undecodable")
    assert what(decide(captured, Policy(), MachineSpeed((5 * MS,), ()))) == ["stepped", "broken", "stepped"]


def test_the_speed_is_that_of_the_steps_by_kind():
    steps = [
        Decision(0, 0, "stepped", network=True, taken_ns=10, sent_ns=40),
        Decision(1, 0, "stepped", network=False, taken_ns=50, sent_ns=60),
        Decision(2, 0, "dropped"),
    ]
    assert measured(steps) == MachineSpeed((30,), (10,))
    assert measured(steps).scaled(2.0) == MachineSpeed((60,), (20,))


def test_a_drive_without_times_says_what_to_give():
    with pytest.raises(RecordingError, match="--network-ms"):
        measured([Decision(0, 0, "stepped", network=True)])


@given(
    arrivals=st.lists(st.integers(1, 100), min_size=1, max_size=60),
    times=st.lists(st.integers(1, 300), min_size=1, max_size=5),
    every=st.integers(1, 3),
)
def test_one_decision_a_frame_and_one_frame_at_a_time(arrivals, times, every):
    at, captured = 0, []
    for i, gap in enumerate(arrivals):
        at += gap
        captured.append(Decision(i, at, "stepped", arrived_ns=at))
    decided = decide(captured, Policy(every), MachineSpeed(tuple(times), tuple(times)))
    assert [d.frame_seq for d in decided] == list(range(len(arrivals)))
    stepped = [d for d in decided if d.what == "stepped"]
    assert decided[-1] in stepped  # the newest is never dropped
    for before, after in itertools.pairwise(stepped):
        assert before.sent_ns <= after.taken_ns
        assert after.taken_ns >= after.arrived_ns


def test_the_summary_counts():
    decided = decide(camera(7), Policy(), MachineSpeed((80 * MS,), ()))
    assert "4 of 7 frames stepped" in summary(decided)
    assert "3 dropped" in summary(decided)


def test_fed_in_pieces_it_decides_the_same():
    speed, whole = MachineSpeed((80 * MS, 20 * MS), (5 * MS,)), camera(40)
    simulation, made = Simulation(Policy(2), speed), []
    for i in range(0, 40, 7):
        made += simulation.feed(whole[i : i + 7])
    made += simulation.finish()
    assert sorted(made, key=lambda d: d.frame_seq) == decide(whole, Policy(2), speed)
