"""Outcomes through `assay serve`: decided, recorded, killed, found, reported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from assay.outcome.v1 import outcome_pb2 as pb
from assay.outcome.v1 import outcome_service_pb2 as service_pb
from assay.outcome.v1 import outcome_service_pb2_grpc as stubs
from tests.support.applications import consumer, now_us
from tests.support.outcomes import outcome, status
from tests.support.server import environment, running


def test_what_was_acknowledged_is_there_after_the_server_was_killed_and_is_reported(tmp_path: Path) -> None:
    with running(tmp_path) as (server, client):
        decision_id = client.stub.Decide(consumer()).decision.decision_id
        stub = stubs.OutcomeServiceStub(client.channel)
        note = pb.ManualOverride(verdict=1, reason_code="R", note="planted-note", officer="o-1")  # type: ignore[arg-type]
        sent = [
            outcome(decision_id, now_us(), manual_override=note),
            outcome(decision_id, now_us(), repayment_status=status(3)),
        ]
        for one in sent:
            stub.RecordOutcome(service_pb.RecordOutcomeRequest(outcome=one))
        server.stop(signal.SIGKILL)
    with running(tmp_path) as (server, client):
        stub = stubs.OutcomeServiceStub(client.channel)
        listed = stub.ListOutcomes(service_pb.ListOutcomesRequest(decision_id=decision_id)).outcomes
        assert [one.outcome for one in listed] == sent
        again = stub.RecordOutcome(service_pb.RecordOutcomeRequest(outcome=sent[0]))
        assert again.already_recorded and again.decision_id == decision_id
        assert "planted-note" not in server.output
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli", "outcomes", "report", "--json", "r.json"],
            env=environment(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        assert report["decisions"] == 1
        assert "planted-note" not in done.stdout + done.stderr + (tmp_path / "r.json").read_text(encoding="utf-8")
        assert server.stop() == 0
