"""Limits, the generator's own check, and comparisons: what is kept, what is broken, what cannot be told."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from loadtest import comparing, results, selfcheck
from loadtest.answers import Found
from loadtest.limits import judge
from loadtest.measures import Call, Measures
from loadtest.prepare import Served
from loadtest.problems import CouldNotRun, ExitCode
from loadtest.results import Result
from loadtest.scenario import GeneratorLimits, Limits, Scenario, checked

SERVED = Served("lending", "1.0.0", "sha256:00", ("consumer_loan.application",), ("credit_pd@1.0.0",), 10, 0.1)
SERVER: dict[str, Any] = {"series": {}, "trouble": "nobody asked"}


def scenario(**limits: Any) -> Scenario:
    """Ten seconds of an open loop with these limits."""
    tree: dict[str, Any] = {
        "name": "mine",
        "description": "made in a test",
        "open": {"stages": [{"duration_s": 10, "rate_per_s": 100}], "mix": [{"ask": "decide_any"}]},
        "limits": limits,
    }
    return checked(tree, "mine.toml")


def measured(*, slower: float = 1.0, errors: int = 0, calls: int = 1000, seed: int = 1) -> Measures:
    """Calls of ten seconds, some of them failed."""
    chance = random.Random(seed)
    held = Measures(1.0, 1000.0)
    for number in range(calls):
        took_us = chance.lognormvariate(8, 0.5) * slower
        failure = "INTERNAL" if number < errors else ""
        found = Found() if failure else Found(decisions=1)
        held.note(Call("Decide", 1000 + 10 * number / calls, took_us, 1, found, failure, False, took_us * 0.9))
        held.lag.note(300)
        held.lateness.note(200)
    for second in range(10):
        held.gauge("cpu", 1000.5 + second, 0.3)
    return held


def result(held: Measures, wanted: Scenario | None = None) -> Result:
    """The result of a run."""
    return results.make(wanted or scenario(error_max_ratio=0.01), held, 1000.0, SERVED, SERVER, own=True)


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"p50_max_ms": 4}, True),
        ({"p50_max_ms": 2}, False),
        ({"p99_max_ms": 15}, True),
        ({"p99_max_ms": 5}, False),
        ({"p999_max_ms": 0.1}, False),
        ({"error_max_ratio": 0.02}, True),
        ({"error_max_ratio": 0.019}, False),
        ({"throughput_min_rps": 98}, True),
        ({"throughput_min_rps": 98.1}, False),
        ({"decisions_min_per_s": 97}, True),
        ({"decisions_min_per_s": 99}, False),
        ({"rpc": {"Decide": {"p99_max_ms": 5}}}, False),
        ({"rpc": {"Decide": {"p99_max_ms": 15}}}, True),
        # What was never called cannot have kept its limit.
        ({"rpc": {"GetOutcome": {"p99_max_ms": 15}}}, False),
    ],
)
def test_limits(limits: dict[str, Any], kept: bool) -> None:
    made = result(measured(errors=20), scenario(**limits))
    assert [one.kept for one in made.limits] == [kept]
    assert made.verdict == ("passed" if kept else "limits_broken")
    assert made.exit_code == (ExitCode.PASSED if kept else ExitCode.LIMITS_BROKEN)


def test_arrivals_never_sent_are_errors() -> None:
    held = measured(calls=90)
    held.unsent = 10
    (judged,) = judge(Limits(error_max_ratio=0.05), {"all": held.together()}, 10.0, held.unsent)
    assert judged.found == pytest.approx(0.1)
    assert not judged.kept


@pytest.mark.parametrize("what", ["cpu", "lag", "lateness", "nothing"])
def test_a_generator_that_was_the_limit_outweighs_every_limit(what: str) -> None:
    held = measured(errors=500)
    if what == "cpu":
        for second in range(3):
            held.gauge("cpu", 1004.5 + second, 0.99)
    elif what == "lag":
        for _ in range(50):
            held.lag.note(400_000)
    elif what == "lateness":
        for _ in range(50):
            held.lateness.note(400_000)
    else:
        held = Measures(1.0, 1000.0)
        held.note(Call("Decide", 1000, 5000, 1, Found(decisions=1)))
    made = result(held)
    assert made.generator.limited
    assert len(made.generator.why) == 1
    assert made.exit_code == ExitCode.GENERATOR_LIMITED


def test_a_generator_that_was_held_back_by_the_server_is_not_the_limit() -> None:
    held = measured()
    held.held = 400
    assert not selfcheck.check(held, GeneratorLimits(), 1).limited


def test_a_result_is_read_as_it_was_written(tmp_path: Any) -> None:
    made = result(measured())
    made.write(tmp_path / "result.json")
    assert results.read(tmp_path / "result.json") == made
    for text in ("", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1}'):
        (tmp_path / "other.json").write_text(text, encoding="utf-8")
        with pytest.raises(CouldNotRun, match=r"other\.json"):
            results.read(tmp_path / "other.json")


def test_the_same_run_is_no_worse_than_itself() -> None:
    made = result(measured())
    found = comparing.compare(made, made)
    assert found.exit_code == ExitCode.PASSED
    assert found.notes == ()
    assert {one.standing for one in found.figures} <= {"same", "not judged"}


def test_a_slower_run_is_worse_and_a_faster_one_better() -> None:
    before, after = result(measured()), result(measured(slower=1.5, seed=2))
    worse = comparing.compare(before, after)
    assert worse.exit_code == ExitCode.LIMITS_BROKEN
    (median,) = [one for one in worse.figures if (one.rpc, one.name) == ("Decide", "p50_ms")]
    assert median.standing == "worse"
    assert median.ratio == pytest.approx(1.5, rel=0.1)
    assert comparing.compare(after, before).exit_code == ExitCode.PASSED
    assert comparing.compare(before, after, tolerance=0.9).exit_code == ExitCode.PASSED


def test_percentiles_of_few_calls_are_not_judged() -> None:
    before, after = result(measured(calls=300)), result(measured(calls=300, slower=3))
    standings = {one.name: one.standing for one in comparing.compare(before, after).figures if one.rpc == "Decide"}
    assert standings["p50_ms"] == "worse"
    assert standings["p99_ms"] == standings["p999_ms"] == "not judged"


def test_more_errors_are_worse() -> None:
    found = comparing.compare(result(measured()), result(measured(errors=5)))
    assert found.verdict == "worse"
    assert {one.name for one in found.figures if one.standing == "worse"} == {"error_ratio"}


def test_a_comparison_says_what_makes_it_doubtful() -> None:
    before = result(measured())
    after = copy.deepcopy(before)
    after.machine["cores"] = 64
    after.served["digest"] = "sha256:11"
    after.versions["grpcio"] = "0.1"
    after.scenario["timeout_ms"] = 7.0
    notes = "; ".join(comparing.compare(before, after).notes)
    for word in ("timeout_ms", "machines", "bundles", "grpcio"):
        assert word in notes
    after.generator.limited = True
    assert comparing.compare(before, after).exit_code == ExitCode.GENERATOR_LIMITED
