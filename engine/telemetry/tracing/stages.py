"""The spans of one decision, made from the moments that the pipeline noted and the facts that it came to.

Nothing here is called while a stage runs: a decision that is not traced pays for its moments alone.
"""

from __future__ import annotations

from typing import Any

from assay.decision.v1.decision_pb2 import Decision
from engine.domain.enums import FeatureStatus, SubstitutionAction, Verdict
from engine.domain.score import ScoreStatus
from engine.pipeline import Conclusion
from engine.plan import FlowPlan
from engine.telemetry.tracing import shapes
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.tracing.redact import IdHasher
from engine.telemetry.tracing.trace_record import COUNTER_OFFER, DECLINE, DEGRADED, PLAIN, REFER

_OUTCOMES = {
    Verdict.APPROVE: PLAIN,
    Verdict.COUNTER_OFFER: COUNTER_OFFER,
    Verdict.REFER: REFER,
    Verdict.DECLINE: DECLINE,
}
_VERDICTS = {verdict: verdict.name for verdict in Verdict}
_SCORES = {status: status.name for status in ScoreStatus}
# Names shown of what something stood in for; the count is whole.
_NAMES_MAX = 16
_CODES_MAX = 32

# The attributes of a decision in the order of `shapes`, where there was none.
NO_DECISION: tuple[Any, ...] = (None,) * 15


class FlowWords:
    """What is the same in all traces of one flow of one bundle."""

    __slots__ = ("bundle", "derived", "flow", "models", "names", "versions")

    def __init__(self, plan: FlowPlan, bundle_digest: str) -> None:
        self.flow, self.bundle = plan.name, bundle_digest
        self.models = tuple((one.model.id, one.model.version) for one in plan.models)
        self.versions = tuple(f"{id_}@{version}" for id_, version in self.models)
        self.names = tuple(feature.name for feature in plan.features.features)
        self.derived = len(plan.features.derived)


def is_degraded(concluded: Conclusion) -> bool:
    """Whether the decision lacked something that a failure withheld: a store's, or a model's."""
    if any(score.status is ScoreStatus.FAILED for score in concluded.scores):
        return True
    return any(
        one.status is FeatureStatus.UNAVAILABLE or one.action is SubstitutionAction.LAST_GOOD_VALUE
        for one in concluded.facts.substitutions
    )


def note_stages(call: CallTrace, words: FlowWords, concluded: Conclusion, parent: int) -> None:
    """Notes the spans of all stages up to the reasons. Store reads were noted when they were made, the record's span
    is added by who writes it."""
    started, validated, read, gathered, scored, judged, ranked = concluded.prepared.marks
    add, substitutions = call.add, concluded.facts.substitutions
    add(shapes.VALIDATE, started, validated, (0,), None, parent)
    stale = lost = 0
    for one in substitutions:
        if one.status is FeatureStatus.STALE:
            stale += 1
        elif one.status is FeatureStatus.UNAVAILABLE:
            lost += 1
    add(shapes.FEATURES, read, gathered, (words.derived, len(substitutions), stale, lost), None, parent)
    rows, ticks = concluded.runs
    begun = ticks[0]
    for (id_, version), score, ended in zip(words.models, concluded.scores, ticks[1:], strict=True):
        failed = "the model failed" if score.status is ScoreStatus.FAILED else None
        add(shapes.MODEL, begun, ended, (id_, version, _SCORES[score.status], rows), failed, parent)
        begun = ended
    outcome = concluded.outcome
    rules = tuple([rule.rule for rule in outcome.rules])
    add(shapes.POLICY, scored, judged, (_VERDICTS[outcome.verdict], rules, concluded.asked), None, parent)
    add(shapes.REASONS, judged, ranked, (len(concluded.reasons.every),), None, parent)


def decision_values(
    call: CallTrace,
    words: FlowWords,
    concluded: Conclusion,
    decision_id: str,
    record_state: str,
    degraded: bool,
    hasher: IdHasher,
) -> tuple[Any, ...]:
    """The attributes of a decision, in the order of `shapes`. What kind of call it was is noted in `call.outcome`."""
    facts, outcome, reasons = concluded.facts, concluded.outcome, concluded.reasons
    call.outcome = max(call.outcome, DEGRADED if degraded else _OUTCOMES[outcome.verdict])
    application = concluded.prepared.application
    substitutions, names = facts.substitutions, words.names
    codes = [one.code for group in (reasons.credit, reasons.fraud, reasons.policy) for one in group]
    return (
        words.flow,
        words.bundle,
        words.versions,
        decision_id,
        _VERDICTS[outcome.verdict],
        tuple(codes[:_CODES_MAX]),
        len(substitutions),
        tuple([names[one.slot] for one in substitutions[:_NAMES_MAX]]),
        degraded,
        False,
        record_state,
        call.retries,
        call.breaker,
        hasher.request(application.request_id),
        None if (subject := application.entity_ids[0]) is None else hasher.subject(subject),
    )


def replayed_values(call: CallTrace, decision: Decision, hasher: IdHasher) -> tuple[Any, ...]:
    """The attributes of a stored decision that was given again."""
    verdict = Verdict(decision.verdict)
    call.outcome = max(call.outcome, _OUTCOMES[verdict])
    return (
        decision.flow,
        decision.bundle.digest,
        tuple([f"{score.model}@{score.version}" for score in decision.scores]),
        decision.decision_id,
        _VERDICTS[verdict],
        None,
        None,
        None,
        None,
        True,
        "RECORDED",
        call.retries,
        call.breaker,
        hasher.request(decision.request_id),
        None,
    )
