"""The two parts of a record make the whole one, and the open part names nobody and tells no value."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay.decision.v1 import decision_pb2 as pb
from assay.decision.v1 import decision_record_pb2 as record_pb
from engine.bundle.load import LoadedBundle
from engine.domain.facts import UNREAD, Row
from engine.domain.outcome import TERMS_TABLE, RuleFired
from engine.labels import make_labels
from engine.pipeline import conclude, prepare
from engine.record.build import Parts, build_answer, build_decision, build_parts, build_record
from engine.record.read import parse_record, unpack
from tests.support import tiny

NOW = 1_800_000_000_123_456
FLOW = "tiny_loan.application"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return tiny.load_tiny(tmp_path_factory)


def made(loaded: LoadedBundle, rows: list[Row]) -> Parts:
    ticks = iter(range(0, 10_000_000_000, 1_100_000_000))
    prepared = prepare(loaded.plan, tiny.request(), NOW, lambda: next(ticks))
    prepared.marks.append(next(ticks))
    one = conclude(prepared, rows, NOW, lambda: next(ticks))
    return Parts(prepared.application, one.facts, one.scores, one.outcome, one.reasons, one.now_us, prepared.marks)


def cases(loaded: LoadedBundle) -> list[Parts]:
    good: list[Row] = list(tiny.rows(loaded, NOW))
    stale: list[Row] = list(tiny.rows(loaded, NOW - 31 * 86_400_000_000))
    all_rows: list[list[Row]] = [good, stale, [None, None], [UNREAD, good[1]]]
    found = [made(loaded, rows) for rows in all_rows]
    rules = (
        RuleFired("knock_outs", "k1", None, "PL_INSOLVENT", ""),
        RuleFired(TERMS_TABLE, "t1", None, "", '{"monthly_payment": 123.45}'),
        RuleFired("limits", "l1", None, "", '{"limit": 5000}'),
    )
    return [*found, replace(found[0], outcome=found[0].outcome._replace(rules=rules))]


@pytest.mark.parametrize("which", range(5))
def test_one_part_after_the_other_is_the_whole_record(loaded: LoadedBundle, which: int) -> None:
    parts = cases(loaded)[which]
    labels = make_labels(loaded.plan, "memory").flows[FLOW]
    end = parts.marks[-1] + 5
    answer = build_answer(labels, parts, "id-1", "ab" * 16, end)
    decision = pb.Decision.FromString(build_decision(labels, parts, "id-1", "ab" * 16, end))
    assert pb.Decision.FromString(answer.whole) == decision
    application = tiny.request().application.SerializeToString(deterministic=True)
    kept, personal = build_parts(labels, parts, answer, application, b"d" * 33)
    record = parse_record(kept + personal)
    assert record == parse_record(build_record(labels, parts, answer.whole, application, b"d" * 33))
    assert record.decision == decision
    assert record.application == tiny.request().application
    assert [(r.table, r.rule) for r in record.rules] == [(r.table, r.rule) for r in parts.outcome.rules]
    catalogue = loaded.plan.flows[FLOW].features.catalogue_json
    unpack(record, catalogue, {})
    assert len(record.facts) == loaded.plan.flows[FLOW].features.count


@pytest.mark.parametrize("which", range(5))
def test_the_open_part_keeps_what_an_auditor_needs_and_nothing_of_the_person(loaded: LoadedBundle, which: int) -> None:
    parts = cases(loaded)[which]
    labels = make_labels(loaded.plan, "memory").flows[FLOW]
    answer = build_answer(labels, parts, "id-1", "ab" * 16, parts.marks[-1] + 5)
    application = tiny.request().application.SerializeToString(deterministic=True)
    kept, _ = build_parts(labels, parts, answer, application, b"d" * 33)
    record, full = parse_record(kept), pb.Decision.FromString(answer.whole)
    for name in (
        "decision_id",
        "request_id",
        "flow",
        "verdict",
        "scores",
        "credit_reasons",
        "policy_reasons",
        "bundle",
    ):
        assert getattr(record.decision, name) == getattr(full, name), name
    assert record.decision.trace_id == "ab" * 16
    assert record.decision.stage_times == full.stage_times
    assert record.decision.decided_at.ToMicroseconds() == NOW
    assert list(record.packed_reasons.codes) == [r.code for r in parts.reasons.every]
    assert record.packed_facts.catalogue_digest
    assert not record.HasField("application")
    assert not record.decision.HasField("offer")
    assert not record.decision.substitutions
    assert not record.runs
    assert record.packed_facts == record_pb.PackedFacts(catalogue_digest=record.packed_facts.catalogue_digest)
    assert not record.packed_reasons.contributions
    assert all(rule.table != TERMS_TABLE for rule in record.rules)
    assert tiny.request().application.subject.id.encode() not in kept
