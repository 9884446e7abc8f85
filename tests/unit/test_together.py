"""Threads that work together: who leads, who waits, and that every item is worked on once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.decider.together import Together
from tests.support.faulty import until


class Work:
    """Notes what was worked on with what. While `gate` is clear, work stands still."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def alone(self, item: int) -> None:
        self.many([item])

    def many(self, items: Sequence[int]) -> None:
        self.groups.append(list(items))
        self.begun.release()
        assert self.gate.wait(60)


def _start(pool: ThreadPoolExecutor, together: Together[int], items: Sequence[int]) -> list[object]:
    return [pool.submit(together.run, item) for item in items]


def test_a_lone_item_goes_on_at_once_and_alone() -> None:
    work = Work()
    together = Together(work.alone, work.many)
    for item in range(5):
        together.run(item)
    assert work.groups == [[0], [1], [2], [3], [4]]


def test_what_comes_meanwhile_is_worked_on_together_next() -> None:
    work = Work()
    together = Together(work.alone, work.many, patience_s=60.0)
    with ThreadPoolExecutor(16) as pool:
        work.gate.clear()
        _start(pool, together, [0])
        assert work.begun.acquire(timeout=60)
        _start(pool, together, range(1, 11))
        until(lambda: len(together._queue) == 10)
        work.gate.set()
    assert work.groups[0] == [0]
    assert sorted(work.groups[1]) == list(range(1, 11))
    assert len(work.groups) == 2


def test_a_group_is_no_larger_than_allowed() -> None:
    work = Work()
    together = Together(work.alone, work.many, most=4, patience_s=60.0)
    with ThreadPoolExecutor(16) as pool:
        work.gate.clear()
        _start(pool, together, [0])
        assert work.begun.acquire(timeout=60)
        _start(pool, together, range(1, 12))
        until(lambda: len(together._queue) == 11)
        work.gate.set()
    assert [len(group) for group in work.groups] == [1, 4, 4, 3]
    assert sorted(item for group in work.groups for item in group) == list(range(12))


def test_who_has_waited_long_enough_goes_on_beside_the_one_at_work_and_no_more_than_allowed() -> None:
    work = Work()
    together = Together(work.alone, work.many, leaders_max=3, patience_s=0.01)
    with ThreadPoolExecutor(16) as pool:
        work.gate.clear()
        _start(pool, together, [0])
        assert work.begun.acquire(timeout=60)
        for item in (1, 2, 3, 4):
            _start(pool, together, [item])
            if item < 3:
                assert work.begun.acquire(timeout=60)
        until(lambda: len(together._queue) == 2)
        time.sleep(0.1)
        assert work.groups == [[0], [1], [2]]
        work.gate.set()
    assert sorted(item for group in work.groups for item in group) == list(range(5))
    assert together._leaders == 0


def test_an_error_is_its_own_items_and_the_next_ones_go_on() -> None:
    def alone(item: int) -> None:
        raise ValueError(str(item))

    together = Together(alone, lambda items: None)
    for item in range(3):
        with pytest.raises(ValueError, match=str(item)):
            together.run(item)


def test_many_threads_lose_nothing() -> None:
    seen: list[int] = []
    together = Together(seen.append, seen.extend, most=5, leaders_max=2, patience_s=0.0005)
    with ThreadPoolExecutor(24) as pool:
        list(pool.map(together.run, range(4000)))
    assert sorted(seen) == list(range(4000))
    assert together._leaders == 0
    assert not together._queue
