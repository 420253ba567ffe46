from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from perception.sources.latest import Latest


def test_the_newest_item_replaces_an_older_one() -> None:
    latest: Latest[int] = Latest()
    for item in range(5):
        latest.put(item)
    assert latest.take(0) == 4
    assert latest.dropped == 4


def test_dropped_and_taken_add_up_to_put() -> None:
    latest: Latest[int] = Latest()

    def produce() -> None:
        for item in range(20_000):
            latest.put(item)
        latest.close()

    producer = threading.Thread(target=produce)
    producer.start()
    taken = []
    while (item := latest.take(5)) is not None:
        taken.append(item)
    producer.join()
    assert taken == sorted(taken)
    assert len(taken) + latest.dropped == 20_000


def test_nothing_new_raises_timeout_in_time() -> None:
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"nothing new for 0\.08 s"):
        Latest().take(0.08)
    assert 0.08 <= time.monotonic() - begin < 0.3


def test_an_error_crosses_after_the_last_item() -> None:
    latest: Latest[int] = Latest()
    latest.put(7)
    latest.close(ValueError("from the other thread"))
    assert latest.take() == 7
    for _ in range(2):
        with pytest.raises(ValueError, match="from the other thread"):
            latest.take()


def test_the_first_close_counts() -> None:
    latest: Latest[int] = Latest()
    latest.close()
    latest.close(ValueError("too late"))
    assert latest.take() is None


def test_put_after_close_is_dropped() -> None:
    latest: Latest[int] = Latest()
    latest.close()
    latest.put(1)
    assert latest.take() is None
    assert latest.dropped == 1


def test_close_wakes_a_waiting_take() -> None:
    latest: Latest[int] = Latest()
    results: list[int | None] = []
    waiter = threading.Thread(target=lambda: results.append(latest.take()))
    waiter.start()
    latest.close()
    waiter.join(0.2)
    assert results == [None]


def test_close_in_a_signal_handler_ends_a_take_of_the_same_thread() -> None:
    latest: Latest[int] = Latest()
    before = signal.signal(signal.SIGUSR1, lambda *_: latest.close())
    try:
        for delay_s in (0.0, 0.0003, 0.001, 0.01):
            latest = Latest()
            killer = threading.Thread(
                target=lambda s: (time.sleep(s), os.kill(os.getpid(), signal.SIGUSR1)), args=(delay_s,)
            )
            killer.start()
            begin = time.monotonic()
            assert latest.take(5) is None
            assert time.monotonic() - begin < 0.2
            killer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
