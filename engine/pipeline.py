"""One decision, top to bottom:

    request -> validate -> features -> scoring -> policy -> reasons -> record -> response

`prepare` and `conclude` are pure: no socket, no disk, no clock. The one read between them and the record after them
belong to the shell (`engine/decider.py`), which hands in what it read, the moment, and a clock to note times by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from engine.domain.application import ValidApplication
from engine.domain.enums import Verdict
from engine.domain.facts import Facts, Row
from engine.domain.outcome import Offer, PolicyOutcome, Terms
from engine.domain.reason import Reasons
from engine.domain.score import ModelScore
from engine.features.gather import gather
from engine.plan import BundlePlan, FlowPlan, PolicyVector
from engine.reasons.rank import rank
from engine.scoring.plan import score, score_many
from engine.validate import validate

if TYPE_CHECKING:
    from assay.decision.v1.decision_service_pb2 import DecideRequest

Tick = Callable[[], int]
# The facts of the same application at other terms: models and tables may read the amount and the term.
AtTerms = Callable[[Terms], Facts]


@dataclass(slots=True)
class Prepared:
    """A valid application and the rows it needs. reads: one key for each view of the flow, None where the application
    names no such entity. marks: moments noted so far, nanoseconds."""

    bundle: BundlePlan
    flow: FlowPlan
    application: ValidApplication
    reads: list[bytes | None]
    marks: list[int]


class Runs(NamedTuple):
    """The runs of a flow's models. rows: applications that ran together; ticks: when the first model began, and when
    each was done, nanoseconds."""

    rows: int
    ticks: list[int]


@dataclass(slots=True)
class Conclusion:
    """Everything a decision came to, before it gets an id and a record. runs: when the models began and when each of
    them was done, shared by all that ran together; asked: whether a counter-offer was judged like an application."""

    prepared: Prepared
    now_us: int
    facts: Facts
    scores: list[ModelScore]
    outcome: PolicyOutcome
    reasons: Reasons
    runs: Runs
    asked: bool


def prepare(
    bundle: BundlePlan, request: DecideRequest, now_us: int, tick: Tick, start_ns: int | None = None
) -> Prepared:
    """Checks the request and says which rows are needed. Raises RequestError with every field at fault.

    start_ns: the moment that the call began, where it began before this."""
    marks = [tick() if start_ns is None else start_ns]
    flow, application = validate(bundle, request, now_us)
    ids = application.entity_ids
    reads = [
        None if (entity_id := ids[view.entity_index]) is None else view.key(entity_id) for view in flow.features.views
    ]
    marks.append(tick())
    return Prepared(bundle, flow, application, reads, marks)


def conclude(prepared: Prepared, rows: Sequence[Row], now_us: int, tick: Tick) -> Conclusion:
    """Decides. rows: one for each of `prepared.reads`; now_us: the moment of the decision."""

    def at_terms(terms: Terms) -> Facts:
        return _gather(prepared, rows, terms, now_us)

    facts = at_terms(_terms_asked(prepared))
    prepared.marks.append(tick())
    return conclude_facts(prepared, facts, at_terms, now_us, tick)


def conclude_facts(prepared: Prepared, facts: Facts, at_terms: AtTerms, now_us: int, tick: Tick) -> Conclusion:
    """Decides on facts that are there already: those of a record, or another bundle's. The rest as `conclude`."""
    runs = Runs(1, [prepared.marks[-1]])
    scores = score(prepared.flow.models, facts, tick, runs.ticks)
    prepared.marks.append(runs.ticks[-1])
    return _judge(prepared, at_terms, facts, scores, runs, now_us, tick)


def conclude_many(
    prepared: Sequence[Prepared], rows: Sequence[Sequence[Row]], now_us: int, tick: Tick
) -> list[Conclusion]:
    """Decides many applications of one flow: the same decisions as one by one, sharing the runs of the models."""
    at_terms = [partial(_gather_at, p, r, now_us) for p, r in zip(prepared, rows, strict=True)]
    facts = []
    for one, at in zip(prepared, at_terms, strict=True):
        facts.append(at(_terms_asked(one)))
        one.marks.append(tick())
    return conclude_facts_many(prepared, facts, at_terms, now_us, tick)


def conclude_facts_many(
    prepared: Sequence[Prepared], facts: Sequence[Facts], at_terms: Sequence[AtTerms], now_us: int, tick: Tick
) -> list[Conclusion]:
    """The same of many applications of one flow, on facts that are there already."""
    runs = Runs(len(prepared), [tick()])
    scores = score_many(prepared[0].flow.models, facts, tick, runs.ticks)
    for one in prepared:
        one.marks.append(runs.ticks[-1])
    return [
        _judge(p, at, f, s, runs, now_us, tick) for p, at, f, s in zip(prepared, at_terms, facts, scores, strict=True)
    ]


def _terms_asked(prepared: Prepared) -> Terms:
    return Terms(prepared.application.amount_minor, prepared.application.term_months)


def _gather(prepared: Prepared, rows: Sequence[Row], terms: Terms, now_us: int) -> Facts:
    flow, application = prepared.flow, prepared.application
    amount = terms.amount_minor / flow.minor_per_major
    return gather(flow.features, rows, application.request, application.sent, amount, float(terms.term_months), now_us)


def _gather_at(prepared: Prepared, rows: Sequence[Row], now_us: int, terms: Terms) -> Facts:
    return _gather(prepared, rows, terms, now_us)


def _judge(
    prepared: Prepared, at_terms: AtTerms, facts: Facts, scores: list[ModelScore], runs: Runs, now_us: int, tick: Tick
) -> Conclusion:
    flow = prepared.flow
    vector = _policy_vector(flow.policy_vector, facts.vector, scores)
    terms = _terms_asked(prepared)
    outcome = flow.policy.decide(vector, terms, facts.degraded)
    asked = outcome.verdict is Verdict.COUNTER_OFFER and outcome.offer is not None
    if outcome.verdict is Verdict.COUNTER_OFFER and outcome.offer is not None:
        offer = _approved_at(
            flow, at_terms(Terms(outcome.offer.amount_minor, outcome.offer.term_months)), outcome.offer
        )
        if offer is None:
            outcome = flow.policy.decide(vector, terms, facts.degraded, counter_offers=False)
        else:
            outcome = outcome._replace(offer=offer)
    prepared.marks.append(tick())
    reasons = rank(flow.reasons, scores, outcome.rules, outcome.verdict)
    prepared.marks.append(tick())
    return Conclusion(prepared, now_us, facts, scores, outcome, reasons, runs, asked)


def _approved_at(flow: FlowPlan, facts: Facts, offered: Offer) -> Offer | None:
    """What who asks for these terms outright would be offered; None when that is not an approval. Amount and term can
    be read by models and by every table, so a counter-offer must stand where an application for it would."""
    terms = Terms(offered.amount_minor, offered.term_months)
    vector = _policy_vector(flow.policy_vector, facts.vector, score(flow.models, facts))
    outcome = flow.policy.decide(vector, terms, facts.degraded, counter_offers=False)
    return outcome.offer if outcome.verdict is Verdict.APPROVE else None


def _policy_vector(plan: PolicyVector, values: Sequence[float], scores: Sequence[ModelScore]) -> list[object]:
    """The policy speaks of null, true and names where facts are NaN, 1.0 and codes."""
    vector: list[object] = []
    for one in scores:
        # Floats: tables compare with floats, and an int is compared several times as slowly.
        vector += (None if one.points is None else float(one.points), one.probability)
    vector += [None if (x := values[slot]) != x else x for slot in plan.numbers]
    vector += [None if (x := values[slot]) != x else x != 0.0 for slot in plan.flags]
    vector += [None if (x := values[slot]) != x else names[int(x)] for slot, names in plan.categories]
    return vector
