"""The frame's side and the background's side of the ladder, by themselves. No GPU was used."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from perception.errors import DeviceError
from perception.serving.backoff import Backoff
from perception.serving.candidate import Candidate
from perception.serving.gate import Reference
from perception.serving.ladder import EVERY, SETTLED, Ladder
from perception.serving.plan_rung import DirectRung
from perception.serving.promoter import Promoter
from perception.serving.roll import Slow
from perception.serving.rungs import FEW, Opened, Patience, Size, Standing
from perception.serving.schedule import AGAIN_S, NOTHING_S, pause_s
from perception.serving.worker import Worker
from tests.test_served_engine import NoModel, Sum, Watching, swap

DEADLINE_S = 60.0


def ladder() -> Ladder:
    return Ladder(Opened("bottom", NoModel(), Sum()), must_be_faster=False)


def test_an_engine_settles_once_whatever_its_hundredth_call_was() -> None:
    climbed, watcher = ladder(), Watching()
    climbed.watcher = watcher
    swap(climbed)
    for _ in range(SETTLED - 1):
        climbed.step("carry", lambda _: None)
    climbed.serving.run("state", lambda _: None, time.monotonic)
    assert watcher.steady == []
    for _ in range(3):
        climbed.step("carry", lambda _: None)
    assert watcher.steady == [climbed.serving]


def test_each_kind_of_call_is_looked_at_whichever_its_place_in_a_frame_is() -> None:
    """Two calls a frame: counted together, every thirtieth would always be the second one's."""
    climbed = Ladder(Opened("bottom", NoModel(), Sum()), must_be_faster=True)
    climbed.watcher = watcher = Watching()
    climbed.bottom.note("network", [0.01] * FEW)
    swap(climbed)
    slow = climbed.serving
    slow.note("network", [0.1] * 30)
    for _ in range(EVERY):
        climbed.step("network", lambda _: slow.note("network", [0.1] * 30))
        climbed.step("carry", lambda _: None)
    assert climbed.serving is climbed.bottom
    assert watcher.falls == [("slow: 100.0 ms a call, where bottom takes 10.0", False)]
    assert climbed.fallen == ""  # the fastest serves


def test_an_engine_must_be_faster_than_the_one_that_serves() -> None:
    climbed = Ladder(Opened("bottom", NoModel(), Sum()), must_be_faster=True)
    climbed.bottom.note("network", [0.03] * FEW)
    assert climbed.no_gain(0.02) == ""
    swap(climbed)
    climbed.serving.note("network", [0.01] * FEW)
    assert climbed.no_gain(0.02) == "slow: 20.0 ms a call, where device takes 10.0"
    assert climbed.no_gain(0.009) == ""
    assert ladder().no_gain(10.0) == ""  # named: nobody minds


def test_a_call_of_a_kind_that_is_not_known_yet_may_take_what_a_frame_does() -> None:
    worker, end = Worker("device"), threading.Event()
    standing = Standing(Opened("device", NoModel()), worker, Patience(least_s=0.01, times=1.0, first_s=DEADLINE_S))
    standing.note("network", [0.02] * FEW)
    try:
        with pytest.raises(DeviceError, match=r"no answer within 0\.02 s"):
            standing.run("state", lambda _: end.wait(DEADLINE_S), time.monotonic)
    finally:
        end.set()
        worker.close()


def test_the_background_goes_on_after_an_error_of_its_own() -> None:
    asked, goes_on = [], threading.Event()

    def frame_size() -> Size | None:
        asked.append(None)
        if len(asked) == 1:
            raise RuntimeError("a bug")
        goes_on.set()
        return None

    opened = Opened("bottom", NoModel())
    with closing(Promoter(ladder(), [], Reference(lambda: opened), (), frame_size)) as promoter:
        promoter.begin()
        assert goes_on.wait(DEADLINE_S)


# Which engines are missed


def two_above(is_wanted: bool) -> tuple[Ladder, Promoter, Candidate, Candidate]:
    climbed = ladder()
    first, second = (Candidate(DirectRung(name, _never_opened), Backoff(), is_wanted) for name in ("first", "second"))
    promoter = Promoter(climbed, [first, second], Reference(_never_opened), (), lambda: (1, 1))
    climbed.watcher = promoter
    return climbed, promoter, first, second


def _never_opened() -> Opened:
    raise NotImplementedError


def serve(climbed: Ladder, promoter: Promoter, candidate: Candidate) -> None:
    promoter._promote(candidate, Standing(Opened(candidate.rung.name, NoModel())))
    climbed.settle()


def test_nothing_is_missed_once_the_only_engine_that_is_better_would_be_no_gain() -> None:
    climbed, promoter, first, second = two_above(is_wanted=False)
    for candidate in (first, second):
        serve(climbed, promoter, candidate)
        climbed.demote(climbed.serving, "device lost")
    serve(climbed, promoter, second)
    assert climbed.fallen.startswith("first: device lost")
    promoter._roll.try_again(first, Slow("slow"))
    assert (climbed.engine, climbed.fallen) == ("second", "")


def test_an_engine_that_is_named_is_missed_while_a_worse_one_falls_and_comes_again() -> None:
    climbed, promoter, first, second = two_above(is_wanted=True)
    promoter._roll.refuse(first, "it sees otherwise")
    serve(climbed, promoter, second)
    climbed.demote(climbed.serving, "device lost")
    serve(climbed, promoter, second)
    assert climbed.fallen.startswith("first: it sees otherwise")
    serve(climbed, promoter, first)
    assert climbed.fallen == ""


# When the background looks again


def test_a_call_that_returns_between_two_looks_costs_no_minute() -> None:
    candidate = Candidate(DirectRung("device", _never_opened), Backoff(1.0))
    candidate.state = "failed"
    candidate.backoff.failed(0.0)
    assert pause_s([candidate], (1, 1), 0.25) == 0.75
    assert pause_s([candidate], (1, 1), 2.0) == AGAIN_S
    candidate.state = "refused"
    assert pause_s([candidate], (1, 1), 2.0) == NOTHING_S


class NeedsBuild(DirectRung):
    def needs_build(self, size: Size) -> bool:
        return True


def test_a_build_that_gets_no_thread_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoom(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    climbed, candidate = ladder(), Candidate(NeedsBuild("device", _never_opened), Backoff())
    promoter = Promoter(climbed, [candidate], Reference(_never_opened), (), lambda: (1, 1))
    with monkeypatch.context() as full:
        full.setattr("perception.serving.promoter.threading.Thread", NoRoom)
        promoter._work()
    assert candidate.state == "failed"
    assert "its build can't be begun: can't start new thread" in candidate.reason
    promoter.close()
