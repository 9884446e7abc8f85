"""The dashboards: what each panel shows."""

from __future__ import annotations

from dataclasses import dataclass

WIDE, _HALF = 24, 12


@dataclass(frozen=True)
class Panel:
    """One panel. queries: (expression, legend). unit: one of Grafana's. warn, bad: thresholds."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = _HALF
    about: str = ""
    stacked: bool = False
    warn: float | None = None
    bad: float | None = None
    exemplars: bool = False


def _rate(metric: str, by: str, where: str = "") -> str:
    inner = ",".join(part for part in (_flow(metric), where) if part)
    series = f"{metric}{{{inner}}}" if inner else metric
    return f"sum by ({by}) (rate({series}[$__rate_interval]))" if by else f"sum(rate({series}[$__rate_interval]))"


def _flow(metric: str) -> str:
    flowless = ("assay_requests", "assay_request_", "assay_store", "assay_tier", "assay_velocity", "assay_batch")
    return "" if metric.startswith((*flowless, "assay_trace", "assay_metrics")) else 'flow=~"$flow"'


def _share(metric: str, by: str, where: str) -> str:
    return f"{_rate(metric, by, where)} / {_rate(metric, by)}"


def _quantile(quantile: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, {_rate(f'{metric}_bucket', labels)})"


def _quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple((_quantile(q, metric), f"p{str(q)[2:].ljust(2, '0')}") for q in (0.5, 0.95, 0.99))


DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "decisions": (
        "Assay: decisions",
        (
            Panel("Decisions a second", ((_rate("assay_decisions_total", "flow"), "{{flow}}"),), "ops"),
            Panel(
                "Verdicts",
                ((f"{_rate('assay_decisions_total', 'verdict')} / scalar({_rate('assay_decisions_total', '')})",
                  "{{verdict}}"),),
                "percentunit", stacked=True,
            ),
            Panel(
                "Calls that were refused, by reason",
                ((_rate("assay_requests_total", "reason", 'reason!="OK"'), "{{reason}}"),), "ops", stacked=True,
            ),
            Panel(
                "Principal reasons",
                (("topk(12, " + _rate("assay_decision_reasons_total", "code") + ")", "{{code}}"),), "ops",
            ),
            Panel(
                "Decisions that lacked something",
                (
                    (f"{_rate('assay_decisions_degraded_total', 'flow')} / {_rate('assay_decisions_total', 'flow')}",
                     "degraded: {{flow}}"),
                    (f"{_rate('assay_decisions_substituted_total', 'flow')} / {_rate('assay_decisions_total', 'flow')}",
                     "something not PRESENT: {{flow}}"),
                ),
                "percentunit",
            ),
            Panel(
                "Not recorded; replayed",
                (
                    (_rate("assay_decisions_unrecorded_total", "flow"), "not recorded: {{flow}}"),
                    ("sum(rate(assay_decisions_replayed_total[$__rate_interval]))", "replayed"),
                ),
                "ops",
            ),
            Panel("Bundle in service", (("count by (bundle, version, digest) (assay_bundle_info)", ""),),
                  kind="table", width=WIDE),
        ),
    ),
    "latency": (
        "Assay: latency",
        (
            Panel("Decisions", _quantiles("assay_decision_duration_seconds"), "s", exemplars=True),
            Panel("Calls as the server saw them", _quantiles("assay_request_duration_seconds"), "s", exemplars=True),
            Panel(
                "Stages, p99",
                ((_quantile(0.99, "assay_decision_stage_duration_seconds", "stage"), "{{stage}}"),), "s",
                exemplars=True,
            ),
            Panel(
                "Stages, mean",
                ((
                    f"{_rate('assay_decision_stage_duration_seconds_sum', 'stage')} / "
                    f"{_rate('assay_decision_stage_duration_seconds_count', 'stage')}",
                    "{{stage}}",
                ),), "s", stacked=True,
            ),
            Panel("Waiting for a thread", _quantiles("assay_request_queue_duration_seconds"), "s"),
            Panel(
                "Calls under way",
                (("sum(assay_requests_in_flight)", "calls"), ("sum(assay_streams_open)", "streams")),
            ),
            Panel(
                "Size of batches, p95", ((_quantile(0.95, "assay_batch_size", "method"), "{{method}}"),),
            ),
            Panel(
                "The process",
                (
                    ("sum(rate(process_cpu_time_seconds_total[$__rate_interval]))", "CPU seconds a second"),
                    ("sum(process_memory_usage_bytes) / 1e9", "memory, GB"),
                    ("sum(assay_workers)", "workers"),
                ),
            ),
        ),
    ),
    "stores": (
        "Assay: stores and features",
        (
            Panel("Calls a second", ((_rate("assay_store_calls_total", "store, operation"),
                                      "{{store}} {{operation}}"),), "ops"),
            Panel(
                "Calls that failed",
                ((_rate("assay_store_calls_total", "store, operation, outcome", 'outcome!="ok"'),
                  "{{store}} {{operation}} {{outcome}}"),), "ops",
            ),
            Panel(
                "Calls, p99",
                ((_quantile(0.99, "assay_store_call_duration_seconds", "store, operation"),
                  "{{store}} {{operation}}"),), "s",
            ),
            Panel(
                "Breakers (0 closed, 1 half open, 2 open)",
                (("max by (store, side) (assay_store_breaker_state)", "{{store}} {{side}}"),), warn=1, bad=2,
            ),
            Panel(
                "At the breakers", ((_rate("assay_store_breaker_events_total", "store, side, event"),
                                     "{{store}} {{side}} {{event}}"),), "ops",
            ),
            Panel(
                "Under way and hedged",
                (
                    ("sum by (store, side) (assay_store_in_flight)", "{{store}} {{side}} under way"),
                    (_rate("assay_store_hedges_total", "store, outcome"), "{{store}} hedges {{outcome}}"),
                ),
            ),
            Panel(
                "Between the tiers",
                ((_rate("assay_tier_rows_total", "event"), "{{event}}"),
                 ("sum by (queue) (assay_tier_queue_size)", "waiting: {{queue}}")),
            ),
            Panel(
                "Counting of events",
                (
                    (_rate("assay_velocity_events_total", "outcome"), "{{outcome}}"),
                    ("sum(assay_velocity_queue_size)", "waiting"),
                ),
            ),
            Panel("Rows by status", ((_rate("assay_feature_rows_total", "view, status", 'status!="PRESENT"'),
                                      "{{view}} {{status}}"),), "ops"),
            Panel(
                "Values not PRESENT",
                ((_share("assay_feature_values_total", "view", 'status!="PRESENT"'), "{{view}}"),), "percentunit",
            ),
            Panel("Age of rows, p95", ((_quantile(0.95, "assay_feature_age_seconds", "view"), "{{view}}"),), "s"),
            Panel(
                "Rows that cannot be used; reads that failed",
                (
                    ("sum by (view, kind) (rate(assay_feature_row_faults_total[$__rate_interval]))",
                     "{{view}} {{kind}}"),
                    ("sum by (store, kind) (rate(assay_feature_read_failures_total[$__rate_interval]))",
                     "{{store}} {{kind}}"),
                ),
                "ops",
            ),
        ),
    ),
    "models": (
        "Assay: models",
        (
            Panel("In service", (("max by (model, version, component) (assay_model_info)", ""),), kind="table",
                  width=WIDE),
            Panel(
                "Scores of $model",
                (
                    (
                        'sum by (le) (increase(assay_model_score_points_bucket{flow=~"$flow",model="$model"}'
                        "[$__rate_interval]))",
                        "{{le}}",
                    ),
                ),
                kind="heatmap",
                about="Decisions by points.",
            ),
            Panel(
                "Median score",
                (
                    (_quantile(0.5, "assay_model_score_points", "model"), "{{model}}"),
                    (_quantile(0.05, "assay_model_score_points", "model"), "{{model}} p05"),
                    (_quantile(0.95, "assay_model_score_points", "model"), "{{model}} p95"),
                ),
            ),
            Panel("Median probability, of models without a scale",
                  ((_quantile(0.5, "assay_model_score_probability", "model"), "{{model}}"),), "percentunit"),
            Panel(
                "Without a score",
                ((_share("assay_model_runs_total", "model", 'status!="OK"'), "{{model}}"),), "percentunit",
                bad=0.01,
            ),
        ),
    ),
    "drift": (
        "Assay: drift",
        (
            Panel(
                "Scores against training (PSI)", (("max by (model) (assay_model_score_psi)", "{{model}}"),),
                about="Below 0.1: no change; above 0.25: a great one. Over the last hour.", warn=0.1, bad=0.25,
            ),
            Panel(
                "Decisions that this is of", (("sum by (model) (assay_model_drift_samples)", "{{model}}"),),
                about="Below 1000 no index is given.",
            ),
            Panel(
                "Inputs that moved most",
                (("topk(15, max by (model, feature) (assay_model_feature_psi))", "{{model}}: {{feature}}"),),
                width=WIDE, warn=0.1, bad=0.25,
            ),
            Panel(
                "All inputs, now", (("sort_desc(max by (model, feature) (assay_model_feature_psi))", ""),),
                kind="table", width=WIDE,
            ),
        ),
    ),
}  # fmt: skip
