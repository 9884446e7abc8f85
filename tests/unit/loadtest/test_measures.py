"""Calls are counted as what they are: answered, failed, shed; in their interval, and in no total while warming up."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from loadtest.answers import Found
from loadtest.measures import Call, Measures


def call(
    began_s: float = 100.0, took_ms: float = 5.0, *, rpc: str = "Decide", failure: str = "", shed: bool = False
) -> Call:
    """A call that ended."""
    found = Found() if failure else Found(decisions=1, verdicts=Counter({"APPROVE": 1}))
    return Call(rpc, began_s, took_ms * 1000, 1, found, failure, shed)


def batch(*, decided: int, failed: int = 0, shed: int = 0) -> Call:
    """A batch with items that were decided, failed and shed."""
    found = Found(decisions=decided, errors=+Counter({"INVALID_REQUEST": failed}), shed=Counter({"OVERLOADED": shed}))
    return Call("DecideBatch", 100.0, 9_000.0, decided + failed + shed, found)


def test_what_was_shed_is_no_error_and_has_no_latency() -> None:
    held = Measures(1.0, 100.0)
    held.note(call(took_ms=5))
    held.note(call(took_ms=1, failure="OVERLOADED", shed=True))
    held.note(call(took_ms=50, failure="INTERNAL"))
    total = held.totals["Decide"]
    assert (total.tally.calls, total.tally.answered, total.tally.errors, total.tally.shed) == (3, 1, 1, 1)
    assert total.reasons == {"INTERNAL": 1}
    assert total.shed_reasons == {"OVERLOADED": 1}
    # The slow failure is in the percentiles: leaving it out would make a bad server look fast.
    assert total.latencies.count == 2
    assert total.latencies.percentile_ms(100) == pytest.approx(50, rel=0.001)


def test_what_was_shed_is_an_error_where_the_scenario_says_so() -> None:
    held = Measures(1.0, 100.0, shed_is_error=True)
    held.note(call(failure="OVERLOADED", shed=True))
    held.note(batch(decided=3, shed=2))
    assert held.together().tally.errors == 3
    assert held.together().tally.shed == 0
    assert held.totals["Decide"].reasons == {"OVERLOADED": 1}
    assert held.totals["DecideBatch"].reasons == {"OVERLOADED": 2}


def test_items_of_batches_are_counted_one_by_one() -> None:
    held = Measures(1.0, 100.0)
    held.note(batch(decided=28, failed=3, shed=1))
    tally = held.totals["DecideBatch"].tally
    assert (tally.calls, tally.units, tally.decisions, tally.errors, tally.shed) == (1, 32, 28, 3, 1)
    assert held.totals["DecideBatch"].reasons == {"INVALID_REQUEST": 3}


def test_a_batch_that_failed_failed_for_all_its_items() -> None:
    held = Measures(1.0, 100.0)
    held.note(Call("DecideBatch", 100.0, 9_000.0, 32, Found(), "UNAVAILABLE (no ErrorInfo)"))
    assert held.totals["DecideBatch"].tally.errors == 32


def test_the_warm_up_is_shown_and_not_counted() -> None:
    held = Measures(1.0, 100.0, 10.0)
    held.note(call(began_s=109.9))
    held.note(call(began_s=110.1))
    assert held.together().tally.calls == 1
    assert {index: point.tally.calls for index, point in held.points["Decide"].items()} == {9: 1, 10: 1}


def test_processes_make_a_whole() -> None:
    whole, parts = Measures(2.0, 100.0), [Measures(2.0, 100.0) for _ in range(3)]
    for number in range(60):
        one = call(began_s=100 + number / 7, took_ms=1 + number, rpc=("Decide", "GetDecision")[number % 2])
        whole.note(one)
        parts[number % 3].note(one)
        parts[number % 3].gauge("users", 100 + number / 7, number % 3)
    merged = Measures(2.0, 100.0)
    for part in parts:
        # As it goes through a file.
        merged.add(json.loads(json.dumps(part.wire())))
    assert {rpc: total.tally for rpc, total in merged.totals.items()} == {
        rpc: total.tally for rpc, total in whole.totals.items()
    }
    assert merged.together().latencies.summary() == whole.together().latencies.summary()
    assert {rpc: sorted(points) for rpc, points in merged.points.items()} == {
        rpc: sorted(points) for rpc, points in whole.points.items()
    }
    assert merged.gauges[0, "users"][2] == 2
