"""What workers of a host see of one another: counts under way, and erasures."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.clock import SystemClock
from engine.domain.facts import UNREAD, LastGood
from engine.erased import Erased
from engine.errors import RecordError, StoreError
from engine.feature_reader import FeatureReader
from engine.under_way import COLUMNS, UnderWay, forget_others
from tests.support.applications import DAY_US

KEY, OTHER = b"{device/d1}device_velocity", b"{device/d2}device_velocity"
PREFIX = b"{device/d1}"


def now_us() -> int:
    return SystemClock().now_us()


def worker(directory: Path, name: str, *, caught_up: bool = True) -> UnderWay:
    made = UnderWay(directory, name)
    if caught_up:
        made.caught_up()
    return made


def test_one_sees_what_another_has_under_way_until_it_is_counted(tmp_path: Path) -> None:
    one, other = worker(tmp_path, "w0"), worker(tmp_path, "w1")
    assert other.others([KEY, OTHER]) == []
    one.add([KEY])
    assert other.others([KEY, OTHER]) == [KEY]
    assert one.others([KEY]) == [], "what it has under way itself it knows better"
    one.add([KEY])
    one.take_away([KEY])
    assert other.others([KEY]) == [KEY], "it was added twice"
    one.take_away([KEY])
    assert other.others([KEY]) == []


def test_one_waits_for_another_and_no_longer_than_it_may(tmp_path: Path) -> None:
    one, other = worker(tmp_path, "w0"), worker(tmp_path, "w1")
    one.add([KEY])
    assert list(other.wait([KEY, OTHER], time.monotonic() + 0.02)) == [KEY]
    timer = threading.Timer(0.05, one.take_away, [[KEY]])
    timer.start()
    assert list(other.wait([KEY], time.monotonic() + 60.0)) == []
    timer.join()


def test_what_a_worker_that_died_had_under_way_is_under_way_until_its_name_has_caught_up(tmp_path: Path) -> None:
    one, other = worker(tmp_path, "w0"), worker(tmp_path, "w1")
    one.add([KEY])
    again = worker(tmp_path, "w0", caught_up=False)
    again.add([KEY, OTHER])
    again.take_away([KEY, OTHER])
    assert other.others([KEY, OTHER]) == [KEY, OTHER], "nothing is taken away before the journal is counted"
    again.add([OTHER])
    again.caught_up()
    assert other.others([KEY, OTHER]) == [OTHER]
    again.take_away([OTHER])
    assert other.others([KEY, OTHER]) == []


def test_what_is_left_to_the_journal_is_under_way_until_that_is_counted(tmp_path: Path) -> None:
    one, other = worker(tmp_path, "w0"), worker(tmp_path, "w1")
    one.lost([KEY])
    one.add([KEY])
    one.take_away([KEY])
    assert other.others([KEY]) == [KEY]
    one.caught_up()
    assert other.others([KEY]) == []


def test_names_that_nobody_takes_up_hold_nothing_up(tmp_path: Path) -> None:
    worker(tmp_path, "w7").add([KEY])
    worker(tmp_path, "w1").add([OTHER])
    forget_others(tmp_path, ["w0", "w1"])
    assert worker(tmp_path, "w0").others([KEY, OTHER]) == [OTHER]
    forget_others(tmp_path / "nowhere", [])


def test_there_are_as_many_names_as_the_table_takes(tmp_path: Path) -> None:
    for number in range(COLUMNS):
        UnderWay(tmp_path, f"w{number}")
    UnderWay(tmp_path, "w5")
    with pytest.raises(RecordError, match="names of workers"):
        UnderWay(tmp_path, "another")


def test_an_erasure_is_known_to_all_workers_at_once_and_after_a_start(tmp_path: Path) -> None:
    one, other = Erased(tmp_path / "erased"), Erased(tmp_path / "erased")
    one.load()
    other.load()
    before_us = now_us()
    assert not other.covers(PREFIX, before_us)
    one.add(PREFIX, before_us + 10)
    assert other.covers(PREFIX, before_us)
    assert not other.covers(PREFIX, before_us + 11)
    assert not other.covers(b"{device/d2}", before_us)
    late = Erased(tmp_path / "erased")
    late.load()
    assert late.covers(PREFIX, before_us)
    one.add(b"{device/d2}", before_us)
    assert late.covers(b"{device/d2}", before_us), "what is added after another has tidied up is not lost"
    assert b"d1" not in (tmp_path / "erased").read_bytes()


def test_erasures_are_kept_as_long_as_counters_reach_and_the_former_list_is_read(tmp_path: Path) -> None:
    former = Erased(tmp_path / "former")
    former.add(PREFIX, now_us())
    former.add(b"{device/old}", now_us() - 40 * DAY_US)
    erased = Erased(tmp_path / "erased", tmp_path / "former")
    erased.load()
    assert erased.covers(PREFIX, now_us() - 1_000_000)
    assert not erased.covers(b"{device/old}", 0)


def test_who_follows_is_told_soon_of_what_others_erased(tmp_path: Path) -> None:
    one, other = Erased(tmp_path / "erased"), Erased(tmp_path / "erased")
    told = threading.Event()
    other.follow(told.set)
    one.add(PREFIX, now_us())
    assert told.wait(60.0)
    other.stop()


class _Store:
    name = "a store that fails when it is told to"

    def __init__(self) -> None:
        self.fails = False

    def read(self, keys: Sequence[bytes], until_s: float) -> list[bytes]:
        if self.fails:
            raise StoreError("away")
        return [b"row"] * len(keys)


def test_a_row_of_who_was_erased_elsewhere_is_not_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.feature_reader.is_whole", lambda row: True)
    store: Any = _Store()
    reader, here, elsewhere = FeatureReader(store), Erased(tmp_path / "erased"), Erased(tmp_path / "erased")
    reader.erased = here.covers
    asked: Any = type("Asked", (), {"reads": [KEY, OTHER]})
    asked.flow = type("Flow", (), {"features": type("Plan", (), {"last_good": (0, 1), "counted": ()})})
    assert reader.read_many([asked], None) == [[b"row", b"row"]]
    store.fails = True
    assert reader.read_many([asked], None) == [[LastGood(b"row"), LastGood(b"row")]]
    elsewhere.add(PREFIX, now_us())
    assert reader.read_many([asked], None) == [[UNREAD, LastGood(b"row")]]
    elsewhere.add(b"{device/d2}", now_us())
    reader.forget_erased()
    reader.erased = None
    assert reader.read_many([asked], None) == [[UNREAD, UNREAD]], "nothing of it is kept either"
