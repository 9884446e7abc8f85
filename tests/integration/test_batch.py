"""DecideBatch: order, items at fault, limits, and the same answers as one by one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import grpc
import pytest

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from engine.features.stores.embedded import EmbeddedStore
from tests.support.applications import all_ids, consumer, load_rows, new_id
from tests.support.errors import failure_of, failure_of_status
from tests.support.server import Client

# What differs between two calls for the same facts.
OWN: tuple[Literal["decision_id", "request_id", "trace_id", "decided_at", "stage_times", "replayed"], ...] = (
    "decision_id",
    "request_id",
    "trace_id",
    "decided_at",
    "stage_times",
    "replayed",
)


def bare(decision: decision_pb2.Decision) -> bytes:
    """A decision without what belongs to the call."""
    copy = decision_pb2.Decision()
    copy.CopyFrom(decision)
    for field in OWN:
        copy.ClearField(field)
    return copy.SerializeToString(deterministic=True)


def test_a_batch_answers_in_order_with_the_same_decisions_as_one_by_one(client: Client, store: EmbeddedStore) -> None:
    subjects = []
    for index in range(24):
        subject = new_id("batch")
        changes = {
            "credit_file": {
                "revolving_utilization": index / 16,
                "past_due_30_59_count": index % 4,
                "debt_ratio": None if index % 5 == 0 else index / 40,
            },
            "applicant_file": {"age_years": 20 + 2 * index, "verified_monthly_income": None if index % 3 else 3000.0},
            "device_profile": None if index % 2 else {},
        }
        load_rows(store, all_ids(subject), changes)
        subjects.append(subject)
    amounts = [500 + 1000 * i for i in range(24)]
    alone = [client.stub.Decide(consumer(s, amount=a)).decision for s, a in zip(subjects, amounts, strict=True)]
    requests = [consumer(s, amount=a) for s, a in zip(subjects, amounts, strict=True)]
    items = client.stub.DecideBatch(pb.DecideBatchRequest(requests=requests)).items

    assert [i.request_id for i in items] == [r.request_id for r in requests]
    assert [i.decision.request_id for i in items] == [r.request_id for r in requests]
    assert [bare(i.decision) for i in items] == [bare(d) for d in alone]
    assert len({d.verdict for d in alone}) > 1, "the applicants should not all get the same answer"
    assert len({i.decision.trace_id for i in items}) == 1


def test_items_at_fault_get_their_own_error_and_harm_no_other(client: Client) -> None:
    requests = [consumer() for _ in range(7)]
    requests[1].application.amount.units = -5
    requests[2].request_id = requests[0].request_id
    requests[3].application.product = "boat_loan"
    requests[3].application.ClearField("subject")
    requests[4].Clear()
    requests[5].application.fields["stated_monthly_income"].number = float("nan")
    requests[5].application.term_months = 5
    items = client.stub.DecideBatch(pb.DecideBatchRequest(requests=requests)).items

    assert [i.WhichOneof("outcome") for i in items] == ["decision", *["error"] * 5, "decision"]
    assert [i.request_id for i in items] == [r.request_id for r in requests]
    errors = {n: failure_of_status(items[n].error) for n in range(1, 6)}
    assert {e.code for e in errors.values()} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert {e.domain for e in errors.values()} == {"assay.decision.v1"}
    assert [errors[n].reason for n in range(1, 6)] == [
        "INVALID_REQUEST",
        "DUPLICATE_IN_BATCH",
        "UNKNOWN_FLOW",
        "INVALID_REQUEST",
        "INVALID_REQUEST",
    ]
    assert set(errors[1].fields) == {"requests[1].application.amount"}
    assert set(errors[2].fields) == {"requests[2].request_id"}
    assert errors[2].metadata["first_index"] == "0"
    assert set(errors[3].fields) == {"requests[3].application.product", "requests[3].application.subject.id"}
    assert "requests[4].request_id" in errors[4].fields
    assert set(errors[5].fields) == {
        "requests[5].application.term_months",
        'requests[5].application.fields["stated_monthly_income"].number',
    }
    # The first of two with one id is the one that was decided.
    stored = client.stub.GetDecision(pb.GetDecisionRequest(request_id=requests[0].request_id)).decision
    assert stored.decision_id == items[0].decision.decision_id


def test_a_batch_holds_repeats_and_conflicts_item_by_item(client: Client) -> None:
    known = consumer()
    first = client.stub.Decide(known).decision
    conflict = consumer(request_id=client.stub.Decide(consumer()).decision.request_id)
    items = client.stub.DecideBatch(pb.DecideBatchRequest(requests=[consumer(), known, conflict])).items
    assert items[0].decision.decision_id
    assert items[1].decision.replayed
    assert items[1].decision.decision_id == first.decision_id
    failure = failure_of_status(items[2].error)
    assert failure.code is grpc.StatusCode.ALREADY_EXISTS
    assert failure.reason == "REQUEST_ID_REUSED"


def test_a_whole_batch_may_be_repeated(client: Client) -> None:
    batch = pb.DecideBatchRequest(requests=[consumer() for _ in range(8)])
    first, again = client.stub.DecideBatch(batch), client.stub.DecideBatch(batch)
    assert [i.decision.decision_id for i in first.items] == [i.decision.decision_id for i in again.items]
    assert [i.decision.replayed for i in again.items] == [True] * 8


@pytest.mark.parametrize(("count", "reason"), [(0, "INVALID_REQUEST"), (257, "BATCH_TOO_LARGE")])
def test_batches_that_are_empty_or_too_large_are_refused_whole(client: Client, count: int, reason: str) -> None:
    requests = [consumer() for _ in range(count)]
    with pytest.raises(grpc.RpcError) as caught:
        client.stub.DecideBatch(pb.DecideBatchRequest(requests=requests))
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == reason
    assert set(failure.fields) == {"requests"}
    if count:
        assert (failure.metadata["items"], failure.metadata["items_max"]) == ("257", "256")
        with pytest.raises(grpc.RpcError) as missing:
            client.stub.GetDecision(pb.GetDecisionRequest(request_id=requests[0].request_id))
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_largest_batch_is_taken(client: Client) -> None:
    requests = [consumer() for _ in range(256)]
    items = client.stub.DecideBatch(pb.DecideBatchRequest(requests=requests)).items
    assert [i.decision.request_id for i in items] == [r.request_id for r in requests]


def test_a_batch_of_nothing_but_bad_items_is_answered(client: Client) -> None:
    items = client.stub.DecideBatch(pb.DecideBatchRequest(requests=[pb.DecideRequest()] * 3)).items
    assert [i.WhichOneof("outcome") for i in items] == ["error"] * 3
    assert all("request_id" in failure_of_status(i.error).everything for i in items)


def test_calls_at_the_same_time_do_not_mix(client: Client, store: EmbeddedStore) -> None:
    """What is prepared once and shared by threads is never written to: each gets the answer it gets alone."""
    subjects = [new_id("mix") for _ in range(8)]
    for index, subject in enumerate(subjects):
        changes: dict[str, dict[str, object] | None] = {
            "credit_file": {"revolving_utilization": index / 8, "debt_ratio": None if index % 2 else 0.1},
            "applicant_file": {"age_years": 25 + 7 * index},
            "phone_profile": None if index % 3 == 0 else {},
        }
        load_rows(store, all_ids(subject), changes)
    alone = {s: bare(client.stub.Decide(consumer(s)).decision) for s in subjects}
    assert len(set(alone.values())) == len(subjects)

    def call(number: int) -> list[tuple[str, bytes]]:
        mine = [subjects[(number + i) % 8] for i in range(8)]
        requests = [consumer(s) for s in mine]
        if number % 3 == 0:
            items = client.stub.DecideBatch(pb.DecideBatchRequest(requests=requests)).items
            return [(s, bare(i.decision)) for s, i in zip(mine, items, strict=True)]
        return [(s, bare(client.stub.Decide(r).decision)) for s, r in zip(mine, requests, strict=True)]

    with ThreadPoolExecutor(12) as pool:
        for answers in pool.map(call, range(48)):
            for subject, answer in answers:
                assert answer == alone[subject]
