"""A snapshot as OTLP's request, by OpenTelemetry's own messages: off the request path their price does not matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from engine import __version__
from engine.telemetry.metrics.catalogue import METRICS, Metric
from engine.telemetry.metrics.snapshot import Exemplar, Histogram, Labels, Snapshot
from engine.telemetry.tracing.names import SCHEMA_URL, SCOPE

_NS_PER_S = 1_000_000_000
_CUMULATIVE = pb.AGGREGATION_TEMPORALITY_CUMULATIVE
_DELTA = pb.AGGREGATION_TEMPORALITY_DELTA
_TRACE_ID_DIGITS = 32


def encode(snapshot: Snapshot, resource: Mapping[str, Any], since: Snapshot | None = None) -> tuple[bytes, int]:
    """An ExportMetricsServiceRequest, and how many points it has.

    since: what counters and histograms are told as the difference from; None: they are told since the start.
    """
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add(schema_url=SCHEMA_URL)
    group.resource.attributes.extend(KeyValue(key=key, value=_any(value)) for key, value in resource.items())
    scope = group.scope_metrics.add()
    scope.scope.name, scope.scope.version = SCOPE, __version__
    times = (_ns(snapshot.start_s if since is None else since.time_s), _ns(snapshot.time_s))
    count = 0
    for name, metric in METRICS.items():
        series = snapshot.points.get(name)
        if series:
            earlier = {} if since is None else since.points.get(name, {})
            _add(scope.metrics.add(), metric, series, earlier, times, since is not None)
            count += len(series)
    return request.SerializeToString(), count


def _add(
    made: pb.Metric,
    metric: Metric,
    series: Mapping[Labels, float | Histogram],
    earlier: Mapping[Labels, float | Histogram],
    times: tuple[int, int],
    delta: bool,
) -> None:
    made.name, made.description, made.unit = metric.name, metric.help, metric.unit
    temporality = _DELTA if delta else _CUMULATIVE
    if metric.kind == "histogram":
        made.histogram.aggregation_temporality = temporality
    elif metric.kind == "counter":
        made.sum.aggregation_temporality, made.sum.is_monotonic = temporality, True
    for labels, value in series.items():
        before = earlier.get(labels)
        if isinstance(value, Histogram):
            _put_histogram(made.histogram.data_points.add(), value, before)
            point: Any = made.histogram.data_points[-1]
        else:
            point = (made.sum if metric.kind == "counter" else made.gauge).data_points.add()
            told = value
            if metric.kind == "counter" and isinstance(before, int | float) and before <= value:
                told = value - before
            if isinstance(told, int):
                point.as_int = told
            else:
                point.as_double = told
        point.time_unix_nano = times[1]
        if metric.kind != "gauge":
            point.start_time_unix_nano = times[0]
        point.attributes.extend(
            KeyValue(key=key, value=AnyValue(string_value=text))
            for key, text in zip(metric.labels, labels, strict=True)
        )


def _put_histogram(point: pb.HistogramDataPoint, histogram: Histogram, before: float | Histogram | None) -> None:
    counts, total, known = list(histogram.counts), histogram.total, set[Exemplar]()
    if isinstance(before, Histogram) and before.bounds == histogram.bounds and before.count <= histogram.count:
        counts = [now - then for now, then in zip(counts, before.counts, strict=True)]
        total -= before.total
        known = set(before.exemplars.values())
    point.explicit_bounds.extend(histogram.bounds)
    point.bucket_counts.extend(counts)
    point.count, point.sum = sum(counts), total
    for exemplar in histogram.exemplars.values():
        if exemplar not in known and len(exemplar.trace_id) == _TRACE_ID_DIGITS:
            made = point.exemplars.add()
            made.trace_id = bytes.fromhex(exemplar.trace_id)
            made.as_double, made.time_unix_nano = exemplar.value, _ns(exemplar.time_s)


def _ns(time_s: float) -> int:
    return int(time_s * _NS_PER_S)


def _any(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))
