"""`assay dataset export` and `assay outcomes` over a real journal of real decisions."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from google.protobuf.json_format import MessageToJson
from typer.testing import CliRunner, Result

from assay.decision.v1 import decision_pb2
from assay.decision.v1.decision_record_pb2 import DecisionRecord
from assay.outcome.v1 import outcome_pb2 as pb
from engine.cli_outcomes import dataset_app, outcomes_app
from engine.outcomes.desk import OutcomeDesk
from engine.outcomes.labels import add_months
from engine.record.claims import CLAIMED
from engine.record.log import DecisionLog
from engine.record.master import MasterKey
from engine.record.read import parse_record, unpack
from engine.record.reader import JournalReader
from engine.replay.outcomes import read_outcomes
from tests.support import applications as apps
from tests.support.bundles import shipped
from tests.support.features import SetClock
from tests.support.outcomes import OutcomeService, outcome, outcome_service, record_of, stamp, status, us, usd
from tests.support.replays import decide_generated, lending

DAY_US = 86_400_000_000


def run(app: Any, *arguments: object) -> Result:
    """A command, as it is typed."""
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "300"})


def day(moment_us: int) -> str:
    """A moment as options take it."""
    return datetime.fromtimestamp(moment_us / 1e6, UTC).isoformat()


class Portfolio:
    """A journal of decisions made just now, and outcomes of the year after, each recorded at its time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with lending(directory, shipped()) as lender:
            decide_generated(lender, 60)
            self.made = list(lender.made)
            subject = apps.new_id("late")
            apps.load_rows(lender.store, apps.all_ids(subject))
            (good,) = lender.decide(apps.consumer(subject))
            self.good = good.decision_id
            self.now_us = apps.now_us()
            clock = SetClock(self.now_us)
            desk = OutcomeDesk(lender.log, lender.log, directory, clock)
            try:
                self._status(desk, clock, self.good, 5, 95)
                for number, decision_id in enumerate(self.made):
                    self._status(desk, clock, decision_id, 11, 120 if number % 4 == 0 else 0)
                self._status(desk, clock, self.good, 11, 0)
                # What was 95 days past due in month 5 turns out, in month 14, to have been 3.
                self._status(desk, clock, self.good, 5, 3, late_months=9)
                # And a loss that was known only in month 20.
                clock.now = add_months(self.now_us, 20)
                late = pb.Default(cause=pb.DEFAULT_CAUSE_CHARGE_OFF, loss=usd(777.5))
                desk.record(outcome(self.made[1], add_months(self.now_us, 3), default=late))
            finally:
                desk.close()

    def _status(
        self, desk: OutcomeDesk, clock: SetClock, decision_id: str, months: int, days: int, late_months: int = 0
    ) -> None:
        observed_us = add_months(self.now_us, months)
        clock.now = add_months(observed_us, late_months)
        desk.record(outcome(decision_id, observed_us, repayment_status=status(days)))

    def after(self, months: int) -> str:
        """A moment so many months later."""
        return day(add_months(self.now_us, months) + DAY_US)


@pytest.fixture(scope="module")
def portfolio(tmp_path_factory: pytest.TempPathFactory) -> Portfolio:
    return Portfolio(tmp_path_factory.mktemp("portfolio") / "journal")


@pytest.fixture(scope="module")
def records(portfolio: Portfolio) -> dict[str, DecisionRecord]:
    """Every record, with its facts by name, read apart from the code under test."""
    reader, found = JournalReader(portfolio.directory), {}
    for stored in reader.decisions():
        record = parse_record(stored.record)
        unpack(record, reader.catalogue(record.packed_facts.catalogue_digest), {})
        found[stored.decision_id] = record
    return found


def export(portfolio: Portfolio, file: Path, *more: object) -> dict[str, dict[str, Any]]:
    """The rows of a data set, by decision."""
    done = run(dataset_app, "export", file, "--journal", portfolio.directory, *more)
    assert done.exit_code == 0, done.output
    return {row["decision_id"]: row for row in pq.read_table(file).to_pylist()}


def test_features_are_those_of_the_record_with_types_statuses_and_ages(
    portfolio: Portfolio, records: dict[str, DecisionRecord], tmp_path: Path
) -> None:
    rows = export(portfolio, tmp_path / "d.parquet", "--keep", "all", "--parts", "used,read,status,age,origin")
    assert set(rows) == set(records)
    types = {
        entry["name"]: entry
        for flow in shipped().plan.flows.values()
        for entry in json.loads(flow.features.catalogue_json)["features"]
    }
    compared = 0
    for decision_id, row in rows.items():
        record = records[decision_id]
        assert row["flow"] == record.decision.flow
        assert row["bundle_digest"] == record.decision.bundle.digest
        assert row["amount"] == record.application.amount.units
        assert row["term_months"] == record.application.term_months
        assert row["decided_at"] == record.decision.decided_at.ToDatetime(UTC)
        for score in record.decision.scores:
            assert row[f"score.{score.model}.raw"] == (score.raw if score.status == 1 else None)
        for fact in record.facts:
            base, entry = f"feature.{fact.feature}", types[fact.feature]
            for column, name in ((base, "value"), (f"{base}.read", "value_read")):
                expected = getattr(fact, name) if fact.HasField(name) else None  # type: ignore[arg-type]
                if expected is not None and math.isnan(expected):
                    expected = None
                if expected is not None and entry["type"] == "category":
                    expected = entry["categories"][int(expected)]
                found = row[column]
                assert found == (bool(expected) if isinstance(found, bool) else expected), column
                compared += expected is not None
            assert f"FEATURE_STATUS_{row[f'{base}.status'].upper()}" == decision_pb2.FeatureStatus.Name(fact.status)
            age = row[f"{base}.age_days"]
            assert age == (fact.age.ToMicroseconds() / DAY_US if fact.HasField("age") else None)
    assert compared > 1000


def test_labels_are_what_was_known_at_the_moment(portfolio: Portfolio, tmp_path: Path) -> None:
    def label(months: int) -> tuple[object, object, object]:
        row = export(portfolio, tmp_path / "d.parquet", "--keep", "all", "--as-of", portfolio.after(months))[
            portfolio.good
        ]
        return row["bad"], row["label_state"], row["label_known_at"]

    assert label(6)[:2] == (None, "immature")
    bad, state, known = label(12)
    assert (bad, state) == (True, "bad")
    assert known == datetime.fromtimestamp(add_months(portfolio.now_us, 5) / 1e6, UTC)
    assert label(13)[:2] == (True, "bad")
    assert label(15)[:2] == (False, "good")


def test_no_row_knows_what_came_after_its_moment_or_its_window(portfolio: Portfolio, tmp_path: Path) -> None:
    file = tmp_path / "d.parquet"
    as_of = portfolio.after(15)
    for row in export(portfolio, file, "--keep", "all", "--as-of", as_of).values():
        for column in ("label_known_at", "label_at"):
            assert row[column] is None or row[column] <= datetime.fromisoformat(as_of)
    one = portfolio.made[1]
    assert export(portfolio, file, "--as-of", as_of)[one]["bad"] is False
    later = export(portfolio, file, "--as-of", portfolio.after(21))[one]
    assert (later["bad"], later["loss"]) == (True, 777.5)
    # In a window of two months the charge-off of month 3 is none of its business.
    short = export(
        portfolio,
        file,
        "--as-of",
        portfolio.after(21),
        "--horizon-months",
        2,
        "--coverage-months",
        2,
        "--silence",
        "good",
    )
    assert short[one]["bad"] is False


def test_immature_and_unlabelled_ones_are_out_unless_they_are_asked_for(portfolio: Portfolio, tmp_path: Path) -> None:
    file, early = tmp_path / "d.parquet", portfolio.after(6)
    assert export(portfolio, file, "--as-of", early) == {}
    assert export(portfolio, file, "--as-of", early, "--keep", "mature") == {}
    everything = export(portfolio, file, "--as-of", early, "--keep", "all")
    assert {row["label_state"] for row in everything.values()} == {"immature"}
    assert {row["bad"] for row in everything.values()} == {None}
    labelled = export(portfolio, file, "--as-of", portfolio.after(13))
    assert len(labelled) == 61
    fraud = export(portfolio, file, "--as-of", early, "--target", "fraud")
    assert {row["fraud"] for row in fraud.values()} == {False}


def test_columns_say_what_they_are_and_a_back_test_takes_the_file(portfolio: Portfolio, tmp_path: Path) -> None:
    file = tmp_path / "d.parquet"
    export(portfolio, file, "--as-of", portfolio.after(13), "--flow", "consumer_loan.application")
    schema = pq.read_schema(file)
    about = json.loads(schema.metadata[b"assay.dataset"])
    columns = {one["name"]: one for one in about["columns"]}
    assert list(columns) == schema.names
    assert about["definition"]["days_past_due"] == 90 and about["keep"] == "labelled"
    for name, one in columns.items():
        assert one["meaning"] and one["role"], name
        later = name.startswith(("after.", "label_")) or name in ("bad", "loss", "fraud", "fraud_state")
        assert (one["known"] == "later") == later, name
    income = columns["feature.monthly_income"]
    assert (income["type"], income["role"], income["unit"]) == ("float", "feature", "USD/month")
    assert schema.field("bad").metadata[b"role"] == b"label"
    assert not any("subject" in name or "request" in name for name in schema.names)
    taken = read_outcomes(file)
    assert sum(one.bad for one in taken.values()) == sum(
        bool(row["bad"]) for row in pq.read_table(file, columns=["bad"]).to_pylist()
    )


def test_a_moment_asked_for_twice_gives_the_same_rows(portfolio: Portfolio, tmp_path: Path) -> None:
    first = export(portfolio, tmp_path / "1.parquet", "--as-of", portfolio.after(13))
    second = export(portfolio, tmp_path / "2.parquet", "--as-of", portfolio.after(13))
    assert first == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.parquet", "2.parquet"]


def test_erased_persons_are_in_no_data_set(portfolio: Portfolio, tmp_path: Path) -> None:
    """A sealed journal: what is personal opens with the key, and is gone with the person."""
    directory, key = tmp_path / "sealed", tmp_path / "master.key"
    master = MasterKey.load(key, directory)
    reader = JournalReader(portfolio.directory)
    stored = next(iter(reader.decisions()))
    whole = parse_record(stored.record)
    clock = SetClock(portfolio.now_us)
    with_log = DecisionLog(directory, master=master)
    try:
        digest = whole.packed_facts.catalogue_digest
        catalogue = reader.catalogue(digest)
        assert catalogue is not None
        with_log.declare_catalogue(digest, catalogue)
        for name in ("stays", "goes"):
            open_part, personal = DecisionRecord(), DecisionRecord()
            open_part.CopyFrom(whole)
            open_part.decision.decision_id = name
            personal.application.CopyFrom(whole.application)
            personal.application.subject.id = name
            personal.packed_facts.CopyFrom(whole.packed_facts)
            open_part.ClearField("application")
            open_part.ClearField("packed_facts")
            assert with_log.claim(name.encode(), b"d") is CLAIMED
            with_log.commit(
                name.encode(), name, b"d", open_part.SerializeToString(), personal.SerializeToString(), subject=name
            )
        desk = OutcomeDesk(with_log, with_log, directory, clock, sealer=with_log.keys)
        try:
            for name in ("stays", "goes"):
                note = pb.ManualOverride(verdict=1, reason_code="R", note=f"planted {name}", officer="o-1")  # type: ignore[arg-type]
                sent = outcome(name, portfolio.now_us, f"note-{name}", manual_override=note)
                desk.record(sent)
                assert desk.record(sent).already
                assert desk.get(f"note-{name}").record.outcome == sent
            assert with_log.erase("goes")
            gone = desk.get("note-goes").record.outcome.manual_override
            assert (gone.note, gone.reason_code, gone.officer) == ("", "R", "o-1")
            assert desk.get("note-stays").record.outcome.manual_override.note == "planted stays"
        finally:
            desk.close()
    finally:
        with_log.close()
    content = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    assert b"planted" not in content, "a note lies in the clear"

    file = tmp_path / "d.parquet"
    assert run(dataset_app, "export", file, "--journal", directory, "--keep", "all", "--key", key).exit_code == 0
    assert [row["decision_id"] for row in pq.read_table(file).to_pylist()] == ["stays"]
    told = run(dataset_app, "export", file, "--journal", directory, "--keep", "all", "--key", key).output
    assert "1 decisions about persons that were erased" in told
    without_key = run(dataset_app, "export", file, "--journal", directory, "--keep", "all")
    assert "2 decisions whose facts are sealed, and no key was given" in without_key.output
    assert pq.read_table(file).num_rows == 0


def test_what_is_asked_wrongly_is_told(portfolio: Portfolio, tmp_path: Path) -> None:
    for arguments, words in (
        (("--keep", "some"), "--keep"),
        (("--parts", "used,values"), "--parts"),
        (("--as-of", "yesterday"), "--as-of"),
        (("--coverage-months", "13"), "--coverage-months"),
        (("--journal", tmp_path / "nowhere"), "nowhere"),
        (("--cassandra",), "--since"),
    ):
        done = run(dataset_app, "export", tmp_path / "d.parquet", *arguments)
        assert done.exit_code == 1 and words in done.output, done.output
    missing = run(dataset_app, "export", tmp_path / "no" / "d.parquet", "--journal", portfolio.directory)
    assert missing.exit_code == 1
    assert list(tmp_path.iterdir()) == []


# --- the report ---------------------------------------------------------------------------------------------------


def test_the_report_is_made_of_a_journal_and_of_an_exported_file(portfolio: Portfolio, tmp_path: Path) -> None:
    from engine.replay.export import export as export_records
    from engine.replay.sources import JournalSource

    page, content = tmp_path / "r.html", tmp_path / "r.json"
    asked = ("--as-of", portfolio.after(13), "--html", page, "--json", content)
    done = run(outcomes_app, "report", "--journal", portfolio.directory, *asked)
    assert done.exit_code == 0, done.output
    assert "61 decisions" in done.output and "champion" not in done.output.splitlines()[0]
    report = json.loads(content.read_text(encoding="utf-8"))
    states = next(one for one in report["segments"] if one["by"] == "all" and one["component"] == "credit")["states"]
    assert states["bad"] >= 1 and states["immature"] == 0
    assert "</html>" in page.read_text(encoding="utf-8")

    file = tmp_path / "records.parquet"
    export_records(JournalSource(portfolio.directory).items(), file, personal=False)
    again = tmp_path / "again.json"
    done = run(
        outcomes_app,
        "report",
        "--from",
        file,
        "--journal",
        portfolio.directory,
        "--as-of",
        portfolio.after(13),
        "--json",
        again,
    )
    assert done.exit_code == 0, done.output
    other = json.loads(again.read_text(encoding="utf-8"))
    assert other["segments"] == report["segments"]
    empty = run(outcomes_app, "report", "--journal", portfolio.directory, "--since", "2100-01-01")
    assert empty.exit_code == 1


def test_what_challengers_decided_behind_the_answers_is_reported_and_in_no_data_set(tmp_path: Path) -> None:
    directory, content = tmp_path / "journal", tmp_path / "r.json"
    with outcome_service(directory) as service:
        decision_id = service.decide(raw=1.0)
        shadow = record_of("2025-01-15", raw=2.0, shadow_of=decision_id)
        service.log.append_shadow(decision_id, shadow.SerializeToString())
    done = run(outcomes_app, "report", "--journal", directory, "--json", content)
    assert done.exit_code == 0, done.output
    report = json.loads(content.read_text(encoding="utf-8"))
    assert report["decisions"] == 1
    arms = {one["value"]: one["decisions"] for one in report["segments"] if one["by"] == "arm"}
    assert arms == {"champion": 1, "shadow lending 1.0.0": 1}
    exported = run(dataset_app, "export", tmp_path / "d.parquet", "--journal", directory, "--keep", "all")
    assert "1 decisions whose facts are sealed" in exported.output


def test_segments_that_were_let_go_are_still_reported_from_the_index(portfolio: Portfolio, tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    with outcome_service(directory) as service:
        ids = [service.decide() for _ in range(3)]
        for decision_id in ids:
            service.record(outcome(decision_id, repayment_status=status(0)))
    for segment in directory.glob("*.journal"):
        segment.unlink()
    from engine.outcomes.book import OutcomeBook

    book = OutcomeBook()
    book.add_journal(directory)
    assert [len(book.holding(decision_id)) for decision_id in ids] == [1, 1, 1]


# --- files of outcomes --------------------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> Iterator[OutcomeService]:
    with outcome_service(tmp_path / "served") as made:
        yield made


def test_a_csv_is_sent_and_bad_rows_harm_no_other(service: OutcomeService, tmp_path: Path) -> None:
    decision_id = service.decide()
    content = """outcome_id,kind,days_past_due,balance,loss,currency,cause,result,early
c-1,repayment_status,31,812.50,,USD,,,
c-2,default,90,,0.1,USD,arrears,,
c-3,take_up,,,,,,accepted,
c-4,fraud_finding,,,,,,maybe,
c-5,repaid_in_full,3,,,,,,
c-6,repayment_status,-5,,,,,,
c-7,gift,,,,,,,
c-8,repaid_in_full,,,,,,,yes
"""
    file, rejects = tmp_path / "outcomes.csv", tmp_path / "rejects.csv"
    head, *lines = content.splitlines()
    whole = [f"{head},decision_id,observed_at", *(f"{line},{decision_id},2025-06-30T00:00:00Z" for line in lines)]
    file.write_text("\n".join(whole) + "\n", encoding="utf-8")
    options = ("--address", service.address, "--source", "servicing", "--rejects", rejects)
    done = run(outcomes_app, "load", file, *options)
    assert done.exit_code == 2, done.output
    assert "8 rows: 4 recorded, 0 recorded before, 4 rejected" in done.output
    with rejects.open(encoding="utf-8", newline="") as listing:
        assert [row["row"] for row in csv.DictReader(listing)] == ["4", "5", "6", "7"]
    kept = {one.outcome.outcome_id: one.outcome for one in service.listed(decision_id=decision_id)}
    assert set(kept) == {"c-1", "c-2", "c-3", "c-8"}
    assert kept["c-1"].repayment_status == pb.RepaymentStatus(days_past_due=31, balance=usd(812.5))
    assert kept["c-2"].default.loss.nanos == 100_000_000
    assert kept["c-1"].observed_at == stamp("2025-06-30")
    assert kept["c-8"].repaid_in_full.early and kept["c-8"].source == "servicing"
    again = run(outcomes_app, "load", file, *options)
    assert "0 recorded, 4 recorded before, 4 rejected" in again.output
    dry = run(outcomes_app, "load", file, "--source", "servicing", "--dry-run")
    assert "4 would be sent" in dry.output and dry.exit_code == 2


def test_json_lines_are_the_messages_themselves(service: OutcomeService, tmp_path: Path) -> None:
    decision_id = service.decide()
    note = pb.ManualOverride(verdict=1, reason_code="R", note="planted-note", officer="o-1")  # type: ignore[arg-type]
    sent = [outcome(decision_id, manual_override=note), outcome(decision_id, repayment_status=status(4))]
    file = tmp_path / "o.jsonl"
    lines = [MessageToJson(one, indent=None) for one in sent]
    broken = '{"outcomeId": "x", "manualOverride": {"note": "planted-note", "verdict": "MAYBE"}}'
    file.write_text("\n".join([*lines, "", broken, "no json"]) + "\n", encoding="utf-8")
    done = run(outcomes_app, "load", file, "--address", service.address)
    assert done.exit_code == 2 and "4 rows: 2 recorded, 0 recorded before, 2 rejected" in done.output
    assert "planted" not in done.output
    assert [one.outcome for one in service.listed(decision_id=decision_id)] == sent


def test_parquet_is_sent_and_wrong_columns_are_told(service: OutcomeService, tmp_path: Path) -> None:
    import pyarrow as pa

    decision_id = service.decide()
    moment = pa.array([us("2025-06-30")], pa.timestamp("us", "UTC"))
    columns = {
        "outcome_id": ["p-1"], "decision_id": [decision_id], "observed_at": moment, "source": ["bank"],
        "kind": ["repayment_status"], "days_past_due": [7], "balance": [10.25], "currency": ["USD"],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "o.parquet")
    done = run(outcomes_app, "load", tmp_path / "o.parquet", "--address", service.address)
    assert done.exit_code == 0, done.output
    (kept,) = service.listed(decision_id=decision_id)
    assert kept.outcome.repayment_status == pb.RepaymentStatus(days_past_due=7, balance=usd(10.25))
    pq.write_table(pa.table(columns | {"dpd": [7]}), tmp_path / "wrong.parquet")
    wrong = run(outcomes_app, "load", tmp_path / "wrong.parquet", "--address", service.address)
    assert wrong.exit_code == 1 and "not known: dpd" in wrong.output
    (tmp_path / "o.xlsx").touch()
    assert run(outcomes_app, "load", tmp_path / "o.xlsx", "--address", service.address).exit_code == 1
    nobody = run(outcomes_app, "load", tmp_path / "o.parquet", "--address", "127.0.0.1:1")
    assert nobody.exit_code == 1 and "UNAVAILABLE" in nobody.output


def test_the_index_is_for_its_owner_alone(service: OutcomeService, tmp_path: Path) -> None:
    service.record(outcome(service.decide(), repaid_in_full={}))
    assert os.stat(tmp_path / "served" / "outcomes.sqlite").st_mode & 0o077 == 0
    for name in ("outcomes.sqlite-wal", "outcomes.sqlite-shm"):
        assert os.stat(tmp_path / "served" / name).st_mode & 0o077 == 0


def test_a_record_without_a_slot_list_is_counted_and_left_out(tmp_path: Path) -> None:
    with outcome_service(tmp_path / "journal") as service:
        service.decide()
    done = run(dataset_app, "export", tmp_path / "d.parquet", "--journal", tmp_path / "journal", "--keep", "all")
    assert done.exit_code == 0 and "sealed" in done.output
