"""Counters as a loan origination system meets them: kept by the server, once for each request, whatever happens."""

from __future__ import annotations

import shutil
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from assay.decision.v1 import decision_pb2, decision_record_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from assay.feature.v1 import feature_service_pb2, feature_service_pb2_grpc
from tests.support.server import Client, running

TIMEOUT_S = 60.0


def request(subject: str, entities: Mapping[str, str], *, amount: int = 5000, request_id: str = "") -> pb.DecideRequest:
    made = pb.DecideRequest(request_id=request_id or f"velocity-{uuid.uuid4()}")
    application = made.application
    application.product, application.term_months, application.subject.id = "consumer_loan", 36, subject
    application.amount.currency_code, application.amount.units = "USD", amount
    for entity, entity_id in entities.items():
        application.entities.add(entity=entity, id=entity_id)
    application.fields["stated_monthly_income"].number = 5200
    return made


def facts(client: Client, request_id: str) -> dict[str, decision_record_pb2.FeatureFact]:
    wanted = pb.GetDecisionRequest(request_id=request_id, view=pb.DECISION_VIEW_FULL)
    got = client.stub.GetDecision(wanted, timeout=TIMEOUT_S)
    return {fact.feature: fact for fact in got.record.facts}


def decide(client: Client, made: pb.DecideRequest) -> dict[str, decision_record_pb2.FeatureFact]:
    client.stub.Decide(made, timeout=TIMEOUT_S)
    return facts(client, made.request_id)


def number(found: Mapping[str, decision_record_pb2.FeatureFact], name: str) -> float:
    """What the decision saw; a counter without a row is the default that stood in."""
    assert found[name].HasField("value"), (name, found[name])
    return found[name].value


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("velocity")) as (_, made):
        yield made


def test_each_application_sees_all_before_it(client: Client) -> None:
    device, phone = f"d-{uuid.uuid4()}", f"p-{uuid.uuid4()}"
    for i in range(12):
        # Three applicants take turns; the phone changes once.
        named = {"device": device, "phone": phone if i < 6 else phone + "x"}
        found = decide(client, request(f"who-{device[-8:]}-{i % 3}", named, amount=1000 + 50 * i))
        assert number(found, "device_applications_count_1h") == i
        assert number(found, "device_applications_count_24h") == i
        assert number(found, "device_applicants_distinct_7d") == min(i, 3)
        assert number(found, "device_amount_sum_7d") == sum(1000 + 50 * j for j in range(i))
        assert number(found, "applicant_applications_count_24h") == i // 3
        assert number(found, "applicant_phones_distinct_30d") == (0 if i < 3 else 1 if i < 9 else 2)
        since = found["device_since_last_application_seconds"]
        if i:
            assert since.status == decision_pb2.FEATURE_STATUS_PRESENT
            assert 0 < since.value < 120
            assert not since.age.ToMicroseconds()
        else:
            assert since.status == decision_pb2.FEATURE_STATUS_NOT_FOUND


def test_a_repeated_request_counts_once(client: Client) -> None:
    device = f"d-{uuid.uuid4()}"
    made = request("repeater", {"device": device})
    for _ in range(5):
        client.stub.Decide(made, timeout=TIMEOUT_S)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.stub.Decide(made, timeout=TIMEOUT_S), range(16)))
    assert number(decide(client, request("repeater", {"device": device})), "device_applications_count_1h") == 1


def test_of_many_at_once_each_counts(client: Client) -> None:
    device = f"d-{uuid.uuid4()}"
    many = [request(f"crowd-{i % 10}", {"device": device}) for i in range(60)]
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda made: client.stub.Decide(made, timeout=TIMEOUT_S), many))
    found = decide(client, request("last", {"device": device}))
    assert number(found, "device_applications_count_1h") == 60
    assert number(found, "device_applicants_distinct_7d") == 10
    assert number(found, "device_amount_sum_7d") == 60 * 5000


def test_a_batch_counts_its_items(client: Client) -> None:
    device = f"d-{uuid.uuid4()}"
    batch = pb.DecideBatchRequest(requests=[request(f"batch-{i}", {"device": device}) for i in range(20)])
    client.stub.DecideBatch(batch, timeout=TIMEOUT_S)
    assert number(decide(client, request("after", {"device": device})), "device_applications_count_1h") == 20


def test_a_late_application_counts_at_its_own_time(client: Client) -> None:
    device = f"d-{uuid.uuid4()}"
    for age_s in (30 * 60, 2 * 3600, 30 * 3600, 8 * 86_400):
        made = request(f"late-{age_s}", {"device": device})
        made.application.submitted_at.FromMicroseconds(time.time_ns() // 1000 - age_s * 1_000_000)
        client.stub.Decide(made, timeout=TIMEOUT_S)
    found = decide(client, request("now", {"device": device}))
    assert number(found, "device_applications_count_1h") == 1
    assert number(found, "device_applications_count_24h") == 2
    assert number(found, "device_applicants_distinct_7d") == 3


def test_a_refused_application_is_no_event(client: Client) -> None:
    device = f"d-{uuid.uuid4()}"
    bad = request("refused", {"device": device})
    bad.application.term_months = 7
    with pytest.raises(Exception, match="term_months"):
        client.stub.Decide(bad, timeout=TIMEOUT_S)
    found = decide(client, request("good", {"device": device}))
    assert found["device_applications_count_1h"].status == decision_pb2.FEATURE_STATUS_NOT_FOUND


@pytest.mark.parametrize("number_of_signal", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_lost_or_counted_twice_over_a_restart(tmp_path: Path, number_of_signal: int) -> None:
    device = "the-device"
    for turn in range(2):
        with running(tmp_path) as (server, client):
            sent = [request(f"turn-{turn}-{i}", {"device": device}) for i in range(20)]
            for made in sent:
                client.stub.Decide(made, timeout=TIMEOUT_S)
            # Sent again after it was answered, here and after the restart.
            client.stub.Decide(sent[0], timeout=TIMEOUT_S)
            server.stop(number_of_signal)
    # The journal is all that is left of the counters' way: every event is read from it again, and known by its id.
    for checkpoint in (tmp_path / "decisions").glob("velocity.*.json"):
        checkpoint.unlink()
    with running(tmp_path) as (_, client):
        client.stub.Decide(sent[0], timeout=TIMEOUT_S)
        found = decide(client, request("after", {"device": device}))
        assert number(found, "device_applications_count_24h") == 40
        assert number(found, "device_applicants_distinct_7d") == 40


def test_counters_lost_with_their_store_come_back_from_the_journal(tmp_path: Path) -> None:
    device = "the-device"
    with running(tmp_path) as (server, client):
        for i in range(10):
            client.stub.Decide(request(f"before-{i}", {"device": device}), timeout=TIMEOUT_S)
        server.stop(signal.SIGKILL)
    for file in (tmp_path / "features").iterdir():
        file.unlink()
    for checkpoint in (tmp_path / "decisions").glob("velocity.*.json"):
        checkpoint.unlink()
    with running(tmp_path) as (_, client):
        found = decide(client, request("after", {"device": device}))
        assert number(found, "device_applications_count_24h") == 10


def test_a_store_that_was_emptied_is_counted_anew_at_the_next_start(tmp_path: Path) -> None:
    """The checkpoint is worth nothing for a store that does not hold the counters."""
    device = "the-device"
    with running(tmp_path) as (server, client):
        for i in range(10):
            client.stub.Decide(request(f"before-{i}", {"device": device}), timeout=TIMEOUT_S)
        server.stop()
    assert list((tmp_path / "decisions").glob("velocity.*.json"))
    for file in (tmp_path / "features").iterdir():
        file.unlink()
    with running(tmp_path) as (_, client):
        found = decide(client, request("after", {"device": device}))
        assert number(found, "device_applications_count_24h") == 10


@pytest.mark.parametrize("number_of_signal", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_erased_does_not_come_back_from_the_journal(tmp_path: Path, number_of_signal: int) -> None:
    with running(tmp_path) as (server, client):
        for i in range(5):
            client.stub.Decide(request("erased" if i % 2 else "kept", {"device": f"d-{i}"}), timeout=TIMEOUT_S)
        erase = feature_service_pb2.DeleteSubjectRequest(entity_id="erased")
        answer = feature_service_pb2_grpc.FeatureServiceStub(client.channel).DeleteSubject(erase, timeout=TIMEOUT_S)
        assert answer.rows_removed == 1
        server.stop(number_of_signal)
    for checkpoint in (tmp_path / "decisions").glob("velocity.*.json"):
        checkpoint.unlink()
    with running(tmp_path) as (_, client):
        assert number(decide(client, request("kept", {})), "applicant_applications_count_24h") == 3
        found = decide(client, request("erased", {}))
        assert found["applicant_applications_count_24h"].status == decision_pb2.FEATURE_STATUS_NOT_FOUND
        # Whoever applies again is counted again.
        assert number(decide(client, request("erased", {})), "applicant_applications_count_24h") == 1


def test_a_store_back_from_an_older_copy_is_brought_up_to_date(tmp_path: Path) -> None:
    device, store, copy = "the-device", tmp_path / "features", tmp_path / "copy"
    with running(tmp_path) as (server, client):
        for i in range(3):
            client.stub.Decide(request(f"first-{i}", {"device": device}), timeout=TIMEOUT_S)
        server.stop()
    shutil.copytree(store, copy)
    with running(tmp_path) as (server, client):
        for i in range(3):
            client.stub.Decide(request(f"second-{i}", {"device": device}), timeout=TIMEOUT_S)
        server.stop()
    shutil.rmtree(store)
    copy.rename(store)
    with running(tmp_path) as (_, client):
        found = decide(client, request("after", {"device": device}))
        assert number(found, "device_applications_count_24h") == 6
