"""What the rest of the engine counts for itself, put into the metrics' words when a snapshot is made.

Nothing here is called while a decision is made. Each source takes the little that it needs of the part it looks at.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from engine.telemetry.counters import Counters
from engine.telemetry.metrics.catalogue import COUNTERS, METRICS
from engine.telemetry.metrics.snapshot import Snapshot

Source = Callable[[Snapshot], None]

_STATES = {"closed": 0, "half_open": 1, "open": 2}
_BREAKER_EVENTS = ("failed", "excused", "refused_open", "refused_busy", "opened", "closed", "probes", "probes_failed")
_TIER_EVENTS = (
    "asked_durable", "corrupt_in_fast", "known_missing", "refilled", "refill_dropped", "mended", "distrusted",
)  # fmt: skip
_TIER_QUEUES = {"refill_waiting": "refill", "marked": "marked", "missing": "missing"}


class Guard(Protocol):
    """A store behind circuit breakers: `engine.features.stores.guarded.GuardedStore`."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def write_state(self) -> str: ...
    def counters(self) -> Mapping[str, int]: ...


class Counting(Protocol):
    """Anything with counters: `engine.features.stores.tiered.TieredStore`."""

    def counters(self) -> Mapping[str, int]: ...


class Hedging(Protocol):
    """How often reads were hedged: the Redis stores."""

    @property
    def hedges_sent(self) -> int: ...
    @property
    def hedges_won(self) -> int: ...


class Velocity(Protocol):
    """What counts events: `engine.features.velocity.applier.VelocityApplier`."""

    @property
    def depth(self) -> int: ...
    @property
    def behind(self) -> bool: ...
    @property
    def stats(self) -> Any: ...


class Admission(Protocol):
    """Who is taken: `engine.admission.gate.Gate`."""

    @property
    def limit(self) -> Any: ...
    @property
    def quotas(self) -> Any: ...
    @property
    def pressed(self) -> bool: ...
    @property
    def in_flight(self) -> Mapping[Any, int]: ...
    @property
    def refusals(self) -> Mapping[Any, int]: ...
    @property
    def quota_refused(self) -> Mapping[str, int]: ...


class Tracing(Protocol):
    """A trace recorder: `engine.telemetry.tracing.recorder.Recorder`."""

    def stats(self) -> Mapping[str, int]: ...


def guard(store: Guard) -> Source:
    """Breakers and calls under way of one store."""

    def put(snapshot: Snapshot) -> None:
        found = store.counters()
        for side, state in (("reads", store.state), ("writes", store.write_state)):
            snapshot.put("assay.store.breaker.state", (store.name, side), _STATES.get(state, 2))
            snapshot.put("assay.store.in_flight", (store.name, side), found.get(f"{side}_in_flight", 0))
            for event in _BREAKER_EVENTS:
                if count := found.get(f"{side}_{event}", 0):
                    snapshot.put("assay.store.breaker.events", (store.name, side, event), count)

    return put


def tiers(store: Counting) -> Source:
    """What goes on between two tiers."""

    def put(snapshot: Snapshot) -> None:
        found = store.counters()
        for event in _TIER_EVENTS:
            snapshot.put("assay.tier.rows", (event,), found.get(event, 0))
        for key, queue in _TIER_QUEUES.items():
            snapshot.put("assay.tier.queue.size", (queue,), found.get(key, 0))
        snapshot.put("assay.tier.distrusted", (), found.get("is_distrusted", 0))

    return put


def hedges(name: str, store: Hedging) -> Source:
    """Hedged reads of one store."""

    def put(snapshot: Snapshot) -> None:
        snapshot.put("assay.store.hedges", (name, "sent"), store.hedges_sent)
        snapshot.put("assay.store.hedges", (name, "won"), store.hedges_won)

    return put


def velocity(applier: Callable[[], Velocity | None]) -> Source:
    """The counting of events. applier: gives the one at work, None while there is none."""

    def put(snapshot: Snapshot) -> None:
        found = applier()
        if found is None:
            return
        stats = found.stats
        for outcome in ("new", "duplicates", "too_late", "unreadable", "dropped", "invalid"):
            snapshot.put("assay.velocity.events", (outcome,), getattr(stats, outcome))
        snapshot.put("assay.velocity.retries", (), stats.retries)
        snapshot.put("assay.velocity.queue.size", (), found.depth)
        snapshot.put("assay.velocity.behind", (), int(found.behind))

    return put


def admission(gate: Admission) -> Source:
    """What the gate takes and refuses."""

    def put(snapshot: Snapshot) -> None:
        snapshot.put("assay.admission.limit", (), gate.limit.level)
        snapshot.put("assay.admission.pressed", (), int(gate.pressed))
        snapshot.put("assay.admission.quota.tenants", (), gate.quotas.tenants)
        for lane, count in gate.in_flight.items():
            snapshot.put("assay.admission.in_flight", (lane,), count)
        # Zeros as well: Prometheus sees no rise in a series that begins with 1.
        for labels, count in gate.refusals.items():
            snapshot.put("assay.admission.refused", labels, count)
        for tenant, count in gate.quota_refused.items():
            snapshot.put("assay.admission.quota.refused", (tenant,), count)

    return put


_TRACE_RECORDS = {
    "recorded_traces": "recorded",
    "dropped_traces": "dropped",
    "thinned_traces": "thinned",
    "malformed_records": "malformed",
}
_TRACE_SPANS = {
    "exported_spans": "exported",
    "rejected_spans": "rejected",
    "refused_spans": "refused",
    "dropped_spans": "dropped",
    "dropped_queue_spans": "dropped_in_queue",
    "exporter_lost_spans": "lost",
    "spilled_spans": "spilled",
    "resent_spans": "resent",
    "thinned_spans": "thinned",
    "local_failed_spans": "failed_locally",
}
_TRACE_QUEUES = {"recorder_queue_bytes": "recorder", "queue_bytes": "export", "spill_bytes": "spill"}


# What a recorder knows of itself; the rest is said by the exporter process, of all recorders together.
_RECORDERS_OWN = frozenset(
    ("recorded_traces", "dropped_traces", "dropped_queue_spans", "recorder_queue_bytes", "exporter_lost_spans")
)


def tracing(recorder: Tracing, exports: bool = True) -> Source:
    """What became of traces. exports: False where another process shows what the exporter that it keeps says."""

    def put(snapshot: Snapshot) -> None:
        found = recorder.stats()
        if not found:
            return  # traces are off
        if not exports:
            found = {name: count for name, count in found.items() if name in _RECORDERS_OWN}
        for name, words in (
            ("assay.trace.records", _TRACE_RECORDS),
            ("assay.trace.spans", _TRACE_SPANS),
            ("assay.trace.queue.size", _TRACE_QUEUES),
        ):
            for key, word in words.items():
                # Zeros as well: Prometheus sees no rise in a series that begins with 1.
                snapshot.put(name, (word,), found.get(key, 0))
        snapshot.put("assay.trace.collector.failing", (), found.get("collector_failing", 0))
        snapshot.put("assay.trace.exporter.restarts", (), found.get("exporter_restarts", 0))

    return put


def counters(counted: Counters) -> Source:
    """Things that seldom happen. A count that no metric is known for is left out; a test holds that there is none."""

    def put(snapshot: Snapshot) -> None:
        for (name, labels), count in counted.snapshot().items():
            metric = METRICS.get(COUNTERS.get(name, ""))
            if metric is not None:
                values = dict(labels)
                snapshot.put(metric.name, [values.get(label, "") for label in metric.labels], count)

    return put


def gauge(name: str, read: Callable[[], float], *labels: str) -> Source:
    """One number that is read when it is asked for: calls under way, open streams."""

    def put(snapshot: Snapshot) -> None:
        snapshot.put(name, labels, read())

    return put


def process() -> Source:
    """This process: CPU, memory, threads, files."""
    started_s = time.time()

    def put(snapshot: Snapshot) -> None:
        times = os.times()
        snapshot.put("process.cpu.time", (), times.user + times.system)
        snapshot.put("process.thread.count", (), threading.active_count())
        snapshot.put("process.start_time", (), started_s)
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            snapshot.put("process.memory.usage", (), pages * os.sysconf("SC_PAGE_SIZE"))
            snapshot.put("process.open_file_descriptor.count", (), len(os.listdir("/proc/self/fd")))
        except OSError:
            return  # not Linux

    return put
