"""IngestEvents and DeleteSubject through their stubs, and what is told when the store fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.type.money_pb2 import Money

from assay.decision.v1.decision_pb2 import (
    FEATURE_STATUS_NOT_FOUND,
    FEATURE_STATUS_PRESENT,
    Value,
)
from assay.feature.v1 import feature_pb2 as feature
from assay.feature.v1 import feature_service_pb2 as pb
from engine.features.store import FeatureStore
from engine.features.stores.embedded import EmbeddedStore
from engine.features.stores.memory import MemoryStore
from tests.support.catalogue import HOUR_US, NOW_US
from tests.support.features import (
    Service,
    Talk,
    event,
    get,
    ingest,
    moment,
    put,
    refused,
    row,
    serving,
    total,
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
    assert time.monotonic() - begin < 20
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
        end = time.monotonic() + 60
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
        failure = refused(lambda call=call: call(b"\xff\xff", timeout=60))
        assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    stream: Any = service.channel.stream_stream("/assay.feature.v1.FeatureService/IngestEvents")
    assert refused(lambda: list(stream(iter([b"\xff\xff"]), timeout=60))).reason == "INVALID_REQUEST"
