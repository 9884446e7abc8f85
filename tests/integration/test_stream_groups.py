"""Messages of a stream that come together: decided together, answered in order, each with its own error."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.decision.v1 import decision_service_pb2 as pb
from tests.support.applications import all_ids, consumer, load_rows
from tests.support.errors import failure_of_status
from tests.support.server import open_store, running

# With next to no room, messages wait for one another in ever smaller groups.
SETTINGS = [{}, {"ASSAY_ADMISSION_BURST_MAX": "0", "ASSAY_ADMISSION_LIMIT_MIN": "1", "ASSAY_ADMISSION_LIMIT_MAX": "3",
                 "ASSAY_ADMISSION_LIMIT_INITIAL": "3", "ASSAY_ADMISSION_STREAM_WAIT_MS": "60000"}]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=["room", "little room"])
def test_answers_come_in_order_whatever_is_among_them(tmp_path: Path, settings: dict[str, str]) -> None:
    with running(tmp_path, settings=settings) as (_, client):
        with open_store(tmp_path) as store:
            load_rows(store, all_ids("s"))
        requests = [consumer("s") for _ in range(100)]
        for bad in requests[5::10]:
            bad.application.term_months = 7
        requests[50] = requests[49]
        requests[70].request_id = ""
        messages = [pb.DecideStreamRequest(request=request) for request in requests]
        answers = list(client.stub.DecideStream(iter(messages), timeout=240))
        assert [a.request_id for a in answers] == [r.request_id for r in requests]
        for index, answer in enumerate(answers):
            if index % 10 == 5 or index == 70:
                assert failure_of_status(answer.error).reason == "INVALID_REQUEST"
            else:
                assert answer.decision.decision_id, index
        assert answers[50].decision.decision_id == answers[49].decision.decision_id
        assert answers[50].decision.replayed
        ids = {a.decision.decision_id for a in answers if a.HasField("decision")}
        assert len(ids) == 100 - 10 - 1 - 1
        kept = client.stub.GetDecision(pb.GetDecisionRequest(request_id=requests[99].request_id), timeout=60)
        assert kept.decision.decision_id == answers[99].decision.decision_id
