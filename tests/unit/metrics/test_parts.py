"""Calls, stores and what the rest of the engine counts for itself, as metrics."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from engine.errors import StoreError
from engine.features.store import FeatureStore, StoreTimeout, StoreUnavailable
from engine.features.stores.guarded import GuardedStore, GuardSettings
from engine.features.stores.memory import MemoryStore
from engine.features.stores.tiered import TieredStore
from engine.features.velocity.updater import Stats
from engine.telemetry.counters import Counters
from engine.telemetry.metrics import sources
from engine.telemetry.metrics.calls import RequestMetrics, StoreMetrics
from engine.telemetry.metrics.catalogue import COUNTERS, METHODS, METRICS
from engine.telemetry.metrics.metered_store import MeteredStore, outcome_of
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.metrics.snapshot import Snapshot

ROOT = Path(__file__).parents[3]


class Failing(MemoryStore):
    """A real store whose reads fail on demand."""

    error: StoreError | None = None

    def read(self, keys: Any, deadline_s: float | None = None) -> Any:
        if self.error is not None:
            raise self.error
        return super().read(keys, deadline_s)


def test_calls_of_the_server() -> None:
    requests = RequestMetrics(METHODS, ("OVERLOADED", "INTERNAL"))
    requests.observe("Decide", "OK", 2_000_000, "cd" * 16, 5.0, queue_ns=100_000)
    requests.observe("Decide", "OVERLOADED", 10_000)
    requests.observe("DecideBatch", "OK", 9_000_000, items=32)
    requests.observe("Invented", "MADE_UP", 1)
    found = Snapshot()
    requests.put(found)
    assert found.value("assay.requests", "Decide", "OK") == 1
    assert found.value("assay.requests", "Decide", "OVERLOADED") == 1
    assert found.value("assay.requests", "other", "other") == 1
    duration = found.histogram("assay.request.duration", "Decide")
    assert duration.count == 2
    assert duration.total == pytest.approx(0.00201)
    assert [one.trace_id for one in duration.exemplars.values()] == ["cd" * 16]
    assert found.histogram("assay.request.queue.duration").total == pytest.approx(0.0001)
    batch = found.histogram("assay.batch.size", "DecideBatch")
    assert batch.counts[batch.bounds.index(32.0)] == 1


def test_a_metered_store_is_a_store_and_counts() -> None:
    inner = Failing()
    metrics = StoreMetrics("memory")
    store: FeatureStore = MeteredStore(inner, metrics)
    assert isinstance(store, FeatureStore)
    assert store.read([b"{a/1}v", b"{a/2}v"]) == [None, None]
    store.delete([b"{a/1}v"])
    for error in (StoreTimeout("late"), StoreUnavailable("gone"), StoreError("?")):
        inner.error = error
        with pytest.raises(StoreError):
            store.read([b"{a/1}v"])
    found = Snapshot()
    metrics.put(found)
    by_outcome = {labels[1:]: value for labels, value in found.points["assay.store.calls"].items()}
    assert by_outcome == {
        ("read", "ok"): 1,
        ("read", "timeout"): 1,
        ("read", "unavailable"): 1,
        ("read", "other"): 1,
        ("delete", "ok"): 1,
    }
    assert found.value("assay.store.keys", "memory") == 5
    assert found.histogram("assay.store.call.duration", "memory", "read").count == 4
    assert outcome_of(ValueError()) == "other"


def test_a_breaker_that_opens_shows() -> None:
    inner = Failing()
    inner.error = StoreUnavailable("gone")
    guarded = GuardedStore(inner, GuardSettings(failures=2, probe_interval_ms=60_000, probe_interval_max_ms=60_000))
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            guarded.read([b"{a/1}v"])
    found = Snapshot()
    sources.guard(guarded)(found)
    assert found.value("assay.store.breaker.state", "memory", "reads") == 2
    assert found.value("assay.store.breaker.state", "memory", "writes") == 0
    assert found.value("assay.store.breaker.events", "memory", "reads", "failed") == 2
    assert found.value("assay.store.breaker.events", "memory", "reads", "opened") == 1
    assert found.value("assay.store.breaker.events", "memory", "reads", "refused_open") == 1
    assert found.value("assay.store.in_flight", "memory", "reads") == 0
    guarded.close()


def test_every_count_of_the_tiers_and_the_guard_has_its_metric() -> None:
    tiered = TieredStore(MemoryStore(), MemoryStore())
    tiered.read([b"{a/1}v"])
    found = Snapshot()
    sources.tiers(tiered)(found)
    assert found.value("assay.tier.rows", "asked_durable") == 1
    known = {*sources._TIER_EVENTS, *sources._TIER_QUEUES, "is_distrusted"}
    assert set(tiered.counters()) == known
    guarded = GuardedStore(MemoryStore(), GuardSettings())
    events = {f"{side}_{event}" for side in ("reads", "writes") for event in (*sources._BREAKER_EVENTS, "in_flight")}
    assert set(guarded.counters()) == events
    tiered.close()
    guarded.close()


def test_velocity() -> None:
    class Applier:
        depth, behind, stats = 7, True, Stats(new=5, duplicates=2, retries=1, dropped=3)

    found = Snapshot()
    sources.velocity(lambda: None)(found)
    assert not found.points
    sources.velocity(Applier)(found)
    assert found.value("assay.velocity.events", "new") == 5
    assert found.value("assay.velocity.events", "dropped") == 3
    assert found.value("assay.velocity.queue.size") == 7
    assert found.value("assay.velocity.behind") == 1


def test_every_stat_of_the_traces_is_known() -> None:
    from engine.telemetry.tracing.recorder import Recorder

    words = {*sources._TRACE_RECORDS, *sources._TRACE_SPANS, *sources._TRACE_QUEUES}
    documented = Recorder.stats.__doc__ or ""
    for word in words | {"collector_failing", "exporter_restarts"}:
        assert word in documented, f"the recorder tells of no {word}"


def test_every_count_of_the_engine_has_a_metric() -> None:
    counted: set[str] = set()
    for file in (ROOT / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                names = [one.value for one in node.args if isinstance(one, ast.Constant)]
                of_counters = node.func.attr == "add" and "counters" in ast.unparse(node.func.value)
                if of_counters or node.func.attr == "_note_rejected":
                    counted.update(name for name in names if isinstance(name, str))
    assert counted and counted <= set(COUNTERS), f"no metric for {counted - set(COUNTERS)}"
    assert set(COUNTERS.values()) <= set(METRICS)


def test_rare_counts() -> None:
    counters = Counters()
    counters.add("feature_row_faults", 3, kind="corrupt", view="credit_file")
    counters.add("never_heard_of")
    found = Snapshot()
    sources.counters(counters)(found)
    assert found.value("assay.feature.row_faults", "credit_file", "corrupt") == 3
    assert set(found.points) == {"assay.feature.row_faults"}


def test_a_source_that_fails_takes_nothing_with_it() -> None:
    metrics = Metrics()

    def bad(snapshot: Snapshot) -> None:
        raise RuntimeError("no")

    metrics.add(bad)
    metrics.add(sources.gauge("assay.streams.open", lambda: 3))
    metrics.add(sources.process())
    found = metrics.finished()
    assert found.value("assay.streams.open") == 3
    assert found.value("assay.workers") == 1
    assert found.value("process.memory.usage") > 1_000_000
    assert found.value("assay.ready") == 0
