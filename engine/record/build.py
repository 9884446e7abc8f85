"""The record stage: one decision as protobuf bytes, once for the answer and once for the journal.

The answer's bytes stand inside the record's bytes: a message field and a bytes field look the same on the wire, so
what is serialised already is put in, not parsed and written again. What never changes (names, texts, digests) is
serialised once, when a bundle is put in service (`engine.record.stencils`). `tests/unit/test_record_build.py` and
`tests/unit/record/test_build_plain.py` hold the bytes against messages made the plain way.

Both are made in two parts: what stays when a person is erased, and what is sealed under the subject's key. Of a message
that is written twice, protobuf merges the fields, so one part after the other is the whole message.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from engine.domain.application import ValidApplication
from engine.domain.enums import RecordState, SubstitutionAction
from engine.domain.facts import Facts, Substitution
from engine.domain.outcome import TERMS_TABLE, Offer, PolicyOutcome, RuleFired
from engine.domain.reason import AdverseReason, Reasons
from engine.domain.score import ModelScore, ScoreStatus
from engine.record.stencils import (
    RECORD_SCHEMA,
    CodeStencils,
    FlowLabels,
    ModelLabel,
    decision_head,
    model_label,
    reason_head,
    record_heads,
)
from engine.record.wire import DOUBLE, doubles, field, moment, span_content, text, varint, whole_numbers

__all__ = [
    "RECORD_SCHEMA",
    "Answer",
    "FlowLabels",
    "ModelLabel",
    "Parts",
    "build_answer",
    "build_decision",
    "build_parts",
    "build_record",
    "decision_head",
    "model_label",
    "not_recorded",
    "reason_head",
    "record_heads",
    "record_origin",
]

# Decision.record_state = 16.
_RECORD_STATE = b"\x80\x01"
# Members of enums are looked up by a call in Python.
_OK, _MISSING = ScoreStatus.OK, SubstitutionAction.MISSING
# Decision: verdict = 4.
_VERDICTS = tuple(b"\x20" + varint(number) for number in range(16))
# Score and ModelRun: raw = 4, probability = 5, points = 6.
_RAW_AND_PROBABILITY = struct.Struct("<cdcd").pack
_POINTS = tuple(b"\x30" + varint(points) for points in range(1024))
_codes = CodeStencils()


@dataclass(slots=True)
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
    application, outcome = parts.application, parts.outcome
    language = application.language
    times = _times(parts.marks, tick_ns)
    pieces = [
        labels.decision_heads[language],
        _ids(decision_id, application.request_id, trace_id),
        _VERDICTS[outcome.verdict],
        b"\x7a",
        moment(parts.now_us),
        b"\x62",
        varint(len(times)),
        times,
    ]
    if outcome.deciding:
        pieces.append(field(b"\x92\x01", bytes(outcome.deciding)))
    for label, score in zip(labels.models, parts.scores, strict=True):
        if score.status is _OK:
            numbers = _numbers(score)
            pieces.append(label.scores[len(numbers)])
            pieces.append(numbers)
        else:
            pieces.append(field(b"\x32", label.score_head + b"\x40" + varint(score.status)))
    credit, fraud, policy, _ = parts.reasons
    stencils = labels.reasons[language]
    for tag, found in ((b"\x3a", credit), (b"\x42", fraud), (b"\x4a", policy)):
        for rank, (code, _, contribution, features, rule) in enumerate(found, 1):
            if contribution is None:
                pieces.append(stencils[tag, rank, code, features, rule, False])
            else:
                pieces.append(stencils[tag, rank, code, features, rule, True])
                pieces.append(DOUBLE(contribution))
    personal = b""
    if parts.facts.substitutions:
        personal = b"".join([_substitution(labels, one) for one in parts.facts.substitutions])
    if outcome.offer is not None:
        personal += _offer(outcome.offer, labels)
    return Answer(b"".join(pieces), personal)


def not_recorded(decision: bytes) -> bytes:
    """The same answer, saying that it is not in the journal: of a field that stands twice, the last counts."""
    return decision + _RECORD_STATE + varint(RecordState.NOT_RECORDED)


def _ids(decision_id: str, request_id: str, trace_id: str) -> bytes:
    """Decision: decision_id = 1, request_id = 2, trace_id = 13."""
    if decision_id and request_id and trace_id:
        ids = (
            f"\x0a{chr(len(decision_id))}{decision_id}\x12{chr(len(request_id))}{request_id}"
            f"\x6a{chr(len(trace_id))}{trace_id}"
        )
        # Then all lengths are below 128 as well, and each is one byte.
        if ids.isascii():
            return ids.encode()
    return text(b"\x0a", decision_id) + text(b"\x12", request_id) + text(b"\x6a", trace_id)


def _numbers(score: ModelScore) -> bytes:
    """What a Score and a ModelRun both say, with the same tags in both."""
    _, raw, probability, points, _ = score
    numbers = b"\x21" + DOUBLE(raw) if probability is None else _RAW_AND_PROBABILITY(b"\x21", raw, b"\x29", probability)
    if points is None:
        return numbers
    return numbers + (_POINTS[points] if 0 <= points < 1024 else b"\x30" + varint(points))


def _offer(offer: Offer, labels: FlowLabels) -> bytes:
    """Decision: offer = 5. Offer: amount = 1, term_months = 2, annual_rate_percent = 3, fee = 4, monthly_payment = 5,
    annual_cost_percent = 6, total_repayable = 7."""
    content = b"".join(
        (
            _money(b"\x0a", offer.amount_minor, labels),
            b"\x10",
            varint(offer.term_months),
            b"\x19",
            DOUBLE(offer.annual_rate_percent),
            _money(b"\x22", offer.fee_minor, labels) if offer.fee_minor else b"",
            _money(b"\x2a", offer.monthly_payment_minor, labels),
            b"\x31",
            DOUBLE(offer.annual_cost_percent),
            _money(b"\x3a", offer.total_repayable_minor, labels),
        )
    )
    return field(b"\x2a", content)


def _money(tag: bytes, minor: int, labels: FlowLabels) -> bytes:
    units, rest = divmod(minor, labels.minor_per_major)
    return field(tag, labels.money + varint(units) + labels.parts[rest])


def _substitution(labels: FlowLabels, item: Substitution) -> bytes:
    """Decision: substitutions = 10. Substitution: value_used = 4, age = 5."""
    slot, status, action, value_used, age_us = item
    content = labels.stand_ins[slot].head(status, action)
    if value_used is not None and action is not _MISSING:
        content += b"\x21" + DOUBLE(value_used)
    if age_us is not None:
        content += b"\x2a" + span_content(age_us * 1000)
    return field(b"\x52", content)


def _times(marks: list[int], tick_ns: int) -> bytes:
    """StageTimes: validate = 1, features = 2, scoring = 3, policy = 4, reasons = 5, total = 6. The read of the rows and
    their decoding are one stage."""
    start, validated, _, gathered, scored, judged, ranked = marks
    return b"".join(
        (
            b"\x0a",
            span_content(validated - start),
            b"\x12",
            span_content(gathered - validated),
            b"\x1a",
            span_content(scored - gathered),
            b"\x22",
            span_content(judged - scored),
            b"\x2a",
            span_content(ranked - judged),
            b"\x32",
            span_content(tick_ns - start),
        )
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
    opened, hidden = answer
    codes, contributions = _reasons(parts.reasons.every)
    kept = [
        labels.kept,
        b"\x12",
        varint(len(opened)),
        opened,
        b"\x52",
        varint(len(payload_digest)),
        payload_digest,
        codes,
        origin,
    ]
    facts = _facts(parts.facts)
    personal = [
        field(b"\x12", hidden) if hidden else b"",
        b"\x1a",
        varint(len(application)),
        application,
        b"\x22",
        varint(len(facts)),
        facts,
        contributions,
    ]
    for label, score in zip(labels.models, parts.scores, strict=True):
        if score.status is not _OK:
            personal.append(field(b"\x3a", label.run_head + b"\x58" + varint(score.status)))
            continue
        numbers = _numbers(score)
        if score.contributions is None:
            personal += (label.runs[len(numbers), -1], numbers)
        else:
            # float32, little-endian, in order: the bytes that the runtime gave are the packed field.
            content = score.contributions.tobytes()
            personal += (label.runs[len(numbers), len(content)], content, numbers)
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
    values, statuses, origins = facts.read.tobytes(), facts.statuses.tobytes(), facts.origins.tobytes()
    views, times = bytes(facts.view_statuses), whole_numbers(facts.event_times_us)
    return b"".join(
        (
            b"\x12",
            varint(len(values)),
            values,
            b"\x1a",
            varint(len(statuses)),
            statuses,
            b"\x22",
            varint(len(origins)),
            origins,
            b"\x2a",
            varint(len(views)),
            views,
            b"\x32",
            varint(len(times)),
            times,
        )
    )


def _reasons(every: Sequence[AdverseReason]) -> tuple[bytes, bytes]:
    """PackedReasons: components = 2, contributions = 3, as the field of a DecisionRecord; the contributions apart."""
    if not every:
        return b"\x6a\x00", b""
    codes, components, contributions, _, rules = zip(*every, strict=True)
    content = b"".join(map(_codes.__getitem__, zip(codes, rules, strict=True))) + field(b"\x12", bytes(components))
    if None in contributions:
        contributions = tuple([math.nan if one is None else one for one in contributions])
    return field(b"\x6a", content), field(b"\x6a", field(b"\x1a", doubles(contributions)))


@lru_cache(maxsize=4096)
def _rule(rule: RuleFired) -> bytes:
    """RuleFired: table = 1, rule = 2, verdict = 3, reason = 4, outputs_json = 5. There are as many as rows in the
    tables served."""
    content = text(b"\x0a", rule.table) + text(b"\x12", rule.rule)
    if rule.verdict is not None:
        content += b"\x18" + varint(rule.verdict)
    return field(b"\x42", content + text(b"\x22", rule.reason) + text(b"\x2a", rule.outputs_json))
