"""PutFeatures and GetFeatures through their stubs: a real server in this process, over real stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from assay.decision.v1.decision_pb2 import (
    FEATURE_STATUS_NOT_FOUND,
    FEATURE_STATUS_NULL,
    FEATURE_STATUS_PRESENT,
    FEATURE_STATUS_STALE,
    FEATURE_STATUS_UNAVAILABLE,
    FEATURE_STATUS_WITHHELD,
    Value,
)
from assay.feature.v1 import feature_pb2 as feature
from assay.feature.v1 import feature_service_pb2 as pb
from engine.features.encoding import Field, Kind, RowEncoder, RowSchema
from engine.features.store import FeatureStore, row_key
from engine.features.stores.embedded import EmbeddedStore
from engine.features.stores.memory import MemoryStore
from tests.support.catalogue import DAY_US, HOUR_US, NOW_US
from tests.support.features import (
    Service,
    get,
    moment,
    put,
    refused,
    row,
    serving,
    statuses,
    values,
    view,
)


@pytest.fixture(params=["memory", "embedded"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeatureStore]:
    """A store of its own for every test."""
    opened = MemoryStore() if request.param == "memory" else EmbeddedStore(tmp_path / "features", durability="process")
    yield opened
    opened.close()


@pytest.fixture
def service(store: FeatureStore, tmp_path: Path) -> Iterator[Service]:
    """The service over that store."""
    with serving(tmp_path / "bundle", store) as made:
        yield made


def test_what_was_put_is_got(service: Service) -> None:
    member_since = NOW_US - 100 * DAY_US
    put_row = row(
        income=Value(money=Money(currency_code="EUR", units=2500, nanos=500_000_000)),
        balance=-3,
        accounts=7,
        arrears=2.0,
        employed=True,
        status="widowed",
        member_since=Value(time=moment(member_since)),
    )
    answer = put(service, put_row)
    assert (answer.written, answer.ignored_older, list(answer.rejected), list(answer.repairs)) == (1, 0, [], [])
    found = view(service, "file")
    assert values(found) == {
        "income": 2500.5,
        "balance": -3.0,
        "utilisation": None,
        "accounts": 7,
        "arrears": 2,
        "employed": True,
        "status": "widowed",
        "branch": None,
        "default_at": None,
        "defaulted": None,
        "member_since": moment(member_since),
    }
    assert statuses(found)["income"] == FEATURE_STATUS_PRESENT
    assert statuses(found)["utilisation"] == FEATURE_STATUS_NULL
    assert found.status == FEATURE_STATUS_PRESENT
    assert found.key == row_key("applicant", "p1", "file")
    assert found.event_time == moment(NOW_US - 1)
    assert found.age.ToMicroseconds() == 1
    assert not found.other_schema and not found.counters and not found.note
    fingerprint = bytes.fromhex(found.schema_fingerprint)
    assert service.store.get_schema(fingerprint) is not None, "a row lies there whose schema is not kept"
    by_name = {one.name: one for one in found.features}
    assert by_name["income"].unit == "EUR/month"
    assert by_name["income"].max_age.ToMicroseconds() == 30 * DAY_US
    assert by_name["member_since"].max_age.ToMicroseconds() == 1000 * DAY_US


def test_the_newer_event_time_wins_in_any_order_and_twice_is_once(service: Service) -> None:
    newer, older = row(time_us=NOW_US - 5, accounts=2), row(time_us=NOW_US - 9, accounts=1, arrears=4)
    assert put(service, newer).written == 1
    answer = put(service, older, newer, older)
    assert (answer.written, answer.ignored_older) == (0, 3)
    assert values(view(service, "file"))["accounts"] == 2
    assert statuses(view(service, "file"))["arrears"] == FEATURE_STATUS_NULL, "a row takes the place of the whole row"


def test_a_bad_row_harms_no_other_and_everything_wrong_is_told(service: Service) -> None:
    bad = row(entity_id="no spaces", income=-1.0, employed=3, salary=1)
    bad.values["accounts"].SetInParent()
    bad.units["balance"] = "GBP"
    bad.values["balance"].number = 1
    bad.ClearField("event_time")
    answer = put(service, row(accounts=1), bad, row("seen", "d1"), row(entity_id="p2", accounts=2))
    assert answer.written == 2
    assert [one.index for one in answer.rejected] == [1, 2]
    first, second = answer.rejected
    assert {fault.field: fault.reason for fault in first.faults} == {
        "entity_id": feature.REJECT_REASON_INVALID_ID,
        "event_time": feature.REJECT_REASON_EVENT_TIME_MISSING,
        'values["income"]': feature.REJECT_REASON_OUT_OF_RANGE,
        'values["employed"]': feature.REJECT_REASON_WRONG_TYPE,
        'values["salary"]': feature.REJECT_REASON_UNKNOWN_FEATURE,
        'values["accounts"]': feature.REJECT_REASON_NO_VALUE,
        'values["balance"]': feature.REJECT_REASON_UNKNOWN_UNIT,
    }
    assert all(fault.message for fault in first.faults)
    assert [fault.reason for fault in second.faults] == [feature.REJECT_REASON_KEPT_BY_ENGINE]
    assert values(view(service, "file", entity_id="p2"))["accounts"] == 2
    assert service.counters.get("feature_rows_rejected", reason="KEPT_BY_ENGINE") == 1


def test_values_are_cleaned_and_every_rule_is_counted(service: Service) -> None:
    first = row(utilisation=400.0, status="M", accounts=9999)
    first.units["utilisation"] = "percent"
    second = row(entity_id="p2", utilisation=30.0, branch="moon")
    second.units["utilisation"] = "percent"
    answer = put(service, first, second)
    counts = {(r.view, r.feature, feature.CleaningRule.Name(r.rule)): r.count for r in answer.repairs}
    assert counts == {
        ("file", "utilisation", "CLEANING_RULE_UNIT_CONVERTED"): 2,
        ("file", "utilisation", "CLEANING_RULE_OUT_OF_RANGE_CLIPPED"): 1,
        ("file", "status", "CLEANING_RULE_CATEGORY_MAPPED"): 1,
        ("file", "accounts", "CLEANING_RULE_OUT_OF_RANGE_DROPPED"): 1,
        ("file", "branch", "CLEANING_RULE_CATEGORY_DROPPED"): 1,
    }
    assert values(view(service, "file"))["utilisation"] == 2.0
    assert values(view(service, "file"))["status"] == "married"
    assert values(view(service, "file", entity_id="p2"))["utilisation"] == pytest.approx(0.3)
    assert service.counters.get("feature_values_cleaned", view="file", rule="UNIT_CONVERTED") == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Value(number=float("nan")), feature.REJECT_REASON_NOT_FINITE),
        (Value(number=float("inf")), feature.REJECT_REASON_NOT_FINITE),
        (Value(text="12"), feature.REJECT_REASON_WRONG_TYPE),
        (Value(flag=True), feature.REJECT_REASON_WRONG_TYPE),
        (Value(time=Timestamp(seconds=1)), feature.REJECT_REASON_WRONG_TYPE),
        (Value(time=Timestamp(nanos=-1)), feature.REJECT_REASON_WRONG_TYPE),
        (Value(money=Money(currency_code="eur", units=1)), feature.REJECT_REASON_UNKNOWN_UNIT),
        (Value(money=Money(currency_code="GBP", units=1)), feature.REJECT_REASON_UNKNOWN_UNIT),
        (Value(money=Money(currency_code="EUR", units=1, nanos=-1)), feature.REJECT_REASON_WRONG_TYPE),
        (Value(money=Money(currency_code="EUR", nanos=2_000_000_000)), feature.REJECT_REASON_WRONG_TYPE),
    ],
)
def test_a_value_of_another_kind_is_rejected(service: Service, value: Value, reason: int) -> None:
    (rejected,) = put(service, row(income=value)).rejected
    assert [(fault.field, fault.reason) for fault in rejected.faults] == [('values["income"]', reason)]


@pytest.mark.parametrize(
    ("event_time", "reason"),
    [
        (Timestamp(seconds=-1), feature.REJECT_REASON_EVENT_TIME_INVALID),
        (Timestamp(seconds=10**15), feature.REJECT_REASON_EVENT_TIME_INVALID),
        (Timestamp(nanos=10**9), feature.REJECT_REASON_EVENT_TIME_INVALID),
        (moment(NOW_US + HOUR_US), feature.REJECT_REASON_EVENT_TIME_IN_FUTURE),
    ],
)
def test_an_event_time_that_is_none_is_rejected(service: Service, event_time: Timestamp, reason: int) -> None:
    one = row(accounts=1)
    one.event_time.CopyFrom(event_time)
    (rejected,) = put(service, one).rejected
    assert [(fault.field, fault.reason) for fault in rejected.faults] == [("event_time", reason)]


def test_calls_at_fault_name_their_fields(service: Service) -> None:
    assert set(refused(lambda: put(service)).fields) == {"rows"}
    too_many = refused(lambda: put(service, *[row(accounts=1)] * 1001))
    assert (too_many.reason, too_many.metadata["items_max"]) == ("BATCH_TOO_LARGE", "1000")
    failure = refused(lambda: get(service, "boat", "a b", views=["file"], flow="x"))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(failure.fields) == {"entity", "entity_id", "flow"}
    assert set(refused(lambda: get(service, views=["file", "device_file", "nothing"])).fields) == {
        "views[1]",
        "views[2]",
    }
    failure = refused(lambda: service.stub.DeleteSubject(pb.DeleteSubjectRequest(entity="boat")))
    assert set(failure.fields) == {"entity", "entity_id"}


def test_views_are_those_asked_for_or_all_of_the_entity(service: Service) -> None:
    assert [one.view for one in get(service, "device", "d1").views] == ["device_file", "seen"]
    assert [one.view for one in get(service, "device", "d1", views=["seen", "seen"]).views] == ["seen"]
    nothing = get(service, "device", "nobody")
    assert {one.status for one in nothing.views} == {FEATURE_STATUS_NOT_FOUND}
    assert all(not one.HasField("event_time") and not one.schema_fingerprint for one in nothing.views)
    assert nothing.now == moment(NOW_US)


def test_what_is_too_old_is_stale_and_still_shown(service: Service) -> None:
    put(service, row(time_us=NOW_US - 31 * DAY_US, accounts=3, member_since=Value(time=Timestamp(seconds=10**9))))
    found = view(service, "file")
    assert found.status == FEATURE_STATUS_STALE
    assert (statuses(found)["accounts"], values(found)["accounts"]) == (FEATURE_STATUS_STALE, 3)
    assert statuses(found)["member_since"] == FEATURE_STATUS_PRESENT
    assert statuses(found)["income"] == FEATURE_STATUS_NULL


def test_what_the_law_silences_is_withheld(service: Service) -> None:
    long_ago, lately = NOW_US - 1827 * DAY_US, NOW_US - 1825 * DAY_US
    put(service, row(default_at=Value(time=moment(long_ago)), defaulted=True))
    put(service, row(entity_id="p2", default_at=Value(time=moment(lately)), defaulted=True))
    silenced = view(service, "file")
    assert (statuses(silenced)["defaulted"], values(silenced)["defaulted"]) == (FEATURE_STATUS_WITHHELD, None)
    assert values(view(service, "file", entity_id="p2"))["defaulted"] is True


def test_a_row_of_another_schema_is_read_by_name_and_says_so(service: Service) -> None:
    schema = RowSchema(
        "file",
        (
            Field("accounts", Kind.INT64, "count"),
            Field("nickname", Kind.STRING),
            Field("joined", Kind.TIMESTAMP),
            Field("gone", Kind.FLOAT64, "GBP"),
        ),
    )
    content = {"accounts": 5, "nickname": "Bo", "joined": 1e9}
    value = RowEncoder(schema).encode(content, NOW_US - 7)
    key = row_key("applicant", "p1", "file")
    service.store.put_schema(schema.fingerprint, schema.canonical)
    service.store.write([(key, value, NOW_US - 7)])
    found = view(service, "file")
    assert found.other_schema and "another schema" in found.note
    assert found.schema_fingerprint == schema.fingerprint.hex()
    assert (found.status, values(found)["accounts"]) == (FEATURE_STATUS_PRESENT, 5)
    assert statuses(found)["income"] == FEATURE_STATUS_NOT_FOUND
    stored = {one.name: one for one in found.stored}
    assert stored["nickname"].value.text == "Bo"
    assert stored["joined"].value.time == Timestamp(seconds=10**9)
    assert stored["gone"].unit == "GBP" and not stored["gone"].HasField("value")


def test_a_row_whose_schema_cannot_be_followed_or_is_not_known_is_unavailable(service: Service) -> None:
    changed = RowSchema("file", (Field("accounts", Kind.INT64, "dozens"),))
    unknown = RowSchema("file", (Field("something", Kind.INT64),))
    service.store.put_schema(changed.fingerprint, changed.canonical)
    for entity_id, schema in (("p1", changed), ("p2", unknown)):
        name = schema.fields[0].name
        value = RowEncoder(schema).encode({name: 5}, NOW_US - 7)
        service.store.write([(row_key("applicant", entity_id, "file"), value, NOW_US - 7)])
    found = view(service, "file")
    assert found.status == FEATURE_STATUS_UNAVAILABLE
    assert "dozens" in found.note
    assert [(one.name, one.value.integer, one.unit) for one in found.stored] == [("accounts", 5, "dozens")]
    assert set(statuses(found).values()) == {FEATURE_STATUS_UNAVAILABLE}
    lost = view(service, "file", entity_id="p2")
    assert lost.status == FEATURE_STATUS_UNAVAILABLE and "not recorded" in lost.note


def test_bytes_that_are_no_row_and_rows_of_the_future_are_unavailable(service: Service) -> None:
    good = RowEncoder(service.desk._served.plan.writes.views["file"].schema)  # type: ignore[union-attr]
    spoilt = bytearray(good.encode({"accounts": 1}, NOW_US))
    spoilt[30] ^= 1
    ahead = NOW_US + HOUR_US
    service.store.write(
        [
            (row_key("applicant", "p1", "file"), bytes(spoilt), NOW_US),
            (row_key("applicant", "p2", "file"), good.encode({"accounts": 1}, ahead), ahead),
        ]
    )
    found = view(service, "file")
    assert found.status == FEATURE_STATUS_UNAVAILABLE and "checksum" in found.note
    found = view(service, "file", entity_id="p2")
    assert found.status == FEATURE_STATUS_UNAVAILABLE and "future" in found.note
