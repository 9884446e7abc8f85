"""Every metric there is, in one file. Dashboards, alerts, docs and both outputs take their names from here.

Names follow OpenTelemetry (dots, the unit apart); the Prometheus name is made by the rules that OpenTelemetry's own
Prometheus exporters use (dots become underscores, then the unit, then `_total` for counters). So a metric has the same
name whether Prometheus scrapes the engine or a collector that the engine sends to.

Labels come from closed sets: what the bundle in service names, and the words of the engine. Never from callers, and
never an id. `series_max` bounds each metric all the same: what comes beyond it is counted under `other`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min"]

OTHER = "other"
_UNITS = {"s": "seconds", "By": "bytes"}
DEFAULT_SERIES_MAX = 1000

# Seconds. Finer around what a stage and a whole decision take.
STAGE_BOUNDS = (2e-5, 5e-5, 1e-4, 2e-4, 3.5e-4, 5e-4, 7.5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0)
CALL_BOUNDS = (5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7.5e-3, 1e-2, 1.5e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5)
STORE_BOUNDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.5, 1.0, 5.0)
AGE_BOUNDS = (
    1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0, 259200.0, 604800.0, 2592000.0, 7776000.0, 31536000.0,
)  # fmt: skip
PROBABILITY_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)

STAGES = ("validate", "read", "features", "scoring", "policy", "reasons", "record")
METHODS = (
    "Decide", "DecideBatch", "DecideStream", "GetDecision", "ListFlows",
    "PutFeatures", "IngestEvents", "GetFeatures", "DeleteSubject",
    "RecordOutcome", "RecordOutcomes", "GetOutcome", "ListOutcomes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. unit: by UCUM; `{...}` for what is counted. merge: how one gauge comes of several workers'.
    bounds: of a histogram's buckets; empty where each series has its own."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()
    merge: Merge = "sum"
    series_max: int = DEFAULT_SERIES_MAX

    @property
    def prometheus(self) -> str:
        """The name that Prometheus has for it; without `_bucket`, `_sum` and `_count` for a histogram."""
        name, unit = self.name.replace(".", "_"), _UNITS.get(self.unit, "")
        if unit and not name.endswith(unit):
            name += f"_{unit}"
        return f"{name}_total" if self.kind == "counter" else name

    @property
    def prometheus_unit(self) -> str:
        """The unit's name there; empty for what is counted."""
        return _UNITS.get(self.unit, "")


def _counter(name: str, unit: str, labels: str, text: str, series_max: int = DEFAULT_SERIES_MAX) -> Metric:
    return Metric(name, "counter", unit, tuple(labels.split()), text, series_max=series_max)


def _gauge(name: str, unit: str, labels: str, text: str, merge: Merge = "sum") -> Metric:
    return Metric(name, "gauge", unit, tuple(labels.split()), text, merge=merge)


def _histogram(name: str, unit: str, labels: str, text: str, bounds: tuple[float, ...]) -> Metric:
    return Metric(name, "histogram", unit, tuple(labels.split()), text, bounds)


_ALL = (
    # Decisions
    _counter("assay.decisions", "{decision}", "flow verdict", "Decisions answered, replays apart."),
    _histogram("assay.decision.duration", "s", "flow verdict", "From the request's check to the record.", CALL_BOUNDS),
    _histogram("assay.decision.stage.duration", "s", "flow stage", "What each stage of a decision took.", STAGE_BOUNDS),
    _counter("assay.decisions.degraded", "{decision}", "flow", "Decisions that lacked something a failure withheld."),
    _counter("assay.decisions.substituted", "{decision}", "flow", "Decisions with a feature that was not PRESENT."),
    _counter("assay.decisions.unrecorded", "{decision}", "flow", "Decisions answered without a record."),
    _counter("assay.decisions.replayed", "{decision}", "", "Stored decisions given again for a repeated request id."),
    _counter("assay.decision.reasons", "{reason}", "flow component code", "Principal reasons given."),
    # Calls
    _counter("assay.requests", "{request}", "method reason", "Calls ended; reason: OK, or that of the error."),
    _histogram("assay.request.duration", "s", "method", "Calls as the server saw them.", CALL_BOUNDS),
    _histogram("assay.request.queue.duration", "s", "", "From arrival to a thread.", CALL_BOUNDS),
    _gauge("assay.requests.in_flight", "{request}", "", "Calls under way."),
    _gauge("assay.requests.waiting", "{request}", "", "Calls that wait for a thread."),
    _gauge("assay.admission.limit", "{request}", "", "Calls that are taken at once when calls come too fast."),
    _gauge("assay.admission.in_flight", "{request}", "lane", "Calls that were taken and have not ended."),
    _gauge("assay.admission.pressed", "", "", "1 while calls come faster than they are answered.", "max"),
    _counter("assay.admission.refused", "{request}", "lane cause", "Calls and messages refused before any work."),
    _counter("assay.admission.quota.refused", "{request}", "tenant", "Calls refused for their tenant's quota."),
    _gauge("assay.admission.quota.tenants", "{tenant}", "", "Tenants whose quotas are remembered.", "max"),
    _gauge("assay.streams.open", "{stream}", "", "DecideStream calls open."),
    _histogram("assay.batch.size", "{item}", "method", "Items in a batch.", BATCH_BOUNDS),
    # Models
    _counter("assay.model.runs", "{run}", "flow model status", "Scores asked of a model: OK, MISSING_INPUT, FAILED."),
    _histogram("assay.model.score.points", "{point}", "flow model", "Scores of models with a scale.", ()),
    _histogram(
        "assay.model.score.probability", "", "flow model", "Scores of models without a scale.", PROBABILITY_BOUNDS
    ),
    _gauge("assay.model.score.psi", "{psi}", "model", "Drift of the score against training (PSI), over the window."),
    _gauge("assay.model.feature.psi", "{psi}", "model feature", "Drift of an input against training (PSI)."),
    _gauge("assay.model.drift.samples", "{decision}", "model", "Decisions in the window of the drift."),
    # Features
    _counter("assay.feature.rows", "{row}", "flow view status", "Rows asked for, by what was had."),
    _counter("assay.feature.values", "{value}", "flow view status", "Feature values used, by status."),
    _histogram("assay.feature.age", "s", "flow view", "Age of the rows that decisions used.", AGE_BOUNDS),
    _counter("assay.feature.row_faults", "{row}", "view kind", "Rows that were there and could not be used."),
    _counter("assay.feature.read_failures", "{read}", "store kind", "Reads that failed, whole or in part."),
    _counter("assay.feature.rows_rejected", "{row}", "reason", "Rows sent by writers and refused."),
    _counter("assay.feature.events_rejected", "{event}", "reason", "Events sent by writers and refused."),
    _counter("assay.feature.values_cleaned", "{value}", "view rule", "Values mended on their way in."),
    _counter("assay.feature.rows_erased", "{row}", "", "Rows erased with their subjects."),
    # Stores
    _counter("assay.store.calls", "{call}", "store operation outcome", "Calls to a store."),
    _histogram("assay.store.call.duration", "s", "store operation", "Calls to a store.", STORE_BOUNDS),
    _counter("assay.store.keys", "{key}", "store", "Keys asked for by reads."),
    _gauge("assay.store.breaker.state", "{state}", "store side", "0 closed, 1 half open, 2 open.", "max"),
    _counter("assay.store.breaker.events", "{event}", "store side event", "What happened at a breaker."),
    _gauge("assay.store.in_flight", "{call}", "store side", "Calls to a store under way."),
    _counter("assay.store.hedges", "{read}", "store outcome", "Reads sent a second time, and those that this won."),
    _counter("assay.tier.rows", "{row}", "event", "What became of rows between the tiers."),
    _gauge("assay.tier.queue.size", "{row}", "queue", "Rows that wait: refill, marked, missing."),
    _gauge("assay.tier.distrusted", "", "", "1 while nothing is read from the fast store.", "max"),
    # Velocity
    _counter("assay.velocity.events", "{event}", "outcome", "What became of events that are counted."),
    _counter("assay.velocity.retries", "{update}", "", "Updates of counts that failed and were made again."),
    _gauge("assay.velocity.queue.size", "{event}", "", "Events that wait to be counted."),
    _gauge("assay.velocity.behind", "", "", "1 while the journal holds events that are not counted.", "max"),
    # Records
    _counter("assay.claims.events", "{event}", "event", "What happened to claims on request ids that are shared."),
    _gauge("assay.record.index.failing", "", "", "1 while decisions cannot be indexed.", "max"),
    _gauge("assay.ship.waiting", "By", "", "What the journal holds that is not shipped yet."),
    _gauge("assay.ship.oldest", "s", "", "How long the oldest record waits to be shipped.", "max"),
    _gauge("assay.ship.failing", "", "", "1 while records cannot be shipped.", "max"),
    _counter("assay.ship.events", "{event}", "event", "What became of records on their way to Cassandra."),
    _counter("assay.outcomes", "{outcome}", "kind result", "Outcomes sent, by what became of them."),
    # Change
    _counter("assay.traffic.changes", "{change}", "kind", "Changes of what is served to whom."),
    _counter("assay.cut_out.changes", "{change}", "flow level", "Cut-outs that came to a level: OK, ALERT, TRIPPED."),
    _counter("assay.shadow.decisions", "{decision}", "shadow", "Decisions of challengers behind the answers."),
    _counter("assay.shadow.failed", "{decision}", "shadow", "Those that failed."),
    _counter("assay.shadow.dropped", "{decision}", "", "Answers that challengers had no room for."),
    _counter("assay.shadow.unrecorded", "{decision}", "", "Decisions of challengers that could not be recorded."),
    _gauge("assay.shadow.queue.size", "{decision}", "", "Answers that wait for challengers."),
    # Telemetry itself
    _counter("assay.trace.records", "{trace}", "outcome", "What became of traces: recorded, dropped, thinned ..."),
    _counter("assay.trace.spans", "{span}", "outcome", "What became of spans: exported, dropped, refused ..."),
    _gauge("assay.trace.queue.size", "By", "queue", "What waits to be sent: recorder, export, spill."),
    _gauge("assay.trace.collector.failing", "", "", "1 while the trace collector cannot be reached.", "max"),
    _counter("assay.trace.exporter.restarts", "{restart}", "", "Exporter processes that had to be started again."),
    _counter("assay.metrics.dropped", "{note}", "", "Observations that found no room, so that counts are too low."),
    _counter("assay.metrics.unread", "{note}", "", "Observations that could not be counted: a mistake of the engine."),
    _counter("assay.metrics.exports", "{export}", "outcome", "Sends to the metrics collector."),
    # Service
    _gauge("assay.bundle.info", "", "bundle version digest", "1 for the bundle in service.", "max"),
    _gauge("assay.model.info", "", "model version component", "1 for each model in service.", "max"),
    _gauge("assay.engine.info", "", "version", "1: the engine's version.", "max"),
    _gauge("assay.bundle.served_at", "s", "", "When the bundle was put in service, since 1970.", "min"),
    _gauge("assay.ready", "", "", "1 while calls are answered.", "min"),
    _gauge("assay.workers", "{process}", "", "Processes that these metrics are of."),
    _gauge("assay.workers.wanted", "{process}", "", "Workers that are to serve; only where a supervisor keeps them."),
    _gauge("assay.workers.serving", "{process}", "", "Workers that serve."),
    _counter("assay.workers.ended", "{process}", "how", "Workers that ended: replaced, crashed, not_ready, hung."),
    _counter("process.cpu.time", "s", "", "CPU time of the process."),
    _gauge("process.memory.usage", "By", "", "Resident memory."),
    _gauge("process.thread.count", "{thread}", "", "Threads."),
    _gauge("process.open_file_descriptor.count", "{count}", "", "Open files and sockets."),
    _gauge("process.start_time", "s", "", "When the process began, since 1970.", "min"),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}

# What `engine.telemetry.counters` counts, and the metric that it is.
COUNTERS: Mapping[str, str] = {
    "feature_row_faults": "assay.feature.row_faults",
    "feature_read_failures": "assay.feature.read_failures",
    "feature_rows_rejected": "assay.feature.rows_rejected",
    "feature_events_rejected": "assay.feature.events_rejected",
    "feature_values_cleaned": "assay.feature.values_cleaned",
    "feature_rows_erased": "assay.feature.rows_erased",
    "outcomes": "assay.outcomes",
    "traffic_changes": "assay.traffic.changes",
    "cut_out_changes": "assay.cut_out.changes",
    "shadow_decided": "assay.shadow.decisions",
    "shadow_failed": "assay.shadow.failed",
    "shadow_dropped": "assay.shadow.dropped",
    "shadow_unrecorded": "assay.shadow.unrecorded",
}
