"""Cassandra away for a whole run of a server that ships to it: no call is refused, nothing is lost, all arrives."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from engine.record.master import MasterKey
from engine.record.reader import JournalReader
from engine.record.segments import list_segments
from engine.shipping.records import CassandraRecords
from engine.shipping.subjects import KeyOpener
from tests.support.applications import consumer
from tests.support.cassandra import CassandraNode, shared_node
from tests.support.cassandra_places import settings_for
from tests.support.errors import failure_of
from tests.support.served_commands import assay, assert_journal_is_whole
from tests.support.served_load import TIMEOUT_S, Kind, Load, Told, as_given
from tests.support.server import Client, running

KEYSPACE = "served_tests"
CALLS: tuple[Kind, ...] = ("decide", "decide", "batch", "stream")
_PATIENCE_S = 200.0


def settings_of(node: CassandraNode) -> dict[str, str]:
    return {
        "ASSAY_SHIP_MODE": "process",
        "ASSAY_SHIP_KEEP_LOCAL_H": "0",
        "ASSAY_SHIP_RETRY_MAX_S": "1",
        "ASSAY_SHIP_WRITE_TIMEOUT_MS": "20000",
        "ASSAY_SHIP_READ_TIMEOUT_MS": "20000",
        "ASSAY_RECORD_SEGMENT_BYTES": "131072",
        "ASSAY_CASSANDRA_ADDRESSES": node.address,
        "ASSAY_CASSANDRA_KEYSPACE": KEYSPACE,
        "ASSAY_CASSANDRA_CONNECT_TIMEOUT_MS": "20000",
        "ASSAY_CASSANDRA_WRITE_TIMEOUT_MS": "60000",
    }


def eventually(condition: Callable[[], bool], otherwise: Callable[[], object]) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, otherwise()
        time.sleep(0.1)


def assert_found(client: Client, told: list[Told]) -> None:
    for one in told:
        expected = as_given(one.decision, replayed=True)
        wanted = pb.GetDecisionRequest(decision_id=one.decision.decision_id)
        assert client.stub.GetDecision(wanted, timeout=TIMEOUT_S).decision == expected
        assert client.stub.Decide(one.request, timeout=TIMEOUT_S).decision == expected


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_cassandra_away_for_a_whole_run_nothing_is_refused_or_lost(tmp_path: Path) -> None:
    node, journal = shared_node(), tmp_path / "decisions"
    settings = settings_of(node)
    # Safe to repeat: a machine at a standstill may take longer over its tables than a command waits.
    for _ in range(4):
        done = assay(tmp_path, "store", "migrate", settings=settings)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr

    def status() -> dict[str, object]:
        found: dict[str, object] = json.loads(
            assay(tmp_path, "record", "status", "--json", settings=settings).stdout or "{}"
        )
        return found

    node.kill()
    told: list[Told] = []
    for _ in range(2):
        # It starts without Cassandra, too, and is killed without it.
        with running(tmp_path, settings=settings) as (server, client):
            with Load(server.address, consumer, CALLS, rest_s=0.002) as load:
                load.wait(60, CALLS)
            assert load.failed == []
            told += load.told
            assert_found(client, told[:: len(told) // 20])
            # What is not here may be there: nobody knows at present.
            with pytest.raises(grpc.RpcError) as unknown:
                client.stub.GetDecision(pb.GetDecisionRequest(decision_id="nobody-knows"), timeout=TIMEOUT_S)
            assert failure_of(unknown.value).reason == "STORE_UNAVAILABLE"
            assert "Traceback" not in server.output, server.output
            server.stop(signal.SIGKILL)
    made = {stored.decision_id for stored in JournalReader(journal).decisions()}
    assert made >= {one.decision.decision_id for one in told}
    held = list_segments(journal)
    assert len(held) > 5
    assert held[0] == "w0-00000001", "a segment was let go that nobody had"

    with running(tmp_path, settings=settings) as (server, client):
        node.start()
        eventually(lambda: len(list_segments(journal)) == 1, lambda: (status(), list_segments(journal), server.output))
        assert_found(client, told[:: len(told) // 60])
        left = {stored.decision_id for stored in JournalReader(journal).decisions()}
        assert told[0].decision.decision_id not in left
        changed = pb.DecideRequest()
        changed.CopyFrom(told[0].request)
        changed.application.term_months = 36
        with pytest.raises(grpc.RpcError) as reused:
            client.stub.Decide(changed, timeout=TIMEOUT_S)
        failure = failure_of(reused.value)
        assert (failure.reason, failure.metadata["differs"]) == ("REQUEST_ID_REUSED", "application.term_months")
        with pytest.raises(grpc.RpcError) as unknown:
            client.stub.GetDecision(pb.GetDecisionRequest(decision_id="nobody-knows"), timeout=TIMEOUT_S)
        assert failure_of(unknown.value).reason == "DECISION_NOT_FOUND"
        assert server.stop() == 0
    done = assay(tmp_path, "record", "ship", "--once", settings=settings)
    assert done.returncode == 0, done.stderr
    assert status()["waiting_bytes"] == 0
    master = MasterKey.read(tmp_path / "var" / "master.key")
    with closing(CassandraRecords(settings_for(node, KEYSPACE), KeyOpener(master))) as records:
        for decision_id in made:
            stored = records.get(decision_id)
            assert stored is not None, decision_id
            assert not stored.locked
    assert_journal_is_whole(tmp_path, settings)
