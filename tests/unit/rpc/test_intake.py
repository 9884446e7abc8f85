"""What comes in on a stream: in order, as soon as it is there, and never more of it than may be unsettled."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from engine.rpc.intake import Intake


def parse(content: bytes) -> list[int]:
    """The numbers of one message. Raises ValueError."""
    return [int(part) for part in content.split(b",")]


def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def threads() -> int:
    """How many intakes read."""
    return sum(thread.name == "intake" for thread in threading.enumerate())


def test_items_are_taken_in_order_and_nothing_at_the_end() -> None:
    intake = Intake([b"1,2,3", b"4", b"5,6"], parse, most=100)
    until(lambda: not threads())
    assert intake.take(4) == [1, 2, 3, 4]
    assert intake.take(4) == [5, 6]
    assert intake.take(4) == intake.take(4) == []


def test_what_has_come_is_given_without_waiting_for_more() -> None:
    source: queue.Queue[bytes | None] = queue.Queue()
    intake = Intake(iter(source.get, None), parse, most=100)
    source.put(b"1")
    assert intake.take(100) == [1]
    source.put(b"2,3")
    assert intake.take(100) == [2, 3]
    source.put(None)
    assert intake.take(100) == []


def test_no_more_is_read_than_may_be_unsettled() -> None:
    read: list[int] = []

    def contents() -> Iterator[bytes]:
        for number in range(100):
            read.append(number)
            yield b"%d" % number

    intake = Intake(contents(), parse, most=10)
    until(lambda: len(read) == 11)  # the eleventh message is in hand, and not taken in
    time.sleep(0.05)
    assert len(read) == 11
    taken = intake.take(100)
    assert taken == list(range(10))
    time.sleep(0.05)
    assert len(read) == 11, "taken is not settled"
    intake.settled(4)
    until(lambda: len(read) == 15)
    assert intake.take(100) == [10, 11, 12, 13]
    intake.close()


def test_a_message_larger_than_the_bound_comes_in_alone() -> None:
    intake = Intake([b"1,2,3,4,5", b"6"], parse, most=3)
    assert intake.take(100) == [1, 2, 3, 4, 5]
    intake.settled(5)
    assert intake.take(100) == [6]


def test_an_error_is_told_after_all_that_came_before() -> None:
    intake = Intake([b"1", b"2", b"x", b"3"], parse, most=100)
    until(lambda: not threads())
    assert intake.take(100) == [1, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="invalid literal"):
            intake.take(100)


def test_closing_ends_the_thread_that_waits_for_room() -> None:
    intake = Intake([b"1", b"2", b"3"], parse, most=1)
    assert intake.take(1) == [1]
    assert threads() == 1
    intake.close()
    until(lambda: not threads())
