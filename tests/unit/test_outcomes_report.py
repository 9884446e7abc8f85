"""The report over made-up portfolios whose figures can be computed in another way."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import numpy as np
import pytest
from rich.console import Console
from sklearn import metrics as sk

from assay.decision.v1 import decision_pb2
from assay.decision.v1.decision_record_pb2 import DecisionRecord
from assay.outcome.v1 import outcome_pb2 as pb
from engine.outcomes.book import OutcomeBook
from engine.outcomes.figures import Report, Segment, as_json
from engine.outcomes.labels import Definition, add_months
from engine.outcomes.report import make_report
from engine.outcomes.rows import Row, Tally, Wanted, make_row, month_text, months_between, parsed
from engine.outcomes.show_html import as_html
from engine.outcomes.show_text import show
from engine.replay.items import Item
from tests.support.outcomes import outcome, record_of, stamp, status, us

APPROVE, DECLINE, REFER = (
    decision_pb2.VERDICT_APPROVE,
    decision_pb2.VERDICT_DECLINE,
    decision_pb2.VERDICT_REFER,
)
AS_OF = "2026-01-01"
TERMS = Definition(coverage_months=12)


def item(record: DecisionRecord) -> Item:
    """A record as sources give it."""
    decided_us = record.decision.decided_at.ToMicroseconds()
    return Item(record.decision.decision_id, record.SerializeToString(), False, b"", b"", decided_us, "")


class Lot:
    """Decisions and outcomes to report on."""

    def __init__(self) -> None:
        self.records: list[DecisionRecord] = []
        self.book = OutcomeBook()

    def add(self, record: DecisionRecord, *outcomes: tuple[str, pb.Outcome]) -> DecisionRecord:
        """One decision, and what became of it: when it was recorded, and what."""
        self.records.append(record)
        for recorded_at, one in outcomes:
            one.decision_id = record.decision.decision_id
            self.book.add(pb.OutcomeRecord(outcome=one, decision_id=one.decision_id, recorded_at=stamp(recorded_at)))
        return record

    def rows(self, as_of: str = AS_OF, terms: Definition = TERMS) -> list[Row]:
        """The rows as known at a moment."""
        found = parsed(map(item, self.records), Wanted(), us(as_of), Tally())
        return [make_row(record, self.book, terms, us(as_of)) for _, record in found]

    def report(self, as_of: str = AS_OF, terms: Definition = TERMS) -> Report:
        """The report as known at a moment."""
        return make_report(self.rows(as_of, terms), terms, us(as_of), as_of)


def good(at: str = "2024-12-01") -> tuple[str, pb.Outcome]:
    return at, outcome(observed_at=at, repayment_status=status(0))


def bad(at: str = "2024-06-01", recorded_at: str | None = None) -> tuple[str, pb.Outcome]:
    return recorded_at or at, outcome(observed_at=at, repayment_status=status(120))


def finding(result: pb.FraudResult.ValueType, at: str = "2024-03-01") -> tuple[str, pb.Outcome]:
    return at, outcome(observed_at=at, fraud_finding=pb.FraudFinding(result=result))


def override(verdict: decision_pb2.Verdict.ValueType, at: str = "2024-02-01") -> tuple[str, pb.Outcome]:
    made = pb.ManualOverride(verdict=verdict, reason_code="R", note="planted-note", officer="planted-officer")
    return at, outcome(observed_at=at, manual_override=made)


def segment(report: Report, by: str = "all", value: str = "", model: str = "credit_pd") -> Segment:
    (found,) = [s for s in report.segments if (s.model, s.by, s.value) == (model, by, value)]
    return found


@pytest.fixture(scope="module")
def lot() -> Lot:
    """2,000 loans of one month, good and bad by their own probability, some in a challenger's arm."""
    made, rng = Lot(), np.random.default_rng(3)
    for number in range(2000):
        probability = float(rng.beta(1, 6))
        record = record_of("2024-01-15", raw=float(np.log(probability / (1 - probability))), probability=probability)
        record.decision.scores[0].version = "2.0.0" if number % 5 == 0 else "1.0.0"
        made.add(record, bad() if rng.random() < probability else good())
    return made


def plain(lot: Lot, chosen: Sequence[bool] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of a lot, without any of the code under test."""
    bads = {k for k, v in lot.book._by_decision.items() if v[0].days_past_due}
    rows = [(r.decision.scores[0].probability, r.decision.decision_id in bads) for r in lot.records]
    kept = [row for row, keep in zip(rows, chosen or [True] * len(rows), strict=True) if keep]
    return np.array([p for p, _ in kept]), np.array([float(b) for _, b in kept])


def test_the_figures_are_those_of_scikit_learn(lot: Lot) -> None:
    found = segment(lot.report())
    probabilities, labels = plain(lot)
    assert found.auc is not None and found.ks is not None and found.brier is not None
    assert found.auc.value == pytest.approx(sk.roc_auc_score(labels, probabilities), abs=1e-12)
    fpr, tpr, _ = sk.roc_curve(labels, probabilities)
    assert found.ks.value == pytest.approx(np.abs(tpr - fpr).max(), abs=1e-12)
    assert found.brier == pytest.approx(sk.brier_score_loss(labels, probabilities), abs=1e-12)
    assert found.bad_rate.value == pytest.approx(labels.mean())
    assert found.expected_bads == pytest.approx(probabilities.sum())
    assert sum(band.count for band in found.calibration) == 2000
    share = labels.mean()
    assert found.brier_of_base_rate == pytest.approx(share * (1 - share))
    assert found.component == "credit"


def test_versions_are_told_apart(lot: Lot) -> None:
    report = lot.report()
    second = segment(report, "version", "2.0.0")
    probabilities, labels = plain(lot, [n % 5 == 0 for n in range(2000)])
    assert (second.decisions, segment(report, "version", "1.0.0").decisions) == (400, 1600)
    assert second.auc is not None
    assert second.auc.value == pytest.approx(sk.roc_auc_score(labels, probabilities), abs=1e-12)
    # Records say nothing of an arm: the champion decided.
    assert segment(report, "arm", "champion").decisions == 2000
    assert segment(report, "flow", "consumer_loan.application").decisions == 2000


def test_what_came_late_or_was_corrected_counts_from_when_it_was_recorded() -> None:
    made = Lot()
    made.add(record_of("2024-01-15"), bad("2024-06-01", "2025-03-01"), good())
    corrected = made.add(record_of("2024-01-15"), bad("2024-06-01"), good())
    fix = outcome(corrected.decision.decision_id, "2024-06-01T09:00", repayment_status=status(2))
    made.book.add(
        pb.OutcomeRecord(outcome=fix, decision_id=corrected.decision.decision_id, recorded_at=stamp("2025-05-01"))
    )

    def labels(as_of: str) -> list[str]:
        return [row.credit.name for row in made.rows(as_of)]

    assert labels("2025-01-14") == ["IMMATURE", "IMMATURE"]
    assert labels("2025-01-15") == ["GOOD", "BAD"]
    assert labels("2025-03-01") == ["BAD", "BAD"]
    assert labels("2025-05-01") == ["BAD", "GOOD"]


def test_those_without_a_label_are_left_out_and_counted() -> None:
    made = Lot()
    made.add(record_of("2024-01-15", raw=1.0), bad())
    made.add(record_of("2024-01-15", raw=0.0), good())
    made.add(record_of("2025-06-15", raw=5.0), good("2025-09-01"))
    made.add(record_of("2025-06-15", raw=5.0), bad("2025-09-01"))
    made.add(record_of("2024-01-15", raw=5.0))
    not_taken = outcome(observed_at="2024-01-20", take_up=pb.TakeUp(result=pb.TAKE_UP_RESULT_NOT_TAKEN_UP))
    made.add(record_of("2024-01-15", raw=5.0), ("2024-01-20", not_taken))
    found = segment(made.report())
    assert found.states == {"good": 1, "bad": 1, "immature": 2, "unobserved": 1, "not_taken_up": 1}
    assert found.early_bads == 1
    assert (found.bad_rate.part, found.bad_rate.whole) == (1, 2)
    assert found.auc is not None and found.auc.value == 1.0


def test_vintages_go_as_far_as_their_youngest_loan_and_bads_stay_bad() -> None:
    made = Lot()
    made.add(record_of("2025-01-01"), bad("2025-01-20"))
    made.add(
        record_of("2025-01-10"), bad("2025-04-10"), ("2025-06-01", outcome(observed_at="2025-06-01", repaid_in_full={}))
    )
    made.add(record_of("2025-01-20"))
    made.add(record_of("2025-01-31"))
    made.add(record_of("2025-01-05", DECLINE), bad("2025-02-01"))
    made.add(record_of("2025-01-06", DECLINE), override(APPROVE, "2025-01-07"))
    made.add(record_of("2025-12-15"), bad("2025-12-20"))
    (january, december) = made.report("2025-06-29").vintages[:1] + made.report(AS_OF).vintages[1:]
    assert (january.arm, january.month, january.booked) == ("champion", "2025-01", 5)
    # The loan of 31 January was four whole months old on 29 June; the one that went bad after three months counts in
    # its fourth.
    assert january.curve == pytest.approx([0.2, 0.2, 0.2, 0.4])
    assert all(low < value < high for low, value, high in zip(january.lows, january.curve, january.highs, strict=True))
    assert (december.month, december.booked, december.curve) == ("2025-12", 1, [])


def test_people_are_measured_too() -> None:
    made = Lot()
    for number in range(10):
        made.add(record_of("2024-01-15"), good(), *([override(DECLINE)] if number < 2 else []))
    for number in range(6):
        made.add(record_of("2024-01-15", DECLINE), *([override(APPROVE), bad()] if number < 3 else []))
    for verdict in (APPROVE, APPROVE, DECLINE):
        made.add(record_of("2024-01-15", REFER), override(verdict), good())
    made.add(record_of("2024-01-15", REFER))
    found = made.report().overrides
    assert found is not None
    assert found.changes == {
        "approve": {"decline": 2},
        "decline": {"approve": 3},
        "refer": {"approve": 2, "decline": 1},
    }
    assert (found.rates["approve"].part, found.rates["approve"].whole) == (2, 10)
    assert (found.rates["decline"].part, found.rates["decline"].whole) == (3, 6)
    assert (found.referred.part, found.referred.whole) == (3, 4)
    told = {name: (share.part, share.whole) for name, share in found.performance.items()}
    assert told == {
        "approved by the engine": (0, 8),
        "decline, approved by a person": (3, 3),
        "refer, approved by a person": (0, 2),
    }
    shares = made.report().verdicts[0].shares
    assert [(name, share.part) for name, share in shares.items()] == [
        ("approve", 10),
        ("counter_offer", 0),
        ("refer", 4),
        ("decline", 6),
    ]


def test_the_fraud_gate_is_measured_by_findings() -> None:
    made = Lot()
    confirmed, cleared = pb.FRAUD_RESULT_CONFIRMED, pb.FRAUD_RESULT_NOT_FRAUD
    for stopped, results in ((True, [confirmed, confirmed, confirmed, cleared, None]), (False, [confirmed, cleared])):
        for result in results:
            record = record_of("2024-01-15", DECLINE if stopped else APPROVE)
            if stopped:
                record.decision.deciding_components.append(decision_pb2.COMPONENT_FRAUD)
            score = record.decision.scores.add(model="fraud", version="1", raw=3.0 if stopped else -3.0)
            score.component, score.status = decision_pb2.COMPONENT_FRAUD, decision_pb2.SCORE_STATUS_OK
            made.add(record, *([] if result is None else [finding(result)]))
    report = made.report()
    assert report.fraud is not None
    assert (report.fraud.flagged, report.fraud.investigated, report.fraud.confirmed) == (5, 4, 4)
    assert (report.fraud.recall.part, report.fraud.recall.whole) == (3, 4)
    assert (report.fraud.precision.part, report.fraud.precision.whole) == (3, 4)
    fraud = segment(report, model="fraud")
    assert (fraud.component, fraud.states["bad"], fraud.states["good"]) == ("fraud", 4, 3)
    assert fraud.auc is not None and fraud.auc.value == pytest.approx((3 * 1 + 3 * 0.5 * 2 + 1 * 0.5) / 12)


def test_stability_is_held_against_a_month() -> None:
    made, rng = Lot(), np.random.default_rng(4)
    for month, shift in (("2025-01-15", 0.0), ("2025-02-15", 0.0), ("2025-03-15", 1.0)):
        for _ in range(300):
            made.add(record_of(month, raw=float(rng.normal() + shift)))
    found = segment(made.report())
    assert found.psi_base == "2025-01"
    calm, moved = found.psi
    assert (calm.month, calm.count, moved.month) == ("2025-02", 300, "2025-03")
    assert calm.psi.value < 0.1
    assert moved.psi.value > 0.25
    assert moved.psi.value > moved.psi.chance
    later = make_report(made.rows(), TERMS, us(AS_OF), AS_OF, psi_base=2025 * 12 + 2)
    assert segment(later).psi_base == "2025-03"
    assert [one.month for one in segment(later).psi] == ["2025-01", "2025-02"]


def test_a_decision_met_twice_counts_once_and_later_ones_not_at_all() -> None:
    records = [record_of("2024-01-15"), record_of("2026-06-01"), record_of("2023-01-01")]
    broken = Item("broken", b"\xff\xff\xff", False, b"", b"", 0, "")
    tally = Tally()
    wanted = Wanted(since_us=us("2023-06-01"), flows=frozenset({"consumer_loan.application"}))
    found = list(parsed([*map(item, records), item(records[0]), broken], wanted, us(AS_OF), tally))
    assert [record for _, record in found] == [records[0]]
    assert tally == Tally(decisions=1, later=1, unwanted=1, unreadable=1)


@pytest.mark.parametrize(
    ("first", "second", "months"),
    [("2024-01-15", "2024-02-14", 0), ("2024-01-15", "2024-02-15", 1), ("2024-01-31", "2025-01-30", 11)],
)
def test_months_between(first: str, second: str, months: int) -> None:
    assert months_between(us(first), us(second)) == months
    assert add_months(us(first), months) <= us(second)
    assert month_text(2024 * 12) == "2024-01"


# --- how it is shown ----------------------------------------------------------------------------------------------


def test_the_report_reads_on_a_terminal_as_json_and_as_a_page(lot: Lot) -> None:
    report = lot.report()
    report.sources, report.left_out = ["journal <here>"], {"decisions that cannot be read": 3, "nothing": 0}
    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    show(report, console)
    text = console.export_text()
    found = segment(report)
    assert found.auc is not None and found.ks is not None
    for figure in (
        f"{found.auc.value:.4f}",
        f"{found.ks.value:.4f}",
        "2,000 decisions",
        "left out: 3",
        "version 2.0.0",
    ):
        assert figure in text
    content = json.loads(as_json(report))
    assert content["segments"][0]["auc"]["value"] == found.auc.value
    assert content["definition"]["text"] == "90+ days past due (or default) within 12 months of the decision"
    page = as_html(report)
    plots = re.findall(r"<svg.*?</svg>", page)
    assert len(plots) == 4, "ROC, KS, calibration and vintage"
    for plot in plots:
        ET.fromstring(plot)
    assert "journal &lt;here&gt;" in page and f"{found.auc.value:.4f}" in page
    assert not re.search(r"(src|href)=|@import|url\(", page), "the page asks for something from elsewhere"


def test_nothing_known_is_no_error() -> None:
    made = Lot()
    assert make_report([], TERMS, us(AS_OF), AS_OF).segments == []
    made.add(record_of("2025-12-15"))
    for report in (made.report(), make_report([], TERMS, us(AS_OF), AS_OF)):
        console = Console(width=120, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
        show(report, console)
        assert "decisions, as known at" in console.export_text()
        json.loads(as_json(report))
        assert "</html>" in as_html(report)


def test_no_note_and_no_officer_gets_into_a_report() -> None:
    made = Lot()
    made.add(record_of("2024-01-15", DECLINE), override(APPROVE), bad())
    report = made.report()
    assert "planted" not in as_json(report) + as_html(report)


def test_a_challenger_behind_the_answers_has_an_arm_of_its_own_and_doubles_nothing(lot: Lot) -> None:
    made, rng = Lot(), np.random.default_rng(9)
    made.book = lot.book
    scores, labels = [], []
    probabilities, actual = plain(lot)
    for record, label in zip(lot.records, actual, strict=True):
        made.records.append(record)
        shadow = record_of("2024-01-15", DECLINE, raw=float(label + rng.normal()))
        shadow.shadow_of, shadow.arm = record.decision.decision_id, "challenger"
        shadow.decision.bundle.version = "9.9.9"
        made.records += [shadow, shadow]
        scores.append(shadow.decision.scores[0].raw)
        labels.append(label)
    report = made.report()
    own = segment(report, "arm", "shadow lending 9.9.9")
    assert own.auc is not None
    assert own.auc.value == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    whole = segment(report)
    assert whole.auc is not None and whole.decisions == report.decisions == 2000
    assert whole.auc.value == pytest.approx(sk.roc_auc_score(actual, probabilities), abs=1e-12)
    assert [one.booked for one in report.vintages] == [2000]
    assert report.verdicts[0].shares["decline"].part == 0
