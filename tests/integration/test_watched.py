"""A server as its operator sees it: metrics of what it decided, logs that name the trace, levels that change while it
runs, and no personal data in any of it."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from assay.decision.v1 import decision_service_pb2 as pb
from assay.feature.v1 import feature_pb2, feature_service_pb2, feature_service_pb2_grpc
from tests.support.applications import all_ids, consumer, load_rows, new_id
from tests.support.otlp_sink import OtlpSink, sinking
from tests.support.redis_servers import RedisServer
from tests.support.server import Client, ServerProcess, open_store, running

# Nobody has these names: what is found of them anywhere was leaked.
PLANTED = {
    "subject": "zqx-subject-8842017733",
    "device": "zqx-device-55f0a1",
    "phone": "zqx-phone-004915550199",
    "email": "zqx-someone@planted.example",
    "address": "zqx-17-planted-lane",
    "employer": "zqx-planted-works",
    "ip": "zqx-203-0-113-77",
    "agent": "zqx-agent-kim",
    "request": "zqx-request-20260101",
    "field": "zqx_unknown_field",
    "text": "zqx-free-text",
}


def _lines(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines if line.startswith("{")]


def _until(check: Callable[[], object], timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.05)


def _page(server: ServerProcess, path: str = "metrics") -> str:
    [url] = [line["url"] for line in _lines(server) if line["message"] == "metrics"]
    with urllib.request.urlopen(url.replace("metrics", path), timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def _values(page: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_the_page_counts_what_was_decided_and_refused(tmp_path: Path) -> None:
    with running(tmp_path, settings={"ASSAY_SERVER_BATCH_ITEMS_MAX": "4"}) as (server, client):
        subject = new_id("counted")
        with open_store(server.home) as store:
            load_rows(store, all_ids(subject))
        for _ in range(3):
            client.stub.Decide(consumer(subject), timeout=60)
        request = consumer(subject)
        client.stub.Decide(request, timeout=60)
        client.stub.Decide(request, timeout=60)
        client.stub.DecideBatch(pb.DecideBatchRequest(requests=[consumer(subject), consumer(subject)]), timeout=60)
        with pytest.raises(grpc.RpcError):
            client.stub.Decide(pb.DecideRequest(request_id="x"), timeout=60)
        assert _page(server, "healthz")
        found = _values(_page(server))
    decisions = found["assay_decisions_total"]
    assert sum(decisions.values()) == 6
    assert {dict(labels)["flow"] for labels in decisions} == {"consumer_loan.application"}
    assert found["assay_decisions_replayed_total"][()] == 1
    requests = {
        (dict(labels)["method"], dict(labels)["reason"]): value
        for labels, value in found["assay_requests_total"].items()
        if value
    }
    assert requests == {("Decide", "OK"): 5, ("Decide", "INVALID_REQUEST"): 1, ("DecideBatch", "OK"): 1}
    stages: dict[str, float] = {}
    for labels, count in found["assay_decision_stage_duration_seconds_count"].items():
        stages[dict(labels)["stage"]] = stages.get(dict(labels)["stage"], 0) + count
    assert {"validate", "read", "features", "scoring"} <= stages.keys() and set(stages.values()) == {6.0}
    reads = {k: v for k, v in found["assay_store_calls_total"].items() if dict(k)["operation"] == "read"}
    [(labels, count)] = reads.items()
    # One for each call; where the counters stand is looked up now and then besides.
    assert dict(labels)["store"] == "embedded" and count >= 5
    assert found["assay_requests_in_flight"][()] == 0
    assert found["assay_ready"][()] == 1
    assert found["assay_trace_records_total"][(("outcome", "recorded"),)] == 7


def test_a_store_that_is_down_shows_in_metrics_and_trace(tmp_path: Path) -> None:
    with RedisServer() as redis:
        settings = {"ASSAY_STORE_KIND": "redis", "ASSAY_REDIS_ADDRESSES": redis.address}
        with sinking() as sink:
            settings["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = sink.grpc_endpoint
            settings["ASSAY_TRACING_BATCH_DELAY_S"] = "0.1"
            with running(tmp_path, settings=settings) as (server, client):
                redis.stop()
                for _ in range(30):
                    client.stub.Decide(consumer(new_id("down")), timeout=60)
                found = _values(_page(server))
                assert server.stop() == 0
            spans = sink.wait(lambda spans: sum(s.name.endswith("/Decide") for s in spans) >= 30)
    state = found["assay_store_breaker_state"]
    assert state[(("side", "reads"), ("store", "redis"))] > 0
    failed = {
        dict(k)["outcome"]: v for k, v in found["assay_store_calls_total"].items() if dict(k)["operation"] == "read"
    }
    assert failed.get("unavailable") and failed.get("not_tried")
    reads = [span for span in spans if span.name == "assay.store.read" and span.attributes["db.system.name"] == "redis"]
    assert {"unavailable", "not_tried"} <= {span.attributes.get("error.type") for span in reads}
    assert "open" in {span.attributes["assay.store.breaker.state"] for span in reads}
    roots = [span for span in spans if span.name.endswith("/Decide")]
    assert all(root.attributes["assay.degraded"] for root in roots)
    assert "open" in {root.attributes.get("assay.breaker.state") for root in roots}


def test_log_levels_change_while_it_runs(tmp_path: Path) -> None:
    file = tmp_path / "assay.toml"
    file.write_text('[log]\nlevel = "warning"\n', encoding="utf-8")
    with running(tmp_path, settings={"ASSAY_CONFIG": str(file)}) as (server, client):
        assert not [line for line in _lines(server) if line["level"] == "info"]
        file.write_text('[log]\nlevel = "info"\nlevels = { "assay.velocity" = "error" }\n', encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        _until(lambda: [line for line in _lines(server) if line["message"] == "log levels"])
        file.write_text('[log]\nlevel = "loud"\n', encoding="utf-8")
        server.process.send_signal(signal.SIGHUP)
        _until(lambda: [line for line in _lines(server) if "log levels stay" in line["message"]])
        client.stub.ListFlows(pb.ListFlowsRequest(), timeout=60)
        assert server.stop() == 0
        assert [line for line in _lines(server) if line["message"] == "drained"]


def test_the_access_log_has_a_line_for_every_call_and_names_its_trace(tmp_path: Path) -> None:
    with running(tmp_path, settings={"ASSAY_LOG_ACCESS": "true"}) as (server, client):
        decision = client.stub.Decide(consumer(new_id("logged")), timeout=60).decision
        with pytest.raises(grpc.RpcError):
            client.stub.Decide(pb.DecideRequest(request_id="x"), timeout=60)
        _until(lambda: len([line for line in _lines(server) if line["logger"] == "assay.access"]) == 2)
        good, bad = [line for line in _lines(server) if line["logger"] == "assay.access"]
    assert (good["method"], good["status"], good["trace_id"]) == ("Decide", "OK", decision.trace_id)
    assert (good["decision_id"], good["verdict"]) == (decision.decision_id, "REFER")
    assert (bad["status"], bad["reason"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST")


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with sinking() as one:
        yield one


def test_no_personal_data_in_traces_metrics_or_logs(sink: OtlpSink, tmp_path: Path) -> None:
    """Everything on and as talkative as it gets; good calls, bad calls, features, events and an erasure."""
    settings = {
        "ASSAY_LOG_LEVEL": "debug",
        "ASSAY_LOG_ACCESS": "true",
        "ASSAY_TRACING_EXPORTERS": "file,console,otlp",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": sink.grpc_endpoint,
        "ASSAY_TRACING_BATCH_DELAY_S": "0.1",
    }
    with running(tmp_path, settings=settings) as (server, client):
        ids = {"applicant": PLANTED["subject"], **{k: PLANTED[k] for k in all_ids("x") if k in PLANTED}}
        with open_store(server.home) as store:
            load_rows(store, ids)
        _talk(client, ids)
        page = _page(server)
        assert server.stop() == 0
        sink.wait(lambda spans: len(spans) > 20)
        output = server.output
    file = (tmp_path / "var/traces/traces.jsonl").read_text(encoding="utf-8")
    spans = repr(sink.spans)
    assert "assay.validate" in file and "assay.validate" in spans and "assay_decisions_total" in page
    for where, text in {"file": file, "spans": spans, "page": page, "output": output}.items():
        for kind, value in PLANTED.items():
            assert value not in text, f"{kind} in the {where}"
        # Whatever begins so was planted, also in part.
        assert "zqx" not in text.lower(), where
        assert "8842017733" not in text and "004915550199" not in text, where
        # An amount and an income that nobody else asks for.
        assert "13371.77" not in text and "7654321" not in text, where


def _talk(client: Client, ids: dict[str, str]) -> None:
    def request(request_id: str) -> pb.DecideRequest:
        made = consumer(PLANTED["subject"], request_id=request_id, entities=False)
        for entity in ("device", "phone", "email", "address", "employer", "ip", "agent"):
            made.application.entities.add(entity=entity, id=ids[entity])
        made.application.fields["stated_monthly_income"].number = 13371.77
        return made

    client.stub.Decide(request(PLANTED["request"]), timeout=60)
    client.stub.Decide(request(PLANTED["request"]), timeout=60)
    changed = request(PLANTED["request"])
    changed.application.amount.units = 7654321
    bad = request(PLANTED["request"] + "-bad")
    bad.application.fields[PLANTED["field"]].text = PLANTED["text"]
    bad.application.entities.add(entity="zqx-entity", id="zqx-entity-id")
    bad.application.product = "zqx-product"
    bad.language = "zqx-language"
    for wrong in (changed, bad):
        with pytest.raises(grpc.RpcError):
            client.stub.Decide(wrong, timeout=60)
    batch = pb.DecideBatchRequest(requests=[request(PLANTED["request"] + "-1"), bad, changed])
    client.stub.DecideBatch(batch, timeout=60)
    with pytest.raises(grpc.RpcError):
        client.stub.GetDecision(pb.GetDecisionRequest(request_id="zqx-nothing"), timeout=60)
    features = feature_service_pb2_grpc.FeatureServiceStub(client.channel)
    row = feature_pb2.FeatureRow(view="zqx_view", entity_id=PLANTED["subject"])
    row.event_time.GetCurrentTime()
    row.values["zqx_feature"].text = PLANTED["text"]
    features.PutFeatures(feature_service_pb2.PutFeaturesRequest(rows=[row]), timeout=60)
    for entity, id_ in ids.items():
        features.GetFeatures(feature_service_pb2.GetFeaturesRequest(entity=entity, entity_id=id_), timeout=60)
    with pytest.raises(grpc.RpcError):
        features.GetFeatures(feature_service_pb2.GetFeaturesRequest(entity="zqx-what", entity_id="zqx-who"), timeout=60)
    event = feature_pb2.Event(event_id="zqx-event")
    event.event_time.GetCurrentTime()
    event.entities.add(entity="device", id=PLANTED["device"])
    event.entities.add(entity="zqx-entity", id=PLANTED["device"])
    event.amounts["zqx-amount"].number = 7654321
    events = iter([feature_service_pb2.IngestEventsRequest(events=[event])])
    [answer] = features.IngestEvents(events, timeout=60)
    assert answer.acknowledged_position == 1
    deleted = feature_service_pb2.DeleteSubjectRequest(entity="applicant", entity_id=PLANTED["subject"])
    features.DeleteSubject(deleted, timeout=60)
