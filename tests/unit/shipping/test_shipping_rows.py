"""What becomes of frames in Cassandra, row by row, without a Cassandra."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from assay.outcome.v1 import outcome_pb2
from engine.features.stores.cassandra_driver import UNSET
from engine.record.entries import pack_ids
from engine.record.segments import Frame, FrameKind, Position
from engine.shipping.rows import PART_BYTES, RowMaker, day_and_bucket, outcome_ref, request_hash
from engine.shipping.settings import Retention, ShipSettings, ttl_s
from engine.shipping.sink import _together
from engine.shipping.subjects import JournalSubjects, NoSubjects
from tests.support.shipping import MASTER, all_frames, commit, day_us, open_log, record_of

_DAY_S = 86_400


def frame(payload: bytes, kind: int = FrameKind.DECISION, offset: int = 100) -> Frame:
    return Frame(Position("w0-00000007", offset), kind, payload, offset + len(payload) + 60, 5, b"l" * 32, b"", 0)


def decision(decided_us: int, size: int = 10) -> Frame:
    record, personal = record_of("id", "somebody", decided_us, size=size)
    return frame(pack_ids(b"key", "id", b"digest") + record + personal)


def maker(retention: Retention | None = None) -> RowMaker:
    return RowMaker("src", retention or Retention(), NoSubjects())


def test_days_and_their_buckets() -> None:
    assert day_and_bucket(0) == (date(1970, 1, 1), 0)
    assert day_and_bucket(day_us(2026, 3, 1, 23, 59)) == (date(2026, 3, 1), 287)
    assert day_and_bucket(day_us(2026, 3, 1, 0, 5)) == (date(2026, 3, 1), 1)
    assert day_and_bucket(-1) == (date(1969, 12, 31), 287)


def test_rows_of_a_decision_carry_its_moment_and_not_its_person(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    moment = day_us(2026, 3, 1, 12)
    name = commit(log, "planted-person", decided_us=moment)
    log.close()
    (one,) = [f for f in all_frames(tmp_path) if f.kind == FrameKind.DECISION]
    rows, counted = RowMaker("src", Retention(), JournalSubjects(tmp_path, MASTER)).make([one], set())
    mark = MASTER.subject_mark("planted-person")
    assert [
        values[-2:] for table in (rows.by_id, rows.by_subject, rows.by_day, rows.by_request) for values in table
    ] == [(0, moment)] * 4
    assert rows.by_subject[0][:3] == (mark, moment // 1000, name)
    assert rows.by_day[0][:4] == (date(2026, 3, 1), 144, moment // 1000, name)
    assert rows.by_request[0][0] == request_hash(b"\0" + name.encode())
    assert rows.frames[0][:9] == ("src", "w0", 1, one.position.offset, 1, one.link, 0, 1, one.end - one.position.offset)
    assert [key.subject for key in counted.keys] == [mark]
    # Nothing of the person but the keyed hash and what is sealed; nothing is written as a mark of deletion.
    written = repr(rows) + repr(counted)
    assert "planted-person" not in written
    assert all(value is not None for table in rows for values in table for value in values)


def test_a_record_that_cannot_be_read_is_kept_all_the_same() -> None:
    odd = frame(pack_ids(b"key", "id", b"digest") + b"\xff\xff")
    newer = frame(b"\x63 of a later version")
    rows, counted = maker().make([odd, newer], set(), now_s=1000.0)
    assert counted.decisions == 2
    assert [values[0] for values in rows.by_id] == ["id"]
    assert [values[-3] for values in rows.frames] == [UNSET, newer.payload]


def test_what_is_declared_is_written_once() -> None:
    declared = frame(b"\x08sha256:c" + b"slots", FrameKind.CATALOGUE)
    rows, _ = maker().make([declared, declared], set())
    assert [values[:4] for values in rows.declared] == [(2, "sha256:c", 0, b"slots")]
    assert len(rows.frames) == 2
    assert not maker().make([declared], {(2, "sha256:c")})[0].declared


def test_bulky_payloads_lie_in_parts() -> None:
    big = decision(1_000_000, size=2 * PART_BYTES + 5)
    rows, _ = maker().make([big], set())
    assert [len(values[2]) for values in rows.parts][:2] == [PART_BYTES, PART_BYTES]  # type: ignore[arg-type]
    assert b"".join(values[2] for values in rows.parts) == big.payload  # type: ignore[misc]
    assert {values[0] for values in rows.parts} == {"src/w0-00000007:100"}
    assert rows.by_id[0][-4:-2] == (3, UNSET)


def test_outcomes_are_found_by_decision_or_by_request() -> None:
    known = outcome_pb2.OutcomeRecord(decision_id="id", tenant="t", request_id="r")
    early = outcome_pb2.OutcomeRecord(tenant="t", request_id="r")
    frames = [frame(one.SerializeToString(), FrameKind.OUTCOME) for one in (known, early)]
    rows, _ = maker().make([*frames, frame(b"\xff\xff", FrameKind.OUTCOME)], set())
    assert [values[0] for values in rows.of_decision] == ["id", outcome_ref("", b"t\0r")]
    assert [values[-3] for values in rows.frames] == [UNSET, UNSET, b"\xff\xff"]


def test_retention_counts_from_the_decision(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    now_us = time.time_ns() // 1000
    for country, age_days in (("de", 5), ("de", 15), ("cn", 15), ("", 15)):
        commit(log, f"s{country}{age_days}", country=country, decided_us=now_us - age_days * _DAY_S * 1_000_000)
    log.close()
    retention = Retention(0, {"de": 10, "cn": 20})
    subjects = JournalSubjects(tmp_path, MASTER)
    rows, counted = RowMaker("src", retention, subjects).make(all_frames(tmp_path), set(), now_s=now_us / 1e6)
    assert counted.expired == 1
    assert [values[-2] for values in rows.by_id] == [5 * _DAY_S, 5 * _DAY_S, 0]
    assert len(rows.frames) == len(rows.by_day) == 3


def test_times_to_live() -> None:
    assert ttl_s(0, 0.0, 1e9) == 0
    assert ttl_s(1, 1e9, 1e9 + 10) == _DAY_S - 10
    assert ttl_s(1, 1e9, 1e9 + _DAY_S) is None
    # Cassandra cannot keep a row until 2040: rather for ever than lost.
    assert ttl_s(7300, 1.8e9, 1.8e9) == 0


def test_settings_that_make_no_sense() -> None:
    bad: list[dict[str, Any]] = [
        {"batch_rows": 0},
        {"share": 0.0},
        {"poll_s": 0.0},
        {"retry_max_s": 0.1},
        {"keep_local_s": -1.0},
    ]
    for options in bad:
        with pytest.raises(ValueError):
            ShipSettings(**options)
    bad = [{"days": -1}, {"days": 7301}, {"by_country": {"de": -1}}]
    for options in bad:
        with pytest.raises(ValueError):
            Retention(**options)
    assert Retention(10, {"de": 20}).longest == 20
    assert Retention(10, {"de": 0}).longest == 0


def test_statements_hold_neighbours_and_no_more_than_a_node_likes() -> None:
    rows: list[Any] = [("a", bytes(100))] * 40 + [("b", bytes(6000))] * 2 + [("c", b"")] * 3
    calls = list(_together("x", rows, lambda values: values[0]))
    batches: list[list[Any]] = [list(call.batch) or [call.values] for call in calls]
    assert [row for batch in batches for row in batch] == rows
    assert all(len({row[0] for row in batch}) == 1 for batch in batches)
    assert all(sum(len(row[1]) for row in batch) <= 5000 or len(batch) == 1 for batch in batches)
    # Of unlike partitions ten at most.
    few = list(_together("x", [(n, b"") for n in range(25)], lambda _: ()))
    assert [len(call.batch) for call in few] == [10, 10, 5]
