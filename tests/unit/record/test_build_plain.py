"""Answers and records are put together as bytes: whatever is decided, they are those of messages made the plain way."""

from __future__ import annotations

import math
import random
import struct
from functools import partial

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.domain.application import ValidApplication
from engine.domain.enums import Component, FeatureStatus, SubstitutionAction, Verdict
from engine.domain.facts import Facts, Substitution
from engine.domain.outcome import TERMS_TABLE, Offer, PolicyOutcome, RuleFired
from engine.domain.reason import AdverseReason, Reasons
from engine.domain.score import ModelScore, ScoreStatus, no_score
from engine.record.build import (
    Answer,
    FlowLabels,
    Parts,
    build_answer,
    build_parts,
    decision_head,
    model_label,
    reason_head,
    record_heads,
    record_origin,
)
from engine.record.wire import span, varint

SLOTS, VIEWS, MODELS = 7, 3, 3
CODES = ("CR_ONE", "CR_TWO", "FR_ONE", "PL_ONE")
BUNDLE = pb.BundleRef(name="tiny", version="1.2.3", digest="sha256:" + "ab" * 32)
HEADS = record_heads("sha256:cc", "sha256:ee", "9.9.9", "memory", "sha256:pp")


def labels(currency: str, minor_per_major: int) -> FlowLabels:
    return FlowLabels(
        currency,
        minor_per_major,
        tuple(f"feature_{n}" for n in range(SLOTS)),
        tuple(model_label(f"m{n}", "1.0.0", f"sha256:m{n}", 1 + n % 2, None if n == 2 else 0.5, "") for n in range(3)),
        {"en": decision_head("tiny.application", BUNDLE, "en"), "de": decision_head("tiny.application", BUNDLE, "de")},
        {
            language: {code: reason_head(code, 1 + n % 3, f"{language} {n}", "i", "r") for n, code in enumerate(CODES)}
            for language in ("en", "de")
        },
        *HEADS,
    )


class Drawn:
    """What a decision may come to, by chance."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.pick = self.draw.choice
        self.chance = partial(self.pick, (True, False))

    def number(self) -> float:
        return self.pick((0.0, -0.0, 1.5, -1e-300, self.draw.gauss(0, 1e6)))

    def score(self) -> ModelScore:
        if self.draw.random() < 0.2:
            return no_score(self.pick((ScoreStatus.FAILED, ScoreStatus.MISSING_INPUT)))
        points = self.pick((None, 0, 1, 127, 128, 746, 1023, 1024, 20_000, -7, 2**31 - 1, -(2**31)))
        given = np.array([self.number() for _ in range(self.pick((0, 1, 40)))], np.float32) if self.chance() else None
        return ModelScore(ScoreStatus.OK, self.number(), self.pick((None, 0.0, 0.25)), points, given)

    def reasons(self, most: int) -> tuple[AdverseReason, ...]:
        return tuple(
            AdverseReason(
                self.pick(CODES),
                self.pick(tuple(Component)),
                self.pick((None, 1e-9, 12.5)),
                tuple(f"feature_{n}" for n in range(self.pick((0, 1, 3, 60)))),
                self.pick(("", "table/rule", "ü/" + "x" * 300)),
            )
            for _ in range(self.draw.randint(0, most))
        )

    def rules(self) -> tuple[RuleFired, ...]:
        return tuple(
            RuleFired(
                self.pick(("knock_outs", TERMS_TABLE, "limits")),
                f"r{n}",
                self.pick((None, Verdict.DECLINE, Verdict.REFER)),
                self.pick(("", "PL_ONE")),
                self.pick(("", "{}", '{"a": "' + "x" * 200 + '"}')),
            )
            for n in range(self.draw.randint(0, 5))
        )

    def facts(self) -> Facts:
        values = np.array([self.pick((math.nan, 1.0, -2.5)) for _ in range(SLOTS)])
        ages = (None, 0, 1, 999_999, 1_000_000, 86_400_000_000, 10**15)
        substitutions = tuple(
            Substitution(
                self.draw.randrange(SLOTS),
                self.pick(tuple(FeatureStatus)),
                self.pick(tuple(SubstitutionAction)),
                self.pick((None, 0.0, -3.25)),
                self.pick(ages),
            )
            for _ in range(self.pick((0, 1, 20)))
        )
        return Facts(
            values=values,
            read=values,
            statuses=np.array([self.draw.randint(1, 6) for _ in range(SLOTS)], np.uint8),
            origins=np.array([self.draw.randint(0, 3) for _ in range(SLOTS)], np.uint8),
            vector=values.tolist(),
            substitutions=substitutions,
            degraded=(),
            blocked=frozenset(),
            view_statuses=tuple(self.pick(tuple(FeatureStatus)) for _ in range(VIEWS)),
            event_times_us=tuple(self.pick((0, 1, 1_800_000_000_123_456)) for _ in range(VIEWS)),
        )

    def offer(self, most: int) -> Offer:
        amounts = [self.pick((1, 99, 100, 101, 1_234_567, 2**40)) for _ in range(3)]
        return Offer(amounts[0], self.pick((1, 12, 360)), 12.9, self.pick((0, most)), amounts[1], 14.25, amounts[2])

    def parts(self) -> Parts:
        step = partial(
            self.pick, (0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 2**28 - 1, 2**28, 10**9, 7**12)
        )
        marks = [5]
        for _ in range(6):
            marks.append(marks[-1] + step())
        request_id = self.pick(("r", "request-" + "7" * 100, "x" * 127, "x" * 128))
        application = ValidApplication(request_id, self.pick(("en", "de")), 1, 1, ("s",), (), (), None)
        every = self.reasons(12)
        outcome = PolicyOutcome(
            self.pick(tuple(Verdict)),
            self.offer(50) if self.chance() else None,
            self.rules(),
            self.pick(((), (Component.CREDIT,), (Component.FRAUD, Component.POLICY))),
        )
        return Parts(
            application,
            self.facts(),
            [self.score() for _ in range(MODELS)],
            outcome,
            Reasons(self.reasons(4), self.reasons(4), self.reasons(4), every),
            self.pick((1_800_000_000_123_456, 1_800_000_000_000_000, 1_799_999_999_999_999)),
            marks,
        )


def plain_reason(made: FlowLabels, language: str, rank: int, one: AdverseReason) -> pb.Reason:
    reason = pb.Reason.FromString(made.reason_heads[language][one.code])
    reason.rank, reason.rule = rank, one.rule
    reason.features.extend(one.features)
    if one.contribution is not None:
        reason.contribution = one.contribution
    return reason


def numbers(message: pb.Score | record_pb.ModelRun, score: ModelScore) -> None:
    message.status = int(score.status)  # type: ignore[assignment]
    if score.status is ScoreStatus.OK:
        message.raw = score.raw
        if score.probability is not None:
            message.probability = score.probability
        if score.points is not None:
            message.points = score.points


def plain_decision(made: FlowLabels, parts: Parts, decision_id: str, trace_id: str, tick_ns: int) -> pb.Decision:
    language = parts.application.language
    decision = pb.Decision.FromString(made.decision_heads[language])
    decision.decision_id, decision.request_id, decision.trace_id = decision_id, parts.application.request_id, trace_id
    decision.verdict = int(parts.outcome.verdict)  # type: ignore[assignment]
    decision.decided_at.FromMicroseconds(parts.now_us)
    decision.deciding_components.extend(int(one) for one in parts.outcome.deciding)  # type: ignore[misc]
    start, validated, _, gathered, scored, judged, ranked = parts.marks
    for name, nanos in (
        ("validate", validated - start),
        ("features", gathered - validated),
        ("scoring", scored - gathered),
        ("policy", judged - scored),
        ("reasons", ranked - judged),
        ("total", tick_ns - start),
    ):
        stage: Duration = getattr(decision.stage_times, name)
        stage.FromNanoseconds(nanos)
        stage.SetInParent()
    for label, score in zip(made.models, parts.scores, strict=True):
        numbers(decision.scores.add(), score)
        decision.scores[-1].MergeFromString(label.score_head)
    for field, found in (
        (decision.credit_reasons, parts.reasons.credit),
        (decision.fraud_reasons, parts.reasons.fraud),
        (decision.policy_reasons, parts.reasons.policy),
    ):
        field.extend(plain_reason(made, language, rank, one) for rank, one in enumerate(found, 1))
    for item in parts.facts.substitutions:
        told = decision.substitutions.add(feature=made.features[item.slot])
        told.status, told.action = int(item.status), int(item.action)  # type: ignore[assignment]
        if item.value_used is not None and item.action is not SubstitutionAction.MISSING:
            told.value_used = item.value_used
        if item.age_us is not None:
            told.age.FromMicroseconds(item.age_us)
            told.age.SetInParent()
    offer = parts.outcome.offer
    if offer is not None:
        told_offer = decision.offer
        told_offer.term_months, told_offer.annual_rate_percent = offer.term_months, offer.annual_rate_percent
        told_offer.annual_cost_percent = offer.annual_cost_percent
        for money, minor in (
            (told_offer.amount, offer.amount_minor),
            (told_offer.monthly_payment, offer.monthly_payment_minor),
            (told_offer.total_repayable, offer.total_repayable_minor),
            *([(told_offer.fee, offer.fee_minor)] if offer.fee_minor else []),
        ):
            money.currency_code = made.currency
            money.units = minor // made.minor_per_major
            money.nanos = minor % made.minor_per_major * (10**9 // made.minor_per_major)
    return decision


def plain_record(made: FlowLabels, parts: Parts, decision: pb.Decision) -> record_pb.DecisionRecord:
    record = record_pb.DecisionRecord.FromString(made.record_head)
    record.decision.CopyFrom(decision)
    record.application.product = "p"
    record.payload_digest, record.tenant, record.arm = b"d" * 33, "t", "champion"
    facts, packed = parts.facts, record.packed_facts
    packed.MergeFromString(made.facts_head)
    packed.values, packed.statuses, packed.origins = (
        facts.read.tobytes(),
        facts.statuses.tobytes(),
        facts.origins.tobytes(),
    )
    packed.view_statuses = bytes(int(one) for one in facts.view_statuses)
    packed.view_event_times_us.extend(facts.event_times_us)
    reasons = record.packed_reasons
    reasons.SetInParent()
    for one in parts.reasons.every:
        reasons.codes.append(one.code)
        reasons.rules.append(one.rule)
        reasons.components += bytes((int(one.component),))
        reasons.contributions.append(math.nan if one.contribution is None else one.contribution)
    for label, score in zip(made.models, parts.scores, strict=True):
        numbers(record.runs.add(), score)
        record.runs[-1].MergeFromString(label.run_head)
        if score.contributions is not None and score.status is ScoreStatus.OK:
            record.runs[-1].contributions.extend(score.contributions.tolist())
    for rule in parts.outcome.rules:
        told = record.rules.add(table=rule.table, rule=rule.rule, reason=rule.reason, outputs_json=rule.outputs_json)
        told.verdict = int(rule.verdict or 0)  # type: ignore[assignment]
    return record


def cents_alone(parts: Parts, minor_per_major: int) -> int:
    offer = parts.outcome.offer
    if offer is None:
        return 0
    amounts = (offer.amount_minor, offer.monthly_payment_minor, offer.total_repayable_minor, offer.fee_minor)
    return sum(0 < amount < minor_per_major for amount in amounts)


@pytest.mark.parametrize("money", [("EUR", 100), ("JPY", 1), ("KWD", 1000)])
def test_whatever_is_decided_is_written_as_protobuf_would(money: tuple[str, int]) -> None:
    made = labels(*money)
    application = pb.Application(product="p").SerializeToString()
    for seed in range(300):
        drawn = Drawn(seed)
        parts = drawn.parts()
        ids = (
            drawn.pick(("id-1", "0190a0b0-1111-7000-8000-000000000000", "ü" * 80)),
            drawn.pick(("", "ab" * 16)),
            parts.marks[-1] + drawn.pick((0, 16_384)),
        )
        plain = plain_decision(made, parts, *ids)
        answer = build_answer(made, parts, *ids)
        written = pb.Decision.FromString(answer.whole)
        assert written == plain, seed
        # Nothing is written twice, and no zero but the units of an amount below one.
        assert len(answer.whole) == len(plain.SerializeToString()) + 2 * cents_alone(parts, money[1]), seed
        record = plain_record(made, parts, plain)
        kept, personal = build_parts(made, parts, answer, application, b"d" * 33, record_origin("t", "", "champion"))
        found = record_pb.DecisionRecord.FromString(kept + personal)
        # NaN is not equal to itself: what is packed is compared as bytes.
        assert found.SerializeToString(deterministic=True) == record.SerializeToString(deterministic=True), seed
        again = build_parts(made, parts, Answer(answer.whole, b""), application, b"d" * 33)
        assert record_pb.DecisionRecord.FromString(b"".join(again)).decision == plain, seed


@pytest.mark.parametrize("bits", range(65))
def test_numbers_of_every_size_are_written_as_protobuf_does(bits: int) -> None:
    for value in {1 << bits >> 1, (1 << bits) - 1, (1 << bits >> 1) + 1}:
        if value < 1 << 63:
            for signed in (value, -value):
                plain = pb.Value(integer=signed).SerializeToString()
                assert (b"\x10" + varint(signed) == plain) or (not signed and not varint(signed).strip(b"\0"))
                seconds, rest = divmod(abs(signed), 10**9)
                duration = Duration(seconds=seconds, nanos=rest).SerializeToString()
                assert span(b"\x0a", abs(signed)) == b"\x0a" + struct.pack("B", len(duration)) + duration
        else:
            with pytest.raises(OverflowError):
                varint(1 << 64)
            with pytest.raises(OverflowError):
                varint(-(1 << 63) - 1)
