"""The reason stage: which factors counted against the application, the weightiest first.

Method: points below a reference average (12 CFR 1002, comment 9(b)(2)-5). A model's contributions are measured
against a reference population that is versioned with the model, so the sum over a group of inputs is what the
applicant lost in points against the average of that population. Only losses count; none is dropped silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.domain.enums import Component, Verdict
from engine.domain.outcome import RuleFired
from engine.domain.reason import AdverseReason, Reasons
from engine.domain.score import ModelScore
from engine.reasons.plan import ReasonGroups, ReasonPlan

# A member of an enum is looked up by a call in Python.
_CREDIT, _FRAUD, _POLICY = Component.CREDIT, Component.FRAUD, Component.POLICY
_APPROVE = Verdict.APPROVE
# By the number of the verdict: none, APPROVE, DECLINE, REFER, COUNTER_OFFER.
_WEIGHT = (3, 3, 0, 1, 2)
# The order of `Reasons`: a plain tuple is made twice as fast.
_new = tuple.__new__
# Of rules that fire together; those that name amounts never fire again.
_SAID_MAX = 1024

Found = tuple[AdverseReason, ...]


def from_model(groups: ReasonGroups, score: ModelScore) -> Found:
    """The adverse reasons of one model, the weightiest first; ties in the order of the model's own groups."""
    return () if score.contributions is None else groups.explain(score.contributions.tolist())


def rank(plan: ReasonPlan, scores: Sequence[ModelScore], rules: Sequence[RuleFired], verdict: Verdict) -> Reasons:
    """All adverse reasons of a decision.

    Reasons of one code from several models of one component are joined by their larger contribution. A rule whose
    reason belongs to credit or fraud (a score below the cut-off) speaks for its component only when no model of that
    component explained itself: a failed cut-off is not a reason by itself. Principal reasons of rules are those that
    asked for the verdict.

    Many decisions are ranked one by one: sums over a matrix of 32 of them measured no cheaper.
    """
    # By the number of the component: hashing a member of an enum is a call in Python.
    by_component: list[Found] = [(), (), (), ()]
    for groups, score in zip(plan.groups, scores, strict=True):
        if groups is not None and (given := score.contributions) is not None:
            found, before = groups.explain(given.tolist()), by_component[groups.component]
            by_component[groups.component] = _unique(before + found) if before else found
    for rule in rules:
        if rule.reason:
            return _with_rules(plan, by_component, rules, verdict)
    _, credit, fraud, policy = by_component
    most = plan.principal_max
    return _new(Reasons, (credit[:most], fraud[:most], policy[:most], credit + fraud + policy))


def _with_rules(
    plan: ReasonPlan, by_component: Sequence[Found], rules: Sequence[RuleFired], verdict: Verdict
) -> Reasons:
    """The same where rules have reasons too."""
    every: Found = ()
    principal: list[Found] = []
    for component, spoken, turned in _said(plan, rules, verdict):
        found = by_component[component]
        principal.append((found or turned)[: plan.principal_max])
        every += found + spoken
    credit, fraud, policy = principal
    return Reasons(credit, fraud, policy, every)


def _said(plan: ReasonPlan, rules: Sequence[RuleFired], verdict: Verdict) -> tuple[tuple[Component, Found, Found], ...]:
    """By component the reasons of the rules, and those of them that asked for the verdict. The same rules fire
    together again and again, and are the same objects then: what is kept holds on to them."""
    key = (id(verdict), *map(id, rules))
    kept = plan.said.get(key)
    if kept is None:
        from_rules = _from_rules(plan, rules)
        # A rule that asked for less than the verdict is no reason for it; the full list has it all the same.
        turned = {f"{rule.table}/{rule.rule}" for rule in rules if rule.verdict is verdict}
        found = []
        for component in (_CREDIT, _FRAUD, _POLICY):
            spoken = tuple([reason for reason in from_rules if reason.component is component])
            found.append((component, spoken, tuple([reason for reason in spoken if reason.rule in turned])))
        if len(plan.said) >= _SAID_MAX:
            plan.said.clear()
        kept = plan.said[key] = tuple(rules), verdict, tuple(found)
    return kept[2]


def _from_rules(plan: ReasonPlan, rules: Sequence[RuleFired]) -> Found:
    """Reasons of rules, declines before referrals and those before the rest, else in the order they fired."""
    found = [
        (_WEIGHT[rule.verdict or 0], index, rule)
        for index, rule in enumerate(rules)
        if rule.reason and rule.verdict is not _APPROVE
    ]
    found.sort()  # by weight and place: no two have the same
    catalogue = plan.catalogue
    made = [
        AdverseReason(rule.reason, catalogue[rule.reason].component, None, (), f"{rule.table}/{rule.rule}")
        for _, _, rule in found
    ]
    return _unique(made) if len(made) > 1 else tuple(made)


def _unique(reasons: Iterable[AdverseReason]) -> Found:
    """Each code once, at its first place."""
    seen: set[str] = set()
    kept = []
    for reason in sorted(reasons, key=_by_contribution):
        if reason.code not in seen:
            seen.add(reason.code)
            kept.append(reason)
    return tuple(kept)


def _by_contribution(reason: AdverseReason) -> float:
    return -(reason.contribution or 0.0)
