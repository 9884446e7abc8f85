"""Features written through the service of a running server: decisions read them, and a drain loses none."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assay.decision.v1.decision_pb2 import FEATURE_STATUS_PRESENT
from assay.feature.v1 import feature_pb2 as feature
from assay.feature.v1 import feature_service_pb2 as pb
from assay.feature.v1.feature_service_pb2_grpc import FeatureServiceStub
from engine.rpc.feature_servicer import FEATURE_SERVICE
from tests.support.applications import GOOD, consumer, new_id
from tests.support.faulty import until
from tests.support.features import event, row
from tests.support.server import Client, running


def now_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def view(stub: FeatureServiceStub, entity: str, entity_id: str, name: str) -> dict[str, Any]:
    """The values of one view."""
    answer = stub.GetFeatures(pb.GetFeaturesRequest(entity=entity, entity_id=entity_id, views=[name]), timeout=60)
    values = {}
    for one in answer.views[0].features:
        kind = one.value.WhichOneof("kind")
        values[one.name] = None if kind is None else getattr(one.value, kind)
    return values


def test_a_decision_reads_what_was_put_and_nothing_that_was_erased(client: Client) -> None:
    stub, subject = FeatureServiceStub(client.channel), new_id("put")
    rows = [
        row(name, subject, now_us(), **GOOD[name]) for name in ("credit_file", "applicant_file", "applicant_profile")
    ]
    answer = stub.PutFeatures(pb.PutFeaturesRequest(rows=rows), timeout=60)
    assert (answer.written, list(answer.rejected)) == (3, [])

    def missing() -> set[str]:
        decision = client.stub.Decide(consumer(subject), timeout=60).decision
        return {one.feature for one in decision.substitutions}

    assert not missing() & set(GOOD["credit_file"])
    flow = pb.GetFeaturesRequest(entity="applicant", entity_id=subject, flow="consumer_loan.application")
    found = {one.view: one.status for one in stub.GetFeatures(flow, timeout=60).views}
    assert found["credit_file"] == FEATURE_STATUS_PRESENT
    assert "business_file" not in found, "it is no view of this flow"
    removed = stub.DeleteSubject(pb.DeleteSubjectRequest(entity_id=subject), timeout=60).rows_removed
    assert removed >= 3
    assert {"debt_ratio", "open_credit_lines_count"} <= missing()


def test_events_and_decisions_count_together(client: Client) -> None:
    stub, device = FeatureServiceStub(client.channel), new_id("device")
    events = [
        event(new_id("event"), now_us() - n * 1_000_000, (("device", device), ("applicant", f"{device}-{n}")))
        for n in range(1, 4)
    ]
    (answer,) = stub.IngestEvents(iter([pb.IngestEventsRequest(events=events)]), timeout=60)
    assert (answer.counted, answer.acknowledged_position) == (3, 3)
    request = consumer()
    for entity in request.application.entities:
        if entity.entity == "device":
            entity.id = device
    client.stub.Decide(request, timeout=60)
    end = time.monotonic() + 60
    while (found := view(stub, "device", device, "device_velocity"))["device_applications_count_24h"] < 4:
        assert time.monotonic() < end, found
        time.sleep(0.01)
    assert found["device_applicants_distinct_7d"] == 4
    assert found["device_amount_sum_7d"] > 300


def test_the_service_has_its_own_health(client: Client) -> None:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=FEATURE_SERVICE), timeout=60)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_sigterm_ends_streams_of_events_and_loses_none_that_was_acknowledged(tmp_path: Path) -> None:
    device = "d1"
    out: queue.Queue[feature.Event | None] = queue.Queue()

    def requests() -> Iterator[pb.IngestEventsRequest]:
        while (one := out.get()) is not None:
            yield pb.IngestEventsRequest(events=[one])

    # A drain that waited for the streams would take longer than any test may.
    with running(tmp_path, settings={"ASSAY_SERVER_DRAIN_GRACE_S": "500"}) as (server, client):
        idle = FeatureServiceStub(client.channel).IngestEvents(requests(), timeout=100)
        busy_out: queue.Queue[None] = queue.Queue()
        acknowledged, sent = 0, list[feature.Event]()

        def busy() -> None:
            nonlocal acknowledged

            def many() -> Iterator[pb.IngestEventsRequest]:
                for number in range(1, 1_000_000):
                    if not busy_out.empty():
                        return
                    entities = (("device", device), ("applicant", "p1"))
                    sent.append(event(f"e{number}", now_us(), entities, position=number))
                    yield pb.IngestEventsRequest(events=[sent[-1]])

            try:
                for answer in FeatureServiceStub(client.channel).IngestEvents(many(), timeout=100):
                    acknowledged = answer.acknowledged_position
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), error

        out.put(event("idle", now_us()))
        assert next(idle).counted == 1
        thread = threading.Thread(target=busy)
        thread.start()
        until(lambda: acknowledged >= 200)
        assert server.stop(signal.SIGTERM, timeout_s=60) == 0
        busy_out.put(None)
        out.put(None)
        thread.join()
        assert "Traceback" not in server.output, server.output
    with running(tmp_path) as (_, client):
        # The last of them are kept one by one, so that each is known again.
        again = sent[acknowledged - 40 : acknowledged]
        request = pb.IngestEventsRequest(events=again)
        answers = list(FeatureServiceStub(client.channel).IngestEvents(iter([request]), timeout=60))
        assert sum(answer.duplicates for answer in answers) == len(again) == 40
