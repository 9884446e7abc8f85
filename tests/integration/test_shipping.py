"""What was shipped to Cassandra is what the journal held, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from assay.outcome.v1 import outcome_pb2
from engine.errors import RecordError
from engine.features.store import StoreUnavailable
from engine.features.stores.cassandra_driver import connect
from engine.features.stores.cassandra_settings import CassandraSettings
from engine.record.reader import JournalReader
from engine.record.segments import FrameKind, Position, list_segments, segment_path
from engine.record.verify import verify
from engine.shipping.fallback import DecisionsEverywhere
from engine.shipping.records import CassandraRecords
from engine.shipping.rows import PART_BYTES
from engine.shipping.settings import Retention, ShipSettings
from engine.shipping.shipper import Shipper
from engine.shipping.state import ShippingState
from engine.shipping.subjects import JournalSubjects, KeyOpener
from engine.shipping.tail import DAMAGED
from tests.support.shipping import KEYSPACE, MASTER, QUICK, all_frames, cassandra, commit, day_us, open_log, record_of

# The node may have to be started, and a Java machine is not quick on a busy one.
pytestmark = pytest.mark.timeout(600)
KEPT = replace(QUICK, drop=False)


@pytest.fixture
def where() -> CassandraSettings:
    return cassandra()


@pytest.fixture
def records(where: CassandraSettings) -> Iterator[CassandraRecords]:
    """A reader with the master key and none of the journal's own keys: as on another host."""
    with closing(CassandraRecords(where, KeyOpener(MASTER))) as opened:
        yield opened


def ship(journal: Path, where: CassandraSettings, settings: ShipSettings = KEPT) -> Shipper:
    """Ship all there is. Gives the shipper, which has ended."""
    shipper = Shipper(journal, where, settings, subjects=JournalSubjects(journal, MASTER), head_key=MASTER.heads)
    try:
        shipper.ship_once()
    finally:
        shipper.stop()
    return shipper


def shipped_frames(journal: Path, records: CassandraRecords) -> list[object]:
    source = ShippingState(journal).source()
    own = [segment for segment in records.segments() if segment.source == source]
    return [frame for one in own for frame in records.frames(source, one.worker, one.number)]


def test_everything_is_read_as_the_journal_gives_it(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path, segment_bytes=1 << 22)
    log.declare_catalogue("sha256:" + tmp_path.name, b"slots" * 300_000)
    log.declare_environment("sha256:e", b"pinned")
    for number in range(60):
        commit(log, f"s{number % 3}")
    # An answer that is larger than a cell should be, and an applicant of whom a part is.
    big = commit(log, "s0", size=2 * PART_BYTES)
    outcome = outcome_pb2.OutcomeRecord(decision_id=big, request_id="r").SerializeToString()
    early = outcome_pb2.OutcomeRecord(request_id=tmp_path.name).SerializeToString()
    for payload in (outcome, early):
        log.append(FrameKind.OUTCOME, payload)
    log.append(FrameKind.CHANGE, b"who and why")
    log.append_shadow(big, b"", b"personal", "s0")
    log.close()
    log = open_log(tmp_path, "w1")
    commit(log, "s0")

    ship(tmp_path, where)
    assert ShippingState(tmp_path).status() is not None
    assert shipped_frames(tmp_path, records) == all_frames(tmp_path)
    held = list(JournalReader(tmp_path, log.keys).decisions())
    assert len(held) == 62
    for stored in held:
        assert stored.record and not stored.erased and not stored.locked
        assert records.get(stored.decision_id) == stored
        assert records.get_by_request(stored.request_key) == stored
    assert records.catalogue("sha256:" + tmp_path.name) == b"slots" * 300_000
    assert records.environment("sha256:e") == b"pinned"
    assert records.outcomes(big) == [outcome]
    assert records.outcomes(big, b"\0" + tmp_path.name.encode()) in ([outcome, early], [early, outcome])
    assert [one.open_part + one.record for one in records.challengers(big)] == [b"personal"]
    assert records.get("absent") is None
    assert records.get_by_request(b"absent") is None
    assert records.catalogue("absent") is None
    log.close()
    # Who has no master key sees what was never sealed.
    with closing(CassandraRecords(where)) as plain:
        locked = plain.get(big)
        assert locked is not None
        assert locked.locked
        assert locked.record == locked.open_part


def test_decisions_are_found_by_day_and_by_subject_in_the_order_of_time(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path)
    # A day that no other test uses.
    moments = [day_us(2001, 2, 3, hour, minute) + n for hour in (23, 0, 12) for minute in (0, 1, 59) for n in (1, 2)]
    who = f"{tmp_path.name}-somebody"
    ids = {commit(log, who, decided_us=moment): moment for moment in moments}
    outside = commit(log, who, decided_us=day_us(2001, 2, 4))
    log.close()
    ship(tmp_path, where)
    in_time = sorted(ids, key=lambda one: (ids[one] // 1000, one))
    found = [one for one in records.list_day(date(2001, 2, 3)) if one.decision_id in ids]
    assert [one.decision_id for one in found] == in_time
    assert {(one.flow, one.bundle, one.verdict) for one in found} == {("consumer_loan.application", "sha256:b", 1)}
    full = [one for one in records.by_day(date(2001, 2, 3)) if one.decision_id in ids]
    assert [one.decision_id for one in full] == in_time
    both = [one.decision_id for one in records.between(date(2001, 2, 3), date(2001, 2, 4))]
    assert outside == both[-1]
    assert [one for one in records.list_day(date(2001, 2, 3), range(12)) if one.decision_id == in_time[-1]] == []

    mark = MASTER.subject_mark(who)
    listed = [one.decision_id for one in records.list_subject(mark)]
    assert listed[0] == outside
    assert sorted(listed) == sorted([*ids, outside])
    evening = records.list_subject(mark, datetime(2001, 2, 3, 12, 59, tzinfo=UTC), datetime(2001, 2, 4, tzinfo=UTC))
    assert {one.decision_id for one in evening} == {one for one in ids if ids[one] >= day_us(2001, 2, 3, 12, 59)}
    assert [one.decision_id for one in records.by_subject(mark, limit=3)] == listed[:3]
    assert records.list_subject(MASTER.subject_mark("nobody")) == []


def test_shipping_again_changes_nothing(tmp_path: Path, where: CassandraSettings, records: CassandraRecords) -> None:
    log = open_log(tmp_path)
    ids = [commit(log, "s", decided_us=day_us(2001, 5, 6, 7, n % 60)) for n in range(120)]
    log.close()
    ship(tmp_path, where)
    before = shipped_frames(tmp_path, records)
    (tmp_path / "shipping" / "shipped-w0.json").unlink()
    again = ship(tmp_path, where)
    assert again.status().waiting_bytes == 0
    assert shipped_frames(tmp_path, records) == before == all_frames(tmp_path)
    listed = [one.decision_id for one in records.list_day(date(2001, 5, 6)) if one.decision_id in ids]
    assert sorted(listed) == sorted(ids)


def test_of_two_decisions_of_one_request_the_later_stays(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    """Two hosts that did not know of one another, shipped in the wrong order."""
    newer, older = tmp_path / "newer", tmp_path / "older"
    name = tmp_path.name
    for directory, moment in ((newer, day_us(2002, 1, 2)), (older, day_us(2002, 1, 1))):
        log = open_log(directory)
        key = name.encode()
        log.claim(key, b"d")
        log.commit(key, f"{name}-{directory.name}", b"d", *record_of(f"{name}-{directory.name}", "s", moment), "s")
        log.close()
        ship(directory, where)
    found = records.get_by_request(name.encode())
    assert found is not None
    assert found.decision_id == f"{name}-newer"
    assert records.get(f"{name}-older") is not None


def test_who_was_erased_stays_erased(tmp_path: Path, where: CassandraSettings, records: CassandraRecords) -> None:
    who, other = f"{tmp_path.name}-gone", f"{tmp_path.name}-here"
    log = open_log(tmp_path)
    gone, here = commit(log, who), commit(log, other)
    ship(tmp_path, where)
    held = records.get(gone)
    assert held is not None
    assert who.encode() in held.record
    assert log.erase(who)
    later = commit(log, who)
    ship(tmp_path, where)
    # All that was shipped before the erasure is shipped again, from a copy of the journal with its keys or without.
    (tmp_path / "shipping" / "shipped-w0.json").unlink()
    ship(tmp_path, where)
    for stored, erased in ((records.get(gone), True), (records.get(here), False), (records.get(later), False)):
        assert stored is not None
        assert stored.erased is erased
        assert (who.encode() in stored.record or other.encode() in stored.record) is not erased
    assert [one.decision_id for one in records.list_subject(MASTER.subject_mark(who))] == [later]
    assert shipped_frames(tmp_path, records) == all_frames(tmp_path)
    log.close()


def test_keys_of_another_host_are_not_shipped_after_an_erasure(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    who = f"{tmp_path.name}-gone"
    here, there = tmp_path / "here", tmp_path / "there"
    late, log = open_log(there), open_log(here)
    unshipped = commit(late, who)
    commit(log, who)
    assert log.erase(who)
    ship(here, where)
    ship(there, where)
    stored = records.get(unshipped)
    assert stored is not None
    assert stored.erased
    late.close()
    log.close()


def test_who_is_known_to_another_host_alone_is_erased_at_once(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    who = f"{tmp_path.name}-gone"
    log = open_log(tmp_path)
    before = commit(log, who)
    ship(tmp_path, where)
    records.erase(MASTER.subject_mark(who))
    records.erase(MASTER.subject_mark(who))
    ship(tmp_path, where)
    stored = records.get(before)
    assert stored is not None
    assert stored.erased
    assert records.list_subject(MASTER.subject_mark(who)) == []
    # The host that has the key itself is to be told as well: it goes by its own key files.
    with closing(CassandraRecords(where, KeyOpener(MASTER, log.keys))) as there:
        held = there.get(before)
        assert held is not None
        assert not held.erased
        assert log.erase(who)
        erased = there.get(before)
        assert erased is not None
        assert erased.erased
    log.close()


def test_rows_live_as_long_as_their_country_says(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path)
    soon_us = time.time_ns() // 1000 - 86_400_000_000 + 4_000_000
    short, long = commit(log, "s1", country="de", decided_us=soon_us), commit(log, "s2", country="fr")
    log.close()
    ship(tmp_path, where, replace(KEPT, retention=Retention(0, {"de": 1})))
    session = connect(where, None, {})
    try:
        living = session.execute(
            f"SELECT decision_id, TTL(flow) AS ttl FROM {KEYSPACE}.decision_by_id WHERE decision_id IN (%s, %s)",
            (short, long),
        )
    finally:
        session.shutdown()
    assert {row["decision_id"]: bool(row["ttl"]) for row in living}.get(long) is False
    deadline_s = time.monotonic() + 60
    while records.get(short) is not None:
        assert time.monotonic() < deadline_s
        time.sleep(0.2)
    assert records.get(long) is not None


def test_segments_go_only_once_they_are_shipped_and_nobody_needs_them(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path)
    ids = [commit(log, "s", size=1000) for _ in range(300)]
    segments = list_segments(tmp_path)
    assert len(segments) > 4
    before = all_frames(tmp_path)
    # Not while they are young, not while another reader is in the second one, and never the newest.
    ship(tmp_path, where, replace(QUICK, keep_local_s=3600.0))
    assert list_segments(tmp_path) == segments
    for hold, left in ((Position(segments[1], 500), segments[1:]), (None, segments[-1:])):
        held = Shipper(tmp_path, where, QUICK, holds=(lambda _, at=hold: at,), head_key=MASTER.heads)  # type: ignore[misc]
        dropped = held.ship_once().dropped_segments
        held.stop()
        assert list_segments(tmp_path) == left
        assert dropped
    # What is left verifies, and what is gone is found, in Cassandra.
    assert all(report.is_whole for report in verify(tmp_path, MASTER.heads))
    assert log.get_by_decision_id(ids[0]) is None
    everywhere = DecisionsEverywhere(log, records)
    for decision_id in (ids[0], ids[-1]):
        stored = everywhere.get_by_decision_id(decision_id)
        assert stored is not None
        assert stored == everywhere.get_by_request_key(b"\0" + decision_id.encode())
        assert b"x" * 1000 in stored.record
    assert everywhere.get_by_decision_id("absent") is None
    assert everywhere.get_catalogue("absent") is None
    assert everywhere.get_environment("absent") is None
    assert shipped_frames(tmp_path, records) == before
    # The worker goes on where it was, and so does the shipper.
    late = commit(log, "s")
    log.close()
    ship(tmp_path, where)
    assert records.get(late) is not None


def test_damage_is_shipped_as_it_is_and_lets_its_segment_go(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(tmp_path)
    for _ in range(150):
        commit(log, "planted-person", size=1000)
    log.close()
    hit = all_frames(tmp_path)[5]
    path = segment_path(tmp_path, hit.position.segment)
    content = bytearray(path.read_bytes())
    content[hit.end - 3] ^= 0x01
    path.write_bytes(content)
    segments = list_segments(tmp_path)
    shipper = ship(tmp_path, where, QUICK)
    assert shipper.status().damage == 1
    assert list_segments(tmp_path) == segments[-1:]
    source = ShippingState(tmp_path).source()
    odd = [frame for frame in records.frames(source, "w0", 1) if frame.kind == DAMAGED]
    assert [frame.payload for frame in odd] == [bytes(content[hit.position.offset : hit.end])]
    assert "shipped as they are" in caplog.text
    assert "planted-person" not in caplog.text + str(vars(caplog.records[-1]))


def test_a_journal_that_begins_anew_is_shipped_under_another_name(
    tmp_path: Path, where: CassandraSettings, records: CassandraRecords
) -> None:
    log = open_log(tmp_path)
    first = [commit(log, "s", size=1000) for _ in range(150)]
    log.close()
    ship(tmp_path, where)
    name = ShippingState(tmp_path).source()
    for path in [*tmp_path.glob("*.journal"), *tmp_path.glob("*.heads")]:
        path.unlink()
    log = open_log(tmp_path)
    second = commit(log, "s")
    log.close()
    ship(tmp_path, where)
    assert ShippingState(tmp_path).source() != name
    for decision_id in (*first, second):
        assert records.get(decision_id) is not None


def test_a_keyspace_without_the_tables_is_named(tmp_path: Path, where: CassandraSettings) -> None:
    log = open_log(tmp_path)
    commit(log, "s")
    log.close()
    absent = replace(where, keyspace="not_there_at_all")
    shipper = Shipper(tmp_path, absent, QUICK)
    try:
        with pytest.raises(StoreUnavailable, match="run `assay store migrate`"):
            shipper.ship_once()
    finally:
        shipper.stop()
    with pytest.raises(StoreUnavailable, match="run `assay store migrate`"):
        CassandraRecords(absent)
    lock = ShippingState(tmp_path).lead()
    assert lock is not None
    held = Shipper(tmp_path, where, QUICK)
    with pytest.raises(RecordError, match="another process ships"):
        held.ship_once()
    held.stop()
    lock.release()
