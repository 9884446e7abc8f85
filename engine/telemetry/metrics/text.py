"""A snapshot as text for Prometheus: the format 0.0.4 that everything reads, and OpenMetrics 1.0, which has exemplars.

Formats: prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics 1.0.0 specification.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from engine.telemetry.metrics.catalogue import METRICS, Metric
from engine.telemetry.metrics.snapshot import Exemplar, Histogram, Labels, Snapshot

PLAIN_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def wants_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics over the plain format."""
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = [piece.strip() for piece in part.split(";")]
        if kind not in best:
            continue
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        best[kind] = max(best[kind], quality)
    return best["application/openmetrics-text"] > 0 and best["application/openmetrics-text"] >= best["text/plain"]


def families(snapshot: Snapshot, openmetrics: bool = False) -> Iterator[str]:
    """The text, one metric at a time, so that whoever writes it can let others work in between."""
    for name, metric in METRICS.items():
        series = snapshot.points.get(name)
        if series:
            yield _family(metric, series, openmetrics)
    if openmetrics:
        yield "# EOF\n"


def _family(metric: Metric, series: dict[Labels, float | Histogram], openmetrics: bool) -> str:
    name = metric.prometheus
    # OpenMetrics calls a counter's family by its name without `_total`.
    family = name.removesuffix("_total") if openmetrics and metric.kind == "counter" else name
    lines = [f"# HELP {family} {_help(metric.help)}", f"# TYPE {family} {metric.kind}"]
    if openmetrics and metric.prometheus_unit and family.endswith(f"_{metric.prometheus_unit}"):
        lines.append(f"# UNIT {family} {metric.prometheus_unit}")
    for labels, value in series.items():
        pairs = ",".join(f'{key}="{_escape(text)}"' for key, text in zip(metric.labels, labels, strict=True))
        if isinstance(value, Histogram):
            lines += _histogram(name, pairs, value, openmetrics)
        else:
            lines.append(f"{name}{{{pairs}}} {_number(value)}" if pairs else f"{name} {_number(value)}")
    return "\n".join(lines) + "\n"


def _histogram(name: str, pairs: str, histogram: Histogram, openmetrics: bool) -> Iterator[str]:
    comma = f"{pairs}," if pairs else ""
    count = 0
    for bucket, (bound, own) in enumerate(zip((*histogram.bounds, math.inf), histogram.counts, strict=True)):
        count += own
        exemplar = histogram.exemplars.get(bucket) if openmetrics else None
        tail = "" if exemplar is None else _exemplar(exemplar)
        yield f'{name}_bucket{{{comma}le="{_number(float(bound))}"}} {count}{tail}'
    braces = f"{{{pairs}}}" if pairs else ""
    yield f"{name}_sum{braces} {_number(histogram.total)}"
    yield f"{name}_count{braces} {count}"


def _exemplar(exemplar: Exemplar) -> str:
    return f' # {{trace_id="{_escape(exemplar.trace_id)}"}} {_number(exemplar.value)} {exemplar.time_s:.3f}'


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if value != value else repr(value)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
