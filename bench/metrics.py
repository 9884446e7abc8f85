"""What metrics cost a decision: CPU of the thread that notes and of the fold behind it.

    python -m bench.metrics [--decisions 6400] [--rounds 7] [--json FILE]

Real decisions of the shipped bundle, made once, are told to each variant again and again; variants take turns, and the
median is shown. All but `ours` leave out what they have no means for: drift, and exemplars by bucket.

    ours, noted        `DecisionMetrics.observe`: what the request path pays
    ours, folded       the counting in bulk behind it, drift of score and inputs included
    sdk                the OpenTelemetry SDK: one `add` or `record` with attributes for each thing counted
    prometheus_client  children looked up once, one `inc` or `observe` for each (where it is installed)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict

from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine.bundle.load import LoadedBundle, load_bundle
from engine.bundle.scenarios import encode_rows
from engine.bundle.schema import ScenarioRow
from engine.domain.enums import FeatureStatus
from engine.pipeline import Conclusion, conclude, prepare
from engine.telemetry.metrics.catalogue import STAGES
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.metrics.text import families

_ROOT = Path(__file__).parents[1]
_MADE = 200

Tell = Callable[[Conclusion, int], None]


def decisions(loaded: LoadedBundle, count: int) -> list[Conclusion]:
    """The example's decision, made so many times: each with objects of its own, as in a server."""
    document = json.loads((_ROOT / "examples" / "application.json").read_text(encoding="utf-8"))
    rows_by_view = {view: ScenarioRow.model_validate(row) for view, row in document.get("features", {}).items()}
    request = DecideRequest(request_id="bench")
    ParseDict(document["application"], request.application)
    now_us, made = time.time_ns() // 1000, []
    for _ in range(count):
        prepared = prepare(loaded.plan, request, now_us, time.perf_counter_ns)
        rows = encode_rows(loaded.catalogue, prepared, rows_by_view, now_us)
        prepared.marks.append(time.perf_counter_ns())
        made.append(conclude(prepared, rows, now_us, time.perf_counter_ns))
    return made


def _sdk() -> Tell:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    meter = MeterProvider(metric_readers=[InMemoryMetricReader()]).get_meter("assay")
    total, stages = meter.create_histogram("decision.duration"), meter.create_histogram("stage.duration")
    verdicts, reasons = meter.create_counter("decisions"), meter.create_counter("reasons")
    rows, values = meter.create_counter("rows"), meter.create_counter("values")
    ages, points = meter.create_histogram("age"), meter.create_histogram("points")

    def tell(made: Conclusion, end_ns: int) -> None:
        flow = made.prepared.flow
        marks = [*made.prepared.marks, end_ns]
        verdict = made.outcome.verdict.name
        verdicts.add(1, {"flow": flow.name, "verdict": verdict})
        total.record((end_ns - marks[0]) / 1e9, {"flow": flow.name, "verdict": verdict})
        for index, stage in enumerate(STAGES):
            stages.record((marks[index + 1] - marks[index]) / 1e9, {"flow": flow.name, "stage": stage})
        for found in (made.reasons.credit, made.reasons.fraud, made.reasons.policy):
            for reason in found:
                reasons.add(1, {"flow": flow.name, "code": reason.code})
        facts = made.facts
        for view, status, event_us in zip(flow.features.views, facts.view_statuses, facts.event_times_us, strict=True):
            rows.add(1, {"flow": flow.name, "view": view.name, "status": status.name})
            ages.record((made.now_us - event_us) / 1e6, {"flow": flow.name, "view": view.name})
        for substitution in facts.substitutions:
            values.add(1, {"flow": flow.name, "status": FeatureStatus(substitution.status).name})
        for plan, score in zip(flow.models, made.scores, strict=True):
            points.record(score.points or 0, {"flow": flow.name, "model": plan.model.id})

    return tell


def _prometheus() -> Tell | None:
    try:
        from prometheus_client import CollectorRegistry, Counter, Histogram
    except ImportError:
        return None
    registry = CollectorRegistry()
    kinds: dict[str, Any] = {
        name: kind(name, name, ["a", "b"], registry=registry)
        for name, kind in (
            ("verdicts", Counter), ("total", Histogram), ("stages", Histogram), ("reasons", Counter),
            ("rows", Counter), ("ages", Histogram), ("values", Counter), ("points", Histogram),
        )
    }  # fmt: skip
    children: dict[tuple[str, str, object], Any] = {}

    def child(name: str, a: str, b: object) -> Any:
        found = children.get((name, a, b))
        if found is None:
            found = children[name, a, b] = kinds[name].labels(a, str(b))
        return found

    def tell(made: Conclusion, end_ns: int) -> None:
        flow = made.prepared.flow
        marks = [*made.prepared.marks, end_ns]
        child("verdicts", flow.name, made.outcome.verdict).inc()
        child("total", flow.name, made.outcome.verdict).observe((end_ns - marks[0]) / 1e9)
        for index, stage in enumerate(STAGES):
            child("stages", flow.name, stage).observe((marks[index + 1] - marks[index]) / 1e9)
        for found in (made.reasons.credit, made.reasons.fraud, made.reasons.policy):
            for reason in found:
                child("reasons", flow.name, reason.code).inc()
        facts = made.facts
        for view, status, event_us in zip(flow.features.views, facts.view_statuses, facts.event_times_us, strict=True):
            child("rows", view.name, status).inc()
            child("ages", flow.name, view.name).observe((made.now_us - event_us) / 1e6)
        for substitution in facts.substitutions:
            child("values", flow.name, substitution.status).inc()
        for plan, score in zip(flow.models, made.scores, strict=True):
            child("points", flow.name, plan.model.id).observe(score.points or 0)

    return tell


def _spent_us(work: Callable[[], None], count: int) -> float:
    begun_s = time.process_time()
    work()
    return (time.process_time() - begun_s) * 1e6 / count


def measure(count: int, rounds: int) -> dict[str, float]:
    """CPU of each variant, microseconds a decision; of a snapshot and its page, milliseconds."""
    loaded = load_bundle(_ROOT / "models" / "lending", scenarios=False)
    made = decisions(loaded, _MADE)
    metrics = Metrics()
    series = metrics.serve(loaded.plan)[made[0].prepared.flow.name]
    trace_ids = [f"{index + 1:032x}" for index in range(_MADE)]
    told: Sequence[tuple[Conclusion, int, str]] = [
        (one, one.prepared.marks[-1] + 40_000, trace_ids[index]) for index, one in enumerate(made)
    ]
    observe = metrics.decisions.observe

    def ours() -> None:
        for index in range(count):
            one, end_ns, trace_id = told[index % _MADE]
            observe(
                series, one.outcome.verdict, one.prepared.marks, end_ns, one.facts, one.scores, one.reasons,
                one.now_us, trace_id, False,
            )  # fmt: skip

    def others(tell: Tell) -> Callable[[], None]:
        def work() -> None:
            for index in range(count):
                one, end_ns, _ = told[index % _MADE]
                tell(one, end_ns)

        return work

    sdk, prometheus = _sdk(), _prometheus()
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        found.setdefault("ours_noted_us", []).append(_spent_us(ours, count))
        found.setdefault("ours_folded_us", []).append(_spent_us(lambda: metrics.decisions.fold(0), count))
        found.setdefault("sdk_us", []).append(_spent_us(others(sdk), count))
        if prometheus is not None:
            found.setdefault("prometheus_client_us", []).append(_spent_us(others(prometheus), count))
        found.setdefault("page_ms", []).append(_spent_us(lambda: _page(metrics), 1) / 1000)
    return {name: statistics.median(values) for name, values in found.items()}


def _page(metrics: Metrics) -> None:
    "".join(families(metrics.finished(), openmetrics=True))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--decisions", type=int, default=6400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    found = measure(chosen.decisions, chosen.rounds)
    ours = found["ours_noted_us"] + found["ours_folded_us"]
    print(f"{'':24}CPU")
    print(f"{'ours, noted':24}{found['ours_noted_us']:8.2f} us a decision (on the thread of the call)")
    print(f"{'ours, folded':24}{found['ours_folded_us']:8.2f} us a decision (behind it)")
    for name in ("sdk", "prometheus_client"):
        if (cost := found.get(f"{name}_us")) is not None:
            print(f"{name:24}{cost:8.2f} us a decision ({cost / ours:.0f} times as much)")
    print(f"{'one page (OpenMetrics)':24}{found['page_ms']:8.2f} ms a scrape")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
