"""What surrounds decisions: flows, health, reflection, starting and draining."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typer.testing import CliRunner

from assay.decision.v1 import decision_service_pb2 as pb
from engine.cli import app
from engine.clock import SystemClock
from engine.decider import Decider
from engine.feature_reader import FeatureReader
from engine.features.stores.memory import MemoryStore
from engine.record.log import DecisionLog
from engine.record_reader import RecordReader
from engine.rpc.server import Server, ServerSettings
from engine.rpc.servicer import SERVICE, DecisionServicer
from tests.support.applications import consumer
from tests.support.bundles import copy_bundle, edit, shipped
from tests.support.errors import failure_of
from tests.support.faulty import until
from tests.support.server import Client, ServerProcess, environment, running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# A drain that waits for something it should not wait for takes longer than any test may.
NO_HURRY = {"ASSAY_SERVER_DRAIN_GRACE_S": "500"}


def _health(client: Client, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status  # type: ignore[no-any-return]


def test_flows_say_what_they_take(client: Client) -> None:
    answer = client.stub.ListFlows(pb.ListFlowsRequest())
    plan = shipped().plan
    assert [f.name for f in answer.flows] == sorted(plan.flows)
    assert (answer.bundle.name, answer.bundle.version, answer.bundle.digest) == (plan.name, plan.version, plan.digest)
    assert list(answer.languages) == list(plan.languages)
    flow = next(f for f in answer.flows if f.name == "consumer_loan.application")
    assert (flow.product, flow.moment) == ("consumer_loan", "application")
    assert (flow.amount_min.units, flow.amount_max.units, flow.amount_min.currency_code) == (500, 50_000, "USD")
    assert list(flow.terms_months) == [6, 12, 24, 36, 48, 60]
    assert "device" in flow.entities
    assert all("@" in m for m in flow.models)
    assert flow.description
    income = next(f for f in flow.fields if f.name == "stated_monthly_income")
    assert (income.type, income.unit, income.required) == ("float", "USD/month", False)
    assert (income.min, income.max) == (0.0, 1e7)
    assert income.description


def test_the_bounds_that_flows_state_are_the_bounds_that_hold(client: Client) -> None:
    for flow in client.stub.ListFlows(pb.ListFlowsRequest()).flows:
        for amount, good in (
            (flow.amount_min.units, True),
            (flow.amount_max.units, True),
            (flow.amount_min.units - 1, False),
            (flow.amount_max.units + 1, False),
        ):
            request = consumer(amount=amount, entities=False, fields={}, term_months=flow.terms_months[0])
            request.application.product, request.application.moment = flow.product, flow.moment
            if good:
                assert client.stub.Decide(request).decision.flow == flow.name
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    client.stub.Decide(request)
                assert set(failure_of(caught.value).fields) == {"application.amount"}


def test_health_is_serving_for_the_server_and_for_the_service(client: Client) -> None:
    assert _health(client) == SERVING
    assert _health(client, SERVICE) == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        _health(client, "assay.decision.v1.Other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_describes_them(client: Client) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
    ]
    listed, described = stub.ServerReflectionInfo(iter(asked))
    names = {s.name for s in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


@pytest.fixture
def without_bundle(tmp_path: Path) -> Iterator[tuple[Server, Decider, Client]]:
    """A server that listens and has no bundle yet."""
    log = DecisionLog.open(tmp_path / "decisions")
    decider = Decider(FeatureReader(MemoryStore()), log, SystemClock())
    servicer = DecisionServicer(decider, RecordReader(log, lambda: None), 256, 4)
    settings = ServerSettings("127.0.0.1:0", threads=6, waiting_max=10, message_bytes_max=1 << 22, drain_grace_s=1.0)
    server = Server(servicer, settings)
    server.start()
    client = Client(f"127.0.0.1:{server.port}")
    yield server, decider, client
    client.close()
    server.drain(servicer)
    log.close()


def test_without_a_bundle_nothing_is_decided_and_health_says_so(
    without_bundle: tuple[Server, Decider, Client],
) -> None:
    _, _, client = without_bundle
    assert _health(client) == NOT_SERVING
    assert _health(client, SERVICE) == NOT_SERVING
    calls = (
        lambda: client.stub.Decide(consumer_without_bundle()),
        lambda: client.stub.DecideBatch(pb.DecideBatchRequest(requests=[consumer_without_bundle()])),
        lambda: client.stub.ListFlows(pb.ListFlowsRequest()),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        failure = failure_of(caught.value)
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "NO_BUNDLE"
        assert failure.retry_ms


def consumer_without_bundle() -> pb.DecideRequest:
    """A request that needs no catalogue to be built."""
    return pb.DecideRequest(request_id="early")


def test_a_bundle_that_cannot_be_served_ends_the_server_with_every_problem(tmp_path: Path) -> None:
    bundle = copy_bundle(tmp_path / "bundle")
    edit(bundle / "features.yaml", "unit: USD/month", "unit: apples", count=100)
    edit(bundle / "flows" / "consumer_loan.yaml", "  - credit_file\n", "")
    (bundle / "policy" / "consumer_price.json").unlink()
    server = ServerProcess(tmp_path, bundle)
    assert server.process.wait(100) == 1
    server.stop()
    assert "ready" not in server.output
    assert "The bundle cannot be served" in server.output
    assert "consumer_price.json" in server.output
    assert "revolving_utilization" in server.output
    assert "Traceback" not in server.output


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    """Two servers behind one port would each decide the same request id."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "first") as (first, _):
        second = ServerProcess(tmp_path / "second", settings={"ASSAY_SERVER_ADDRESS": first.address})
        assert second.process.wait(100) == 1
        assert "cannot listen" in second.output


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"ASSAY_SERVER_ADDRESS": "nowhere"}, "ASSAY_SERVER_ADDRESS"),
        ({"ASSAY_SERVER_ADDRESS": "127.0.0.1:99999"}, "65535"),
        ({"ASSAY_BUNDLE_PATH": "/does/not/exist"}, "/does/not/exist"),
        ({"ASSAY_SERVER_THREADS": "many", "ASSAY_LOG_LEVEL": "loud"}, "2 problems"),
        ({"ASSAY_SERVER_TREADS": "4"}, "ASSAY_SERVER_TREADS"),
        ({"ASSAY_SERVER_TLS_CERTIFICATE": "a.pem", "ASSAY_SERVER_TLS_KEY": "b.pem"}, "server.tls_key"),
        ({"ASSAY_RECORD_PATH": "/dev/null/x"}, "/dev/null/x"),
        ({"ASSAY_STORE_PATH": "/dev/null/x"}, "/dev/null/x"),
    ],
)
def test_settings_that_cannot_be_used_end_the_server_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], told: str
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the test process keeps its own handlers
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    result = CliRunner().invoke(app, ["serve"], env=environment(tmp_path, settings=settings))
    root.setLevel(level)
    root.handlers[:] = handlers
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert told in result.output.replace("\n", "")


def test_a_second_server_on_the_same_journal_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as (_, client):
        second = ServerProcess(tmp_path)
        assert second.process.wait(100) == 1
        second.stop()
        assert "Traceback" not in second.output
        assert client.stub.Decide(consumer()).decision.decision_id


def test_sigterm_under_load_loses_no_accepted_call_and_no_decision(tmp_path: Path) -> None:
    answered: list[str] = []
    unexpected: list[str] = []
    stop = threading.Event()

    def caller(client: Client) -> None:
        while not stop.is_set():
            try:
                answered.append(client.stub.Decide(consumer(), timeout=60).decision.decision_id)
            except grpc.RpcError as error:
                # Refused before it was accepted: the connection is closed, or the server says that it drains.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    unexpected.append(str(error))
                return

    with running(tmp_path) as (server, _):
        clients = [Client(server.address) for _ in range(4)]
        threads = [threading.Thread(target=caller, args=(c,)) for c in clients for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 100)
        assert server.stop(signal.SIGTERM) == 0
        stop.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
    assert not unexpected
    assert "Traceback" not in server.output
    with running(tmp_path) as (_, client):
        for decision_id in answered:
            stored = client.stub.GetDecision(pb.GetDecisionRequest(decision_id=decision_id)).decision
            assert stored.decision_id == decision_id


def test_every_answer_given_before_kill_9_is_found_again(tmp_path: Path) -> None:
    answered: list[str] = []

    def caller(client: Client) -> None:
        while True:
            try:
                answered.append(client.stub.Decide(consumer(), timeout=60).decision.decision_id)
            except grpc.RpcError:
                return

    with running(tmp_path) as (server, _):
        clients = [Client(server.address) for _ in range(4)]
        threads = [threading.Thread(target=caller, args=(c,)) for c in clients for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 100)
        server.stop(signal.SIGKILL)
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()
    with running(tmp_path) as (_, client):
        for decision_id in answered:
            stored = client.stub.GetDecision(pb.GetDecisionRequest(decision_id=decision_id)).decision
            assert stored.decision_id == decision_id


def test_an_idle_stream_does_not_hold_the_drain(tmp_path: Path) -> None:
    with running(tmp_path, settings=NO_HURRY) as (server, client):
        hold = threading.Event()

        def requests() -> Iterator[pb.DecideStreamRequest]:
            yield pb.DecideStreamRequest(request=consumer())
            hold.wait(100)

        stream = client.stub.DecideStream(requests())
        assert next(stream).WhichOneof("outcome") == "decision"
        # Ends long before the grace time is over.
        assert server.stop(signal.SIGTERM, timeout_s=60) == 0
        hold.set()


def test_health_turns_while_a_long_batch_drains(tmp_path: Path) -> None:
    with running(tmp_path, settings=NO_HURRY) as (server, client):
        batches = [pb.DecideBatchRequest(requests=[consumer() for _ in range(256)]) for _ in range(6)]
        futures = [client.stub.DecideBatch.future(b, timeout=100) for b in batches]
        stub: Any = health_pb2_grpc.HealthStub(client.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=100)
        assert next(watch).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        for future in futures:
            # Accepted and answered whole, or refused before anything was decided.
            try:
                assert len(future.result().items) == 256
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
        # An open health watch does not hold the drain: it ends long before the grace time is over.
        assert server.process.wait(60) == 0
