"""A store or journal that fails: the decision says what it lacked, and nothing is approved or lost by accident."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_service_pb2 as service_pb
from tests.support.applications import all_ids, consumer, load_rows, new_id
from tests.support.errors import failure_of, failure_of_status
from tests.support.server import Client, ServerProcess, open_store, running

LENDS = (pb.VERDICT_APPROVE, pb.VERDICT_COUNTER_OFFER)


def _good(home: Path) -> str:
    subject = new_id("fault")
    with open_store(home) as store:
        load_rows(store, all_ids(subject))
    return subject


def test_a_store_whose_file_is_torn_leads_to_no_approval(tmp_path: Path) -> None:
    with running(tmp_path) as (server, client):
        subject = _good(tmp_path)
        assert client.stub.Decide(consumer(subject)).decision.verdict == pb.VERDICT_APPROVE
        server.stop()
    file = tmp_path / "features" / "data.mdb"
    content = bytearray(file.read_bytes())
    # The first two pages say where the tree is; the rest is the tree.
    for start in range(2 * 4096, len(content), 4096):
        content[start : start + 4096] = b"\xa5" * 4096
    file.write_bytes(content)

    server = ServerProcess(tmp_path)
    try:
        server._ready.wait(100)
        if not server.port:
            # Refusing to start on such a store is as good.
            assert "Traceback" not in server.output
            return
        client = Client(server.address)
        request = consumer(subject)
        try:
            decision = client.stub.Decide(request, timeout=60).decision
        finally:
            client.close()
        assert decision.verdict not in LENDS
        assert {s.status for s in decision.substitutions} <= {
            pb.FEATURE_STATUS_UNAVAILABLE,
            pb.FEATURE_STATUS_NOT_FOUND,
        }
        assert server.process.poll() is None
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


def test_a_store_that_is_late_costs_its_budget_and_refers(tmp_path: Path) -> None:
    with running(tmp_path, settings={"ASSAY_STORE_READ_BUDGET_MS": "0.000001"}) as (_, client):
        subject = _good(tmp_path)
        decision = client.stub.Decide(consumer(subject)).decision
        items = client.stub.DecideBatch(service_pb.DecideBatchRequest(requests=[consumer(subject)])).items
        for one in (decision, items[0].decision):
            assert one.verdict == pb.VERDICT_REFER
            assert {s.status for s in one.substitutions} == {pb.FEATURE_STATUS_UNAVAILABLE}
            codes = {r.code for r in one.policy_reasons}
            assert codes & {"PL_BUREAU_UNKNOWN", "PL_FRAUD_DATA_UNAVAILABLE"}


@pytest.fixture
def full_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[ServerProcess, Client]]:
    """A server whose files cannot grow from now on."""
    with running(tmp_path, settings={"ASSAY_RECORD_ON_FAILURE": request.param}) as (server, client):
        for _ in range(3):
            client.stub.Decide(consumer())
        _limit(server, 0)
        yield server, client


def _limit(server: ServerProcess, size: int) -> None:
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("full_disk", ["refuse"], indirect=True)
def test_a_decision_that_cannot_be_recorded_is_not_given(full_disk: tuple[ServerProcess, Client]) -> None:
    server, client = full_disk
    request = consumer()
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            client.stub.Decide(request)
        failure = failure_of(caught.value)
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.reason == "RECORD_FAILED"
        assert failure.retry_ms
    batch = client.stub.DecideBatch(service_pb.DecideBatchRequest(requests=[request, consumer()]))
    assert [failure_of_status(i.error).reason for i in batch.items] == ["RECORD_FAILED"] * 2
    with pytest.raises(grpc.RpcError) as missing:
        client.stub.GetDecision(service_pb.GetDecisionRequest(request_id=request.request_id))
    assert missing.value.code() is grpc.StatusCode.NOT_FOUND

    _limit(server, resource.RLIM_INFINITY)
    decision = client.stub.Decide(request).decision
    assert not decision.replayed
    assert client.stub.Decide(request).decision.decision_id == decision.decision_id


@pytest.mark.parametrize("full_disk", ["answer"], indirect=True)
def test_an_operator_may_choose_answers_without_records_and_each_says_so(
    full_disk: tuple[ServerProcess, Client],
) -> None:
    server, client = full_disk
    request = consumer()
    decision = client.stub.Decide(request).decision
    assert decision.record_state == pb.RECORD_STATE_NOT_RECORDED
    _limit(server, resource.RLIM_INFINITY)
    later = client.stub.Decide(request).decision
    assert later.record_state == pb.RECORD_STATE_RECORDED
    assert later.decision_id != decision.decision_id
