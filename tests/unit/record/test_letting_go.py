"""The journal stays within its bound, lets go what it may, and what is left still verifies."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.errors import RecordError
from engine.record.check import Finding
from engine.record.heads import HeadFile
from engine.record.journal import MIN_SEGMENT_BYTES, Journal
from engine.record.log import Claimed, DecisionLog, Existing, Position
from engine.record.master import MasterKey
from engine.record.retention import drop_through
from engine.record.room import bytes_in
from engine.record.segments import FrameKind, list_segments, own_segments, segment_path
from engine.record.verify import verify

MASTER = MasterKey(b"m" * 32)
DIGEST = b"d" * 33
DAY_US = 86_400_000_000


def decide(log: DecisionLog, n: int, size: int = 6000) -> Position:
    key = b"r%d" % n
    assert log.claim(key, DIGEST) == Claimed()
    try:
        return log.commit(key, f"id-{n}", DIGEST, b"x" * size, b"personal", f"s{n}")
    except RecordError:
        log.abandon(key)
        raise


def opened(directory: Path, worker: str = "w0", bytes_max: int = 0) -> DecisionLog:
    return DecisionLog.open(
        directory, worker=worker, segment_bytes=MIN_SEGMENT_BYTES, master=MASTER, bytes_max=bytes_max
    )


def found(directory: Path) -> list[Finding]:
    return [f for report in verify(directory, MASTER.heads, processes=1) for f in report.findings]


def test_what_was_shipped_goes_in_whole_segments_and_the_rest_verifies(tmp_path: Path) -> None:
    log = opened(tmp_path)
    positions = [decide(log, n) for n in range(60)]
    segments = list_segments(tmp_path)
    assert len(segments) > 4
    # In the middle of the third segment: two may go.
    through = next(p for p in positions if p.segment == segments[2] and p.offset > 30_000)
    assert log.drop_through(through) == segments[:2]
    assert log.drop_through(through) == []
    assert list_segments(tmp_path) == segments[2:]
    assert not found(tmp_path)
    # What is gone is not found, what is left is, and a request id is known for both.
    assert log.get_by_decision_id("id-0") is None
    assert log.get_by_request_key(b"r0") is None
    assert log.get_by_decision_id("id-59") is not None
    assert log.claim(b"r0", DIGEST) == Existing("id-0", positions[0])
    # All of it: the segment being written stays.
    assert log.end is not None
    assert log.drop_through(log.end) == segments[2:-1]
    decide(log, 60)
    assert not found(tmp_path)
    log.close()
    log = opened(tmp_path)
    decide(log, 61)
    assert [d.decision_id for d in log.iterate()][-2:] == ["id-60", "id-61"]
    log.close()
    assert not found(tmp_path)


def test_a_dead_workers_segments_go_wholly_and_no_name_is_given_twice(tmp_path: Path) -> None:
    dead = Journal(tmp_path, "w1", segment_bytes=MIN_SEGMENT_BYTES, head_key=MASTER.heads)
    for n in range(20):
        dead.append(FrameKind.OUTCOME, b"%d" % n * 4000)
    end = dead.end
    assert end is not None
    log = opened(tmp_path)
    last = own_segments(tmp_path, "w1")[-1]
    assert last not in log.drop_through(end), "it is alive"
    assert own_segments(tmp_path, "w1") == [last]
    dead.close()
    assert log.drop_through(end) == [last]
    assert not own_segments(tmp_path, "w1")
    assert not found(tmp_path)
    again = Journal(tmp_path, "w1", segment_bytes=MIN_SEGMENT_BYTES, head_key=MASTER.heads)
    assert again.append(FrameKind.OUTCOME, b"on").segment > last
    again.close()
    log.close()
    assert not found(tmp_path)
    (report,) = [r for r in verify(tmp_path, MASTER.heads, processes=1) if r.worker == "w1"]
    assert report.first == report.last == 21


def test_a_segment_removed_by_hand_is_not_taken_for_let_go(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for n in range(40):
        end = decide(log, n)
    log.drop_through(Position(list_segments(tmp_path)[1], 0))
    log.close()
    assert not found(tmp_path)
    segment_path(tmp_path, list_segments(tmp_path)[0]).unlink()
    assert [f.what for f in found(tmp_path)] == ["missing"]
    assert end.segment == list_segments(tmp_path)[-1]


def test_an_anchor_that_is_not_signed_counts_for_nothing(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for n in range(40):
        decide(log, n)
    log.close()
    log = DecisionLog.open(tmp_path, segment_bytes=MIN_SEGMENT_BYTES)  # without the key
    log.drop_through(Position(list_segments(tmp_path)[1], 0))
    log.close()
    assert {f.what for f in found(tmp_path)} == {"head"}
    through = Position(list_segments(tmp_path)[1], 0)
    assert drop_through(tmp_path, through, "w0", b"o" * 32, own=False)
    assert "missing" in {f.what for f in found(tmp_path)}


def test_records_go_by_age_but_not_before_they_are_shipped(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for n in range(60):
        decide(log, n)
    segments = list_segments(tmp_path)
    now_us = time.time_ns() // 1000
    shipped = {"w0": Position(segments[2], 0)}
    assert log.prune(now_us + 9 * DAY_US, {"": 10}, shipped) == (0, [])
    assert log.prune(now_us + 99 * DAY_US, {"": 10, "DE": 0}, shipped) == (60, [])
    assert log.prune(now_us + 99 * DAY_US, {"": 10, "DE": 100}, shipped) == (0, [])
    assert log.prune(now_us + 99 * DAY_US, {"": 10}, {})[1] == []
    assert log.prune(now_us + 99 * DAY_US, {"": 10}, shipped) == (0, segments[:2])
    assert log.prune(now_us + 99 * DAY_US, {"": 10}) == (0, segments[2:-1])
    assert all(d.erased for d in log.iterate())
    assert not found(tmp_path)
    log.close()


def test_the_bound_fails_closed_says_why_and_heals_when_there_is_room(tmp_path: Path) -> None:
    log = opened(tmp_path, bytes_max=600_000)
    done = 0
    with pytest.raises(RecordError, match=r"its bound of 600000 bytes \(record.bytes_max\)"):
        for n in range(1000):
            decide(log, n)
            done += 1
    assert 30 < done < 100
    assert bytes_in(tmp_path) < 700_000
    with pytest.raises(RecordError, match="bound"):
        decide(log, done)
    with pytest.raises(RecordError, match="bound"):
        log.append(FrameKind.OUTCOME, b"o" * 6000)
    # Somebody may still be erased, and that it happened is on record.
    assert log.erase("s0")
    assert [d.decision_id for d in log.iterate()] == [f"id-{n}" for n in range(done)]
    assert log.end is not None
    assert log.drop_through(log.end)
    decide(log, done)
    assert log.get_by_decision_id(f"id-{done}") is not None
    assert not found(tmp_path)
    log.close()


def test_heads_stay_few_however_long_a_worker_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.record import heads, journal

    monkeypatch.setattr(heads, "_GROWN_BYTES", 4000)
    monkeypatch.setattr(journal, "HEAD_EVERY_S", 0.0)
    writer = Journal(tmp_path, "w0", segment_bytes=MIN_SEGMENT_BYTES, head_key=MASTER.heads)
    for n in range(200):
        writer.append(FrameKind.OUTCOME, b"%d" % n * 1000)
        writer.tend()
    writer.close()
    assert (tmp_path / "w0.heads").stat().st_size < 6000
    assert len(HeadFile(tmp_path, "w0", MASTER.heads).read()) < 40
    assert not found(tmp_path)
