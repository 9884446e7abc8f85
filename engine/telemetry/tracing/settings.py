"""What an operator chooses about traces, and what OpenTelemetry's own variables say of it.

The variables win over the file, as they do in every program that speaks OpenTelemetry:

    OTEL_SDK_DISABLED, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    OTEL_TRACES_EXPORTER                          otlp, console, file, none; several with commas
    OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG  what the caller's sampled flag means; see `context.HeadRule`
    OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT, _PROTOCOL, _HEADERS, _TIMEOUT, _COMPRESSION, _CERTIFICATE,
                                 _CLIENT_CERTIFICATE, _CLIENT_KEY, _INSECURE
    OTEL_BSP_SCHEDULE_DELAY, OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_MAX_QUEUE_SIZE (in spans; see SPAN_BYTES)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from engine.telemetry.tracing.tail import TailRule

Mode = Literal["process", "thread", "stock", "off"]
Exporter = Literal["otlp", "console", "file"]
Protocol = Literal["grpc", "http/protobuf"]
Sampler = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]

# What one span counts as where sizes are asked for in bytes and spans are not encoded yet: what it takes in memory.
SPAN_BYTES = 512
DEFAULT_ENDPOINT = {"grpc": "http://localhost:4317", "http/protobuf": "http://localhost:4318/v1/traces"}


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where OTLP goes.

    endpoint: a URL; for HTTP the whole one, with its path. insecure: no TLS, for a gRPC endpoint without a scheme.
    timeout_s: of one attempt. certificate: PEM file of the CA; client_certificate, client_key: PEM files for mTLS.
    """

    endpoint: str = DEFAULT_ENDPOINT["grpc"]
    protocol: Protocol = "grpc"
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0
    compression: Literal["none", "gzip"] = "none"
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """All of it.

    mode: `process` encodes and sends in a process of its own; `thread` in a thread of the server; `stock` hands
    spans to an exporter of the OpenTelemetry SDK; `off` does nothing.
    exporters: where traces go; none at all is `off`.
    queue_bytes_max: what may wait in the serving process; export_queue_bytes_max: what may wait to be sent; both drop
    what is beyond and count it.
    batch_*: a batch goes when it has so many spans or bytes, or is so old.
    retry_max_s: the longest wait between two attempts.
    file_path: of the local trace file, rotated at file_bytes_max; of the older ones files_max are kept.
    spill_path: directory for what cannot be sent and has no room in memory; None: no spill.
    drain_s: how long the last spans may take to be sent at the end.
    sampler: see `context.HeadRule`; sampler_ratio: of the samplers that take one.
    """

    mode: Mode = "process"
    exporters: tuple[Exporter, ...] = ("file",)
    otlp: OtlpSettings = field(default_factory=OtlpSettings)
    tail: TailRule = field(default_factory=TailRule)
    sampler: Sampler = "always_on"
    sampler_ratio: float = 1.0
    queue_bytes_max: int = 8 * 1024**2
    export_queue_bytes_max: int = 64 * 1024**2
    batch_spans_max: int = 2048
    batch_bytes_max: int = 1024**2
    batch_delay_s: float = 1.0
    retry_max_s: float = 30.0
    file_path: str = "var/traces/traces.jsonl"
    file_bytes_max: int = 32 * 1024**2
    files_max: int = 8
    spill_path: str | None = None
    spill_bytes_max: int = 256 * 1024**2
    drain_s: float = 5.0
    resource: Mapping[str, str] = field(default_factory=dict)


def to_plain(settings: TracingSettings) -> dict[str, Any]:
    """Settings as what JSON can hold."""
    return asdict(settings)


def from_plain(plain: Mapping[str, Any]) -> TracingSettings:
    """The settings that `to_plain` was given."""
    otlp = dict(plain["otlp"])
    otlp["headers"] = tuple((key, value) for key, value in otlp["headers"])
    whole = dict(plain)
    whole |= {"otlp": OtlpSettings(**otlp), "tail": TailRule(**plain["tail"]), "exporters": tuple(plain["exporters"])}
    return TracingSettings(**whole)
