"""The reason stage: only harm counts, the weightiest first, nothing dropped, components never mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.domain.enums import Component, Verdict
from engine.domain.outcome import RuleFired
from engine.domain.reason import Reasons
from engine.domain.score import ModelScore, ScoreStatus, no_score
from engine.reasons.plan import ReasonGroups, ReasonPlan, ReasonText
from engine.reasons.rank import rank

CODES = ("CR_A", "CR_B", "CR_C", "CR_D", "CR_E", "CR_F")


def groups(
    component: Component = Component.CREDIT, codes: tuple[str, ...] = CODES, points: float = 10.0
) -> ReasonGroups:
    """Six reasons of two inputs each; the order of inputs is mixed: reason i has the inputs i and 11 - i."""
    order = [i for g in range(6) for i in (g, 11 - g)]
    return ReasonGroups(
        component,
        np.array(order, dtype=np.intp),
        np.arange(0, 12, 2, dtype=np.intp),
        codes,
        tuple((f"f{g}", f"f{11 - g}") for g in range(6)),
        points,
    )


def text(code: str, component: Component) -> ReasonText:
    return ReasonText(code, component, {"en": code}, {"en": code}, "other", "", "", None)


CATALOGUE = {
    **{c: text(c, Component.CREDIT) for c in CODES},
    "FR_X": text("FR_X", Component.FRAUD),
    "PL_X": text("PL_X", Component.POLICY),
    "PL_Y": text("PL_Y", Component.POLICY),
    "CR_CUT": text("CR_CUT", Component.CREDIT),
}


def score(contributions: Any) -> ModelScore:
    return ModelScore(ScoreStatus.OK, 0.0, 0.5, 600, np.array(contributions, dtype=np.float32))


def fired(reason: str, verdict: Verdict | None = Verdict.DECLINE, rule: str = "r") -> RuleFired:
    return RuleFired("t", rule, verdict, reason, "{}")


def ranked(contributions: Any, rules: tuple[RuleFired, ...] = (), top: int = 4) -> Reasons:
    return rank(ReasonPlan((groups(),), CATALOGUE, top), [score(contributions)], rules, Verdict.DECLINE)


shares = st.lists(st.floats(-3, 3, width=32), min_size=12, max_size=12)


@given(contributions=shares)
def test_the_list_is_what_the_contributions_say(contributions: list[float]) -> None:
    found = ranked(contributions)
    array = np.array(contributions, dtype=np.float32).astype(np.float64)
    lost = {CODES[g]: 10.0 * (array[g] + array[11 - g]) for g in range(6)}
    every = {r.code: r.contribution for r in found.every}
    assert set(every) == {c for c, v in lost.items() if v > 1e-3}
    for code, contribution in every.items():
        assert contribution == pytest.approx(lost[code], abs=1e-9)
    weights = [r.contribution for r in found.every]
    assert weights == sorted(weights, key=lambda w: -(w or 0.0))
    assert found.credit == found.every[:4]
    assert not found.fraud
    assert not found.policy


@given(contributions=shares)
def test_ranking_again_gives_the_same(contributions: list[float]) -> None:
    assert ranked(contributions) == ranked(contributions)


@given(
    sizes=st.lists(st.integers(1, 11), min_size=1, max_size=9),
    mixed=st.randoms(use_true_random=False),
    points=st.sampled_from((1.0, 28.85390081777927, 0.3)),
    data=st.data(),
)
def test_a_loss_is_the_sum_that_numpy_gives(sizes: list[int], mixed: Any, points: float, data: st.DataObject) -> None:
    """Groups that are written out, and groups too large for it: the same bits, and the same order of ties."""
    order = list(range(sum(sizes)))
    mixed.shuffle(order)
    starts = np.cumsum([0, *sizes[:-1]])
    codes = tuple(f"C{n}" for n in range(len(sizes)))
    made = ReasonGroups(
        Component.FRAUD, np.array(order, dtype=np.intp), starts, codes, tuple((c.lower(),) for c in codes), points
    )
    given = st.one_of(st.floats(-3, 3, width=32), st.sampled_from((0.5, 0.25, 1e-4)))
    contributions = np.array(data.draw(st.lists(given, min_size=len(order), max_size=len(order))), dtype=np.float32)
    sums = np.add.reduceat(contributions.take(made.order), starts, dtype=np.float64).tolist()
    wanted = sorted(((lost, -n) for n, lost in enumerate(sums) if lost > 1e-3 / points), reverse=True)
    assert list(made.explain(contributions.tolist())) == [
        (codes[-n], Component.FRAUD, lost * points, (codes[-n].lower(),), "") for lost, n in wanted
    ]


def test_ties_go_by_the_order_of_the_model() -> None:
    assert [r.code for r in ranked([0.5] * 12).every] == list(CODES)


def test_what_helps_and_what_is_noise_is_no_reason() -> None:
    contributions = [0.0] * 12
    contributions[0], contributions[11] = 2.0, -2.5  # together they help
    contributions[1] = 5e-5  # half a thousandth of a point
    assert ranked(contributions).every == ()


def test_a_policy_may_ask_for_fewer_principal_reasons() -> None:
    found = ranked([0.5] * 12, top=2)
    assert len(found.credit) == 2
    assert len(found.every) == 6


def test_a_model_without_score_or_explanation_gives_no_reasons() -> None:
    plan = ReasonPlan((groups(), None), CATALOGUE, 4)
    unexplained = ModelScore(ScoreStatus.OK, 0.0, 0.5, 600, None)
    assert rank(plan, [no_score(ScoreStatus.FAILED), unexplained], (), Verdict.REFER).every == ()


def test_rules_come_declines_first_and_each_code_once() -> None:
    rules = (
        fired("PL_Y", Verdict.REFER, "a"),
        fired("PL_X", Verdict.DECLINE, "b"),
        fired("PL_Y", Verdict.DECLINE, "c"),
        fired("", None, "d"),
    )
    found = ranked([0.0] * 12, rules)
    assert [(r.code, r.rule) for r in found.policy] == [("PL_X", "t/b"), ("PL_Y", "t/c")]
    assert all(r.contribution is None for r in found.policy)
    assert not found.credit


_PLAN = ReasonPlan((groups(),), CATALOGUE, 4)
_rules = st.builds(
    fired,
    st.sampled_from(("", "PL_X", "PL_Y", "CR_CUT", "FR_X")),
    st.sampled_from((None, *Verdict)),
    st.sampled_from("abc"),
)
_SHARED = [fired(reason, verdict, "s") for reason in ("PL_X", "CR_CUT") for verdict in Verdict]


@given(
    rules=st.lists(st.one_of(_rules, st.sampled_from(_SHARED)), max_size=5),
    verdict=st.sampled_from(Verdict),
    explained=st.booleans(),
)
def test_what_was_found_out_of_rules_before_changes_nothing(
    rules: list[RuleFired], verdict: Verdict, explained: bool
) -> None:
    scores = [score([0.5 * explained] * 12)]
    anew = rank(ReasonPlan((groups(),), CATALOGUE, 4), scores, rules, verdict)
    assert rank(_PLAN, scores, rules, verdict) == anew
    assert rank(_PLAN, scores, tuple(rules), verdict) == anew


def test_what_is_kept_of_rules_is_bounded() -> None:
    plan = ReasonPlan((groups(),), CATALOGUE, 4)
    for number in range(3000):
        found = rank(plan, [score([0.0] * 12)], (fired("PL_X", Verdict.DECLINE, f"r{number}"),), Verdict.DECLINE)
        assert [reason.rule for reason in found.policy] == [f"t/r{number}"]
    assert len(plan.said) <= 1024


def test_a_rule_that_asked_for_less_than_the_verdict_is_no_principal_reason() -> None:
    found = ranked([0.0] * 12, (fired("PL_X", Verdict.DECLINE, "a"), fired("PL_Y", Verdict.REFER, "b")))
    assert [r.code for r in found.policy] == ["PL_X"]
    assert {r.code for r in found.every} == {"PL_X", "PL_Y"}


def test_a_failed_cut_off_is_a_reason_only_where_the_model_gave_none() -> None:
    rules = (fired("CR_CUT"),)
    with_model = ranked([0.5] * 12, rules)
    assert "CR_CUT" not in {r.code for r in with_model.credit}
    assert "CR_CUT" in {r.code for r in with_model.every}
    without = ranked([0.0] * 12, rules)
    assert [r.code for r in without.credit] == ["CR_CUT"]


def test_two_models_of_one_component_are_joined_by_the_larger() -> None:
    plan = ReasonPlan((groups(), groups()), CATALOGUE, 4)
    first, second = [0.0] * 12, [0.0] * 12
    first[0], first[1], second[0], second[2] = 0.2, 0.9, 0.7, 0.3
    found = rank(plan, [score(first), score(second)], (), Verdict.DECLINE)
    assert [(r.code, round(r.contribution or 0, 3)) for r in found.credit] == [
        ("CR_B", 9.0),
        ("CR_A", 7.0),
        ("CR_C", 3.0),
    ]
