"""The record stage: one decision as protobuf bytes, once for the answer and once for the journal.

The answer's bytes stand inside the record's bytes: a message field and a bytes field look the same on the wire, so
parts that are serialised already are put together, not parsed and written again. Reasons and scores are put together
the same way from parts that never change, because making a message object for each costs several times as much.
`tests/unit/test_record_build.py` holds the bytes against messages made the plain way.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

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
_NAN = float("nan")
# Tags of length-delimited fields.
_RECORD_DECISION, _RECORD_APPLICATION = b"\x12", b"\x1a"
_SCORES, _CREDIT_REASONS, _FRAUD_REASONS, _POLICY_REASONS = b"\x32", b"\x3a", b"\x42", b"\x4a"
# Decision.record_state = NOT_RECORDED. Of a field that stands twice, the last counts.
_NOT_RECORDED = b"\x80\x01" + bytes((RecordState.NOT_RECORDED,))
_DOUBLE = struct.Struct("<d").pack


def varint(value: int) -> bytes:
    """A whole number of zero or more as protobuf writes it."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


@dataclass(frozen=True, slots=True)
class ModelLabel:
    """What a score is labelled with. head: the constant part of its Score, serialised."""

    id: str
    version: str
    digest: str
    head: bytes
    base: float | None
    attribution: str


@dataclass(frozen=True, slots=True)
class FlowLabels:
    """Everything constant that answers of one flow carry. reasons: by language, then code, the constant part of a
    Reason, serialised."""

    flow: str
    currency: str
    minor_per_major: int
    bundle: pb.BundleRef
    features: tuple[str, ...]
    models: tuple[ModelLabel, ...]
    reasons: Mapping[str, Mapping[str, bytes]]
    catalogue_digest: str
    environment_digest: str
    engine_version: str
    store: str


@dataclass(frozen=True, slots=True)
class Parts:
    """What a decision came to; see `engine.pipeline.Conclusion`. marks: moments in nanoseconds: start, validated, rows
    read, features gathered, scored, policy done, reasons ranked."""

    application: ValidApplication
    facts: Facts
    scores: list[ModelScore]
    outcome: PolicyOutcome
    reasons: Reasons
    now_us: int
    marks: list[int]


def score_head(model: str, version: str, component: int, explained: bool) -> bytes:
    """The constant part of a Score."""
    score = pb.Score(model=model, version=version, explained=explained)
    score.component = component  # type: ignore[assignment]
    return score.SerializeToString()


def reason_head(code: str, component: int, text: str, regulation_b: str) -> bytes:
    """The constant part of a Reason."""
    reason = pb.Reason(code=code, text=text, regulation_b=regulation_b)
    reason.component = component  # type: ignore[assignment]
    return reason.SerializeToString()


def build_decision(labels: FlowLabels, parts: Parts, decision_id: str, trace_id: str, tick_ns: int) -> bytes:
    """The answer, serialised. tick_ns: the moment that its total time ends."""
    application, outcome, reasons = parts.application, parts.outcome, parts.reasons
    decision = pb.Decision(
        decision_id=decision_id,
        request_id=application.request_id,
        flow=labels.flow,
        verdict=outcome.verdict,  # type: ignore[arg-type]
        bundle=labels.bundle,
        trace_id=trace_id,
        record_state=RecordState.RECORDED,  # type: ignore[arg-type]
        language=application.language,
        deciding_components=outcome.deciding,  # type: ignore[arg-type]
    )
    if outcome.offer is not None:
        _put_offer(decision.offer, outcome.offer, labels)
    if parts.facts.substitutions:
        _put_substitutions(decision, parts.facts, labels)
    seconds, micros = divmod(parts.now_us, 1_000_000)
    decision.decided_at.seconds = seconds
    decision.decided_at.nanos = micros * 1000
    _put_times(decision.stage_times, parts.marks, tick_ns)
    pieces = [decision.SerializeToString()]
    pieces += [_field(_SCORES, _score(label, score)) for label, score in zip(labels.models, parts.scores, strict=True)]
    heads = labels.reasons[application.language]
    for tag, found in (
        (_CREDIT_REASONS, reasons.credit),
        (_FRAUD_REASONS, reasons.fraud),
        (_POLICY_REASONS, reasons.policy),
    ):
        pieces += [_field(tag, _reason(heads[one.code], one, rank)) for rank, one in enumerate(found, 1)]
    return b"".join(pieces)


def not_recorded(decision: bytes) -> bytes:
    """The same answer, saying that it is not in the journal."""
    return decision + _NOT_RECORDED


def _score(label: ModelLabel, score: ModelScore) -> bytes:
    """Score: raw = 4, probability = 5, points = 6, status = 8."""
    if score.status is not ScoreStatus.OK:
        return label.head + b"\x40" + bytes((score.status,))
    content = label.head + b"\x21" + _DOUBLE(score.raw)
    if score.probability is not None:
        content += b"\x29" + _DOUBLE(score.probability)
    if score.points is not None:
        # A negative int32 is written as 64 bits.
        content += b"\x30" + varint(score.points if score.points >= 0 else score.points + (1 << 64))
    return content + b"\x40\x01"


def _reason(head: bytes, reason: AdverseReason, rank: int) -> bytes:
    """Reason: rank = 3, contribution = 5, features = 6, rule = 7."""
    content = head + b"\x18" + bytes((rank,))
    if reason.contribution is not None:
        content += b"\x29" + _DOUBLE(reason.contribution)
    if reason.features:
        content += _features(reason.features)
    if reason.rule:
        content += _field(b"\x3a", reason.rule.encode())
    return content


@lru_cache(maxsize=4096)
def _features(names: tuple[str, ...]) -> bytes:
    """Reason: features = 6. There are as many tuples as reason groups in the bundles served."""
    return b"".join(_field(b"\x32", name.encode()) for name in names)


def _put_offer(target: pb.Offer, offer: Offer, labels: FlowLabels) -> None:
    per, currency = labels.minor_per_major, labels.currency
    amounts = [
        (target.amount, offer.amount_minor),
        (target.monthly_payment, offer.monthly_payment_minor),
        (target.total_repayable, offer.total_repayable_minor),
    ]
    if offer.fee_minor:
        amounts.append((target.fee, offer.fee_minor))
    for money, minor in amounts:
        money.currency_code = currency
        money.units, rest = divmod(minor, per)
        money.nanos = rest * (_NANOS_PER_S // per)
    target.term_months = offer.term_months
    target.annual_rate_percent = offer.annual_rate_percent
    target.annual_cost_percent = offer.annual_cost_percent


def _put_substitutions(decision: pb.Decision, facts: Facts, labels: FlowLabels) -> None:
    names = labels.features
    for item in facts.substitutions:
        one = decision.substitutions.add(
            feature=names[item.slot],
            status=item.status,
            action=item.action,
        )
        if item.value_used is not None and item.action is not SubstitutionAction.MISSING:
            one.value_used = item.value_used
        if item.age_us is not None:
            one.age.seconds, micros = divmod(item.age_us, 1_000_000)
            one.age.nanos = micros * 1000


def _put_times(times: pb.StageTimes, marks: list[int], tick_ns: int) -> None:
    """The read and the decoding of rows are one stage."""
    for target, nanos in (
        (times.validate, marks[1] - marks[0]),
        (times.features, marks[3] - marks[1]),
        (times.scoring, marks[4] - marks[3]),
        (times.policy, marks[5] - marks[4]),
        (times.reasons, marks[6] - marks[5]),
        (times.total, tick_ns - marks[0]),
    ):
        if nanos >= _NANOS_PER_S:
            target.seconds, target.nanos = divmod(nanos, _NANOS_PER_S)
        else:
            target.nanos = nanos


def build_record(labels: FlowLabels, parts: Parts, decision: bytes, application: bytes, payload_digest: bytes) -> bytes:
    """The record around an answer's bytes and the application's bytes."""
    facts, every = parts.facts, parts.reasons.every
    record = record_pb.DecisionRecord(
        schema_version=RECORD_SCHEMA,
        packed_facts=record_pb.PackedFacts(
            catalogue_digest=labels.catalogue_digest,
            values=facts.values.tobytes(),
            statuses=facts.statuses.tobytes(),
            origins=facts.origins.tobytes(),
            view_statuses=bytes(facts.view_statuses),
            view_event_times_us=[t or 0 for t in facts.event_times_us],
        ),
        payload_digest=payload_digest,
        engine_version=labels.engine_version,
        environment_digest=labels.environment_digest,
        packed_reasons=record_pb.PackedReasons(
            codes=[r.code for r in every],
            components=bytes([r.component for r in every]),
            contributions=[_NAN if r.contribution is None else r.contribution for r in every],
            rules=[r.rule for r in every],
        ),
        store=labels.store,
    )
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
            verdict=rule.verdict or 0,
            reason=rule.reason,
            outputs_json=rule.outputs_json,
        )
    return b"".join(
        (
            record.SerializeToString(),
            _field(_RECORD_DECISION, decision),
            _field(_RECORD_APPLICATION, application),
        )
    )
