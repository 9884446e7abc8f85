"""What the trace of one decision says, made from the moments that the pipeline noted and the facts that it came to.

Nothing here is called while a stage runs: a decision that is not traced pays for its moments alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from assay.decision.v1.decision_pb2 import Decision
from engine.domain.enums import FeatureStatus, SubstitutionAction, Verdict
from engine.domain.score import ScoreStatus
from engine.pipeline import Conclusion
from engine.plan import FlowPlan
from engine.telemetry.tracing.call import CallTrace
from engine.telemetry.tracing.redact import IdHasher
from engine.telemetry.tracing.stage_run import VERDICTS, Words, layout
from engine.telemetry.tracing.trace_record import (
    COUNTER_OFFER,
    DECLINE,
    DEGRADED,
    PLAIN,
    REFER,
    STAGES,
    SpanRecord,
)

# All of these by number: hashing a member of an enum is a call in Python, and so is looking it up.
_OUTCOMES = (PLAIN, PLAIN, DECLINE, REFER, COUNTER_OFFER)
_SCORES = ("", *(status.name for status in ScoreStatus))
_OK, _FAILED = int(ScoreStatus.OK), int(ScoreStatus.FAILED)
_STALE, _UNAVAILABLE = int(FeatureStatus.STALE), int(FeatureStatus.UNAVAILABLE)
_LAST_GOOD = int(SubstitutionAction.LAST_GOOD_VALUE)
# Names shown of what something stood in for; the count is whole.
_NAMES_MAX = 16
_CODES_MAX = 32

# The attributes of a decision in the order of `shapes`, where there was none.
NO_DECISION: tuple[Any, ...] = (None,) * 15


class FlowWords:
    """What is the same in all traces of one flow of one bundle. durability: of the journal, as spans say it."""

    __slots__ = ("all_scored", "bundle", "flow", "names", "pack", "run", "versions")

    def __init__(self, plan: FlowPlan, bundle_digest: str, durability: str = "process") -> None:
        self.flow, self.bundle = plan.name, bundle_digest
        models = tuple((one.model.id, one.model.version) for one in plan.models)
        self.versions = tuple(f"{id_}@{version}" for id_, version in models)
        self.names = tuple(feature.name for feature in plan.features.features)
        self.run: Words = (durability, len(plan.features.derived), models)
        self.pack = layout(len(models)).pack
        self.all_scored = ("OK",) * len(models)


class Flaws(NamedTuple):
    """What a decision lacked: features that were stale and that could not be had, whether a failure (a store's, or a
    model's) withheld something, and whether every model gave a score."""

    stale: int
    lost: int
    degraded: bool
    all_scored: bool


_NONE = Flaws(0, 0, False, True)


def flaws_of(concluded: Conclusion) -> Flaws:
    """What a decision lacked."""
    stale = lost = 0
    degraded, all_scored = False, True
    for score in concluded.scores:
        if score.status != _OK:
            all_scored = False
            degraded = degraded or score.status == _FAILED
    substitutions = concluded.facts.substitutions
    if all_scored and not substitutions:
        return _NONE
    for one in substitutions:
        if one.status == _STALE:
            stale += 1
        elif one.status == _UNAVAILABLE:
            lost += 1
        if one.action == _LAST_GOOD:
            degraded = True
    return Flaws(stale, lost, degraded or lost > 0, all_scored)


def stage_run(
    words: FlowWords,
    concluded: Conclusion,
    flaws: Flaws,
    parent: int,
    began_ns: int,
    ended_ns: int,
    size_bytes: int,
    recorded: bool,
) -> SpanRecord:
    """All stages of a decision as one entry of its call's record (`engine.telemetry.tracing.stage_run`). Store reads
    were noted when they were made.

    parent: the place of the span that they are within; began_ns, ended_ns: when the record was written; recorded: False
    when it could not be. Raises struct.error for a decision without one of its seven moments.
    """
    marks, outcome, runs = concluded.prepared.marks, concluded.outcome, concluded.runs
    packed = words.pack(
        *marks,
        *runs.ticks,
        began_ns,
        ended_ns,
        runs.rows,
        size_bytes,
        len(concluded.facts.substitutions),
        flaws.stale,
        flaws.lost,
        len(concluded.reasons.every),
        outcome.verdict,
        concluded.asked,
    )
    statuses = words.all_scored
    if not flaws.all_scored:
        statuses = tuple([_SCORES[score.status] for score in concluded.scores])
    rules = tuple([rule.rule for rule in outcome.rules])
    failed = None if recorded else "not recorded"
    return STAGES, None, parent, marks[0], ended_ns, failed, (words.run, packed, statuses, rules)


def decision_values(
    call: CallTrace,
    words: FlowWords,
    concluded: Conclusion,
    decision_id: str,
    recorded: bool,
    degraded: bool,
    hasher: IdHasher,
) -> tuple[Any, ...]:
    """The attributes of a decision, in the order of `shapes`. What kind of call it was is noted in `call.outcome`."""
    verdict, reasons = concluded.outcome.verdict, concluded.reasons
    outcome = _OUTCOMES[verdict] if recorded and not degraded else DEGRADED
    call.outcome = max(call.outcome, outcome)
    application, substitutions = concluded.prepared.application, concluded.facts.substitutions
    codes = [one.code for one in reasons.credit + reasons.fraud + reasons.policy]
    names: tuple[str, ...] = ()
    if substitutions:
        names = tuple([words.names[one.slot] for one in substitutions[:_NAMES_MAX]])
    return (
        words.flow,
        words.bundle,
        words.versions,
        decision_id,
        VERDICTS[verdict],
        tuple(codes[:_CODES_MAX]),
        len(substitutions),
        names,
        degraded,
        False,
        "RECORDED" if recorded else "NOT_RECORDED",
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
        VERDICTS[verdict],
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
