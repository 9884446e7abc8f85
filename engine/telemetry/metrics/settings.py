"""What an operator chooses about metrics, and what OpenTelemetry's own variables say of it.

OTEL_SDK_DISABLED, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
OTEL_METRICS_EXPORTER                      otlp, prometheus, none; several with commas
OTEL_METRIC_EXPORT_INTERVAL                milliseconds
OTEL_EXPORTER_OTLP_[METRICS_]ENDPOINT, _PROTOCOL, _HEADERS, _TIMEOUT, _COMPRESSION, _CERTIFICATE,
                             _CLIENT_CERTIFICATE, _CLIENT_KEY, _INSECURE
OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE   cumulative, delta, lowmemory
OTEL_EXPORTER_PROMETHEUS_HOST, OTEL_EXPORTER_PROMETHEUS_PORT
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from engine.errors import ConfigError, Problem
from engine.telemetry.tracing.settings import OtlpSettings, TracingSettings
from engine.telemetry.tracing.settings_environment import with_environment as tracing_with_environment

Exporter = Literal["otlp", "prometheus"]
Temporality = Literal["cumulative", "delta", "lowmemory"]

_TRACES, _METRICS = "OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_METRICS_"
_SHARED = ("OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES")


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """All of it.

    exporters: where metrics go; none: they are counted for nobody. host, port: of the Prometheus endpoint, 0 for any
    port that is free. interval_s: between two sends over OTLP. temporality: whether each send tells counts since the
    start or since the last one that was taken; `lowmemory` is `delta` here.
    """

    exporters: tuple[Exporter, ...] = ("prometheus",)
    host: str = "127.0.0.1"
    port: int = 9464
    otlp: OtlpSettings = field(default_factory=OtlpSettings)
    interval_s: float = 60.0
    temporality: Temporality = "cumulative"
    resource: Mapping[str, str] = field(default_factory=dict)


def with_environment(settings: MetricsSettings, environment: Mapping[str, str] | None = None) -> MetricsSettings:
    """The settings with the variables over them. Raises ConfigError with every variable that cannot be used.

    environment: absent: the process's own. Empty variables count as unset.
    """
    found = {k: v.strip() for k, v in (os.environ if environment is None else environment).items() if v.strip()}
    problems: list[Problem] = []
    otlp, resource, disabled = settings.otlp, dict(settings.resource), False
    try:
        # The variables of the exporter are the same for all signals but for one word.
        traces = tracing_with_environment(
            TracingSettings(exporters=("otlp",), otlp=settings.otlp, resource=settings.resource), _as_traces(found)
        )
        otlp, resource = _metrics_endpoint(traces.otlp, found), dict(traces.resource)
        disabled = traces.mode == "off"
    except ConfigError as error:
        problems += [dataclasses.replace(p, place=_own_name(p.place, found)) for p in error.problems]
    exporters = settings.exporters
    if names := found.get("OTEL_METRICS_EXPORTER"):
        exporters = _exporters(names, problems)
    elif "otlp" not in exporters and {_METRICS + "ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"} & found.keys():
        # Who names a collector wants metrics there.
        exporters = (*exporters, "otlp")
    interval_ms = _number("OTEL_METRIC_EXPORT_INTERVAL", found, settings.interval_s * 1000, 10, 86_400_000, problems)
    port = _number("OTEL_EXPORTER_PROMETHEUS_PORT", found, settings.port, 0, 65_535, problems)
    preference = found.get(_METRICS + "TEMPORALITY_PREFERENCE", settings.temporality).lower()
    temporality = settings.temporality
    for known in get_args(Temporality):
        if known == preference:
            temporality = known
    if preference not in get_args(Temporality):
        problems.append(_problem(_METRICS + "TEMPORALITY_PREFERENCE", f"{preference!r} is not known"))
    if problems:
        raise ConfigError(problems)
    return MetricsSettings(
        exporters=() if disabled else exporters,
        host=found.get("OTEL_EXPORTER_PROMETHEUS_HOST", settings.host),
        port=int(port),
        otlp=otlp,
        interval_s=interval_ms / 1000,
        temporality=temporality,
        resource=resource,
    )


def _as_traces(found: Mapping[str, str]) -> dict[str, str]:
    """The variables of the metrics' exporter under the names of the traces'."""
    named = {k: v for k, v in found.items() if k in _SHARED or k.startswith("OTEL_EXPORTER_OTLP_")}
    named = {k: v for k, v in named.items() if not k.startswith(_TRACES)}
    return {(_TRACES + k.removeprefix(_METRICS) if k.startswith(_METRICS) else k): v for k, v in named.items()}


def _own_name(place: str, found: Mapping[str, str]) -> str:
    own = place.replace(_TRACES, _METRICS)
    return own if own in found else place


def _metrics_endpoint(otlp: OtlpSettings, found: Mapping[str, str]) -> OtlpSettings:
    """An endpoint of all signals, and the default one, lead to the path of the metrics."""
    if otlp.protocol == "http/protobuf" and _METRICS + "ENDPOINT" not in found:
        head, path = otlp.endpoint.removesuffix("/v1/traces"), "/v1/metrics"
        if head != otlp.endpoint:
            return dataclasses.replace(otlp, endpoint=head + path)
    return otlp


def _exporters(text: str, problems: list[Problem]) -> tuple[Exporter, ...]:
    chosen: list[Exporter] = []
    for name in dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()):
        for known in get_args(Exporter):
            if name == known:
                chosen.append(known)
        if name not in (*get_args(Exporter), "none"):
            problems.append(_problem("OTEL_METRICS_EXPORTER", f"{name!r} is not one of otlp, prometheus, none"))
    return tuple(chosen)


def _number(
    name: str, found: Mapping[str, str], default: float, least: float, most: float, problems: list[Problem]
) -> float:
    text = found.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        problems.append(_problem(name, f"{text!r} is no whole number from {least:g} to {most:g}"))
        return default
    return float(text)


def _problem(name: str, message: str) -> Problem:
    return Problem("environment", name, message, "Correct or unset it.")
