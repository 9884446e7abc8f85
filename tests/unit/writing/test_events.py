"""Events are whole or rejected with everything that is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.bundle.write_plan import make_write_plan
from engine.features.velocity import Event
from engine.features.writing.events import EventRules, SentEvent
from engine.features.writing.feature_rule import Money
from engine.features.writing.outcome import Fault, RejectReason
from tests.support.catalogue import NOW_US, catalogue_in


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> EventRules:
    """What events may say."""
    return make_write_plan(catalogue_in(tmp_path_factory.mktemp("bundle"))).events


GOOD: dict[str, Any] = {
    "position": 1,
    "event_id": "e1",
    "event_time_us": NOW_US - 1,
    "entities": [("applicant", "p1"), ("device", "d1")],
    "amounts": {"amount": 12.34567},
}


def test_a_good_event_is_counted_in_ten_thousandths(rules: EventRules) -> None:
    event, faults = rules.clean(SentEvent(**GOOD), NOW_US)
    assert event == Event("e1", NOW_US - 1, {"applicant": "p1", "device": "d1"}, {"amount": 123457})
    assert faults == []


@pytest.mark.parametrize(
    ("amount", "counted"), [(Money(-2.5, "EUR"), -25_000), (3, 30_000), (0.0, 0), (100_000_000_000, 10**15)]
)
def test_amounts_are_money_or_numbers(rules: EventRules, amount: Any, counted: int) -> None:
    event, _ = rules.clean(SentEvent(**{**GOOD, "amounts": {"amount": amount}}), NOW_US)
    assert event is not None
    assert event.amounts == {"amount": counted}


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"event_id": ""}, {"event_id": RejectReason.INVALID_ID}),
        ({"event_id": "a/b"}, {"event_id": RejectReason.INVALID_ID}),
        ({"event_time_us": None}, {"event_time": RejectReason.EVENT_TIME_MISSING}),
        ({"event_time_us": -5}, {"event_time": RejectReason.EVENT_TIME_INVALID}),
        ({"event_time_us": NOW_US * 2}, {"event_time": RejectReason.EVENT_TIME_IN_FUTURE}),
        ({"entities": []}, {"entities": RejectReason.UNKNOWN_ENTITY}),
        ({"entities": [("boat", "b")]}, {"entities[0].entity": RejectReason.UNKNOWN_ENTITY}),
        ({"entities": [("", "b")]}, {"entities[0].entity": RejectReason.UNKNOWN_ENTITY}),
        ({"entities": [("device", "")]}, {"entities[0].id": RejectReason.INVALID_ID}),
        ({"entities": [("device", "a"), ("device", "a")]}, {"entities[1].entity": RejectReason.NAMED_TWICE}),
        ({"amounts": {"fee": 1}}, {'amounts["fee"]': RejectReason.UNKNOWN_AMOUNT}),
        ({"amounts": {"amount": Money(1.0, "USD")}}, {'amounts["amount"]': RejectReason.UNKNOWN_UNIT}),
        ({"amounts": {"amount": "1"}}, {'amounts["amount"]': RejectReason.WRONG_TYPE}),
        ({"amounts": {"amount": True}}, {'amounts["amount"]': RejectReason.WRONG_TYPE}),
        ({"amounts": {"amount": float("nan")}}, {'amounts["amount"]': RejectReason.NOT_FINITE}),
        ({"amounts": {"amount": 1e12}}, {'amounts["amount"]': RejectReason.OUT_OF_RANGE}),
        ({"amounts": {"amount": -1e300}}, {'amounts["amount"]': RejectReason.OUT_OF_RANGE}),
        (
            {"event_id": "", "entities": [("boat", "")], "amounts": {"fee": 1}},
            {
                "event_id": RejectReason.INVALID_ID,
                "entities[0].entity": RejectReason.UNKNOWN_ENTITY,
                "entities[0].id": RejectReason.INVALID_ID,
                'amounts["fee"]': RejectReason.UNKNOWN_AMOUNT,
            },
        ),
    ],
)
def test_all_that_is_wrong_is_told_with_its_place(
    rules: EventRules, changes: dict[str, Any], faults: dict[str, RejectReason]
) -> None:
    event, found = rules.clean(SentEvent(**{**GOOD, **changes}), NOW_US)
    assert event is None
    assert {fault.field: fault.reason for fault in found} == faults


def test_faults_found_before_are_kept_and_not_told_twice(rules: EventRules) -> None:
    known = Fault("event_time", RejectReason.EVENT_TIME_INVALID, "is no moment")
    event, found = rules.clean(SentEvent(**{**GOOD, "event_time_us": None, "faults": (known,)}), NOW_US)
    assert (event, found) == (None, [known])
