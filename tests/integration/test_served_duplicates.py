"""One request sent many times at once, to one server, to two of a host, to two hosts: decided once, counted once."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from engine.record.entries import StoredDecision
from engine.record.keys import request_key
from engine.record.reader import JournalReader
from tests.support.applications import consumer, new_id
from tests.support.errors import Failure, failure_of
from tests.support.redis_servers import RedisServer
from tests.support.served_commands import assert_journal_is_whole, running_together
from tests.support.served_load import TIMEOUT_S, applications_of, as_given
from tests.support.server import Client, ServerProcess, running

DUPLICATES = 200
_CONNECTIONS = 5
# The limits of a busy machine; a claim is not taken over while its holder only waits for a processor.
SHARED = {
    "ASSAY_STORE_KIND": "redis",
    "ASSAY_REDIS_CONNECT_TIMEOUT_MS": "10000",
    "ASSAY_REDIS_READ_TIMEOUT_MS": "10000",
    "ASSAY_REDIS_WRITE_TIMEOUT_MS": "20000",
    "ASSAY_IDEMPOTENCY_SHARE": "store",
    "ASSAY_IDEMPOTENCY_TIMEOUT_MS": "20000",
    "ASSAY_IDEMPOTENCY_LEASE_MS": "60000",
}


def ask_at_once(request: pb.DecideRequest, servers: Sequence[ServerProcess]) -> list[decision_pb2.Decision]:
    """Sends one request so many times, on several connections, without waiting for any answer."""
    with ExitStack() as stack:
        clients = [Client(server.address) for server in servers for _ in range(_CONNECTIONS)]
        for client in clients:
            stack.callback(client.close)
            grpc.channel_ready_future(client.channel).result(TIMEOUT_S)
        calls = [clients[n % len(clients)].stub.Decide.future(request, timeout=TIMEOUT_S) for n in range(DUPLICATES)]
        return [call.result().decision for call in calls]


def assert_decided_once(answers: Sequence[decision_pb2.Decision]) -> decision_pb2.Decision:
    """All are one decision, which one of them was told as made just now. Gives it."""
    assert len(answers) == DUPLICATES
    (fresh,) = (answer for answer in answers if not answer.replayed)
    repeated = as_given(fresh, replayed=True)
    assert all(answer == repeated for answer in answers if answer is not fresh)
    return fresh


def recorded(journal: Path, request: pb.DecideRequest) -> list[StoredDecision]:
    """All records of a request, by whichever worker."""
    wanted = request_key("", request.request_id)
    return [stored for stored in JournalReader(journal).decisions() if stored.request_key == wanted]


def device_of(request: pb.DecideRequest) -> str:
    return next(entity.id for entity in request.application.entities if entity.entity == "device")


def failure_for(client: Client, request: pb.DecideRequest) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.Decide(request, timeout=TIMEOUT_S)
    return failure_of(caught.value)


def changed(request: pb.DecideRequest) -> pb.DecideRequest:
    other = pb.DecideRequest()
    other.CopyFrom(request)
    other.application.term_months = 36
    return other


def test_200_duplicates_at_once_are_decided_once(server: ServerProcess, client: Client) -> None:
    request = consumer()
    fresh = assert_decided_once(ask_at_once(request, [server]))
    (stored,) = recorded(server.home / "decisions", request)
    assert stored.decision_id == fresh.decision_id
    assert applications_of(client, device_of(request)) == 1
    # Counted by itself, and the request still once.
    client.stub.Decide(request, timeout=TIMEOUT_S)
    assert applications_of(client, device_of(request)) == 2


def test_two_servers_of_a_host_decide_duplicates_once(tmp_path: Path) -> None:
    requests = [consumer() for _ in range(3)]
    with ExitStack() as stack:
        named = [(tmp_path, {"ASSAY_RECORD_WORKER": name}) for name in ("w0", "w1")]
        workers = stack.enter_context(running_together(named))
        for request in requests:
            fresh = assert_decided_once(ask_at_once(request, [server for server, _ in workers]))
            (stored,) = recorded(tmp_path / "decisions", request)
            assert stored.decision_id == fresh.decision_id
            for _, client in workers:
                assert client.stub.Decide(request).decision == as_given(fresh, replayed=True)
                found = client.stub.GetDecision(pb.GetDecisionRequest(decision_id=fresh.decision_id))
                assert found.decision == as_given(fresh, replayed=True)
                failure = failure_for(client, changed(request))
                assert failure.reason == "REQUEST_ID_REUSED"
                assert failure.metadata["differs"] == "application.term_months"
        # One is killed in the middle of things; the other knows all that it gave.
        (first, to_first), (_, to_second) = workers
        late = consumer()
        given = to_first.stub.Decide(late, timeout=TIMEOUT_S).decision
        first.stop(signal.SIGKILL)
        assert to_second.stub.Decide(late, timeout=TIMEOUT_S).decision == as_given(given, replayed=True)
        assert len(recorded(tmp_path / "decisions", late)) == 1
        assert workers[1][0].stop() == 0
    # The counters as they are when both have told of all that they decided.
    with running(tmp_path) as (_, client):
        for request in (*requests, late):
            assert applications_of(client, device_of(request)) == 1
    assert_journal_is_whole(tmp_path)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


def test_two_hosts_on_one_store_decide_duplicates_once_also_when_one_is_killed(
    tmp_path: Path, redis: RedisServer
) -> None:
    # Hosts that share request ids share the master key: what tells one application from another is keyed with it.
    settings: Mapping[str, str] = {
        **SHARED,
        "ASSAY_REDIS_ADDRESSES": redis.address,
        "ASSAY_RECORD_MASTER_KEY": str(tmp_path / "master.key"),
    }
    homes = [tmp_path / name for name in ("a", "b")]
    for home in homes:
        home.mkdir()
    with ExitStack() as stack:
        (a, to_a), (b, to_b) = stack.enter_context(running_together([(home, settings) for home in homes]))
        request = consumer(new_id("shared"))
        fresh = assert_decided_once(ask_at_once(request, [a, b]))
        found = [stored.decision_id for home in homes for stored in recorded(home / "decisions", request)]
        assert found == [fresh.decision_id]
        assert applications_of(to_a, device_of(request)) == 1

        # A retry on the other host, while both live and when the first is gone.
        mine = consumer(new_id("killed"))
        given = to_a.stub.Decide(mine, timeout=TIMEOUT_S).decision
        assert not given.replayed
        assert to_b.stub.Decide(mine, timeout=TIMEOUT_S).decision == as_given(given, replayed=True)
        later = consumer(new_id("killed"))
        last = to_a.stub.Decide(later, timeout=TIMEOUT_S).decision
        a.stop(signal.SIGKILL)
        assert to_b.stub.Decide(later, timeout=TIMEOUT_S).decision == as_given(last, replayed=True)
        failure = failure_for(to_b, changed(later))
        assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        # It has not the record of another host's decision, and so cannot say what differs.
        assert "differs" not in failure.metadata
        own = consumer(new_id("own"))
        to_b.stub.Decide(own, timeout=TIMEOUT_S)
        assert failure_for(to_b, changed(own)).metadata["differs"] == "application.term_months"
        assert recorded(homes[1] / "decisions", later) == []

        # The first comes back, and knows what the second decided meanwhile.
        again, to_again = stack.enter_context(running(homes[0], settings=settings))
        assert to_again.stub.Decide(own, timeout=TIMEOUT_S).decision.replayed
        assert failure_for(to_again, changed(later)).metadata["differs"] == "application.term_months"
        assert again.stop() == 0
        assert b.stop() == 0
    for home in homes:
        assert_journal_is_whole(home, settings)
