"""Which traces are kept, and what becomes of plug-ins' spans meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from engine.telemetry.tracing.batcher import Batcher
from engine.telemetry.tracing.otlp_output import OtlpOutput
from engine.telemetry.tracing.output import Source
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.tail import Followers, TailRule
from engine.telemetry.tracing.trace_record import (
    COUNTER_OFFER,
    DECLINE,
    DEGRADED,
    ERROR,
    OUTCOMES,
    PLAIN,
    REFER,
    AnyRecord,
    TraceRecord,
)
from tests.support.traces import decision, foreign

NONE = TailRule(plain_kept_ratio=0.0, slow_ms=100)


@pytest.mark.parametrize("outcome", [COUNTER_OFFER, REFER, DECLINE, DEGRADED, ERROR])
def test_what_is_not_plain_is_kept(outcome: int) -> None:
    assert NONE.keeps(decision(outcome=outcome))


def test_plain_calls_are_thinned() -> None:
    assert not NONE.keeps(decision(outcome=PLAIN))
    assert TailRule(plain_kept_ratio=1.0).keeps(decision(outcome=PLAIN))


def test_slow_and_failed_calls_are_kept() -> None:
    assert NONE.keeps(decision(duration_ms=101))
    assert not NONE.keeps(decision(duration_ms=99))
    assert NONE.keeps(decision(status=""))


def test_the_share_goes_by_the_trace_id_alone() -> None:
    rule = TailRule(plain_kept_ratio=0.25)
    records = [decision(n) for n in range(8000)]
    kept = {record[0] for record in records if rule.keeps(record)}
    assert 1700 < len(kept) < 2300
    assert {record[0] for record in records if rule.keeps(record)} == kept
    # Who keeps more keeps all that others keep.
    assert kept <= {record[0] for record in records if TailRule(plain_kept_ratio=0.5).keeps(record)}


def test_every_outcome_has_a_name() -> None:
    assert sorted([PLAIN, COUNTER_OFFER, REFER, DECLINE, DEGRADED, ERROR]) == list(range(len(OUTCOMES)))


def names_of(bodies: Iterable[bytes]) -> Iterator[str]:
    for body in bodies:
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope_spans in resource_spans.scope_spans:
                yield from (span.name for span in scope_spans.spans)


def exported(*records: AnyRecord, rule: TailRule = NONE) -> list[str]:
    bodies: list[bytes] = []
    batcher = Batcher(TracingSettings(tail=rule), [OtlpOutput(lambda body, count: bodies.append(body))])
    batcher.add(records, Source({}))
    batcher.close()
    return list(names_of(bodies))


def kept_and_thinned() -> tuple[TraceRecord, TraceRecord]:
    return decision(outcome=DECLINE), decision(outcome=PLAIN)


def test_a_plug_ins_span_shares_the_fate_of_its_trace() -> None:
    kept, thinned = kept_and_thinned()
    names = exported(foreign(kept[0], "a"), foreign(thinned[0], "b"), kept, thinned)
    assert "a" in names
    assert "b" not in names
    # One that comes late, too.
    names = exported(kept, thinned, foreign(kept[0], "a"), foreign(thinned[0], "b"))
    assert "a" in names
    assert "b" not in names


def test_a_plug_ins_span_whose_call_never_ends_is_kept() -> None:
    assert exported(foreign(b"t" * 16, "alone")) == ["alone"]
    followers = Followers(NONE, wait_s=10)
    assert followers.take(foreign(b"t" * 16), 100.0) == []
    assert followers.overdue(109.0) == []
    assert [one[6] for one in followers.overdue(111.0)] == ["bureau"]


def test_waiting_spans_are_bounded() -> None:
    followers = Followers(NONE)
    gone = [one for n in range(5000) for one in followers.take(foreign(n.to_bytes(16, "big"), str(n)), 1.0)]
    assert 2900 < len(gone) < 3000
    # The first to come is the first to go.
    assert [one[6] for one in gone[:3]] == ["0", "1", "2"]


def test_nobody_waits_where_everything_is_kept() -> None:
    bodies: list[bytes] = []
    batcher = Batcher(TracingSettings(), [OtlpOutput(lambda body, count: bodies.append(body))])
    batcher.add([foreign(b"t" * 16)], Source({}))
    batcher.flush()
    assert list(names_of(bodies)) == ["bureau"]
