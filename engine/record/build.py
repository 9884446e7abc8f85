"""The record stage: one decision as protobuf, once for the answer and once for the journal.

The answer's bytes stand inside the record's bytes: a message field and a bytes field look the same on the wire, so
parts that are serialised already are put together, not parsed and written again.
"""

from __future__ import annotations

from dataclasses import dataclass

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.domain.application import ValidApplication
from engine.domain.enums import RecordState, SubstitutionAction
from engine.domain.facts import Facts
from engine.domain.outcome import Offer, PolicyOutcome
from engine.domain.reason import AdverseReason, Reasons
from engine.domain.score import ModelScore, ScoreStatus

RECORD_SCHEMA = 1
_NANOS_PER_S = 1_000_000_000
# Tags of DecisionRecord.decision (2) and DecisionRecord.application (3), both length-delimited.
_DECISION_TAG, _APPLICATION_TAG = b"\x12", b"\x1a"


@dataclass(frozen=True, slots=True)
class ModelLabel:
    """What a score is labelled with."""

    id: str
    version: str
    digest: str
    component: int
    explained: bool
    base: float | None
    attribution: str


@dataclass(frozen=True, slots=True)
class ReasonLabel:
    """What a reason is labelled with: the applicant's text by language, and its place in Regulation B."""

    text: dict[str, str]
    regulation_b: str


@dataclass(frozen=True, slots=True)
class FlowLabels:
    """Everything constant that answers of one flow carry."""

    flow: str
    currency: str
    minor_per_major: int
    bundle: pb.BundleRef
    features: tuple[str, ...]
    views: tuple[str, ...]
    models: tuple[ModelLabel, ...]
    reasons: dict[str, ReasonLabel]
    catalogue_digest: str
    environment_digest: str
    engine_version: str
    store: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What a decision came to; see `engine.pipeline.Conclusion`."""

    application: ValidApplication
    facts: Facts
    scores: list[ModelScore]
    outcome: PolicyOutcome
    reasons: Reasons
    now_us: int
    marks: list[int]


def build_decision(labels: FlowLabels, parts: Parts, decision_id: str, trace_id: str, tick_ns: int) -> pb.Decision:
    """The answer. `marks` are the moments after each stage; `tick_ns` is the last."""
    application, outcome = parts.application, parts.outcome
    decision = pb.Decision(
        decision_id=decision_id,
        request_id=application.request_id,
        flow=labels.flow,
        verdict=int(outcome.verdict),
        bundle=labels.bundle,
        trace_id=trace_id,
        record_state=int(RecordState.RECORDED),
        language=application.language,
        deciding_components=[int(c) for c in outcome.deciding],
    )
    if outcome.offer is not None:
        _put_offer(decision.offer, outcome.offer, labels)
    for label, score in zip(labels.models, parts.scores, strict=True):
        decision.scores.add(
            model=label.id,
            version=label.version,
            component=label.component,
            raw=score.raw if score.status is ScoreStatus.OK else 0.0,
            probability=score.probability,
            points=score.points,
            explained=label.explained,
            status=int(score.status),
        )
    language, texts, reasons = application.language, labels.reasons, parts.reasons
    for target, source in (
        (decision.credit_reasons, reasons.credit),
        (decision.fraud_reasons, reasons.fraud),
        (decision.policy_reasons, reasons.policy),
    ):
        for rank, reason in enumerate(source, 1):
            text = texts[reason.code]
            target.add(
                code=reason.code,
                component=int(reason.component),
                rank=rank,
                text=text.text[language],
                contribution=reason.contribution,
                features=reason.features,
                rule=reason.rule,
                regulation_b=text.regulation_b,
            )
    for item in parts.facts.substitutions:
        one = decision.substitutions.add(
            feature=labels.features[item.slot],
            status=int(item.status),
            action=int(item.action),
            value_used=item.value_used if item.action is not SubstitutionAction.MISSING else None,
        )
        if item.age_us is not None:
            one.age.seconds, micros = divmod(item.age_us, 1_000_000)
            one.age.nanos = micros * 1000
    seconds, micros = divmod(parts.now_us, 1_000_000)
    decision.decided_at.seconds = seconds
    decision.decided_at.nanos = micros * 1000
    _put_times(decision.stage_times, parts.marks, tick_ns)
    return decision


def _put_offer(target: pb.Offer, offer: Offer, labels: FlowLabels) -> None:
    per, currency = labels.minor_per_major, labels.currency
    amounts = (
        (target.amount, offer.amount_minor),
        (target.monthly_payment, offer.monthly_payment_minor),
        (target.total_repayable, offer.total_repayable_minor),
    )
    for money, minor in amounts if not offer.fee_minor else (*amounts, (target.fee, offer.fee_minor)):
        money.currency_code = currency
        money.units, rest = divmod(minor, per)
        money.nanos = rest * (_NANOS_PER_S // per)
    target.term_months = offer.term_months
    target.annual_rate_percent = offer.annual_rate_percent
    target.annual_cost_percent = offer.annual_cost_percent


def _put_times(times: pb.StageTimes, marks: list[int], tick_ns: int) -> None:
    """marks: start, validated, rows read, gathered, scored, policy, reasons. The read and the decoding of rows are one
    stage."""
    _put_span(times.validate, marks[1] - marks[0])
    _put_span(times.features, marks[3] - marks[1])
    _put_span(times.scoring, marks[4] - marks[3])
    _put_span(times.policy, marks[5] - marks[4])
    _put_span(times.reasons, marks[6] - marks[5])
    _put_span(times.total, tick_ns - marks[0])


def _put_span(target: object, nanos: int) -> None:
    if nanos >= _NANOS_PER_S:
        target.seconds, nanos = divmod(nanos, _NANOS_PER_S)  # type: ignore[attr-defined]
    target.nanos = nanos  # type: ignore[attr-defined]


def build_record(labels: FlowLabels, parts: Parts, decision: bytes, application: bytes, payload_digest: bytes) -> bytes:
    """The record around an answer's bytes and the application's bytes."""
    facts = parts.facts
    record = record_pb.DecisionRecord(
        schema_version=RECORD_SCHEMA,
        packed_facts=record_pb.PackedFacts(
            catalogue_digest=labels.catalogue_digest,
            values=facts.values.tobytes(),
            statuses=facts.statuses.tobytes(),
            origins=facts.origins.tobytes(),
        ),
        payload_digest=payload_digest,
        engine_version=labels.engine_version,
        environment_digest=labels.environment_digest,
    )
    for name, status, event_time_us in zip(labels.views, facts.view_statuses, facts.event_times_us, strict=True):
        view = record.views.add(view=name, status=int(status), store=labels.store)
        if event_time_us is not None:
            view.event_time.seconds, micros = divmod(event_time_us, 1_000_000)
            view.event_time.nanos = micros * 1000
    for label, score in zip(labels.models, parts.scores, strict=True):
        record.runs.add(
            model=label.id,
            version=label.version,
            digest=label.digest,
            raw=score.raw,
            probability=score.probability,
            points=score.points,
            base=label.base,
            contributions=() if score.contributions is None else score.contributions.tolist(),
            attribution=label.attribution,
        )
    for rule in parts.outcome.rules:
        record.rules.add(
            table=rule.table,
            rule=rule.rule,
            verdict=0 if rule.verdict is None else int(rule.verdict),
            reason=rule.reason,
            outputs_json=rule.outputs_json,
        )
    ranks: dict[int, int] = {}
    for reason in parts.reasons.every:
        _put_reason(record, reason, ranks)
    return b"".join(
        (
            record.SerializeToString(),
            _DECISION_TAG,
            varint(len(decision)),
            decision,
            _APPLICATION_TAG,
            varint(len(application)),
            application,
        )
    )


def _put_reason(record: record_pb.DecisionRecord, reason: AdverseReason, ranks: dict[int, int]) -> None:
    component = int(reason.component)
    rank = ranks[component] = ranks.get(component, 0) + 1
    record.all_reasons.add(
        code=reason.code,
        component=component,
        rank=rank,
        contribution=reason.contribution,
        features=reason.features,
        rule=reason.rule,
    )


def varint(value: int) -> bytes:
    """A whole number as protobuf writes lengths."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
