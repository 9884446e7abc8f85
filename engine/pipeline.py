"""One decision, top to bottom:

    request -> validate -> features -> scoring -> policy -> reasons -> record -> response

`prepare` and `conclude` are pure: no socket, no disk, no clock. The one read between them and the record after them
belong to the shell (`engine/decider.py`), which hands in what it read, the moment, and a clock to note times by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from engine.domain.application import ValidApplication
from engine.domain.enums import Verdict
from engine.domain.facts import Facts, Row
from engine.domain.outcome import Offer, PolicyOutcome, Terms
from engine.domain.reason import Reasons
from engine.domain.score import ModelScore
from engine.features.gather import gather
from engine.features.gather_many import gather_many
from engine.plan import BundlePlan, FlowPlan
from engine.reasons.rank import rank
from engine.scoring.plan import score, score_many
from engine.validate import validate

if TYPE_CHECKING:
    from assay.decision.v1.decision_service_pb2 import DecideRequest

Tick = Callable[[], int]
# The facts of the same application at other terms: models and tables may read the amount and the term.
AtTerms = Callable[[Terms], Facts]
# The same of some of many applications, by their places.
EachAtTerms = Callable[[Sequence[int], Sequence[Terms]], list[Facts]]


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
    reads = flow.features.keys(application.entity_ids)
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
    """Decides many applications of one flow: the same decisions as one by one, sharing the work."""
    terms = [_terms_asked(one) for one in prepared]
    facts = _gather_many(prepared, rows, terms, now_us)
    tick_ns = tick()
    for one in prepared:
        one.marks.append(tick_ns)

    def at_terms(which: Sequence[int], offered: Sequence[Terms]) -> list[Facts]:
        return _gather_many([prepared[i] for i in which], [rows[i] for i in which], offered, now_us)

    return conclude_facts_many(prepared, facts, at_terms, now_us, tick)


def conclude_facts_many(
    prepared: Sequence[Prepared], facts: Sequence[Facts], at_terms: EachAtTerms, now_us: int, tick: Tick
) -> list[Conclusion]:
    """The same of many applications of one flow, on facts that are there already."""
    flow = prepared[0].flow
    runs = Runs(len(prepared), [tick()])
    scores = score_many(flow.models, facts, tick, runs.ticks)
    scored_ns = runs.ticks[-1]
    fill, decide = flow.policy_vector.fill, flow.policy.decide
    vectors = [fill(one.vector, found) for one, found in zip(facts, scores, strict=True)]
    outcomes = [
        decide(vector, _terms_asked(p), one.degraded) for vector, p, one in zip(vectors, prepared, facts, strict=True)
    ]
    asked = [index for index, outcome in enumerate(outcomes) if _is_asked(outcome)]
    if asked:
        terms = [_terms_of(outcomes[index].offer) for index in asked]
        for index, offer in zip(asked, _approved_at(flow, at_terms(asked, terms), terms), strict=True):
            if offer is None:
                outcomes[index] = decide(
                    vectors[index], _terms_asked(prepared[index]), facts[index].degraded, counter_offers=False
                )
            else:
                outcomes[index] = outcomes[index]._replace(offer=offer)
    judged_ns = tick()
    reasons = [
        rank(flow.reasons, found, outcome.rules, outcome.verdict)
        for found, outcome in zip(scores, outcomes, strict=True)
    ]
    ranked_ns = tick()
    were_asked = frozenset(asked)
    for one in prepared:
        one.marks += (scored_ns, judged_ns, ranked_ns)
    return [
        Conclusion(p, now_us, f, s, outcome, reason, runs, index in were_asked)
        for index, (p, f, s, outcome, reason) in enumerate(zip(prepared, facts, scores, outcomes, reasons, strict=True))
    ]


def _terms_asked(prepared: Prepared) -> Terms:
    return Terms(prepared.application.amount_minor, prepared.application.term_months)


def _terms_of(offer: Offer | None) -> Terms:
    assert offer is not None
    return Terms(offer.amount_minor, offer.term_months)


def _is_asked(outcome: PolicyOutcome) -> bool:
    """Whether an outcome offers what must be judged as if it had been asked for."""
    return outcome.verdict is Verdict.COUNTER_OFFER and outcome.offer is not None


def _gather(prepared: Prepared, rows: Sequence[Row], terms: Terms, now_us: int) -> Facts:
    flow, application = prepared.flow, prepared.application
    amount = terms.amount_minor / flow.minor_per_major
    return gather(flow.features, rows, application.request, application.sent, amount, float(terms.term_months), now_us)


def _gather_many(
    prepared: Sequence[Prepared], rows: Sequence[Sequence[Row]], terms: Sequence[Terms], now_us: int
) -> list[Facts]:
    flow = prepared[0].flow
    per = flow.minor_per_major
    return gather_many(
        flow.features,
        rows,
        [one.application.request for one in prepared],
        [one.application.sent for one in prepared],
        [one.amount_minor / per for one in terms],
        [float(one.term_months) for one in terms],
        now_us,
    )


def _judge(
    prepared: Prepared, at_terms: AtTerms, facts: Facts, scores: list[ModelScore], runs: Runs, now_us: int, tick: Tick
) -> Conclusion:
    flow = prepared.flow
    vector = flow.policy_vector.fill(facts.vector, scores)
    terms = _terms_asked(prepared)
    outcome = flow.policy.decide(vector, terms, facts.degraded)
    asked = _is_asked(outcome)
    if asked:
        offered = _terms_of(outcome.offer)
        (offer,) = _approved_at(flow, [at_terms(offered)], [offered])
        if offer is None:
            outcome = flow.policy.decide(vector, terms, facts.degraded, counter_offers=False)
        else:
            outcome = outcome._replace(offer=offer)
    prepared.marks.append(tick())
    reasons = rank(flow.reasons, scores, outcome.rules, outcome.verdict)
    prepared.marks.append(tick())
    return Conclusion(prepared, now_us, facts, scores, outcome, reasons, runs, asked)


def _approved_at(flow: FlowPlan, facts: Sequence[Facts], terms: Sequence[Terms]) -> list[Offer | None]:
    """What who asks for these terms outright would be offered; None when that is not an approval. Amount and term can
    be read by models and by every table, so a counter-offer must stand where an application for it would."""
    offers: list[Offer | None] = []
    for one, at, scores in zip(facts, terms, score_many(flow.models, facts), strict=True):
        vector = flow.policy_vector.fill(one.vector, scores)
        outcome = flow.policy.decide(vector, at, one.degraded, counter_offers=False)
        offers.append(outcome.offer if outcome.verdict is Verdict.APPROVE else None)
    return offers
