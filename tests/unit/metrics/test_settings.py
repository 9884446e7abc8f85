"""OpenTelemetry's variables over the settings of metrics."""

from __future__ import annotations

import pytest

from engine.errors import ConfigError
from engine.telemetry.metrics.settings import MetricsSettings, with_environment


def _of(**variables: str) -> MetricsSettings:
    return with_environment(MetricsSettings(), variables)


def test_nothing_said() -> None:
    assert _of() == MetricsSettings()
    assert _of(OTEL_METRICS_EXPORTER="  ") == MetricsSettings()


def test_who_names_a_collector_wants_metrics_there() -> None:
    found = _of(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4317")
    assert found.exporters == ("prometheus", "otlp")
    assert (found.otlp.protocol, found.otlp.endpoint) == ("grpc", "http://collector:4317")


def test_http_leads_to_the_path_of_metrics() -> None:
    general = _of(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318/")
    assert (general.otlp.protocol, general.otlp.endpoint) == ("http/protobuf", "http://collector:4318/v1/metrics")
    own = _of(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://c:4318/mine", OTEL_EXPORTER_OTLP_ENDPOINT="http://d:1")
    assert own.otlp.endpoint == "http://c:4318/mine"
    default = _of(OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert default.otlp.endpoint == "http://localhost:4318/v1/metrics"


def test_variables_of_the_traces_do_not_count() -> None:
    found = _of(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://traces:4317", OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="bad")
    assert found == MetricsSettings()


def test_the_rest() -> None:
    found = _of(
        OTEL_METRICS_EXPORTER="otlp",
        OTEL_METRIC_EXPORT_INTERVAL="1500",
        OTEL_EXPORTER_OTLP_METRICS_HEADERS="authorization=Bearer%20x",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="Delta",
        OTEL_EXPORTER_PROMETHEUS_HOST="0.0.0.0",
        OTEL_EXPORTER_PROMETHEUS_PORT="9999",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        OTEL_SERVICE_NAME="loans",
    )
    assert found.exporters == ("otlp",)
    assert (found.interval_s, found.temporality, found.host, found.port) == (1.5, "delta", "0.0.0.0", 9999)
    assert found.otlp.headers == (("authorization", "Bearer x"),)
    assert found.resource == {"deployment.environment.name": "test", "service.name": "loans"}


def test_off() -> None:
    assert _of(OTEL_SDK_DISABLED="true").exporters == ()
    assert _of(OTEL_METRICS_EXPORTER="none").exporters == ()


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _of(
            OTEL_METRICS_EXPORTER="statsd",
            OTEL_METRIC_EXPORT_INTERVAL="soon",
            OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="carrier pigeon",
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="eternal",
            OTEL_EXPORTER_PROMETHEUS_PORT="70000",
        )
    assert [problem.place for problem in caught.value.problems] == [
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "OTEL_EXPORTER_PROMETHEUS_PORT",
        "OTEL_METRICS_EXPORTER",
        "OTEL_METRIC_EXPORT_INTERVAL",
    ]
