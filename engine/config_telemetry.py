"""Settings of traces and metrics. OpenTelemetry's own variables (OTEL_*) go before them, as they do in every program
that speaks OpenTelemetry; docs/observability-tracing.md and docs/observability-metrics.md list those."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from engine.config_stores import Section, split, split_pairs
from engine.telemetry.metrics.settings import MetricsSettings
from engine.telemetry.metrics.settings import with_environment as metrics_environment
from engine.telemetry.tracing.settings import DEFAULT_ENDPOINT, OtlpSettings, Sampler, TracingSettings
from engine.telemetry.tracing.settings_environment import with_environment as tracing_environment
from engine.telemetry.tracing.tail import TailRule

MIB = 1024**2


class OtlpSection(Section):
    """Where OTLP goes: what traces and metrics have in common."""

    endpoint: str = Field("", description="The collector's URL. Absent: http://localhost, at the protocol's port.")
    protocol: Literal["grpc", "http/protobuf"] = Field("grpc", description="How OTLP is spoken.")
    headers: Annotated[dict[str, SecretStr], BeforeValidator(split_pairs)] = Field(
        {}, description="Sent with every export, for example an access token."
    )
    compression: Literal["none", "gzip"] = Field("none", description="Of what is exported.")
    certificate: Path | None = Field(None, description="PEM file of the CA of the collector's certificate.")
    client_certificate: Path | None = Field(None, description="PEM file that the collector knows this server by.")
    client_key: Path | None = Field(None, description="PEM file of its key.")
    timeout_s: float = Field(10.0, gt=0, le=600, description="Of one attempt to export.")

    def otlp(self, path: str) -> OtlpSettings:
        """As the exporters take them. path: of the signal, for HTTP."""
        default = DEFAULT_ENDPOINT[self.protocol].removesuffix("/v1/traces")
        endpoint = self.endpoint or (default + path if self.protocol == "http/protobuf" else default)
        return OtlpSettings(
            endpoint=endpoint,
            protocol=self.protocol,
            headers=tuple((name, secret.get_secret_value()) for name, secret in self.headers.items()),
            timeout_s=self.timeout_s,
            compression=self.compression,
            certificate=_text(self.certificate),
            client_certificate=_text(self.client_certificate),
            client_key=_text(self.client_key),
        )


class TracingConfig(OtlpSection):
    """Traces: one for every call."""

    mode: Literal["process", "thread", "stock", "off"] = Field(
        "process",
        description="process: encoded and sent by a process of its own; thread: by a thread of the server; stock: by "
        "the exporter of the OpenTelemetry SDK that `processor` names; off: none.",
    )
    exporters: Annotated[tuple[Literal["otlp", "console", "file"], ...], BeforeValidator(split)] = Field(
        ("file",), description="Where traces go. An endpoint in OTEL_EXPORTER_OTLP_ENDPOINT adds otlp."
    )
    processor: str = Field(
        "", description="module:callable that gives a SpanProcessor of the OpenTelemetry SDK, for the mode stock."
    )
    plugins: Annotated[tuple[str, ...], BeforeValidator(split)] = Field(
        (), description="module:callable, called at the start: code that makes spans with the OpenTelemetry API."
    )
    sampler: Sampler = Field(
        "always_on",
        description="Which calls are recorded, known when they begin: OpenTelemetry's names. always_on records every "
        "call, whatever its caller says.",
    )
    sampler_ratio: float = Field(1.0, ge=0, le=1, description="Of the samplers that take one.")
    plain_kept_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="The share of plain approvals whose traces are kept. Errors, declines, refers, counter-offers, "
        "slow and degraded calls are always kept.",
    )
    slow_ms: float = Field(250.0, gt=0, description="A call that took longer is slow.")
    queue_bytes_max: int = Field(8 * MIB, ge=65_536, description="What may wait in the server; more is dropped.")
    export_queue_bytes_max: int = Field(64 * MIB, ge=65_536, description="What may wait for the collector.")
    batch_delay_s: float = Field(1.0, gt=0, le=60, description="How old a batch may become before it is sent.")
    retry_max_s: float = Field(30.0, gt=0, le=600, description="The longest wait between two attempts.")
    file_path: Path = Field(
        Path("var/traces/traces.jsonl"), description="The local trace file that `assay trace` reads."
    )
    file_bytes_max: int = Field(32 * MIB, ge=65_536, description="The file is closed and numbered beyond this size.")
    files_max: int = Field(8, ge=0, le=1000, description="How many older files are kept.")
    spill_path: Path | None = Field(None, description="Directory for what has no room in memory while no collector is.")
    spill_bytes_max: int = Field(256 * MIB, ge=MIB, description="The most that may be spilled.")
    id_key_path: Path = Field(
        Path("var/telemetry.key"), description="The key of hashed ids. Made when there is none; keep it as a secret."
    )

    def settings(self) -> TracingSettings:
        """As the recorder takes them, with OpenTelemetry's variables over them. Raises ConfigError."""
        return tracing_environment(
            TracingSettings(
                mode=self.mode,
                exporters=self.exporters,
                otlp=self.otlp("/v1/traces"),
                tail=TailRule(self.plain_kept_ratio, self.slow_ms),
                sampler=self.sampler,
                sampler_ratio=self.sampler_ratio,
                queue_bytes_max=self.queue_bytes_max,
                export_queue_bytes_max=self.export_queue_bytes_max,
                batch_delay_s=self.batch_delay_s,
                retry_max_s=self.retry_max_s,
                file_path=str(self.file_path),
                file_bytes_max=self.file_bytes_max,
                files_max=self.files_max,
                spill_path=_text(self.spill_path),
                spill_bytes_max=self.spill_bytes_max,
            )
        )


class MetricsConfig(OtlpSection):
    """Metrics: on a page for Prometheus, and over OTLP."""

    exporters: Annotated[tuple[Literal["otlp", "prometheus"], ...], BeforeValidator(split)] = Field(
        ("prometheus",), description="Where metrics go. An endpoint in OTEL_EXPORTER_OTLP_ENDPOINT adds otlp."
    )
    host: str = Field("127.0.0.1", description="Where the page for Prometheus listens: no TLS, no accounts.")
    port: int = Field(9464, ge=0, le=65_535, description="Its port: GET /metrics, /ready, /live. 0: any that is free.")
    interval_s: float = Field(60.0, ge=0.01, le=86_400, description="Between two sends over OTLP.")
    temporality: Literal["cumulative", "delta", "lowmemory"] = Field(
        "cumulative", description="Whether a send over OTLP tells counts since the start or since the last send."
    )

    def settings(self) -> MetricsSettings:
        """As the metrics take them, with OpenTelemetry's variables over them. Raises ConfigError."""
        return metrics_environment(
            MetricsSettings(
                exporters=self.exporters,
                host=self.host,
                port=self.port,
                otlp=self.otlp("/v1/metrics"),
                interval_s=self.interval_s,
                temporality=self.temporality,
            )
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
