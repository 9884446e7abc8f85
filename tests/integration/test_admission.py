"""Admission at a real server: quotas, deadlines, who goes first, and a limit that follows the store."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assay.decision.v1 import decision_service_pb2 as pb
from tests.support.applications import consumer, new_id
from tests.support.errors import Failure, failure_of, failure_of_status
from tests.support.proxy import Proxy
from tests.support.redis_servers import RedisServer, free_port
from tests.support.server import Client, ServerProcess, running

TENANT = "x-lender"


def _refused(call: Callable[[], object]) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return failure_of(caught.value)


def _metric(port: int, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _until(true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


class Callers:
    """Threads that ask again and again, each on a connection of its own. heard: how the calls ended, by kind."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.heard: Counter[tuple[str, str]] = Counter()

    def add(self, kind: str, count: int, call: Callable[[Client], object]) -> None:
        """So many more callers, who rest a moment when they are refused."""

        def ask() -> None:
            client = Client(self._address)
            try:
                while not self._stop.is_set():
                    try:
                        call(client)
                        self.heard[kind, "OK"] += 1
                    except grpc.RpcError as error:
                        failure = failure_of(error)
                        self.heard[kind, failure.reason or failure.code.name] += 1
                        assert failure.reason != "OVERLOADED" or failure.retry_ms
                        self._stop.wait(0.02)
            finally:
                client.close()

        self._threads += [threading.Thread(target=ask, daemon=True) for _ in range(count)]
        for thread in self._threads[-count:]:
            thread.start()

    def stop(self) -> None:
        """Ends them all."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)


@pytest.fixture
def slow_store(tmp_path: Path) -> Iterator[tuple[Proxy, ServerProcess, Client, int]]:
    """A server whose store answers as late as the proxy is told, and the port of its metrics."""
    port = free_port()
    settings = {
        "ASSAY_STORE_KIND": "redis",
        "ASSAY_STORE_READ_BUDGET_MS": "10000",
        "ASSAY_REDIS_READ_TIMEOUT_MS": "10000",
        "ASSAY_REDIS_CONNECT_TIMEOUT_MS": "10000",
        "ASSAY_SERVER_THREADS": "32",
        "ASSAY_METRICS_PORT": str(port),
        "ASSAY_ADMISSION_BURST_MAX": "0",
        "ASSAY_ADMISSION_LIMIT_INITIAL": "12",
        "ASSAY_ADMISSION_LIMIT_MAX": "12",
        "ASSAY_ADMISSION_LIMIT_MIN": "4",
        "ASSAY_ADMISSION_TOLERANCE": "3",
    }
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(stack.enter_context(RedisServer()).port))
        settings["ASSAY_REDIS_ADDRESSES"] = proxy.address
        server, client = stack.enter_context(running(tmp_path, settings=settings))
        yield proxy, server, client, port


def test_a_tenant_beyond_its_quota_is_told_when_to_come_back(tmp_path: Path) -> None:
    settings = {
        "ASSAY_SERVER_TENANT_HEADER": TENANT,
        "ASSAY_ADMISSION_TENANT_RATES": "small=0.5,default=1000",
        "ASSAY_ADMISSION_TENANT_BURST_S": "8",
    }
    small, other = ((TENANT, "small"),), ((TENANT, "other"),)
    with running(tmp_path, settings=settings) as (_, client):
        stub = client.stub
        # A burst of four: a batch of three, each item one, and one decision.
        batch = pb.DecideBatchRequest(requests=[consumer() for _ in range(3)])
        answers = stub.DecideBatch(batch, timeout=30, metadata=small)
        assert all(item.HasField("decision") for item in answers.items)
        stub.Decide(consumer(), timeout=30, metadata=small)
        again = consumer(new_id("again"))
        failure = _refused(lambda: stub.Decide(again, timeout=30, metadata=small))
        assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (failure.reason, failure.domain) == ("QUOTA_EXCEEDED", "assay.decision.v1")
        assert failure.metadata == {"cause": "quota"}
        assert failure.retry_ms is not None and 50 <= failure.retry_ms <= 30_000
        failure = _refused(lambda: stub.DecideBatch(batch, timeout=30, metadata=small))
        assert failure.reason == "QUOTA_EXCEEDED" and failure.retry_ms
        # A message of a stream as well, and the stream goes on.
        asked = iter([pb.DecideStreamRequest(request=consumer()) for _ in range(2)])
        for answer in stub.DecideStream(asked, timeout=30, metadata=small):
            assert failure_of_status(answer.error).reason == "QUOTA_EXCEEDED"
        # Other tenants are not concerned, and neither is what is no decision.
        stub.Decide(consumer(), timeout=30, metadata=other)
        stub.ListFlows(pb.ListFlowsRequest(), timeout=30, metadata=small)
        # And who waits as told is served.
        assert failure.retry_ms is not None
        time.sleep(max(4.0, failure.retry_ms / 1000))
        assert not stub.Decide(again, timeout=30, metadata=small).decision.replayed


def test_a_call_that_cannot_be_answered_in_time_leaves_no_record(
    slow_store: tuple[Proxy, ServerProcess, Client, int],
) -> None:
    proxy, _, client, port = slow_store
    proxy.slow(1500)
    client.stub.Decide(consumer(), timeout=30)
    request = consumer(new_id("hasty"))
    failure = _refused(lambda: client.stub.Decide(request, timeout=0.8))
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    # The server's own answer, and not the caller's clock.
    assert failure.reason == "DEADLINE_TOO_SHORT"
    assert failure.retry_ms is None
    assert _metric(port, 'assay_admission_refused_total{lane="interactive",cause="deadline"}') == 1
    answer = client.stub.Decide(request, timeout=30)
    assert not answer.decision.replayed


def test_batches_are_refused_before_single_decisions(tmp_path: Path) -> None:
    port = free_port()
    settings = {
        "ASSAY_METRICS_PORT": str(port),
        "ASSAY_ADMISSION_BURST_MAX": "0",
        "ASSAY_ADMISSION_LIMIT_INITIAL": "16",
        "ASSAY_ADMISSION_LIMIT_MIN": "16",
        "ASSAY_ADMISSION_LIMIT_MAX": "16",
        "ASSAY_ADMISSION_BATCH_SHARE": "0.125",
    }
    with running(tmp_path, settings=settings) as (server, client):
        callers = Callers(server.address)
        try:
            batch = [consumer() for _ in range(64)]

            def send_batch(caller: Client) -> None:
                for request in batch:
                    request.request_id = new_id("b")
                caller.stub.DecideBatch(pb.DecideBatchRequest(requests=batch), timeout=60)

            low = (("assay-priority", "batch"),)
            callers.add("batch", 4, send_batch)
            callers.add("low", 4, lambda caller: caller.stub.Decide(consumer(), timeout=60, metadata=low))
            callers.add("single", 2, lambda caller: caller.stub.Decide(consumer(), timeout=60))
            _until(lambda: callers.heard["single", "OK"] >= 100, f"single decisions: {callers.heard}")
            _until(lambda: callers.heard["batch", "OK"] + callers.heard["low", "OK"] >= 5, f"{callers.heard}")
            _until(lambda: callers.heard["batch", "OVERLOADED"] >= 5, f"batches: {callers.heard}")
        finally:
            callers.stop()
        singles = {reason for kind, reason in callers.heard if kind == "single"}
        assert singles == {"OK"}, callers.heard
        assert _metric(port, 'assay_admission_refused_total{lane="batch",cause="batch_share"}') >= 5
        assert _metric(port, 'assay_admission_refused_total{lane="interactive",cause="limit"}') == 0
        # The header only lowers.
        high = (("assay-priority", "interactive"),)
        answers = client.stub.DecideBatch(pb.DecideBatchRequest(requests=[consumer()]), timeout=60, metadata=high)
        assert len(answers.items) == 1
        _until(lambda: _metric(port, 'assay_admission_in_flight{lane="batch"}') == 0, "batches are still in")


def test_the_limit_falls_with_a_slow_store_and_comes_back_and_health_is_answered(
    slow_store: tuple[Proxy, ServerProcess, Client, int],
) -> None:
    proxy, server, client, port = slow_store
    health: Any = health_pb2_grpc.HealthStub(client.channel)

    def level() -> float:
        return _metric(port, "assay_admission_limit")

    proxy.slow(150)
    client.stub.Decide(consumer(), timeout=60)
    callers = Callers(server.address)
    try:
        callers.add("single", 20, lambda caller: caller.stub.Decide(consumer(), timeout=60))
        _until(lambda: callers.heard["single", "OVERLOADED"] >= 20, f"nobody was refused: {callers.heard}")
        found = health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
        client.stub.ListFlows(pb.ListFlowsRequest(), timeout=60)
        _until(lambda: level() >= 10, f"the limit does not rise: {level()}")
        proxy.slow(1500)
        _until(lambda: level() < 9, f"the limit does not fall: {level()}")
        assert _metric(port, "assay_admission_pressed") == 1
        proxy.slow(150)
        _until(lambda: level() >= 10, f"the limit does not come back: {level()}")
    finally:
        callers.stop()
    assert callers.heard["single", "OK"] > 20
    assert set(callers.heard) <= {("single", "OK"), ("single", "OVERLOADED"), ("single", "DEADLINE_TOO_SHORT")}
    _until(lambda: _metric(port, 'assay_admission_in_flight{lane="interactive"}') == 0, "places were not given back")


def test_callers_who_go_away_give_their_places_back(slow_store: tuple[Proxy, ServerProcess, Client, int]) -> None:
    proxy, _, client, port = slow_store
    proxy.slow(400)
    for _ in range(3):
        calls = [client.stub.Decide.future(consumer(), timeout=60) for _ in range(12)]
        time.sleep(0.05)
        for call in calls:
            call.cancel()
    _until(lambda: _metric(port, 'assay_admission_in_flight{lane="interactive"}') == 0, "places were not given back")
    proxy.well()
    client.stub.Decide(consumer(), timeout=60)


def test_without_admission_nobody_is_refused(tmp_path: Path) -> None:
    settings = {"ASSAY_ADMISSION_ENABLED": "false", "ASSAY_ADMISSION_TENANT_RATES": "default=0.001"}
    with running(tmp_path, settings=settings) as (_, client):
        for _ in range(5):
            client.stub.Decide(consumer(), timeout=30)
