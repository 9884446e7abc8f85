"""Recording outcomes through the stubs: a real server in this process, over a real journal."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from assay.decision.v1 import decision_pb2 as decision_pb
from assay.outcome.v1 import outcome_pb2 as pb
from assay.outcome.v1 import outcome_service_pb2 as service_pb
from engine.features.stores.cassandra_settings import CassandraSettings
from engine.outcomes import desk as desk_module
from engine.outcomes.desk import OutcomeDesk
from engine.record.journal import Journal
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind
from engine.shipping.records import CassandraRecords
from tests.support.errors import failure_of_status
from tests.support.features import refused
from tests.support.outcomes import OutcomeService, commit, outcome, outcome_service, record_of, stamp, status, us, usd
from tests.support.server import ROOT

CHARGE_OFF = pb.DEFAULT_CAUSE_CHARGE_OFF
HOLDS, SUPERSEDED, CORRECTED = service_pb.STANDING_HOLDS, service_pb.STANDING_SUPERSEDED, service_pb.STANDING_CORRECTED


@pytest.fixture
def service(tmp_path: Path) -> Iterator[OutcomeService]:
    with outcome_service(tmp_path / "journal") as made:
        yield made


def frames(directory: Path) -> list[pb.OutcomeRecord]:
    """Every outcome in a journal."""
    reader = JournalReader(directory)
    return [
        pb.OutcomeRecord.FromString(item.payload)
        for worker in reader.workers()
        for item in reader.frames(worker)
        if isinstance(item, Frame) and item.kind == FrameKind.OUTCOME
    ]


def test_an_outcome_is_in_the_journal_before_it_is_answered_and_is_given_back(
    service: OutcomeService, tmp_path: Path
) -> None:
    decision_id = service.decide(request_id="los-1")
    sent = outcome(
        decision_id,
        "2025-07-01",
        repayment_status=pb.RepaymentStatus(days_past_due=31, balance=usd(812.5)),
    )
    answer = service.record(sent)
    assert (answer.decision_id, answer.already_recorded) == (decision_id, False)
    assert answer.recorded_at.ToMicroseconds() == us("2026-01-15")
    (record,) = frames(tmp_path / "journal")
    assert record.outcome == sent
    assert (record.decision_id, record.request_id, record.schema_version) == (decision_id, "los-1", 1)
    got = service.stub.GetOutcome(service_pb.GetOutcomeRequest(outcome_id=sent.outcome_id)).outcome
    assert (got.outcome, got.standing) == (sent, HOLDS)
    for asked in ({"decision_id": decision_id}, {"request_id": "los-1"}):
        (listed,) = service.listed(**asked)
        assert listed == got


@pytest.mark.parametrize(
    "kind",
    [
        {"repaid_in_full": pb.RepaidInFull(early=True)},
        {"default": pb.Default(cause=pb.DEFAULT_CAUSE_ARREARS, days_past_due=90, horizon_months=12, loss=usd(40))},
        {"fraud_finding": pb.FraudFinding(result=pb.FRAUD_RESULT_CONFIRMED, type="ring", loss=usd(40))},
        {"take_up": pb.TakeUp(result=pb.TAKE_UP_RESULT_ACCEPTED, amount=usd(5000))},
        {
            "manual_override": pb.ManualOverride(
                verdict=decision_pb.VERDICT_APPROVE, reason_code="INCOME_PROVEN", note="Payslip seen", officer="ofc-7"
            )
        },
    ],
    ids=lambda kind: next(iter(kind)),
)
def test_every_kind_is_kept_as_it_was_sent(service: OutcomeService, kind: dict[str, Any]) -> None:
    sent = outcome(service.decide(), **kind)
    service.record(sent)
    (listed,) = service.listed(decision_id=sent.decision_id)
    assert listed.outcome == sent


def test_the_same_outcome_again_does_no_harm_and_another_under_its_id_is_told(
    service: OutcomeService, tmp_path: Path
) -> None:
    sent = outcome(service.decide(), repayment_status=status(0))
    first = service.record(sent)
    service.clock.now += 1_000_000
    again = service.record(sent)
    assert again.already_recorded and again.recorded_at == first.recorded_at
    assert len(frames(tmp_path / "journal")) == 1
    sent.repayment_status.days_past_due = 30
    sent.observed_at.CopyFrom(stamp("2025-06-02"))
    failure = refused(lambda: service.record(sent))
    assert (failure.code, failure.reason) == (grpc.StatusCode.ALREADY_EXISTS, "OUTCOME_ID_REUSED")
    assert failure.metadata["differs"] == "observed_at,repayment_status.days_past_due"
    assert len(frames(tmp_path / "journal")) == 1
    other = outcome(sent.decision_id, outcome_id=sent.outcome_id, repaid_in_full=pb.RepaidInFull())
    assert "repaid_in_full" in refused(lambda: service.record(other)).metadata["differs"]


def test_of_many_callers_with_one_id_one_records_it(service: OutcomeService, tmp_path: Path) -> None:
    sent = outcome(service.decide(), repayment_status=status(0))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: service.record(sent), range(60)))
    assert sum(not one.already_recorded for one in answers) == 1
    assert len({one.recorded_at.ToMicroseconds() for one in answers}) == 1
    assert len(frames(tmp_path / "journal")) == 1


def test_corrections_are_kept_beside_what_they_correct_and_a_past_moment_stays_as_it_was(
    service: OutcomeService,
) -> None:
    decision_id = service.decide()
    sent = [
        ("2025-07-01", outcome(decision_id, "2025-06-30", "june", repayment_status=status(95))),
        ("2025-07-05", outcome(decision_id, "2025-06-30", "june-again", repayment_status=status(5))),
        (
            "2025-08-01",
            outcome(decision_id, "2025-07-31", "default", default=pb.Default(cause=CHARGE_OFF)),
        ),
        ("2025-08-09", outcome(decision_id, "2025-07-31", "no", supersedes="default", retraction=pb.Retraction())),
    ]
    for now, one in sent:
        service.clock.now = us(now)
        service.record(one)

    def known(as_of: str) -> dict[str, int]:
        listed = service.listed(decision_id=decision_id, as_of=stamp(as_of), include_corrected=True)
        return {one.outcome.outcome_id: one.standing for one in listed}

    assert known("2025-06-30") == {}
    assert known("2025-07-01") == {"june": HOLDS}
    assert known("2025-07-31") == {"june": CORRECTED, "june-again": HOLDS}
    assert known("2025-08-01") == {"june": CORRECTED, "june-again": HOLDS, "default": HOLDS}
    assert known("2025-12-31") == {"june": CORRECTED, "june-again": HOLDS, "default": SUPERSEDED, "no": HOLDS}
    held = [one.outcome.outcome_id for one in service.listed(decision_id=decision_id)]
    assert held == ["june-again", "no"]
    got = service.stub.GetOutcome(service_pb.GetOutcomeRequest(outcome_id="june")).outcome
    assert got.standing == CORRECTED


def test_pages_follow_one_another_without_gap_or_repeat(service: OutcomeService) -> None:
    decision_id = service.decide()
    service.stream([outcome(decision_id, us("2025-02-01") + i * 86_400_000_000, repaid_in_full={}) for i in range(25)])
    whole = [one.outcome.outcome_id for one in service.listed(decision_id=decision_id)]
    assert len(whole) == 25
    found, token = [], ""
    while True:
        asked = service_pb.ListOutcomesRequest(decision_id=decision_id, page_size=10, page_token=token)
        answer = service.stub.ListOutcomes(asked)
        found += [one.outcome.outcome_id for one in answer.outcomes]
        assert len(answer.outcomes) <= 10
        token = answer.next_page_token
        if not token:
            break
    assert found == whole


def test_everything_wrong_is_told_at_once_and_nothing_of_it_is_repeated(service: OutcomeService) -> None:
    note = "Mrs Planted Value rang " + "x" * 1000
    bad = outcome("no spaces", outcome_id="", manual_override=pb.ManualOverride(note=note, officer="Jane Doe"))
    bad.source = ""
    bad.observed_at.CopyFrom(stamp("2026-02-01"))
    failure = refused(lambda: service.record(bad))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(failure.fields) == {
        "outcome.outcome_id",
        "outcome.decision_id",
        "outcome.source",
        "outcome.observed_at",
        "outcome.manual_override.verdict",
        "outcome.manual_override.reason_code",
        "outcome.manual_override.note",
        "outcome.manual_override.officer",
    }
    assert "Planted" not in failure.everything and "Jane" not in failure.everything
    assert set(refused(lambda: service.record(pb.Outcome())).fields) == {
        "outcome.outcome_id",
        "outcome.decision_id",
        "outcome.source",
        "outcome.observed_at",
        "outcome.kind",
    }
    absent = refused(lambda: service.stub.RecordOutcome(service_pb.RecordOutcomeRequest()))
    assert set(absent.fields) == {"outcome"}


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        ({"repayment_status": pb.RepaymentStatus(days_past_due=-1)}, {"repayment_status.days_past_due"}),
        (
            {"repayment_status": pb.RepaymentStatus(balance=usd(-4))},
            {"repayment_status.balance"},
        ),
        ({"default": pb.Default()}, {"default.cause"}),
        ({"default": pb.Default(cause=pb.DEFAULT_CAUSE_ARREARS)}, {"default.days_past_due"}),
        ({"default": pb.Default(cause=77, horizon_months=999)}, {"default.cause", "default.horizon_months"}),  # type: ignore[arg-type]
        ({"fraud_finding": pb.FraudFinding(type="A B")}, {"fraud_finding.result", "fraud_finding.type"}),
        ({"take_up": pb.TakeUp()}, {"take_up.result"}),
        ({"retraction": pb.Retraction()}, {"supersedes"}),
        ({"repaid_in_full": {}, "supersedes": "me", "outcome_id": "me"}, {"supersedes"}),
        ({"repaid_in_full": {}, "supersedes": "nobody"}, {"supersedes"}),
        ({"repaid_in_full": {}, "observed_at": "2024-12-31"}, {"observed_at"}),
    ],
)
def test_what_cannot_be_is_refused(service: OutcomeService, kind: dict[str, Any], paths: set[str]) -> None:
    failure = refused(lambda: service.record(outcome(service.decide("2025-01-15"), **kind)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(failure.fields) == {f"outcome.{path}" for path in paths}


def test_amounts_are_in_the_currency_of_the_decision(service: OutcomeService) -> None:
    euro = usd(3)
    euro.currency_code = "EUR"
    sent = outcome(service.decide(), default=pb.Default(cause=CHARGE_OFF, loss=euro, exposure_at_default=usd(3)))
    assert set(refused(lambda: service.record(sent)).fields) == {"outcome.default"}
    sent.default.exposure_at_default.currency_code = "EUR"
    assert set(refused(lambda: service.record(sent)).fields) == {
        "outcome.default.loss.currency_code",
        "outcome.default.exposure_at_default.currency_code",
    }


def test_a_decision_that_is_not_known_is_refused_unless_it_may_come_later(service: OutcomeService) -> None:
    record = record_of("2025-01-15", request_id="late")
    early = [
        outcome(record.decision.decision_id, repayment_status=status(0)),
        outcome(request_id="late", repaid_in_full={}),
    ]
    for one in early:
        failure = refused(lambda one=one: service.record(one))
        assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "DECISION_NOT_FOUND")
    assert refused(lambda: service.listed(request_id="late")).reason == "DECISION_NOT_FOUND"
    assert [service.record(one, allow_unknown=True).decision_id for one in early] == [record.decision.decision_id, ""]
    commit(service.log, record)
    for asked in ({"decision_id": record.decision.decision_id}, {"request_id": "late"}):
        assert [one.outcome for one in service.listed(**asked)] == early


def test_where_nobody_can_say_whether_there_is_a_decision_nothing_is_settled(tmp_path: Path) -> None:
    """The journal does not have the decision, and Cassandra, which may, does not answer."""
    settings = CassandraSettings(addresses=("127.0.0.1:1",), connect_timeout_ms=200, read_timeout_ms=200)
    with (
        closing(CassandraRecords(settings, lazy=True)) as shipped,
        outcome_service(tmp_path / "journal", shipped=shipped) as service,
    ):
        here = outcome(service.decide(), repaid_in_full={})
        service.record(here)
        away = outcome("0197d3a2-0000-7000-8000-000000000000", repaid_in_full={})
        for allow_unknown in (False, True):
            for call in (
                lambda unknown=allow_unknown: service.record(away, allow_unknown=unknown),
                lambda unknown=allow_unknown: service.stream([here, away], allow_unknown=unknown),
            ):
                failure = refused(call)
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert len(frames(tmp_path / "journal")) == 1


def test_a_superseded_outcome_must_be_of_the_same_decision(service: OutcomeService) -> None:
    first = outcome(service.decide(), repayment_status=status(0))
    service.record(first)
    other = outcome(service.decide(), repayment_status=status(0), supersedes=first.outcome_id)
    assert set(refused(lambda: service.record(other)).fields) == {"outcome.supersedes"}
    second = outcome(first.decision_id, repayment_status=status(1), supersedes=first.outcome_id)
    service.record(second)
    assert [one.outcome for one in service.listed(decision_id=first.decision_id)] == [second]


def test_a_stream_settles_everything_and_one_at_fault_harms_no_other(service: OutcomeService) -> None:
    decision_id = service.decide()
    good = [outcome(decision_id, us("2025-02-01") + i * 86_400_000_000, repayment_status=status(0)) for i in range(600)]
    bad = outcome(decision_id, repayment_status=status(-1))
    unknown = outcome("0197d3a2-0000-7000-8000-000000000000", repaid_in_full={})
    now = us("2025-02-01") + 700 * 86_400_000_000
    service.clock.now = now
    answers = service.stream(good[:300], [bad, unknown, good[0]], good[300:])
    assert answers[-1].acknowledged_position == 603
    positions = [one.acknowledged_position for one in answers]
    assert positions == sorted(positions)
    assert sum(one.recorded for one in answers) == 600
    assert sum(one.already_recorded for one in answers) == 1
    rejected = {one.position: failure_of_status(one.error) for answer in answers for one in answer.rejected}
    assert {position: failure.reason for position, failure in rejected.items()} == {
        301: "INVALID_REQUEST",
        302: "DECISION_NOT_FOUND",
    }
    assert set(rejected[301].fields) == {"outcome.repayment_status.days_past_due"}
    again = service.stream(good)
    assert sum(one.already_recorded for one in again) == 600
    assert service.counters.get("outcomes", kind="repayment_status", result="recorded") == 600


def test_a_stream_that_breaks_the_order_of_positions_ends_after_what_came_before(service: OutcomeService) -> None:
    decision_id = service.decide()

    def message(*positions: int) -> service_pb.RecordOutcomesRequest:
        sent = [service_pb.SentOutcome(position=p, outcome=outcome(decision_id, repaid_in_full={})) for p in positions]
        return service_pb.RecordOutcomesRequest(outcomes=sent)

    failure = refused(lambda: list(service.stub.RecordOutcomes(iter([message(5, 9), message(9)]), timeout=20)))
    assert set(failure.fields) == {"outcomes[0].position"}
    assert len(service.listed(decision_id=decision_id, include_corrected=True)) == 2
    assert refused(lambda: list(service.stub.RecordOutcomes(iter([message()])))).fields.keys() == {"outcomes"}
    many = refused(lambda: list(service.stub.RecordOutcomes(iter([message(*range(1, 1002))]), timeout=20)))
    assert (many.reason, many.metadata["items_max"]) == ("BATCH_TOO_LARGE", "1000")


def test_questions_at_fault_name_their_fields(service: OutcomeService) -> None:
    assert set(refused(service.listed).fields) == {"decision_id"}
    asked = {"decision_id": "x", "page_size": 1001, "page_token": "!", "as_of": {"seconds": 10**15}}
    assert set(refused(lambda: service.listed(**asked)).fields) == {"page_size", "page_token", "as_of"}
    assert set(refused(lambda: service.stub.GetOutcome(service_pb.GetOutcomeRequest())).fields) == {"outcome_id"}
    nothing = refused(lambda: service.stub.GetOutcome(service_pb.GetOutcomeRequest(outcome_id="n" * 5000)))
    assert (nothing.code, nothing.reason) == (grpc.StatusCode.NOT_FOUND, "OUTCOME_NOT_FOUND")
    assert len(nothing.everything) < 500


def test_a_draining_server_takes_no_outcomes(service: OutcomeService) -> None:
    sent = outcome(service.decide(), repaid_in_full={})
    service.draining.set()
    for call in (lambda: service.record(sent), lambda: service.stream([sent]), lambda: service.listed(decision_id="x")):
        assert refused(call).reason == "DRAINING"


def test_a_journal_that_cannot_be_written_refuses_and_the_same_call_works_later(
    service: OutcomeService, tmp_path: Path
) -> None:
    sent = outcome(service.decide(engine_version="x" * 4_000_000), repaid_in_full={})
    (segment,) = (tmp_path / "journal").glob("*.journal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size, hard))
    try:
        failure = refused(lambda: service.record(sent))
        stream = refused(lambda: service.stream([sent]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for one in (failure, stream):
        assert (one.code, one.reason) == (grpc.StatusCode.UNAVAILABLE, "RECORD_FAILED")
        assert one.retry_ms
    assert service.listed(decision_id=sent.decision_id) == []
    assert not service.record(sent).already_recorded
    assert len(frames(tmp_path / "journal")) == 1


def test_a_decision_takes_a_bounded_number_of_outcomes(
    service: OutcomeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "OUTCOMES_PER_DECISION_MAX", 3)
    decision_id = service.decide()
    for _ in range(3):
        service.record(outcome(decision_id, repaid_in_full={}))
    failure = refused(lambda: service.record(outcome(decision_id, repaid_in_full={})))
    assert set(failure.fields) == {"outcome.decision_id"}


def test_notes_and_officers_stand_in_no_log(service: OutcomeService, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        override = pb.ManualOverride(
            verdict=decision_pb.VERDICT_DECLINE, reason_code="R1", note="planted-note", officer="planted-officer"
        )
        sent = outcome(service.decide(), manual_override=override)
        service.record(sent)
        sent.manual_override.note = "planted-note-2"
        failure = refused(lambda: service.record(sent))
    assert failure.metadata["differs"] == "manual_override.note"
    assert "planted" not in caplog.text + failure.everything
    assert "planted" not in str(service.counters.snapshot())


# --- crashes ------------------------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
from engine.clock import SystemClock
from engine.outcomes.desk import OutcomeDesk
from engine.record.log import DecisionLog
from tests.support.outcomes import commit, outcome, record_of, status
directory = Path(sys.argv[1])
log = DecisionLog(directory)
desk = OutcomeDesk(log, log, directory, SystemClock())
decision_id = commit(log, record_of("2025-01-15"))
for number in range(50):
    at = 1_740_000_000_000_000 + number * 86_400_000_000
    desk.record(outcome(decision_id, at, f"o-{number}", repayment_status=status(number)))
    print(decision_id, f"o-{number}", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, set[str]]:
    """What a process left that recorded and was killed: its journal, the decision, all outcomes acknowledged."""
    directory = tmp_path_factory.mktemp("killed") / "journal"
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(directory)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 50
    return directory, lines[0][0], {outcome_id for _, outcome_id in lines}


@pytest.mark.parametrize("index", ["kept", "lost", "spoilt", "of another version", "behind"])
def test_what_was_acknowledged_is_there_after_kill_9(
    tmp_path: Path, killed: tuple[Path, str, set[str]], index: str
) -> None:
    left, decision_id, acknowledged = killed
    directory = shutil.copytree(left, tmp_path / "journal")
    file = directory / "outcomes.sqlite"
    if index == "lost":
        for path in directory.glob("outcomes.sqlite*"):
            path.unlink()
    elif index == "spoilt":
        for path in directory.glob("outcomes.sqlite-*"):
            path.unlink()
        file.write_bytes(b"no database at all" * 1000)
    elif index != "kept":
        with sqlite3.connect(file) as db:
            if index == "behind":
                db.execute("DELETE FROM outcomes WHERE outcome_id IN ('o-49', 'o-48', 'o-17')")
            else:
                db.execute("PRAGMA user_version = 99")
        db.close()
    with outcome_service(directory, now="2026-06-01") as service:
        listed = service.listed(decision_id=decision_id, include_corrected=True)
        assert {one.outcome.outcome_id for one in listed} == acknowledged
        sent = next(one.outcome for one in listed if one.outcome.outcome_id == "o-48")
        assert service.record(sent).already_recorded


def test_a_clean_end_leaves_nothing_to_be_read_again(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    with outcome_service(directory) as service:
        decision_id = service.decide()
        service.record(outcome(decision_id, repaid_in_full={}))
        for _ in range(5):
            service.decide()
    with outcome_service(directory) as service:
        assert service.desk.caught_up.indexed == 0
        assert len(service.listed(decision_id=decision_id)) == 1


def test_two_workers_of_one_directory_know_each_others_outcomes(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    with outcome_service(directory) as first:
        sent = outcome(first.decide(), repaid_in_full={})
        journal = Journal(directory, "w1")  # one process opens the index of decisions once
        second = OutcomeDesk(journal, first.log, directory, first.clock, worker="w1")
        try:
            first.record(sent)
            assert second.record(sent).already
            other = outcome(sent.decision_id, repayment_status=status(3))
            second.record(other)
            assert first.record(other).already_recorded
        finally:
            second.close()
            journal.close()
    assert len(frames(directory)) == 2
