"""Which outcomes hold at a moment, and what label they come to."""

from __future__ import annotations

import itertools

import pytest

from assay.decision.v1 import decision_pb2
from assay.outcome.v1 import outcome_pb2 as pb
from engine.outcomes.labels import (
    Definition,
    Label,
    State,
    add_months,
    credit_label,
    first_bad_us,
    fraud_label,
    loss_of,
    manual_override,
)
from engine.outcomes.standing import Kind, Observed, Standing, holding, observed, standings
from tests.support.outcomes import outcome, seen, stamp, us, usd

STATUS, REPAID, DEFAULT, FRAUD = Kind.REPAYMENT_STATUS, Kind.REPAID_IN_FULL, Kind.DEFAULT, Kind.FRAUD_FINDING
DECIDED, AS_OF = us("2024-01-31"), us("2025-06-01")
TWELVE = Definition()


def told(found: list[tuple[Observed, Standing]]) -> dict[str, str]:
    return {one.outcome_id: standing.name for one, standing in found}


# --- what holds ---------------------------------------------------------------------------------------------------


def test_the_later_of_one_kind_and_day_holds_and_the_past_stays_as_it_was() -> None:
    first = seen(STATUS, "2024-03-31", "2024-04-01", outcome_id="first", days_past_due=95)
    second = seen(STATUS, "2024-03-31T18:00", "2024-04-10", outcome_id="second")
    other_kind = seen(DEFAULT, "2024-03-31", "2024-04-02", outcome_id="default", result=2)
    other_day = seen(STATUS, "2024-04-01", "2024-04-03", outcome_id="next day")
    for order in itertools.permutations([first, second, other_kind, other_day]):
        assert told(standings(order)) == {
            "first": "CORRECTED",
            "default": "HOLDS",
            "next day": "HOLDS",
            "second": "HOLDS",
        }
        assert told(standings(order, us("2024-04-09"))) == {"first": "HOLDS", "default": "HOLDS", "next day": "HOLDS"}
        assert told(standings(order, us("2024-03-31"))) == {}


def test_who_is_named_in_supersedes_does_not_hold_whatever_the_order_of_arrival() -> None:
    first = seen(STATUS, "2024-03-31", "2024-04-01", outcome_id="a")
    second = seen(DEFAULT, "2024-05-31", "2024-06-01", outcome_id="b", supersedes="a")
    third = seen(Kind.RETRACTION, "2024-05-31", "2024-06-02", outcome_id="c", supersedes="b")
    overtaken = seen(STATUS, "2024-03-31", "2024-07-01", outcome_id="a")
    assert told(standings([first, second, third])) == {"a": "SUPERSEDED", "b": "SUPERSEDED", "c": "HOLDS"}
    assert told(standings([overtaken, second])) == {"b": "HOLDS", "a": "SUPERSEDED"}
    assert holding([first, second, third]) == []
    assert holding([first, second, third], us("2024-06-01")) == [second]
    alone = seen(STATUS, "2024-03-31", supersedes="never came")
    assert holding([alone]) == [alone]


def test_a_circle_does_not_make_everything_go() -> None:
    ring = [seen(STATUS, f"2024-0{n}-01", outcome_id=str(n), supersedes=str(n % 3 + 1)) for n in (1, 2, 3)]
    assert told(standings(ring)) == {"1": "SUPERSEDED", "2": "SUPERSEDED", "3": "HOLDS"}
    tail = seen(STATUS, "2024-09-01", outcome_id="4", supersedes="1")
    assert told(standings([*ring, tail]))["4"] == "HOLDS"


def test_an_id_that_stands_twice_counts_once() -> None:
    twice = [seen(STATUS, "2024-03-31", at, outcome_id="a") for at in ("2024-04-01", "2024-04-02")]
    assert standings(twice) == [(twice[1], Standing.HOLDS)]


def test_what_analyses_see_of_a_record_holds_no_note_and_no_officer() -> None:
    override = pb.ManualOverride(
        verdict=decision_pb2.VERDICT_APPROVE, reason_code="R", note="planted-note", officer="planted-officer"
    )
    record = pb.OutcomeRecord(outcome=outcome("d", manual_override=override), recorded_at=stamp("2025-06-02"))
    found = observed(record)
    assert (found.kind, found.result, found.reason) == (Kind.MANUAL_OVERRIDE, decision_pb2.VERDICT_APPROVE, "R")
    assert "planted" not in repr(found)
    default = pb.Default(
        cause=pb.DEFAULT_CAUSE_ARREARS, days_past_due=90, exposure_at_default=usd(10.5), loss=usd(4.25)
    )
    found = observed(pb.OutcomeRecord(outcome=outcome("d", default=default)))
    assert (found.days_past_due, found.exposure, found.loss) == (90, 10.5, 4.25)
    with pytest.raises(ValueError, match="does not know"):
        observed(pb.OutcomeRecord(outcome=outcome("d")))


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "months", "expected"),
    [
        ("2024-01-31", 1, "2024-02-29"),
        ("2023-01-31", 1, "2023-02-28"),
        ("2100-01-31", 1, "2100-02-28"),
        ("2024-02-29", 12, "2025-02-28"),
        ("2024-12-15T07:30", 1, "2025-01-15T07:30"),
        ("2024-03-31", -1, "2024-02-29"),
        ("2024-03-31", 0, "2024-03-31"),
    ],
)
def test_months_are_those_of_the_calendar(moment: str, months: int, expected: str) -> None:
    assert add_months(us(moment), months) == us(expected)


@pytest.mark.parametrize(
    ("held", "label"),
    [
        ([], Label(State.UNOBSERVED)),
        ([seen(STATUS, "2024-02-28")], Label(State.UNOBSERVED)),
        ([seen(STATUS, "2024-12-31", "2025-01-05")], Label(State.GOOD, us("2025-01-31"), us("2025-01-05"))),
        ([seen(REPAID, "2024-03-31", "2024-04-01")], Label(State.GOOD, us("2025-01-31"), us("2024-04-01"))),
        (
            [seen(STATUS, "2024-06-30", "2024-07-02", days_past_due=90), seen(STATUS, "2024-12-31")],
            Label(State.BAD, us("2024-06-30"), us("2024-07-02")),
        ),
        ([seen(STATUS, "2024-06-30", days_past_due=89), seen(REPAID, "2024-12-31")], Label(State.GOOD)),
        ([seen(DEFAULT, "2024-06-30", days_past_due=90, result=1)], Label(State.BAD)),
        ([seen(DEFAULT, "2024-06-30", days_past_due=30, result=1)], Label(State.UNOBSERVED)),
        ([seen(DEFAULT, "2024-06-30", result=pb.DEFAULT_CAUSE_INSOLVENCY)], Label(State.BAD)),
        ([seen(STATUS, "2025-01-31", days_past_due=90)], Label(State.BAD)),
        # After the window: it is no label of these twelve months, and no sign that the loan was good in them.
        ([seen(STATUS, "2025-01-31T00:01", days_past_due=90)], Label(State.UNOBSERVED)),
        ([seen(Kind.TAKE_UP, "2024-02-02", result=2)], Label(State.NOT_TAKEN_UP)),
        ([seen(Kind.TAKE_UP, "2024-02-02", result=2), seen(Kind.TAKE_UP, "2024-02-03", result=1)],
         Label(State.UNOBSERVED)),
        ([seen(FRAUD, "2024-06-30", result=1)], Label(State.UNOBSERVED)),
    ],
)  # fmt: skip
def test_a_label_says_what_happened_within_the_window(held: list[Observed], label: Label) -> None:
    found = credit_label(DECIDED, held, TWELVE, AS_OF)
    assert found.state is label.state
    if label.known_us is not None:
        assert found == label


@pytest.mark.parametrize("held", [[], [seen(DEFAULT, "2024-06-30", result=2)], [seen(REPAID, "2024-06-30")]])
def test_before_the_window_has_passed_nothing_has_a_label(held: list[Observed]) -> None:
    end = us("2025-01-31")
    assert credit_label(DECIDED, held, TWELVE, end - 1).state is State.IMMATURE
    assert credit_label(DECIDED, held, TWELVE, end).state is not State.IMMATURE


def test_silence_is_taken_for_repayment_only_where_that_is_said() -> None:
    bad_news_only = Definition(silence="good")
    assert credit_label(DECIDED, [], bad_news_only, AS_OF).state is State.GOOD
    assert credit_label(DECIDED, [seen(DEFAULT, "2024-06-30", result=2)], bad_news_only, AS_OF).state is State.BAD
    assert credit_label(DECIDED, [], bad_news_only, us("2024-12-01")).state is State.IMMATURE


@pytest.mark.parametrize(
    ("held", "as_of", "state"),
    [
        ([], "2024-07-30", State.IMMATURE),
        ([], "2024-07-31", State.GOOD),
        ([seen(FRAUD, "2024-03-01", result=1)], "2024-08-01", State.BAD),
        ([seen(FRAUD, "2024-03-01", result=1), seen(FRAUD, "2024-04-01", result=2)], "2024-08-01", State.GOOD),
        ([seen(FRAUD, "2024-12-01", result=1)], "2025-08-01", State.GOOD),
        ([seen(DEFAULT, "2024-03-01", result=2)], "2024-08-01", State.GOOD),
    ],
)
def test_the_label_of_fraud_models_is_a_confirmed_finding(held: list[Observed], as_of: str, state: State) -> None:
    assert fraud_label(DECIDED, held, TWELVE, us(as_of)).state is state


def test_small_questions() -> None:
    held = [
        seen(Kind.MANUAL_OVERRIDE, "2024-02-01", result=2),
        seen(Kind.MANUAL_OVERRIDE, "2024-02-02", result=1),
        seen(DEFAULT, "2024-06-30", result=2, loss=700.0),
        seen(DEFAULT, "2024-09-30", result=2),
    ]
    last = manual_override(held)
    assert last is not None and last.result == 1
    assert first_bad_us(held, TWELVE) == us("2024-06-30")
    assert first_bad_us(held[:2], TWELVE) is None
    assert (loss_of(held), loss_of(held[:2])) == (700.0, None)
