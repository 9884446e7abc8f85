"""Whole rows: what is good becomes bytes that the view's own decoder reads, what is not is told with its place."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bundle.write_plan import make_write_plan
from engine.features.encoding import RowDecoder, RowEncoder
from engine.features.store import row_key
from engine.features.writing.checks import is_id
from engine.features.writing.outcome import CleaningRule, Fault, RejectReason
from engine.features.writing.plan import SentRow, WritePlan
from engine.validate import is_id as is_id_of_applications
from tests.support.catalogue import GOOD, HOUR_US, NOW_US, catalogue_in

MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
VALUES: dict[str, Any] = {**GOOD, "default_at": MOMENT, "member_since": MOMENT}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> WritePlan:
    """The plan of the catalogue of tests."""
    return make_write_plan(catalogue_in(tmp_path_factory.mktemp("bundle")))


def sent(values: dict[str, Any] | None = None, **more: Any) -> SentRow:
    """A good row, with changes."""
    row = {"view": "file", "entity_id": "p1", "event_time_us": NOW_US - HOUR_US, "values": VALUES, "units": {}, **more}
    return SentRow(**{**row, **({} if values is None else {"values": values})})


def faults_of(plan: WritePlan, row: SentRow) -> dict[str, RejectReason]:
    """What is wrong with one row, by field."""
    cleaned = plan.clean([row], NOW_US)
    assert bool(cleaned.rejected) != bool(cleaned.rows)
    return {fault.field: fault.reason for fault in cleaned.rejected.get(0, ())}


def test_a_good_row_is_the_row_of_the_encoder(plan: WritePlan) -> None:
    cleaned = plan.clean([sent()], NOW_US)
    (row,) = cleaned.rows
    assert row.key == row_key("applicant", "p1", "file")
    assert row.event_time_us == NOW_US - HOUR_US
    assert row.value == RowEncoder(plan.views["file"].schema).encode(VALUES, NOW_US - HOUR_US)
    assert (cleaned.rejected, dict(cleaned.repairs), cleaned.views) == ({}, {}, frozenset({"file"}))


def test_what_is_left_out_is_null(plan: WritePlan) -> None:
    (row,) = plan.clean([sent({"accounts": 4, "branch": None})], NOW_US).rows
    assert row.value == RowEncoder(plan.views["file"].schema).encode({"accounts": 4}, NOW_US - HOUR_US)


def test_rows_of_several_views_and_bad_ones_between_them(plan: WritePlan) -> None:
    rows = [
        sent(entity_id="a"),
        sent({"income": "much"}, entity_id="b"),
        sent({"device_age_days": 3}, view="device_file", entity_id="c"),
        sent(entity_id="d"),
    ]
    cleaned = plan.clean(rows, NOW_US)
    assert {row.key for row in cleaned.rows} == {
        row_key("applicant", "a", "file"),
        row_key("applicant", "d", "file"),
        row_key("device", "c", "device_file"),
    }
    assert set(cleaned.rejected) == {1}
    assert cleaned.views == {"file", "device_file"}


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"view": "files"}, {"view": RejectReason.UNKNOWN_VIEW}),
        ({"view": ""}, {"view": RejectReason.UNKNOWN_VIEW}),
        ({"view": "seen"}, {"view": RejectReason.KEPT_BY_ENGINE}),
        ({"entity_id": ""}, {"entity_id": RejectReason.INVALID_ID}),
        ({"entity_id": "a b"}, {"entity_id": RejectReason.INVALID_ID}),
        ({"entity_id": "é"}, {"entity_id": RejectReason.INVALID_ID}),
        ({"entity_id": "x" * 129}, {"entity_id": RejectReason.INVALID_ID}),
        ({"event_time_us": None}, {"event_time": RejectReason.EVENT_TIME_MISSING}),
        ({"event_time_us": -1}, {"event_time": RejectReason.EVENT_TIME_INVALID}),
        ({"event_time_us": NOW_US + 300_000_001}, {"event_time": RejectReason.EVENT_TIME_IN_FUTURE}),
        ({"values": {"salary": 1}}, {'values["salary"]': RejectReason.UNKNOWN_FEATURE}),
        ({"units": {"salary": "EUR"}}, {'values["salary"]': RejectReason.UNKNOWN_FEATURE}),
        ({"units": {"income": "EUR/week"}}, {'values["income"]': RejectReason.UNKNOWN_UNIT}),
        ({"values": {"x" * 99: 1}}, {f'values["{"x" * 61}..."]': RejectReason.UNKNOWN_FEATURE}),
        (
            {"entity_id": "", "event_time_us": None, "values": {"income": -1, "employed": 3}},
            {
                "entity_id": RejectReason.INVALID_ID,
                "event_time": RejectReason.EVENT_TIME_MISSING,
                'values["income"]': RejectReason.OUT_OF_RANGE,
                'values["employed"]': RejectReason.WRONG_TYPE,
            },
        ),
    ],
)
def test_all_that_is_wrong_is_told_with_its_place(
    plan: WritePlan, changes: dict[str, Any], faults: dict[str, RejectReason]
) -> None:
    assert faults_of(plan, sent(**changes)) == faults


@pytest.mark.parametrize("time_us", [0, 1, NOW_US, NOW_US + 300_000_000])
def test_event_times_at_the_edges_are_taken(plan: WritePlan, time_us: int) -> None:
    assert faults_of(plan, sent(event_time_us=time_us)) == {}


def test_a_time_that_was_found_wrong_before_is_told_once(plan: WritePlan) -> None:
    known = Fault("event_time", RejectReason.EVENT_TIME_INVALID, "is no moment")
    cleaned = plan.clean([sent(event_time_us=None, faults=(known,))], NOW_US)
    assert cleaned.rejected == {0: [known]}


def test_repairs_are_counted_by_view_feature_and_rule_and_only_for_rows_that_are_taken(plan: WritePlan) -> None:
    rows = [
        sent({"utilisation": 400, "status": "M"}, units={"utilisation": "percent"}),
        sent({"utilisation": 30, "status": "S"}, units={"utilisation": "percent"}),
        sent({"utilisation": 30, "status": "S"}, units={"utilisation": "percent"}, entity_id=""),
    ]
    assert dict(plan.clean(rows, NOW_US).repairs) == {
        ("file", "utilisation", CleaningRule.UNIT_CONVERTED): 2,
        ("file", "utilisation", CleaningRule.OUT_OF_RANGE_CLIPPED): 1,
        ("file", "status", CleaningRule.CATEGORY_MAPPED): 2,
    }


def test_ids_of_rows_are_ids_of_applications() -> None:
    """A row under another id could never be read."""
    assert is_id.__self__.pattern == is_id_of_applications.__self__.pattern  # type: ignore[attr-defined]


anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.datetimes(timezones=st.just(UTC))
)


@given(
    values=st.dictionaries(st.sampled_from([*GOOD, "salary"]), anything, max_size=11),
    units=st.dictionaries(st.sampled_from([*GOOD]), st.sampled_from(["percent", "EUR/year", "count", ""]), max_size=2),
    time_us=st.one_of(st.none(), st.integers(-1, NOW_US)),
)
def test_a_row_is_rejected_or_reads_back_in_range(
    plan: WritePlan, values: dict[str, object], units: dict[str, str], time_us: int | None
) -> None:
    row = SentRow("file", "p1", time_us, values, units)
    cleaned = plan.clean([row], NOW_US)
    if cleaned.rejected:
        assert cleaned.rows == []
        assert all(fault.message for fault in cleaned.rejected[0])
        return
    writer = plan.views["file"]
    out = np.empty(len(writer.rules))
    event_time_us, presence = RowDecoder(writer.schema).decode_into(cleaned.rows[0].value, out, 0)
    assert event_time_us == time_us
    for place, rule in enumerate(writer.rules):
        if presence >> place & 1:
            assert values[rule.name] is not None
            assert rule.lower <= out[place] <= rule.upper
        else:
            assert math.isnan(out[place])
