"""The same calls under other settings: other ways to encode, other rules of what is kept, no collector at all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from engine.telemetry.tracing import names as n
from tests.support.applications import all_ids, consumer, load_rows, new_id
from tests.support.otlp_sink import sinking
from tests.support.server import open_store, running

DECIDE = f"{n.DECISION_SERVICE}/Decide"


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("thread", {"ASSAY_TRACING_EXPORTERS": "otlp", "ASSAY_TRACING_PROTOCOL": "http/protobuf"}),
        ("stock", {"ASSAY_TRACING_PROCESSOR": "tests.support.span_plugin:processor"}),
        ("process", {"ASSAY_TRACING_EXPORTERS": "otlp", "ASSAY_TRACING_COMPRESSION": "gzip"}),
    ],
)
def test_every_mode_sends_the_same_tree(mode: str, more: dict[str, str], tmp_path: Path) -> None:
    with sinking() as sink:
        endpoint = sink.http_endpoint if mode == "thread" else sink.grpc_endpoint
        settings = {"ASSAY_TRACING_MODE": mode, **more}
        settings["OTEL_EXPORTER_OTLP_ENDPOINT" if mode == "stock" else "ASSAY_TRACING_ENDPOINT"] = endpoint
        settings |= {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "otlp"}
        with running(tmp_path, settings=settings) as (server, client):
            decisions = [client.stub.Decide(consumer(new_id(mode)), timeout=60).decision for _ in range(5)]
            assert server.stop() == 0
        sink.wait(lambda spans: sum(span.name == DECIDE for span in spans) == 5)
        for decision in decisions:
            spans = [span for span in sink.spans if span.trace_id == decision.trace_id]
            [root] = [span for span in spans if span.name == DECIDE]
            assert root.attributes[n.DECISION_ID] == decision.decision_id
            stages = Counter(span.name for span in spans if span.parent_id == root.span_id)
            assert stages[n.MODEL] == 2 and sum(stages.values()) == 8
            # A tuple of names is a list on the wire in every mode.
            assert isinstance(root.attributes[n.MODEL_VERSIONS], list)


def test_plain_approvals_can_be_thinned_and_all_else_is_kept(tmp_path: Path) -> None:
    with sinking() as sink:
        settings = {
            "ASSAY_TRACING_EXPORTERS": "otlp",
            "ASSAY_TRACING_ENDPOINT": sink.grpc_endpoint,
            "ASSAY_TRACING_PLAIN_KEPT_RATIO": "0",
            "ASSAY_TRACING_SLOW_MS": "60000",
        }
        with running(tmp_path, settings=settings) as (server, client):
            good = new_id("good")
            with open_store(server.home) as store:
                load_rows(store, all_ids(good))
            plain = [client.stub.Decide(consumer(good), timeout=60).decision for _ in range(5)]
            other = [client.stub.Decide(consumer(new_id("nobody")), timeout=60).decision for _ in range(5)]
            assert server.stop() == 0
        sink.wait(lambda spans: sum(span.name == DECIDE for span in spans) >= 5)
        kept = {span.trace_id for span in sink.spans}
        assert kept == {decision.trace_id for decision in other}
        assert not kept & {decision.trace_id for decision in plain}
        assert all(span.resource["assay.trace.plain_kept_ratio"] == 0.0 for span in sink.spans)


def test_a_collector_that_is_not_there_costs_no_call_and_shows(tmp_path: Path) -> None:
    settings = {
        "ASSAY_TRACING_EXPORTERS": "otlp",
        "ASSAY_TRACING_ENDPOINT": "http://127.0.0.1:9",  # nothing listens on discard
        "ASSAY_TRACING_BATCH_DELAY_S": "0.05",
        "ASSAY_TRACING_EXPORT_QUEUE_BYTES_MAX": "65536",
    }
    with running(tmp_path, settings=settings) as (server, client):
        for _ in range(100):
            assert client.stub.Decide(consumer(new_id("alone")), timeout=60).decision.trace_id
        assert server.stop() == 0
        # The exporter always says so; the server, if it heard of it before the end.
        assert "some spans were lost" in server.output or "not all traces were kept" in server.output
