"""The log of decisions: one decision a request id, found for ever, whoever asks and whatever became of the index."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import RecordError
from engine.record import feed
from engine.record.claims import Claims
from engine.record.entries import pack_ids
from engine.record.index import DecisionIndex
from engine.record.journal import MIN_SEGMENT_BYTES, Journal
from engine.record.log import Claimed, Conflict, DecisionLog, Existing, InProgress, Position, StoredDecision
from engine.record.recover import cut
from engine.record.segments import FIRST_FRAME, Damage, FrameKind, TornTail, list_segments, segment_path

DIGEST, OTHER = b"d" * 32, b"o" * 32


def decide(log: DecisionLog, n: int, record: bytes | None = None, worker: str = "") -> Position:
    key = b"tenant/%s%d" % (worker.encode(), n)
    assert log.claim(key, DIGEST) == Claimed()
    return log.commit(key, f"decision-{worker}{n}", DIGEST, b"record %d" % n if record is None else record)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    opened = DecisionLog.open(tmp_path)
    yield opened
    opened.close()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def test_a_decision_is_found_at_once_and_after_it_was_indexed(log: DecisionLog, tmp_path: Path) -> None:
    position = decide(log, 1)
    expected = StoredDecision(position, "decision-1", b"tenant/1", DIGEST, b"record 1")
    for _ in range(2):
        assert log.get_by_decision_id("decision-1") == expected
        assert log.get_by_request_key(b"tenant/1") == expected
        assert log.claim(b"tenant/1", DIGEST) == Existing("decision-1", position)
        assert log.read(position) == expected
        log._feed.flush()
    assert log._index.find_decision("decision-1") == position


def test_what_was_never_decided_is_not_found(log: DecisionLog) -> None:
    decide(log, 1)
    for nothing in ("", "decision-2", "x" * 600):
        assert log.get_by_decision_id(nothing) is None
        assert log.get_by_request_key(nothing.encode()) is None


def test_the_same_id_with_another_payload_is_a_conflict(log: DecisionLog) -> None:
    assert log.claim(b"r", DIGEST) == Claimed()
    assert log.claim(b"r", DIGEST) == InProgress()
    assert log.claim(b"r", OTHER) == Conflict("")
    log.commit(b"r", "id", DIGEST, b"")
    assert log.claim(b"r", OTHER) == Conflict("id")
    log._feed.flush()
    assert log.claim(b"r", OTHER) == Conflict("id")
    assert isinstance(log.claim(b"r", DIGEST), Existing)


def test_many_are_claimed_as_one_after_the_other(log: DecisionLog) -> None:
    position = decide(log, 1)
    log._feed.flush()
    later = decide(log, 2)
    log.claim(b"held", DIGEST)
    asked = [
        (b"new", DIGEST),
        (b"tenant/1", DIGEST),
        (b"", DIGEST),
        (b"tenant/2", OTHER),
        (b"held", DIGEST),
        (b"held", OTHER),
        (b"new", DIGEST),
        (b"x" * 512, DIGEST),
    ]
    found = log.claim_many(asked)
    assert [str(found.pop(place)) for place in (7, 2)] == ["a request key has 1 to 511 bytes"] * 2
    assert found == [
        Claimed(),
        Existing("decision-1", position),
        Conflict("decision-2"),
        InProgress(),
        Conflict(""),
        InProgress(),
    ]
    assert log.commit(b"new", "id-new", DIGEST, b"") > later
    # What was decided is not held.
    assert not log.wait(b"held", 0)
    assert log.wait(b"tenant/1", 0)
    assert log.wait(b"tenant/2", 0)
    assert log.claim_many([]) == []


def test_many_that_cannot_be_claimed_are_held_by_nobody(log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [(b"a", DIGEST), (b"b", DIGEST)]
    with monkeypatch.context() as patch:
        patch.setattr(feed, "MAX_WAITING", -1)
        found = log.claim_many(asked)
    assert ["too many" in str(one) for one in found if isinstance(one, RecordError)] == [True, True]
    assert log.claim_many(asked) == [Claimed()] * 2


def test_an_abandoned_request_can_be_claimed_again_also_with_another_payload(log: DecisionLog) -> None:
    log.claim(b"r", DIGEST)
    log.abandon(b"r")
    log.abandon(b"r")
    assert log.claim(b"r", OTHER) == Claimed()


def test_only_who_claimed_may_commit(log: DecisionLog) -> None:
    with pytest.raises(RecordError, match="not claimed"):
        log.commit(b"r", "id", DIGEST, b"")
    decide(log, 1)
    with pytest.raises(RecordError, match="not claimed"):
        log.commit(b"tenant/1", "id", DIGEST, b"")
    assert [d.decision_id for d in log.iterate()] == ["decision-1"]


@pytest.mark.parametrize("key", [b"", b"k" * 512])
def test_a_request_key_that_cannot_be_kept_is_refused(log: DecisionLog, key: bytes) -> None:
    for _ in range(2):
        with pytest.raises(RecordError):
            log.claim(key, DIGEST)


def test_the_longest_ids_are_kept(log: DecisionLog) -> None:
    key, decision_id = b"k" * 511, "é" * 100
    log.claim(key, DIGEST)
    log.commit(key, decision_id, DIGEST, b"record")
    log._feed.flush()
    assert log.get_by_request_key(key) == log.get_by_decision_id(decision_id)
    log.claim(b"r", DIGEST)
    for wrong_id, digest in (("", DIGEST), ("x" * 101, DIGEST), ("id", b"d" * 65)):
        with pytest.raises(RecordError, match="too long or empty"):
            log.commit(b"r", wrong_id, digest, b"")


def test_waiting_ends_with_the_commit_with_abandoning_and_with_the_time(log: DecisionLog) -> None:
    assert log.wait(b"nobody", 0.0)
    log.claim(b"r", DIGEST)
    assert not log.wait(b"r", 0.01)
    with ThreadPoolExecutor(5) as pool:
        waiting = [pool.submit(log.wait, b"r", 60.0) for _ in range(5)]
        time.sleep(0.05)
        assert not any(w.done() for w in waiting)
        log.abandon(b"r")
        assert all(w.result(60) for w in waiting)


def test_of_fifty_concurrent_duplicates_one_decides_and_all_get_its_answer(log: DecisionLog) -> None:
    decided: Counter[bytes] = Counter()
    barrier = threading.Barrier(50)

    def call(_: int) -> list[str]:
        answers = []
        for n in range(20):
            key = b"r%d" % n
            barrier.wait()
            while True:
                claim = log.claim(key, DIGEST)
                if isinstance(claim, Claimed):
                    decided[key] += 1
                    if decided[key] == 1 and n % 3 == 0:
                        log.abandon(key)  # the first one fails: another must take over
                        continue
                    time.sleep(0.001)
                    log.commit(key, f"id-{n}", DIGEST, b"record")
                    answers.append(f"id-{n}")
                    break
                if isinstance(claim, Existing):
                    answers.append(claim.decision_id)
                    break
                assert isinstance(claim, InProgress)
                assert log.wait(key, 60.0)
        return answers

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(call, range(50)))
    assert all(a == [f"id-{n}" for n in range(20)] for a in answers)
    assert [d.decision_id for d in log.iterate()] == [f"id-{n}" for n in range(20)]
    assert decided == {b"r%d" % n: 2 if n % 3 == 0 else 1 for n in range(20)}


def test_everything_is_found_after_a_restart(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, segment_bytes=MIN_SEGMENT_BYTES)
    log.declare_catalogue("sha256:c", b"slots")
    log.declare_environment("sha256:e", b"libraries")
    for n in range(100):
        decide(log, n, b"x" * 3000)
    log.close()
    log.close()
    with pytest.raises(RecordError, match="closed"):
        log.claim(b"r", DIGEST)

    log = DecisionLog.open(tmp_path)
    assert log.recovery.indexed == 0
    assert not log.recovery.torn
    assert not log.recovery.damage
    for n in range(100):
        stored = log.get_by_decision_id(f"decision-{n}")
        assert stored is not None
        assert log.get_by_request_key(b"tenant/%d" % n) == stored
        assert log.claim(b"tenant/%d" % n, DIGEST) == Existing(f"decision-{n}", stored.position)
    assert log.get_catalogue("sha256:c") == b"slots"
    assert log.get_environment("sha256:e") == b"libraries"
    assert log.get_catalogue("sha256:e") is None
    log.close()


@pytest.mark.parametrize("spoil", ["delete", "garbage", "other boot"])
def test_a_lost_index_is_built_again(tmp_path: Path, spoil: str) -> None:
    log = DecisionLog.open(tmp_path, segment_bytes=MIN_SEGMENT_BYTES)
    log.declare_catalogue("sha256:c", b"slots")
    positions = [decide(log, n, b"x" * 3000) for n in range(60)]
    log.close()
    if spoil == "delete":
        shutil.rmtree(tmp_path / "index")
    elif spoil == "garbage":
        (tmp_path / "index" / "data.mdb").write_bytes(b"garbage" * 10_000)
    else:
        # As after a loss of power: the mark of another boot, and an index that may hold anything.
        (tmp_path / "index" / "boot").write_text("another boot")
        index = DecisionIndex(tmp_path / "elsewhere")
        index.add([], [], Position("w0-00009999", 0))
        index.close()
        shutil.copy(tmp_path / "elsewhere" / "data.mdb", tmp_path / "index" / "data.mdb")
    log = DecisionLog.open(tmp_path)
    assert log.recovery.indexed == 60
    for n, position in enumerate(positions):
        assert log.claim(b"tenant/%d" % n, DIGEST) == Existing(f"decision-{n}", position)
    assert log.get_catalogue("sha256:c") == b"slots"
    log.close()


def test_a_torn_tail_is_cut_counted_and_never_decided(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path)
    decide(log, 1)
    position = decide(log, 2)
    log.close()
    path = segment_path(tmp_path, position.segment)
    content = path.read_bytes()
    path.write_bytes(content + content[position.offset : position.offset + 30])
    log = DecisionLog.open(tmp_path)
    assert [(t.position.offset, t.length) for t in log.recovery.torn] == [(len(content), 30)]
    assert path.read_bytes() == content
    log.close()
    log = DecisionLog.open(tmp_path)
    assert not log.recovery.torn
    assert [d.decision_id for d in log.iterate()] == ["decision-1", "decision-2"]
    log.close()


def test_a_torn_tail_of_another_worker_is_cut_only_when_that_worker_is_dead(tmp_path: Path) -> None:
    other = Journal(tmp_path, "w1")
    position = other.append(FrameKind.DECISION, pack_ids(b"r", "id", DIGEST), b"record")
    path = segment_path(tmp_path, position.segment)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[position.offset : position.offset + 30])
    log = DecisionLog.open(tmp_path)
    assert not log.recovery.torn  # a frame being written, as far as anybody can tell
    assert path.stat().st_size == len(whole) + 30
    log.close()
    other.close()
    log = DecisionLog.open(tmp_path)
    assert [t.position for t in log.recovery.torn] == [Position(position.segment, len(whole))]
    assert path.read_bytes() == whole
    assert log.get_by_decision_id("id") is not None
    log.close()


def test_a_segment_torn_before_its_first_frame_goes(tmp_path: Path) -> None:
    (tmp_path / "w0-00000001.journal").write_bytes(b"AsJ")
    log = DecisionLog.open(tmp_path)
    assert len(log.recovery.torn) == 1
    assert list_segments(tmp_path) == []
    assert decide(log, 1).segment > "w0-00000000"
    log.close()


def test_damage_is_reported_by_all_who_meet_it(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path)
    positions = [decide(log, n) for n in range(3)]
    log.close()
    path = segment_path(tmp_path, positions[1].segment)
    content = bytearray(path.read_bytes())
    content[positions[2].offset - 1] ^= 1
    path.write_bytes(content)

    log = DecisionLog.open(tmp_path)
    with pytest.raises(RecordError, match="damaged"):
        log.get_by_decision_id("decision-1")
    with pytest.raises(RecordError, match="damaged"):
        list(log.iterate())
    met: list[Damage] = []
    assert [d.decision_id for d in log.iterate(on_damage=met.append)] == ["decision-0", "decision-2"]
    assert [d.position for d in met] == [positions[1]]
    log.close()

    shutil.rmtree(tmp_path / "index")
    log = DecisionLog.open(tmp_path)
    assert [d.position for d in log.recovery.damage] == [positions[1]]
    assert log.recovery.indexed == 2
    assert path.read_bytes() == bytes(content)
    log.close()


def test_iterating_goes_on_where_it_stood(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, segment_bytes=MIN_SEGMENT_BYTES)
    positions = [decide(log, n, b"x" * 9000) for n in range(20)]
    assert len(list_segments(tmp_path)) > 2
    for n in (0, 7, 19):
        assert [d.position for d in log.iterate(positions[n])] == positions[n:]
    log.close()


def test_workers_share_a_directory_and_find_each_others_decisions(tmp_path: Path) -> None:
    one, two = DecisionLog.open(tmp_path / "a", worker="w0"), None
    try:
        decide(one, 1, worker="w0")
        # A second process would open the same directory; one process may not, so a copy stands for its view of it.
        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("index*", "*.lock"))
        two = DecisionLog.open(tmp_path / "b", worker="w1")
        assert two.claim(b"tenant/w01", DIGEST) == Existing("decision-w01", Position("w0-00000001", FIRST_FRAME))
        # What the other one writes from here on is found when somebody asks for it.
        decide(one, 2, worker="w0")
        shutil.copy(tmp_path / "a" / "w0-00000001.journal", tmp_path / "b")
        found = two.get_by_decision_id("decision-w02")
        assert found is not None
        assert found.record == b"record 2"
        decide(two, 3, worker="w1")
        assert [d.decision_id for d in two.iterate()] == ["decision-w01", "decision-w02", "decision-w13"]
    finally:
        one.close()
        if two is not None:
            two.close()


def test_of_two_decisions_under_one_request_id_the_later_is_the_answer(tmp_path: Path) -> None:
    """After a failed fdatasync the first may be in the journal though nobody was told; the second was answered."""
    log = DecisionLog.open(tmp_path)
    for decision_id in ("first", "second"):
        log._claims.take(b"r", DIGEST)
        position = log.commit(b"r", decision_id, DIGEST, b"")
    assert log.claim(b"r", DIGEST) == Existing("second", position)
    log.close()
    shutil.rmtree(tmp_path / "index")
    log = DecisionLog.open(tmp_path)
    assert log.claim(b"r", DIGEST) == Existing("second", position)
    log.close()


def test_a_decision_that_was_not_made_durable_is_nobodys_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog.open(tmp_path, durability="disk")
    decide(log, 1)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    log.claim(b"r", DIGEST)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(RecordError, match="durable"):
            log.commit(b"r", "lost", DIGEST, b"")
    log.abandon(b"r")
    log._feed.flush()
    assert log.get_by_decision_id("lost") is None
    assert log.claim(b"r", OTHER) == Claimed()
    log.commit(b"r", "kept", OTHER, b"")
    log._feed.flush()
    assert log.claim(b"r", DIGEST) == Conflict("kept")
    log.close()


def test_the_watermark_never_goes_back(tmp_path: Path) -> None:
    index = DecisionIndex(tmp_path / "index")
    for position in (Position("w0-00000002", 50), Position("w0-00000002", 40), Position("w0-00000001", 90)):
        index.add([], [], position)
    assert index.watermark("w0") == Position("w0-00000002", 50)
    assert index.watermark("w1") is None
    index.close()


def test_who_comes_to_wait_as_the_claim_ends_does_not_wait_for_ever() -> None:
    claims = Claims()
    claims.take(b"r", DIGEST)
    with ThreadPoolExecutor(1) as pool:
        with claims._wait_turn:
            waiting = pool.submit(claims.wait, b"r", 30.0)
            until(claims._wait_turn.locked)
            time.sleep(0.05)  # it holds the claim and is about to wait
            claims.release(b"r")
        assert waiting.result(60)


def test_a_tail_that_grew_meanwhile_is_not_cut(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "w0")
    position = journal.append(FrameKind.DECISION, b"record")
    journal.close()
    size = segment_path(tmp_path, position.segment).stat().st_size
    assert not cut(tmp_path, TornTail(position, 10))
    assert segment_path(tmp_path, position.segment).stat().st_size == size


def test_memory_holds_only_what_waits_to_be_indexed(log: DecisionLog) -> None:
    for n in range(500):
        decide(log, n)
    until(lambda: not log._feed._waiting)
    until(lambda: not log._feed._requests and not log._feed._decisions)
    assert not log._claims._held


def test_too_many_waiting_for_the_index_fail_closed(log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    with log._feed._turn:  # the index stands still
        monkeypatch.setattr(feed, "MAX_WAITING", 5)
        for n in range(6):
            decide(log, n)
        with pytest.raises(RecordError, match="wait to be indexed"):
            log.claim(b"r", DIGEST)
    log._feed.flush()
    assert log.claim(b"r", DIGEST) == Claimed()


def test_a_second_log_on_one_directory_is_refused_and_harms_nothing(log: DecisionLog, tmp_path: Path) -> None:
    decide(log, 1)
    with pytest.raises(RecordError, match="another process"):
        DecisionLog.open(tmp_path)
    decide(log, 2)
    assert [d.decision_id for d in log.iterate()] == ["decision-1", "decision-2"]


def test_a_directory_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot be used"):
        DecisionLog.open(tmp_path / "file" / "journal")


def test_a_disk_mode_log_keeps_the_same_promises(tmp_path: Path) -> None:
    log = DecisionLog.open(tmp_path, durability="disk")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: decide(log, n), range(100)))
    until(lambda: not log._feed._waiting)
    assert all(isinstance(log.claim(b"tenant/%d" % n, DIGEST), Existing) for n in range(100))
    log.close()
