"""Answers and records are put together as bytes: they must parse to exactly what was decided."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.bundle.load import LoadedBundle
from engine.domain.enums import Component, SubstitutionAction, Verdict
from engine.domain.facts import UNREAD, Row
from engine.domain.reason import AdverseReason, Reasons
from engine.domain.score import ScoreStatus, no_score
from engine.errors import RecordError
from engine.labels import make_labels
from engine.pipeline import Conclusion, conclude, prepare
from engine.record.build import Parts, build_decision, build_record, not_recorded
from engine.record.read import parse_record, replayed_decision
from engine.record.wire import varint
from tests.support import tiny

NOW = 1_800_000_000_123_456
FLOW = "tiny_loan.application"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return tiny.load_tiny(tmp_path_factory)


def concluded(loaded: LoadedBundle, rows: list[Row], units: int = 1500) -> Conclusion:
    request = tiny.request()
    request.application.amount.units = units
    ticks = iter(range(0, 10_000_000_000, 1_100_000_000))
    prepared = prepare(loaded.plan, request, NOW, lambda: next(ticks))
    prepared.marks.append(next(ticks))
    return conclude(prepared, rows, NOW, lambda: next(ticks))


def parts(one: Conclusion) -> Parts:
    return Parts(
        one.prepared.application,
        one.facts,
        one.scores,
        one.outcome,
        one.reasons,
        one.now_us,
        one.prepared.marks,
    )


def built(loaded: LoadedBundle, made: Parts) -> pb.Decision:
    labels = make_labels(loaded.plan, "memory").flows[FLOW]
    content = build_decision(labels, made, "id-1", "ab" * 16, made.marks[-1] + 5)
    return pb.Decision.FromString(content)


def test_an_answer_parses_to_what_was_decided(loaded: LoadedBundle) -> None:
    one = concluded(loaded, list(tiny.rows(loaded, NOW)))
    decision = built(loaded, parts(one))
    assert (decision.decision_id, decision.request_id, decision.flow) == ("id-1", "r1", FLOW)
    assert one.outcome.verdict is Verdict.APPROVE
    assert decision.verdict == pb.VERDICT_APPROVE
    assert decision.decided_at.ToMicroseconds() == NOW
    assert decision.trace_id == "ab" * 16
    assert decision.record_state == pb.RECORD_STATE_RECORDED
    assert not decision.replayed
    assert decision.bundle.digest == loaded.plan.digest
    score, given = decision.scores[0], one.scores[0]
    assert (score.model, score.version, score.component) == ("tiny_german", "1.0.0", pb.COMPONENT_CREDIT)
    assert (score.raw, score.probability, score.points) == (given.raw, given.probability, given.points)
    assert score.explained
    assert [(r.code, r.contribution, r.rank, tuple(r.features)) for r in decision.credit_reasons] == [
        (r.code, r.contribution, n, r.features) for n, r in enumerate(one.reasons.credit, 1)
    ]
    offer = one.outcome.offer
    assert offer is not None
    for money, minor in (
        (decision.offer.amount, offer.amount_minor),
        (decision.offer.monthly_payment, offer.monthly_payment_minor),
        (decision.offer.total_repayable, offer.total_repayable_minor),
    ):
        assert money.currency_code == "EUR"
        assert money.units * 100 + money.nanos // 10_000_000 == minor
    assert decision.offer.HasField("fee") == bool(offer.fee_minor)
    # Stages of more than a second carry into whole seconds.
    assert decision.stage_times.validate.ToNanoseconds() == 1_100_000_000
    assert decision.stage_times.features.ToNanoseconds() == 2_200_000_000


def test_whatever_is_substituted_is_told(loaded: LoadedBundle) -> None:
    good = tiny.rows(loaded, NOW - 31 * 86_400_000_000)
    cases: list[list[Row]] = [list(good), [None, None], [UNREAD, good[1]]]
    for rows in cases:
        one = concluded(loaded, rows)
        decision = built(loaded, parts(one))
        names = [f.name for f in loaded.plan.flows[FLOW].features.features]
        assert [(s.feature, int(s.status), int(s.action)) for s in decision.substitutions] == [
            (names[s.slot], int(s.status), int(s.action)) for s in one.facts.substitutions
        ]
        for got, given in zip(decision.substitutions, one.facts.substitutions, strict=True):
            if given.action is SubstitutionAction.MISSING or given.value_used is None:
                assert not got.HasField("value_used")
            else:
                assert got.value_used == given.value_used
            assert got.HasField("age") == (given.age_us is not None)
            if given.age_us is not None:
                assert got.age.ToMicroseconds() == given.age_us


def test_a_score_that_is_none_has_no_numbers(loaded: LoadedBundle) -> None:
    made = parts(concluded(loaded, list(tiny.rows(loaded, NOW))))
    for status in (ScoreStatus.FAILED, ScoreStatus.MISSING_INPUT):
        decision = built(loaded, replace(made, scores=[no_score(status)]))
        score = decision.scores[0]
        assert int(score.status) == status.value
        assert score.raw == 0.0
        assert not score.HasField("points")
        assert not score.HasField("probability")


def test_zeros_are_not_lost(loaded: LoadedBundle) -> None:
    """Proto3 leaves a plain zero out; an optional zero must be written."""
    made = parts(concluded(loaded, list(tiny.rows(loaded, NOW))))
    given = made.scores[0]._replace(raw=0.0, probability=0.0, points=0)
    score = built(loaded, replace(made, scores=[given])).scores[0]
    assert score.HasField("probability")
    assert score.HasField("points")
    assert (score.raw, score.probability, score.points) == (0.0, 0.0, 0)
    negative = made.scores[0]._replace(points=-7)
    assert built(loaded, replace(made, scores=[negative])).scores[0].points == -7


def test_many_long_reasons_are_all_there(loaded: LoadedBundle) -> None:
    made = parts(concluded(loaded, list(tiny.rows(loaded, NOW))))
    long = tuple(f"feature_{i:04d}" for i in range(400))
    reason = AdverseReason("CR_TEST_LOAN", Component.CREDIT, 1e-9, long, "")
    rule = AdverseReason("PL_INSOLVENT", Component.POLICY, None, (), "t" * 300 + "/x")
    reasons = Reasons(credit=(reason,) * 4, fraud=(), policy=(rule,), every=(reason,) * 9 + (rule,))
    decision = built(loaded, replace(made, reasons=reasons))
    assert [r.rank for r in decision.credit_reasons] == [1, 2, 3, 4]
    assert tuple(decision.credit_reasons[3].features) == long
    assert decision.credit_reasons[0].contribution == 1e-9
    assert decision.policy_reasons[0].rule == rule.rule
    assert not decision.policy_reasons[0].HasField("contribution")


def test_an_answer_may_say_that_it_is_not_recorded_and_nothing_else_changes(loaded: LoadedBundle) -> None:
    labels = make_labels(loaded.plan, "memory").flows[FLOW]
    made = parts(concluded(loaded, list(tiny.rows(loaded, NOW))))
    content = build_decision(labels, made, "id-1", "", made.marks[-1])
    before, after = pb.Decision.FromString(content), pb.Decision.FromString(not_recorded(content))
    assert after.record_state == pb.RECORD_STATE_NOT_RECORDED
    after.record_state = before.record_state
    assert after == before


def test_the_record_holds_the_answer_and_the_application_byte_for_byte(loaded: LoadedBundle) -> None:
    labels = make_labels(loaded.plan, "memory").flows[FLOW]
    one = concluded(loaded, list(tiny.rows(loaded, NOW)))
    made = parts(one)
    answer = build_decision(labels, made, "id-1", "", made.marks[-1])
    application = tiny.request().application.SerializeToString(deterministic=True)
    record = parse_record(build_record(labels, made, answer, application, b"d" * 32))
    assert record.decision == pb.Decision.FromString(answer)
    assert record.application == tiny.request().application
    assert record.payload_digest == b"d" * 32
    assert record.schema_version == 1
    assert record.store == "memory"
    count = loaded.plan.flows[FLOW].features.count
    assert len(record.packed_facts.values) == 8 * count
    assert len(record.packed_facts.statuses) == len(record.packed_facts.origins) == count
    run = record.runs[0]
    assert run.base + math.fsum(run.contributions) == pytest.approx(run.raw, abs=1e-4)
    again = replayed_decision(record.SerializeToString())
    assert again.replayed
    again.replayed = False
    assert again == record.decision


def test_bytes_that_are_no_record_are_a_record_error() -> None:
    with pytest.raises(RecordError):
        parse_record(b"\xff\xff")


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16_383, 16_384, 2**31, 2**63 - 1])
def test_lengths_are_written_as_protobuf_does(value: int) -> None:
    written = record_pb.DecisionRecord(schema_version=0).SerializeToString() + b"\x08" + varint(value)
    parsed = pb.Decision()
    parsed.decided_at.ParseFromString(written)
    assert parsed.decided_at.seconds == value
