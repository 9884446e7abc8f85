"""Single decisions in gRPC's serving thread: in groups, beside everything else, with callers who misbehave."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from engine.rpc.direct import _Pace, can_serve
from tests.support.applications import all_ids, consumer, load_rows
from tests.support.errors import failure_of
from tests.support.faulty import until
from tests.support.proxy import Proxy
from tests.support.redis_servers import RedisServer
from tests.support.server import Client, ServerProcess, open_store, running

METHOD = "/assay.decision.v1.DecisionService/Decide"


def test_the_grpc_that_is_pinned_is_one_that_it_works_with() -> None:
    assert can_serve()


@pytest.fixture(scope="module", params=["true", "false"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that decides in its serving thread, and one that leaves it to threads."""
    home = tmp_path_factory.mktemp("direct")
    with running(home, settings={"ASSAY_SERVER_DIRECT": request.param}) as (server, client):
        with open_store(home) as store:
            load_rows(store, all_ids("s"))
        yield server, client


def _plain(decision: decision_pb2.Decision) -> decision_pb2.Decision:
    """Without what differs from one call to the next."""
    plain = decision_pb2.Decision()
    plain.CopyFrom(decision)
    for name in ("decision_id", "request_id", "trace_id", "decided_at", "stage_times", "replayed"):
        plain.ClearField(name)
    return plain


def test_calls_that_come_together_are_answered_like_calls_alone(pair: tuple[ServerProcess, Client]) -> None:
    _, client = pair
    alone = _plain(client.stub.Decide(consumer("s"), timeout=60).decision)
    requests = [consumer("s") for _ in range(90)]
    futures = [client.stub.Decide.future(request, timeout=120) for request in requests]
    decisions = [future.result().decision for future in futures]
    assert [d.request_id for d in decisions] == [r.request_id for r in requests]
    assert len({d.decision_id for d in decisions}) == 90
    # Counts of the applicant's own applications grow meanwhile; everything else is the same.
    assert {d.flow for d in decisions} == {alone.flow}
    assert all(len(d.scores) == len(alone.scores) for d in decisions)
    for request, decision in zip(requests, decisions, strict=True):
        kept = client.stub.GetDecision(pb.GetDecisionRequest(request_id=request.request_id), timeout=60).decision
        assert _plain(kept) == _plain(decision)


def test_one_request_sent_many_times_at_once_is_decided_once(pair: tuple[ServerProcess, Client]) -> None:
    _, client = pair
    request = consumer("s")
    futures = [client.stub.Decide.future(request, timeout=120) for _ in range(60)]
    decisions = [future.result().decision for future in futures]
    assert len({d.decision_id for d in decisions}) == 1
    assert sum(not d.replayed for d in decisions) == 1


def test_bad_ones_among_good_ones_harm_nobody(pair: tuple[ServerProcess, Client]) -> None:
    _, client = pair
    call: Any = client.channel.unary_unary(METHOD)
    good = [consumer("s") for _ in range(30)]
    bad = [consumer("s") for _ in range(30)]
    for request in bad:
        request.application.term_months = 7
    garbage = [b"\xff\xff not a request" for _ in range(10)]
    futures = []
    for index, (one, other) in enumerate(zip(good, bad, strict=True)):
        futures.append((True, call.future(one.SerializeToString(), timeout=120)))
        futures.append((False, call.future(other.SerializeToString(), timeout=120)))
        if index < len(garbage):
            futures.append((False, call.future(garbage[index], timeout=120)))
    for is_good, future in futures:
        if is_good:
            assert pb.DecideResponse.FromString(future.result()).decision.decision_id
        else:
            error = future.exception()
            assert isinstance(error, grpc.RpcError)
            failure = failure_of(error)
            assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
            assert failure.fields


def test_callers_who_go_away_or_send_nothing_harm_nobody(pair: tuple[ServerProcess, Client]) -> None:
    server, client = pair
    for _ in range(50):
        client.stub.Decide.future(consumer("s"), timeout=60).cancel()
    nothing: Any = client.channel.stream_unary(METHOD)
    with pytest.raises(grpc.RpcError) as caught:
        nothing(iter(()), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    futures = [client.stub.Decide.future(consumer("s"), timeout=60) for _ in range(20)]
    assert all(future.result().decision.decision_id for future in futures)
    assert server.process.poll() is None


def test_other_methods_are_answered_beside_it(pair: tuple[ServerProcess, Client]) -> None:
    _, client = pair
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    stop = threading.Event()

    def load() -> int:
        count = 0
        while not stop.is_set():
            client.stub.Decide(consumer("s"), timeout=120)
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load) for _ in range(8)]
        try:
            for _ in range(20):
                status = stub.Check(health_pb2.HealthCheckRequest(), timeout=120).status
                assert status == health_pb2.HealthCheckResponse.SERVING
                batch = client.stub.DecideBatch(pb.DecideBatchRequest(requests=[consumer("s")]), timeout=120)
                assert batch.items[0].decision.decision_id
        finally:
            stop.set()
        assert all(one.result() for one in loads)


def test_a_slow_store_does_not_hold_up_the_serving_thread(tmp_path: Path) -> None:
    with RedisServer() as redis, Proxy(redis.port) as proxy:
        settings = {"ASSAY_STORE_KIND": "redis", "ASSAY_REDIS_ADDRESSES": proxy.address}
        with running(tmp_path, settings=settings) as (_, client):
            client.stub.Decide(consumer("s"), timeout=120)
            proxy.slow(60.0)
            stub: Any = health_pb2_grpc.HealthStub(client.channel)
            futures = [client.stub.Decide.future(consumer("s"), timeout=300) for _ in range(80)]
            # Groups follow one another on threads, while health is answered in between.
            stub.Check(health_pb2.HealthCheckRequest(), timeout=120)
            assert all(future.result().decision.decision_id for future in futures)
            proxy.well()
            until(lambda: client.stub.Decide(consumer("s"), timeout=120).decision.decision_id)


def test_the_pace_tells_slow_from_quick_and_forgets_a_standstill() -> None:
    pace = _Pace()
    pace.note(2.0, 0.001)
    assert not pace.slow
    for _ in range(40):
        pace.note(0.008, 0.001)
    assert pace.slow
    for _ in range(60):
        pace.note(0.0002, 0.0001)
    assert not pace.slow
    for _ in range(40):
        pace.note(0.008, 0.001)
    # Who works for longer than he waits is on the right thread.
    busy = _Pace()
    for _ in range(40):
        busy.note(0.008, 0.01)
    assert not busy.slow
    # Between the marks it stays as it is.
    for _ in range(100):
        pace.note(0.002, 0.001)
    assert pace.slow
