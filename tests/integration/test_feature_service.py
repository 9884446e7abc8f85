"""The feature service through its stubs: a real server in this process, over real stores."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from tests.support.errors import Failure, failure_of
from tests.support.features import Service, event, row, serving


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


def put(service: Service, *rows: feature.FeatureRow) -> pb.PutFeaturesResponse:
    """Puts rows."""
    return service.stub.PutFeatures(pb.PutFeaturesRequest(rows=rows), timeout=10)


def get(service: Service, entity: str = "applicant", entity_id: str = "p1", **more: Any) -> pb.GetFeaturesResponse:
    """Gets an entity."""
    return service.stub.GetFeatures(pb.GetFeaturesRequest(entity=entity, entity_id=entity_id, **more), timeout=10)


def view(service: Service, name: str, entity: str = "applicant", entity_id: str = "p1") -> feature.ViewReading:
    """One view of an entity."""
    (found,) = get(service, entity, entity_id, views=[name]).views
    return found


def values(found: feature.ViewReading) -> dict[str, Any]:
    """The values of a view by name; None where there is none."""
    out = {}
    for one in found.features:
        kind = one.value.WhichOneof("kind")
        out[one.name] = None if kind is None else getattr(one.value, kind)
    return out


def statuses(found: feature.ViewReading) -> dict[str, Any]:
    """The statuses of a view by name."""
    return {one.name: one.status for one in found.features}


def refused(call: Any) -> Failure:
    """What a call was refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return failure_of(caught.value)


def moment(time_us: int) -> Timestamp:
    """A timestamp."""
    made = Timestamp()
    made.FromMicroseconds(time_us)
    return made


# --- put and get --------------------------------------------------------------------------------------------------


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


# --- events -------------------------------------------------------------------------------------------------------


class Talk:
    """An open stream of events that is written to by hand."""

    def __init__(self, service: Service) -> None:
        self._out: queue.Queue[pb.IngestEventsRequest | None] = queue.Queue()
        self.call = service.stub.IngestEvents(self._requests(), timeout=30)

    def _requests(self) -> Iterator[pb.IngestEventsRequest]:
        while (message := self._out.get()) is not None:
            yield message

    def send(self, *events: feature.Event) -> None:
        """Sends one message."""
        self._out.put(pb.IngestEventsRequest(events=events))

    def end(self) -> None:
        """Says that no more events come."""
        self._out.put(None)


def ingest(service: Service, *messages: list[feature.Event]) -> list[pb.IngestEventsResponse]:
    """Sends messages and gives all acknowledgements."""
    requests = [pb.IngestEventsRequest(events=events) for events in messages]
    return list(service.stub.IngestEvents(iter(requests), timeout=30))


def total(answers: list[pb.IngestEventsResponse], name: str) -> int:
    """One count over all acknowledgements."""
    return sum(getattr(answer, name) for answer in answers)


def test_events_are_counted_and_acknowledged_and_read_at_once(service: Service) -> None:
    events = [
        event(f"e{n}", NOW_US - n * HOUR_US - 1, (("applicant", f"p{n % 3}"), ("device", "d1"))) for n in range(10)
    ]
    answers = ingest(service, events[:4], events[4:])
    assert answers[-1].acknowledged_position == 10
    assert total(answers, "counted") == 10
    found = view(service, "seen", "device", "d1")
    assert found.counters and found.status == FEATURE_STATUS_PRESENT
    assert values(found) == {
        "device_count_24h": 10,
        "device_applicants_7d": 3,
        "device_amount_7d": 1000.0,
        "device_since": pytest.approx(1e-6),
    }
    assert found.event_time == moment(NOW_US - 1)
    service.clock.now += 18 * HOUR_US
    later = view(service, "seen", "device", "d1")
    assert values(later)["device_count_24h"] == 6, "counters are what they come to now"
    assert later.age.ToMicroseconds() == 18 * HOUR_US + 1


def test_a_lone_event_is_acknowledged_without_waiting_for_others(service: Service) -> None:
    talk = Talk(service)
    begin = time.monotonic()
    for number in range(1, 6):
        talk.send(event(f"e{number}"))
        assert next(talk.call).acknowledged_position == number
    assert time.monotonic() - begin < 5
    talk.end()
    assert list(talk.call) == []


def test_a_stream_that_resumes_from_the_last_acknowledgement_counts_nothing_twice(service: Service) -> None:
    events = [event(f"e{n}", NOW_US - n - 1, position=10 * n) for n in range(1, 31)]
    talk = Talk(service)
    talk.send(*events[:20])
    acknowledged = 0
    while acknowledged < 200:
        acknowledged = next(talk.call).acknowledged_position
    talk.call.cancel()
    talk.end()
    answers = ingest(service, [one for one in events if one.position > 100])
    assert answers[-1].acknowledged_position == 300
    assert (total(answers, "counted"), total(answers, "duplicates")) == (10, 10)
    assert values(view(service, "seen", "device", "d1"))["device_count_24h"] == 30


def test_bad_events_are_listed_by_position_and_the_others_counted(service: Service) -> None:
    no_time = event("e2")
    no_time.ClearField("event_time")
    events = [
        event("e1"),
        no_time,
        event("e 3", entities=[("boat", "b"), ("device", "d1"), ("device", "d2")], amount="much"),
        event("e4", amount=Value(money=Money(currency_code="EUR", units=5))),
        event("e5", entities=[("applicant", "p1")]),
    ]
    answers = ingest(service, events)
    assert answers[-1].acknowledged_position == 5
    assert (total(answers, "counted"), total(answers, "uncounted")) == (2, 1)
    rejected = {one.position: {f.field: f.reason for f in one.faults} for a in answers for one in a.rejected}
    assert rejected == {
        2: {"event_time": feature.REJECT_REASON_EVENT_TIME_MISSING},
        3: {
            "event_id": feature.REJECT_REASON_INVALID_ID,
            "entities[0].entity": feature.REJECT_REASON_UNKNOWN_ENTITY,
            "entities[2].entity": feature.REJECT_REASON_NAMED_TWICE,
            'amounts["amount"]': feature.REJECT_REASON_WRONG_TYPE,
        },
    }
    assert values(view(service, "seen", "device", "d1"))["device_amount_7d"] == 105.0


def test_positions_must_rise_and_what_came_before_is_settled(service: Service) -> None:
    talk = Talk(service)
    talk.send(event("e1", position=7), event("e2"))
    assert next(talk.call).acknowledged_position == 8
    talk.send(event("e3", position=8))
    failure = refused(lambda: next(talk.call))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(failure.fields) == {"events[0].position"}
    talk.end()


@pytest.mark.parametrize("events", [0, 1001])
def test_a_message_holds_a_bounded_number_of_events(service: Service, events: int) -> None:
    failure = refused(lambda: ingest(service, [event(f"e{n}") for n in range(events)]))
    assert set(failure.fields) == {"events"}


def test_a_caller_that_goes_away_leaves_nothing_behind(service: Service) -> None:
    for _ in range(6):
        talk = Talk(service)
        talk.send(event("e1"))
        next(talk.call)
        talk.call.cancel()
        talk.end()
        end = time.monotonic() + 10
        while service.streams.count and time.monotonic() < end:
            time.sleep(0.01)
        assert service.streams.count == 0


def test_streams_are_bounded(service: Service) -> None:
    talks = [Talk(service), Talk(service)]
    for number, talk in enumerate(talks):
        talk.send(event(f"e{number}"))
        next(talk.call)
    third = Talk(service)
    third.send(event("e9"))
    failure = refused(lambda: next(third.call))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    for talk in (*talks, third):
        talk.end()


def test_a_drain_ends_idle_streams_after_their_acknowledgement(service: Service) -> None:
    talk = Talk(service)
    talk.send(event("e1"))
    assert next(talk.call).counted == 1
    service.draining.set()
    service.streams.drain()
    with pytest.raises(grpc.RpcError):
        next(talk.call)
    talk.end()
    for call in (lambda: put(service, row(accounts=1)), lambda: get(service), lambda: ingest(service, [event("e2")])):
        failure = refused(call)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


def test_where_nothing_counts_a_stream_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, MemoryStore(), counting=False) as service:
        failure = refused(lambda: ingest(service, [event("e1")]))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_COUNTERS")


# --- erasure ------------------------------------------------------------------------------------------------------


def test_a_subject_is_erased_with_rows_and_counters_and_nobody_else(service: Service) -> None:
    put(service, row(accounts=1), row(entity_id="p11", accounts=2), row("device_file", "p1", device_age_days=3.0))
    ingest(service, [event("e1", entities=[("device", "p1"), ("applicant", "p1")])])
    request = pb.DeleteSubjectRequest(entity_id="p1")
    assert service.stub.DeleteSubject(request).rows_removed == 1
    assert service.stub.DeleteSubject(request).rows_removed == 0
    assert view(service, "file").status == FEATURE_STATUS_NOT_FOUND
    assert view(service, "file", entity_id="p11").status == FEATURE_STATUS_PRESENT
    assert {one.status for one in get(service, "device", "p1").views} == {FEATURE_STATUS_PRESENT}
    request.entity = "device"
    assert service.stub.DeleteSubject(request).rows_removed == 2
    assert {one.status for one in get(service, "device", "p1").views} == {FEATURE_STATUS_NOT_FOUND}
    assert service.forgotten == [b"{applicant/p1}"] * 2 + [b"{device/p1}"]
    assert service.counters.get("feature_rows_erased") == 3


# --- failures -----------------------------------------------------------------------------------------------------


def test_a_store_that_fails_is_told_as_such_and_ids_stay_out_of_errors_and_logs(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "SECRET-4929"
    talk = Talk(service)
    talk.send(event("e1", position=41))
    next(talk.call)
    service.store.close()
    failures = [
        refused(lambda: put(service, row(entity_id=secret, accounts=1))),
        refused(lambda: get(service, "applicant", secret)),
        refused(lambda: service.stub.DeleteSubject(pb.DeleteSubjectRequest(entity_id=secret))),
    ]
    talk.send(event(secret, entities=[("device", secret)]))
    failures.append(refused(lambda: next(talk.call)))
    talk.end()
    for failure in failures:
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert failure.retry_ms
        assert failure.metadata["store"] == service.store.name
        assert secret not in failure.everything
    assert failures[-1].metadata["acknowledged_position"] == "41"
    assert "closed" in failures[2].message
    assert secret not in caplog.text
    assert service.forgotten == [b"{applicant/%b}" % secret.encode()], "what cannot be erased must not stand in either"


def test_ids_and_values_at_fault_are_not_repeated(service: Service) -> None:
    secret = "SECRET 4929"
    answer = put(service, row(entity_id=secret, income=-4929.0, status=secret, accounts=Value(text=secret)))
    answers = ingest(service, [event(secret, entities=[(secret, secret)], amount=secret)])
    failure = refused(lambda: get(service, secret, secret, flow=secret))
    for told in (str(answer), *map(str, answers), failure.everything):
        assert "4929" not in told


def test_without_a_bundle_nothing_is_taken(tmp_path: Path) -> None:
    with serving(tmp_path, MemoryStore(), bundle=False) as service:
        for call in (
            lambda: put(service, row(accounts=1)),
            lambda: get(service),
            lambda: ingest(service, [event("e1")]),
            lambda: service.stub.DeleteSubject(pb.DeleteSubjectRequest(entity_id="p1")),
        ):
            failure = refused(call)
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_BUNDLE")


def test_bytes_that_are_no_request_are_told_so(service: Service) -> None:
    for method in ("PutFeatures", "GetFeatures", "DeleteSubject"):
        call: Any = service.channel.unary_unary(f"/assay.feature.v1.FeatureService/{method}")
        failure = refused(lambda call=call: call(b"\xff\xff", timeout=10))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    stream: Any = service.channel.stream_stream("/assay.feature.v1.FeatureService/IngestEvents")
    assert refused(lambda: list(stream(iter([b"\xff\xff"]), timeout=10))).reason == "INVALID_REQUEST"
