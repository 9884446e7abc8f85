"""A request id is decided once: repeated, repeated at the same time, and repeated after the server was killed."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from tests.support.applications import consumer, new_id
from tests.support.errors import failure_of, failure_of_status
from tests.support.server import Client, running


def _as_given(decision: decision_pb2.Decision) -> bytes:
    """The answer without the mark that it is a repeat."""
    copy = decision_pb2.Decision()
    copy.CopyFrom(decision)
    copy.replayed = False
    return copy.SerializeToString(deterministic=True)


def test_a_repeat_gets_the_stored_answer_whole(client: Client) -> None:
    request = consumer()
    first = client.stub.Decide(request).decision
    again = client.stub.Decide(request).decision
    assert not first.replayed
    assert again.replayed
    assert _as_given(again) == _as_given(first)


def test_the_language_is_not_part_of_what_makes_two_requests_the_same(client: Client) -> None:
    request = consumer(language="en")
    first = client.stub.Decide(request).decision
    request.language = "zh"
    again = client.stub.Decide(request).decision
    assert again.decision_id == first.decision_id


def test_another_payload_under_a_used_id_is_refused_and_changes_nothing(client: Client) -> None:
    request = consumer()
    first = client.stub.Decide(request).decision
    other = pb.DecideRequest()
    other.CopyFrom(request)
    other.application.term_months = 36
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.Decide(other)
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.ALREADY_EXISTS
    assert failure.reason == "REQUEST_ID_REUSED"
    assert failure.domain == "assay.decision.v1"
    assert failure.metadata == {
        "request_id": request.request_id,
        "decision_id": first.decision_id,
        "differs": "application.term_months",
    }
    assert _as_given(client.stub.Decide(request).decision) == _as_given(first)


def test_a_refused_request_does_not_use_its_id_up(client: Client) -> None:
    request = consumer()
    bad = pb.DecideRequest()
    bad.CopyFrom(request)
    bad.application.term_months = 7
    with pytest.raises(grpc.RpcError):
        client.stub.Decide(bad)
    assert not client.stub.Decide(request).decision.replayed


def test_concurrent_duplicates_are_decided_once(client: Client) -> None:
    request = consumer()
    with ThreadPoolExecutor(50) as pool:
        decisions = [r.decision for r in pool.map(lambda _: client.stub.Decide(request), range(50))]
    assert len({d.decision_id for d in decisions}) == 1
    assert len({_as_given(d) for d in decisions}) == 1
    assert sum(not d.replayed for d in decisions) == 1


def test_concurrent_rivals_for_one_id_have_one_winner(client: Client) -> None:
    request_id = new_id("rivals")
    requests = [consumer(f"rival-{i}", request_id=request_id) for i in range(20)]

    def call(request: pb.DecideRequest) -> str:
        try:
            return client.stub.Decide(request).decision.decision_id
        except grpc.RpcError as error:
            failure = failure_of(error)
            assert failure.code is grpc.StatusCode.ALREADY_EXISTS
            assert failure.reason == "REQUEST_ID_REUSED"
            return ""

    with ThreadPoolExecutor(20) as pool:
        winners = [d for d in pool.map(call, requests) if d]
    assert len(winners) == 1
    stored = client.stub.GetDecision(pb.GetDecisionRequest(request_id=request_id)).decision
    assert stored.decision_id == winners[0]


def test_batches_with_the_same_ids_in_opposite_order_do_not_block_one_another(client: Client) -> None:
    requests = [consumer() for _ in range(12)]
    batches = [pb.DecideBatchRequest(requests=requests), pb.DecideBatchRequest(requests=requests[::-1])] * 3
    with ThreadPoolExecutor(len(batches)) as pool:
        answers = list(pool.map(lambda b: client.stub.DecideBatch(b, timeout=60), batches))
    ids: dict[str, set[str]] = {}
    for answer in answers:
        for item in answer.items:
            if item.WhichOneof("outcome") == "error":
                assert failure_of_status(item.error).reason == "DECISION_IN_PROGRESS"
            else:
                ids.setdefault(item.request_id, set()).add(item.decision.decision_id)
    assert set(ids) == {r.request_id for r in requests}
    assert all(len(found) == 1 for found in ids.values())


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_answers_survive_the_server(tmp_path: Path, how: signal.Signals) -> None:
    requests = [consumer() for _ in range(30)]
    with running(tmp_path) as (server, client):
        first = [client.stub.Decide(r).decision for r in requests[:15]]
        batch = client.stub.DecideBatch(pb.DecideBatchRequest(requests=requests[15:]))
        first += [item.decision for item in batch.items]
        assert server.stop(how) == (0 if how is signal.SIGTERM else -signal.SIGKILL)

    with running(tmp_path) as (_, client):
        for request, given in zip(requests, first, strict=True):
            again = client.stub.Decide(request).decision
            assert again.replayed
            assert _as_given(again) == _as_given(given)
            by_id = client.stub.GetDecision(pb.GetDecisionRequest(decision_id=given.decision_id))
            assert _as_given(by_id.decision) == _as_given(given)
        other = pb.DecideRequest()
        other.CopyFrom(requests[0])
        other.application.amount.units += 50
        with pytest.raises(grpc.RpcError) as caught:
            client.stub.Decide(other)
        assert failure_of(caught.value).reason == "REQUEST_ID_REUSED"
