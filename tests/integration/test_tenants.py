"""Several lenders on one server: request ids and decisions are a tenant's own."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from tests.support.applications import consumer, new_id
from tests.support.errors import failure_of
from tests.support.server import running


def test_request_ids_and_decisions_are_a_tenant_s_own(tmp_path: Path) -> None:
    with running(tmp_path, settings={"ASSAY_SERVER_TENANT_HEADER": "x-lender"}) as (_, client):
        one, other = (("x-lender", "north"),), (("x-lender", "south"),)
        request = consumer(new_id("shared"))
        first = client.stub.Decide(request, timeout=30, metadata=one).decision
        second = client.stub.Decide(request, timeout=30, metadata=other).decision
        assert first.decision_id != second.decision_id and not second.replayed
        again = client.stub.Decide(request, timeout=30, metadata=one).decision
        assert again.replayed and again.decision_id == first.decision_id
        # By either id, only its own tenant finds it.
        asked = pb.GetDecisionRequest(decision_id=first.decision_id, view=pb.DECISION_VIEW_FULL)
        found = client.stub.GetDecision(asked, timeout=30, metadata=one)
        assert found.record.tenant == "north"
        with pytest.raises(grpc.RpcError) as caught:
            client.stub.GetDecision(asked, timeout=30, metadata=other)
        assert failure_of(caught.value).reason == "DECISION_NOT_FOUND"
        by_request = pb.GetDecisionRequest(request_id=request.request_id)
        found = client.stub.GetDecision(by_request, timeout=30, metadata=other)
        assert found.decision.decision_id == second.decision_id


@pytest.mark.parametrize("metadata", [(), (("x-lender", "a b"),)])
def test_a_call_that_names_no_tenant_is_refused(tmp_path: Path, metadata: tuple[tuple[str, str], ...]) -> None:
    with running(tmp_path, settings={"ASSAY_SERVER_TENANT_HEADER": "x-lender"}) as (_, client):
        stream = iter([pb.DecideStreamRequest(request=consumer(new_id("none")))])
        for call in (
            lambda: client.stub.Decide(consumer(new_id("none")), timeout=30, metadata=metadata),
            lambda: list(client.stub.DecideStream(stream, timeout=30, metadata=metadata)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            failure = failure_of(caught.value)
            assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
            assert "x-lender" in failure.message
