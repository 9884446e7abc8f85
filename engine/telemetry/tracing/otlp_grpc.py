"""OTLP over gRPC: encoded bytes over a channel, no generated stubs."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import grpc

from engine.telemetry.tracing.settings import OtlpSettings
from engine.telemetry.tracing.transport import Answer, shorten, taken

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
# To be tried again, by OTLP's specification. RESOURCE_EXHAUSTED only when the collector says when (`_wait_s`).
_LATER = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_OPTIONS = (
    ("grpc.primary_user_agent", "assay-otlp"),
    # Attempts are ours to space; gRPC's own waits would hide a collector that is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_retries", 0),
)


class GrpcTransport:
    """See `Transport`."""

    def __init__(self, settings: OtlpSettings) -> None:
        """Raises OSError for certificates that cannot be read."""
        gzip = settings.compression == "gzip"
        compression = grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression
        target, secure = target_of(settings)
        if secure:
            credentials = grpc.ssl_channel_credentials(
                _read(settings.certificate), _read(settings.client_key), _read(settings.client_certificate)
            )
            self._channel = grpc.secure_channel(target, credentials, _OPTIONS, compression)
        else:
            self._channel = grpc.insecure_channel(target, _OPTIONS, compression)
        # Bytes in, bytes out.
        self._export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_METHOD)
        self._headers = tuple((name.lower(), value) for name, value in settings.headers)

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """See `Transport.send`."""
        try:
            response = self._export(body, timeout=timeout_s, metadata=self._headers)
        except grpc.RpcError as error:
            return _failure(error)
        except ValueError as error:  # the channel was closed
            return Answer("later", str(error))
        return taken(response)

    def close(self) -> None:
        """See `Transport.close`."""
        self._channel.close()


def target_of(settings: OtlpSettings) -> tuple[str, bool]:
    """gRPC's target for an endpoint, and whether with TLS. `unix:` endpoints are taken as they are."""
    url = urlsplit(settings.endpoint)
    if url.scheme == "unix":
        return settings.endpoint, False
    if url.scheme in ("http", "https"):
        return url.netloc, url.scheme == "https"
    return settings.endpoint, not settings.insecure


def _read(file: str | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()


def _failure(error: grpc.RpcError) -> Answer:
    if not isinstance(error, grpc.Call):
        return Answer("later", shorten(str(error)))
    code, details = error.code(), error.details()
    message = shorten(f"{code.name}: {details}")
    wait_s = _wait_s(error)
    if code in _LATER or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_s is not None):
        return Answer("later", message, wait_s)
    return Answer("refused", message)


def _wait_s(call: grpc.Call) -> float | None:
    """How long the collector asks to wait (RetryInfo in the status), None when it says nothing of it."""
    for name, value in call.trailing_metadata() or ():
        if name == "grpc-status-details-bin" and isinstance(value, bytes):
            from google.protobuf.message import DecodeError
            from google.rpc import error_details_pb2, status_pb2

            retry = error_details_pb2.RetryInfo()
            try:
                details = status_pb2.Status.FromString(value).details
                if any(detail.Unpack(retry) for detail in details):
                    return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
            except DecodeError:
                return None
    return None
