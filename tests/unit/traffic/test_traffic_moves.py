"""What changes make of what is served."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from engine.domain.enums import Verdict
from engine.errors import Refusal, RequestError
from engine.traffic.model import (
    ArmShare,
    Bound,
    CutOutRule,
    Experiment,
    FlowTraffic,
    ShadowSetting,
    Traffic,
)
from engine.traffic.moves import activate, check_fit, fall_back, rollback, set_flows
from engine.traffic.serving import Loaded, Serving

A, B, C = (f"sha256:{letter * 64}" for letter in "abc")
FLOW, OTHER = "consumer_loan.application", "sme_loan.application"
EXPERIMENT = Experiment("test", (ArmShare("champion", A, 9_000), ArmShare("challenger", C, 1_000)))
CUT_OUT = CutOutRule((Bound(Verdict.DECLINE, None, 0.6),), fall_back=True)
PLAIN = Traffic(3, A, previous=B, configured=A)
BUSY = replace(PLAIN, flows={FLOW: FlowTraffic(EXPERIMENT, (ShadowSetting("next", B),), CUT_OUT)})


def _loaded(digest: str, flows: set[str], counters: set[bytes] | None = None) -> Loaded[str]:
    return Loaded(digest, digest, f"bundle {digest[7]}", "1.0.0", frozenset(flows), frozenset(counters or set()))


# --- activate -----------------------------------------------------------------------------------------------------


def test_another_default_makes_the_former_one_the_previous() -> None:
    after = activate(PLAIN, C, None)
    assert after == replace(PLAIN, default=C, previous=A)


def test_the_same_default_is_no_change() -> None:
    assert activate(PLAIN, A, None) is None
    assert activate(BUSY, A, False) is None


def test_running_experiments_must_be_spoken_of() -> None:
    with pytest.raises(Refusal) as caught:
        activate(BUSY, C, None)
    assert caught.value.reason == "EXPERIMENTS_RUNNING" and FLOW in caught.value.message


def test_experiments_end_or_are_kept_as_was_said() -> None:
    ended, kept = activate(BUSY, C, True), activate(BUSY, C, False)
    assert ended is not None and kept is not None
    assert ended.flows[FLOW] == replace(BUSY.flows[FLOW], experiment=None)
    assert kept.flows[FLOW] == BUSY.flows[FLOW]
    only_ended = activate(BUSY, A, True)
    assert only_ended is not None and (only_ended.default, only_ended.previous) == (A, B)


def test_a_shadow_that_becomes_the_default_is_done() -> None:
    after = activate(replace(PLAIN, flows={FLOW: FlowTraffic(shadows=(ShadowSetting("next", C),))}), C, None)
    assert after is not None and after.flows == {}


# --- rollback and cut-out -----------------------------------------------------------------------------------------


def test_rolling_back_twice_leads_back() -> None:
    once = rollback(PLAIN)
    assert (once.default, once.previous) == (B, A)
    assert rollback(once) == PLAIN


def test_a_rollback_is_for_everybody() -> None:
    after = rollback(BUSY)
    assert after.default == B and after.experiments == ()
    assert after.flows[FLOW].cut_out == CUT_OUT


def test_there_must_be_something_to_roll_back_to() -> None:
    with pytest.raises(Refusal) as caught:
        rollback(replace(PLAIN, previous=""))
    assert caught.value.reason == "NO_PREVIOUS_BUNDLE"


def test_a_cut_out_ends_the_experiment_first_and_then_goes_back_once() -> None:
    first = fall_back(BUSY, FLOW)
    assert first is not None and first.default == A and first.experiments == ()
    second = fall_back(first, FLOW)
    assert second is not None and (second.default, second.previous) == (B, "")
    assert fall_back(second, FLOW) is None
    # Nor does a person go back by mistake to what was cut out.
    with pytest.raises(Refusal):
        rollback(second)


# --- flows --------------------------------------------------------------------------------------------------------


def test_flows_are_set_whole_and_others_stay() -> None:
    after = set_flows(BUSY, {OTHER: FlowTraffic(cut_out=CUT_OUT)})
    assert after is not None and after.flows == {**BUSY.flows, OTHER: FlowTraffic(cut_out=CUT_OUT)}
    ended = set_flows(after, {FLOW: FlowTraffic()})
    assert ended is not None and set(ended.flows) == {OTHER}
    assert set_flows(ended, dict(ended.flows)) is None
    assert set_flows(ended, {FLOW: FlowTraffic()}) is None


def test_flows_are_bounded() -> None:
    with pytest.raises(RequestError, match="at most 64"):
        set_flows(PLAIN, {f"p{n}.application": FlowTraffic(cut_out=CUT_OUT) for n in range(65)})


def test_bundles_must_decide_what_they_are_to() -> None:
    loaded = {A: _loaded(A, {FLOW}, {b"1"}), B: _loaded(B, {FLOW}), C: _loaded(C, {FLOW}, {b"1"})}
    check_fit(BUSY, loaded)
    wrong = {A: _loaded(A, set()), B: _loaded(B, {OTHER}), C: _loaded(C, {OTHER})}
    with pytest.raises(RequestError) as caught:
        check_fit(BUSY, wrong)
    assert [violation.field for violation in caught.value.violations] == [
        f'flows["{FLOW}"].experiment.arms["champion"].bundle',
        f'flows["{FLOW}"].experiment.arms["challenger"].bundle',
        f'flows["{FLOW}"].shadows["next"].bundle',
    ]
    with pytest.raises(RequestError, match="does not decide"):
        check_fit(replace(PLAIN, flows={OTHER: FlowTraffic(cut_out=CUT_OUT)}), loaded)


def test_an_arm_counts_nothing_that_the_default_does_not() -> None:
    loaded = {A: _loaded(A, {FLOW}), B: _loaded(B, {FLOW}), C: _loaded(C, {FLOW}, {b"other"})}
    with pytest.raises(RequestError, match="counts of applications"):
        check_fit(BUSY, loaded)


# --- what a call takes --------------------------------------------------------------------------------------------


def test_a_call_gets_the_default_or_its_arm() -> None:
    serving = Serving(BUSY, {d: _loaded(d, {FLOW}) for d in (A, B, C)})
    assert serving.choose(OTHER, "p1") == serving.default == ("default", "", A, A)
    assert serving.choose("no such flow", "p1") is serving.default
    arms = {serving.choose(FLOW, f"p{n}").name for n in range(1_000)}
    assert arms == {"champion", "challenger"}
    assert serving.choose(FLOW, "").name == "champion"
    challenger = next(arm for n in range(1_000) if (arm := serving.choose(FLOW, f"p{n}")).name == "challenger")
    assert (challenger.experiment, challenger.bundle, challenger.served) == ("test", C, C)
    assert [shadow.bundle for shadow in serving.shadows[FLOW]] == [B] and OTHER not in serving.shadows
    assert list(serving.bundles) == [A, C, B]


def test_what_is_served_needs_all_its_bundles() -> None:
    with pytest.raises(KeyError):
        Serving(BUSY, {A: _loaded(A, {FLOW})})


def test_what_a_call_took_stays_what_it_was_while_others_switch() -> None:
    """Threads take what is served, over and over, while it changes: what each took is of one piece."""
    servings = [
        Serving(replace(BUSY, generation=g, default=d), {x: _loaded(x, {FLOW}) for x in (A, B, C)})
        for g, d in ((1, A), (2, B))
    ]
    current, stop, mixed = [servings[0]], threading.Event(), []

    def take() -> None:
        while not stop.is_set():
            serving = current[0]
            before = (serving.generation, serving.default.bundle, serving.choose(OTHER, "p").served)
            after = (serving.generation, serving.default.bundle, serving.choose(OTHER, "p").served)
            if before != after or before not in ((1, A, A), (2, B, B)):
                mixed.append(before)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(20_000):
        current[0] = servings[turn % 2]
    stop.set()
    for thread in threads:
        thread.join()
    assert mixed == []
