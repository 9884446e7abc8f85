"""The record stage: one decision as protobuf bytes, once for the answer and once for the journal.

The answer's bytes stand inside the record's bytes: a message field and a bytes field look the same on the wire, so
what is serialised already is put in, not parsed and written again. What never changes (names, texts, digests) is
serialised once, when a bundle is put in service. `tests/unit/test_record_build.py` holds the bytes against messages
made the plain way.

Both are made in two parts: what stays when a person is erased, and what is sealed under the subject's key. Of a message
that is written twice, protobuf merges the fields, so one part after the other is the whole message.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.domain.application import ValidApplication
from engine.domain.enums import RecordState, SubstitutionAction
from engine.domain.facts import Facts, Substitution
from engine.domain.outcome import TERMS_TABLE, Offer, PolicyOutcome, RuleFired
from engine.domain.reason import AdverseReason, Reasons
from engine.domain.score import ModelScore, ScoreStatus
from engine.record.wire import DOUBLE, doubles, field, span, text, varint

RECORD_SCHEMA = 1
_NANOS_PER_S = 1_000_000_000
# Decision.record_state = 16.
_RECORD_STATE = b"\x80\x01"


@dataclass(frozen=True, slots=True)
class ModelLabel:
    """What a model's answers are labelled with, serialised: the constant parts of its Score and of its ModelRun."""

    score_head: bytes
    run_head: bytes


@dataclass(frozen=True, slots=True)
class FlowLabels:
    """Everything constant that answers of one flow carry. decision_heads and reason_heads go by language; reasons then
    by code. record_head: the constant part of the record; facts_head: that of its packed facts."""

    currency: str
    minor_per_major: int
    features: tuple[str, ...]
    models: tuple[ModelLabel, ...]
    decision_heads: Mapping[str, bytes]
    reason_heads: Mapping[str, Mapping[str, bytes]]
    record_head: bytes
    facts_head: bytes


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


def decision_head(flow: str, bundle: pb.BundleRef, language: str) -> bytes:
    """The constant part of a Decision."""
    decision = pb.Decision(flow=flow, bundle=bundle, language=language)
    decision.record_state = RecordState.RECORDED  # type: ignore[assignment]
    return decision.SerializeToString()


def model_label(
    model: str, version: str, digest: str, component: int, base: float | None, attribution: str
) -> ModelLabel:
    """The labels of a model; base is None for one that does not explain itself."""
    score = pb.Score(model=model, version=version, explained=base is not None)
    score.component = component  # type: ignore[assignment]
    run = record_pb.ModelRun(model=model, version=version, digest=digest, base=base, attribution=attribution)
    return ModelLabel(score.SerializeToString(), run.SerializeToString())


def reason_head(code: str, component: int, applicant_text: str, internal_text: str, regulation_b: str) -> bytes:
    """The constant part of a Reason."""
    reason = pb.Reason(code=code, text=applicant_text, internal_text=internal_text, regulation_b=regulation_b)
    reason.component = component  # type: ignore[assignment]
    return reason.SerializeToString()


def record_heads(
    catalogue_digest: str, environment_digest: str, engine_version: str, store: str, policy_digest: str = ""
) -> tuple[bytes, bytes]:
    """The constant parts of a DecisionRecord and of its PackedFacts."""
    record = record_pb.DecisionRecord(
        schema_version=RECORD_SCHEMA,
        engine_version=engine_version,
        environment_digest=environment_digest,
        store=store,
        policy_digest=policy_digest,
    )
    return record.SerializeToString(), record_pb.PackedFacts(catalogue_digest=catalogue_digest).SerializeToString()


class Answer(NamedTuple):
    """A Decision in two parts: open (ids, verdict, scores, reasons, bundle, times) and personal (the offer, and what
    stood in for features)."""

    open: bytes
    personal: bytes

    @property
    def whole(self) -> bytes:
        """What the caller is given."""
        return self.open + self.personal


# --- the answer ---------------------------------------------------------------------------------------------------


def build_decision(labels: FlowLabels, parts: Parts, decision_id: str, trace_id: str, tick_ns: int) -> bytes:
    """The answer, serialised. tick_ns: the moment that its total time ends."""
    return build_answer(labels, parts, decision_id, trace_id, tick_ns).whole


def build_answer(labels: FlowLabels, parts: Parts, decision_id: str, trace_id: str, tick_ns: int) -> Answer:
    """The answer in its two parts. tick_ns: the moment that its total time ends."""
    application, outcome, reasons = parts.application, parts.outcome, parts.reasons
    language = application.language
    pieces = [
        labels.decision_heads[language],
        text(b"\x0a", decision_id),
        text(b"\x12", application.request_id),
        b"\x20",
        varint(outcome.verdict),
        text(b"\x6a", trace_id),
        span(b"\x7a", parts.now_us * 1000),
        _times(parts.marks, tick_ns),
    ]
    if outcome.deciding:
        pieces.append(field(b"\x92\x01", bytes(outcome.deciding)))
    for label, score in zip(labels.models, parts.scores, strict=True):
        pieces.append(field(b"\x32", _score(label.score_head, score)))
    heads = labels.reason_heads[language]
    for tag, found in ((b"\x3a", reasons.credit), (b"\x42", reasons.fraud), (b"\x4a", reasons.policy)):
        for rank, one in enumerate(found, 1):
            pieces.append(field(tag, _reason(heads[one.code], one, rank)))
    personal = [field(b"\x52", _substitution(labels.features[s.slot], s)) for s in parts.facts.substitutions]
    if outcome.offer is not None:
        personal.append(field(b"\x2a", _offer(outcome.offer, labels)))
    return Answer(b"".join(pieces), b"".join(personal))


def not_recorded(decision: bytes) -> bytes:
    """The same answer, saying that it is not in the journal: of a field that stands twice, the last counts."""
    return decision + _RECORD_STATE + varint(RecordState.NOT_RECORDED)


def _score(head: bytes, score: ModelScore) -> bytes:
    """Score: raw = 4, probability = 5, points = 6, status = 8."""
    if score.status is not ScoreStatus.OK:
        return head + b"\x40" + varint(score.status)
    return head + _numbers(score, b"\x21", b"\x29", b"\x30") + b"\x40\x01"


def _numbers(score: ModelScore, raw: bytes, probability: bytes, points: bytes) -> bytes:
    content = raw + DOUBLE(score.raw)
    if score.probability is not None:
        content += probability + DOUBLE(score.probability)
    if score.points is not None:
        content += points + varint(score.points)
    return content


def _reason(head: bytes, reason: AdverseReason, rank: int) -> bytes:
    """Reason: rank = 3, contribution = 5, features = 6, rule = 7."""
    content = head + b"\x18" + varint(rank)
    if reason.contribution is not None:
        content += b"\x29" + DOUBLE(reason.contribution)
    if reason.features:
        content += _features(reason.features)
    return content + text(b"\x3a", reason.rule)


@lru_cache(maxsize=4096)
def _features(names: tuple[str, ...]) -> bytes:
    """There are as many tuples as reason groups in the bundles served."""
    return b"".join(text(b"\x32", name) for name in names)


def _offer(offer: Offer, labels: FlowLabels) -> bytes:
    """Offer: amount = 1, term_months = 2, annual_rate_percent = 3, fee = 4, monthly_payment = 5,
    annual_cost_percent = 6, total_repayable = 7."""
    per, currency = labels.minor_per_major, text(b"\x0a", labels.currency)

    def money(tag: bytes, minor: int) -> bytes:
        units, rest = divmod(minor, per)
        content = currency + b"\x10" + varint(units)
        if rest:
            content += b"\x18" + varint(rest * (_NANOS_PER_S // per))
        return field(tag, content)

    return b"".join(
        (
            money(b"\x0a", offer.amount_minor),
            b"\x10",
            varint(offer.term_months),
            b"\x19",
            DOUBLE(offer.annual_rate_percent),
            money(b"\x22", offer.fee_minor) if offer.fee_minor else b"",
            money(b"\x2a", offer.monthly_payment_minor),
            b"\x31",
            DOUBLE(offer.annual_cost_percent),
            money(b"\x3a", offer.total_repayable_minor),
        )
    )


def _substitution(feature: str, item: Substitution) -> bytes:
    """Substitution: feature = 1, status = 2, action = 3, value_used = 4, age = 5."""
    # Numbers and not members: hashing a member of an enum is a call in Python.
    content = _substitution_head(feature, int(item.status), int(item.action))
    if item.value_used is not None and item.action is not SubstitutionAction.MISSING:
        content += b"\x21" + DOUBLE(item.value_used)
    if item.age_us is not None:
        content += span(b"\x2a", item.age_us * 1000)
    return content


@lru_cache(maxsize=65_536)
def _substitution_head(feature: str, status: int, action: int) -> bytes:
    return text(b"\x0a", feature) + b"\x10" + varint(status) + b"\x18" + varint(action)


def _times(marks: list[int], tick_ns: int) -> bytes:
    """StageTimes: validate = 1, features = 2, scoring = 3, policy = 4, reasons = 5, total = 6. The read of the rows and
    their decoding are one stage."""
    start, validated, _, gathered, scored, judged, ranked = marks
    return field(
        b"\x62",
        span(b"\x0a", validated - start)
        + span(b"\x12", gathered - validated)
        + span(b"\x1a", scored - gathered)
        + span(b"\x22", judged - scored)
        + span(b"\x2a", ranked - judged)
        + span(b"\x32", tick_ns - start),
    )


# --- the record ---------------------------------------------------------------------------------------------------


def build_record(labels: FlowLabels, parts: Parts, decision: bytes, application: bytes, payload_digest: bytes) -> bytes:
    """The record around an answer's bytes and the application's bytes, in one."""
    return b"".join(build_parts(labels, parts, Answer(decision, b""), application, payload_digest))


def record_origin(tenant: str = "", experiment: str = "", arm: str = "", shadow_of: str = "") -> bytes:
    """Whose request a record is of and which arm decided it. DecisionRecord: tenant = 15, experiment = 16, arm = 17,
    shadow_of = 18."""
    return text(b"\x7a", tenant) + text(b"\x82\x01", experiment) + text(b"\x8a\x01", arm) + text(b"\x92\x01", shadow_of)


def build_parts(
    labels: FlowLabels,
    parts: Parts,
    answer: Answer,
    application: bytes,
    payload_digest: bytes,
    origin: bytes = b"",
) -> tuple[bytes, bytes]:
    """The record around an answer and the application's bytes, as its open and its personal part. origin: what
    `record_origin` gives.

    Who erases a person keeps decision and request id, verdict, scores, reason codes, rules, bundle, digests and times;
    the application, all values and ages of features, the contribution of every input, and amounts go. The digest must
    be keyed, or a guess at the application could be confirmed by it.

    DecisionRecord: decision = 2, application = 3, packed_facts = 4, runs = 7, rules = 8, payload_digest = 10,
    packed_reasons = 13.
    """
    codes, contributions = _reasons(parts.reasons.every)
    kept = [
        labels.record_head,
        field(b"\x12", answer.open),
        field(b"\x22", labels.facts_head),
        field(b"\x52", payload_digest),
        field(b"\x6a", codes),
        origin,
    ]
    personal = [
        field(b"\x12", answer.personal) if answer.personal else b"",
        field(b"\x1a", application),
        field(b"\x22", _facts(parts.facts)),
        field(b"\x6a", contributions),
    ]
    for label, score in zip(labels.models, parts.scores, strict=True):
        personal.append(field(b"\x3a", _run(label.run_head, score)))
    rules = kept
    for rule in parts.outcome.rules:
        if rule.table == TERMS_TABLE:
            # Rules about terms carry this applicant's amounts: they are not cached, and they and what follows them, for
            # the order must stay, are personal.
            rules = personal
            rules.append(_rule.__wrapped__(rule))
        else:
            rules.append(_rule(rule))
    return b"".join(kept), b"".join(personal)


def _facts(facts: Facts) -> bytes:
    """PackedFacts: values = 2, statuses = 3, origins = 4, view_statuses = 5, view_event_times_us = 6."""
    times = facts.event_times_us
    return b"".join(
        (
            field(b"\x12", facts.read.tobytes()),
            field(b"\x1a", facts.statuses.tobytes()),
            field(b"\x22", facts.origins.tobytes()),
            field(b"\x2a", bytes(facts.view_statuses)),
            field(b"\x32", struct.pack(f"<{len(times)}q", *times)),
        )
    )


def _reasons(every: tuple[AdverseReason, ...]) -> tuple[bytes, bytes]:
    """PackedReasons: codes = 1, components = 2, contributions = 3, rules = 4; the contributions apart."""
    pieces = [field(b"\x0a", reason.code.encode()) for reason in every]
    pieces += [field(b"\x22", reason.rule.encode()) for reason in every]
    pieces.append(field(b"\x12", bytes([reason.component for reason in every])))
    contributions = doubles(b"\x1a", [math.nan if (c := reason.contribution) is None else c for reason in every])
    return b"".join(pieces), contributions


def _run(head: bytes, score: ModelScore) -> bytes:
    """ModelRun: raw = 4, probability = 5, points = 6, contributions = 8, status = 11."""
    if score.status is not ScoreStatus.OK:
        return head + b"\x58" + varint(score.status)
    content = head + _numbers(score, b"\x21", b"\x29", b"\x30") + b"\x58\x01"
    if score.contributions is not None:
        # float32, little-endian, in order: the bytes that the runtime gave are the packed field.
        content += field(b"\x42", score.contributions.tobytes())
    return content


@lru_cache(maxsize=4096)
def _rule(rule: RuleFired) -> bytes:
    """RuleFired: table = 1, rule = 2, verdict = 3, reason = 4, outputs_json = 5. There are as many as rows in the
    tables served."""
    content = text(b"\x0a", rule.table) + text(b"\x12", rule.rule)
    if rule.verdict is not None:
        content += b"\x18" + varint(rule.verdict)
    return field(b"\x42", content + text(b"\x22", rule.reason) + text(b"\x2a", rule.outputs_json))
