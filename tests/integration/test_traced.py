"""A served call gives one trace: the right spans, parents and facts, at a collector, in the file and for the caller."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from assay.decision.v1 import decision_service_pb2 as pb
from assay.decision.v1 import decision_service_pb2_grpc
from assay.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from engine.telemetry.tracing import names as n
from tests.support.applications import all_ids, consumer, load_rows, new_id
from tests.support.bundles import shipped
from tests.support.otlp_sink import OtlpSink, SunkSpan, sinking
from tests.support.server import Client, ServerProcess, environment, open_store, running

SERVICE = n.DECISION_SERVICE
STAGES = {n.VALIDATE: 1, n.STORE_READ: 1, n.FEATURES: 1, n.MODEL: 2, n.POLICY: 1, n.REASONS: 1, n.RECORD: 1}
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def sink() -> Iterator[OtlpSink]:
    with sinking() as one:
        yield one


@pytest.fixture(scope="module")
def served(sink: OtlpSink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Client]]:
    home = tmp_path_factory.mktemp("traced")
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "lender-decisions",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "ASSAY_TRACING_BATCH_DELAY_S": "0.1",
        "ASSAY_TRACING_PLUGINS": "tests.support.span_plugin:install",
        "ASSAY_SERVER_BATCH_ITEMS_MAX": "8",
    }
    with running(home, settings=settings) as (server, client):
        yield server, client


def _trace(sink: OtlpSink, trace_id: str, count: int) -> list[SunkSpan]:
    """All spans of a trace, once so many have come."""
    sink.wait(lambda spans: sum(span.trace_id == trace_id for span in spans) >= count)
    found = [span for span in sink.spans if span.trace_id == trace_id]
    assert len(found) == count, sorted(span.name for span in found)
    return found


def _good(server: ServerProcess) -> pb.DecideRequest:
    subject = new_id("traced")
    with open_store(server.home) as store:
        load_rows(store, all_ids(subject))
    return consumer(subject)


def test_a_decision_is_one_trace_with_a_span_for_each_stage(
    sink: OtlpSink, served: tuple[ServerProcess, Client]
) -> None:
    server, client = served
    request = _good(server)
    metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"), ("tracestate", "lender=los,other=1"))
    answer, call = client.stub.Decide.with_call(request, timeout=30, metadata=metadata)
    decision = answer.decision
    spans = _trace(sink, TRACE, 1 + sum(STAGES.values()) + 1)
    root = next(span for span in spans if span.name == f"{SERVICE}/Decide")
    assert (root.parent_id, root.kind, root.tracestate) == (CALLER, 2, "lender=los,other=1")
    stages = [span for span in spans if span.parent_id == root.span_id and span.scope == n.SCOPE]
    assert Counter(span.name for span in stages) == STAGES
    assert all(root.start_ns <= span.start_ns <= span.end_ns <= root.end_ns for span in stages)
    # The trace id in the message and in the trailing metadata.
    assert decision.trace_id == TRACE
    assert dict(call.trailing_metadata())["traceparent"] == f"00-{TRACE}-{root.span_id}-01"
    # What an operator looks for.
    plan, facts = shipped().plan, root.attributes
    flow = plan.flows["consumer_loan.application"]
    assert facts[n.RPC_SYSTEM] == "grpc" and facts[n.RPC_METHOD] == f"{SERVICE}/Decide"
    assert facts[n.RPC_STATUS] == "OK" and n.ERROR_TYPE not in facts
    assert facts[n.FLOW] == flow.name and facts[n.BUNDLE_DIGEST] == plan.digest
    assert facts[n.MODEL_VERSIONS] == [f"{one.model.id}@{one.model.version}" for one in flow.models]
    assert facts[n.VERDICT] == "APPROVE"
    groups = (decision.credit_reasons, decision.fraud_reasons, decision.policy_reasons)
    codes = [one.code for group in groups for one in group]
    assert facts.get(n.REASON_CODES, []) == codes
    assert facts[n.SUBSTITUTIONS] == len(decision.substitutions)
    assert facts[n.DECISION_ID] == decision.decision_id
    assert facts[n.DEGRADED] is False and facts[n.REPLAYED] is False and facts[n.RETRIES] == 0
    assert facts[n.QUEUE_WAIT] >= 0 and 0 < facts[n.DEADLINE_LEFT] <= 31_000
    assert (facts[n.SERVER_ADDRESS], facts[n.SERVER_PORT]) == ("127.0.0.1", server.port)
    read = next(span for span in stages if span.name == n.STORE_READ).attributes
    assert read[n.DB_SYSTEM] == "assay.embedded" and read[n.STORE_KEYS] == len(flow.features.views)
    assert read[n.STORE_HITS] == len(flow.features.views)
    models = [span.attributes for span in stages if span.name == n.MODEL]
    assert {one[n.MODEL_ID] for one in models} == {one.model.id for one in flow.models}
    assert all(one[n.MODEL_STATUS] == "OK" and one[n.MODEL_BATCH_SIZE] == 1 for one in models)
    # The operator's own span nests under the call.
    [own] = [span for span in spans if span.scope == "lender"]
    assert (own.name, own.parent_id) == ("lender.read", root.span_id)
    assert root.resource["service.name"] == "lender-decisions"
    assert root.resource["deployment.environment.name"] == "test"


def test_a_batch_is_one_trace_with_a_span_for_each_item(sink: OtlpSink, served: tuple[ServerProcess, Client]) -> None:
    server, client = served
    trace_id = "1" * 31 + "a"
    bad = consumer(new_id("bad"))
    bad.application.amount.units = -1
    requests = [_good(server), bad, _good(server)]
    client.stub.DecideBatch(
        pb.DecideBatchRequest(requests=requests), timeout=30, metadata=(("traceparent", f"00-{trace_id}-{CALLER}-01"),)
    )
    # Each item its stages but the read, which they share.
    spans = _trace(sink, trace_id, 1 + 1 + 1 + 2 * sum(STAGES.values()) + 1)
    root = next(span for span in spans if span.name == f"{SERVICE}/DecideBatch")
    assert root.attributes[n.BATCH_SIZE] == 3
    items = {span.attributes[n.BATCH_INDEX]: span for span in spans if span.name == n.DECIDE_ITEM}
    assert sorted(items) == [0, 1, 2] and all(span.parent_id == root.span_id for span in items.values())
    assert items[1].attributes[n.ERROR_TYPE] == "INVALID_REQUEST" and n.VERDICT not in items[1].attributes
    for index in (0, 2):
        names = Counter(span.name for span in spans if span.parent_id == items[index].span_id)
        assert names == {name: count for name, count in STAGES.items() if name != n.STORE_READ}
        models = [s for s in spans if s.parent_id == items[index].span_id and s.name == n.MODEL]
        assert all(span.attributes[n.MODEL_BATCH_SIZE] == 2 for span in models)
    [read] = [span for span in spans if span.name == n.STORE_READ]
    assert read.parent_id == root.span_id and read.attributes[n.STORE_SHARED] == 2


def test_every_message_of_a_stream_is_a_trace(sink: OtlpSink, served: tuple[ServerProcess, Client]) -> None:
    server, client = served
    # One after the other: messages that come together share a read, and a plug-in's span of it is in one trace.
    requests = [pb.DecideStreamRequest(request=_good(server)) for _ in range(3)]
    sending: SimpleQueue[pb.DecideStreamRequest | None] = SimpleQueue()
    sending.put(requests[0])
    answers = []
    for one in client.stub.DecideStream(iter(sending.get, None), timeout=60):
        answers.append(one.decision)
        sending.put(requests[len(answers)] if len(answers) < len(requests) else None)
    assert len({answer.trace_id for answer in answers}) == 3
    for answer in answers:
        spans = _trace(sink, answer.trace_id, 1 + sum(STAGES.values()) + 1)
        [root] = [span for span in spans if span.name == f"{SERVICE}/DecideStream"]
        assert root.parent_id == "" and root.attributes[n.DECISION_ID] == answer.decision_id


def test_refused_and_other_calls_have_traces_too(sink: OtlpSink, served: tuple[ServerProcess, Client]) -> None:
    _, client = served
    bad = consumer(new_id("bad"))
    bad.application.amount.units = -1
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.Decide(bad, timeout=30)
    assert isinstance(caught.value, grpc.Call)
    parent = dict(caught.value.trailing_metadata() or ())["traceparent"]
    assert isinstance(parent, str)
    [refused] = _trace(sink, parent.split("-")[1], 1)
    assert refused.attributes[n.RPC_STATUS] == "INVALID_ARGUMENT"
    assert refused.attributes[n.ERROR_TYPE] == "INVALID_REQUEST"
    assert refused.status == 0  # the caller's fault is no failure of the server
    features = feature_service_pb2_grpc.FeatureServiceStub(client.channel)
    methods = {
        f"{SERVICE}/ListFlows": lambda m: client.stub.ListFlows(pb.ListFlowsRequest(), timeout=30, metadata=m),
        f"{n.FEATURE_SERVICE}/GetFeatures": lambda m: features.GetFeatures(
            feature_service_pb2.GetFeaturesRequest(entity="applicant", entity_id="x"), timeout=30, metadata=m
        ),
    }
    for number, (name, call) in enumerate(methods.items()):
        trace_id = f"{number + 1:032x}"
        call((("traceparent", f"00-{trace_id}-{CALLER}-01"),))
        assert name in {span.name for span in _trace(sink, trace_id, 1 + (name.endswith("GetFeatures") * 2))}


def test_a_caller_s_own_instrumentation_joins_the_same_trace(
    sink: OtlpSink, served: tuple[ServerProcess, Client]
) -> None:
    server, _ = served
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    with grpc.insecure_channel(server.address) as plain:
        interceptor = client_interceptor(tracer_provider=provider)  # type: ignore[no-untyped-call]
        channel = intercept_channel(plain, interceptor)  # type: ignore[no-untyped-call]
        decision = decision_service_pb2_grpc.DecisionServiceStub(channel).Decide(_good(server), timeout=30).decision
    [theirs] = exported.get_finished_spans()
    context = theirs.get_span_context()
    assert context is not None
    assert decision.trace_id == f"{context.trace_id:032x}"
    spans = _trace(sink, decision.trace_id, 1 + sum(STAGES.values()) + 1)
    [root] = [span for span in spans if span.name == f"{SERVICE}/Decide"]
    assert root.parent_id == f"{context.span_id:016x}"


def test_a_stored_decision_says_so_in_its_trace(sink: OtlpSink, served: tuple[ServerProcess, Client]) -> None:
    server, client = served
    request = _good(server)
    first = client.stub.Decide(request, timeout=30).decision
    _, call = client.stub.Decide.with_call(request, timeout=30)
    trace_id = str(dict(call.trailing_metadata())["traceparent"]).split("-")[1]
    [again] = _trace(sink, trace_id, 1)
    assert again.attributes[n.REPLAYED] is True
    assert again.attributes[n.DECISION_ID] == first.decision_id


def test_everything_is_in_the_file_after_a_drain_and_the_command_line_shows_it(tmp_path: Path) -> None:
    with running(tmp_path) as (server, client):
        decisions = [client.stub.Decide(_good(server), timeout=30).decision for _ in range(5)]
        assert server.stop() == 0
    for decision in decisions:
        for id_ in (decision.trace_id, decision.decision_id):
            shown = _assay(tmp_path, "trace", id_)
            assert shown.returncode == 0, shown.stderr
            assert decision.trace_id in shown.stdout and n.RECORD in shown.stdout
    assert decisions[-1].trace_id in _assay(tmp_path, "trace", "last").stdout
    missing = _assay(tmp_path, "trace", "0" * 32)
    assert missing.returncode == 1 and "There is no such trace" in missing.stderr


def _assay(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.cli", *arguments]
    return subprocess.run(
        command, cwd=home, env=environment(home), capture_output=True, text=True, check=False, timeout=60
    )
