"""A collector for tests: takes OTLP traces over gRPC and HTTP on the loopback, keeps them, and misbehaves when told to.

It reads what it gets with OpenTelemetry's own messages, so what it took is what any collector would have understood.
"""

from __future__ import annotations

import gzip
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.trace_record import TraceRecord

from .redis_servers import Certificates

_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
_PATH = "/v1/traces"


@dataclass(frozen=True)
class SunkSpan:
    """One span as the collector saw it. Ids in hexadecimal digits; parent_id empty without one."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str
    status: int
    status_message: str
    tracestate: str
    flags: int
    events: tuple[str, ...]


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return getattr(value, kind)


def _pairs(attributes: Any) -> dict[str, Any]:
    return {one.key: _plain(one.value) for one in attributes}


def read_spans(request: ExportTraceServiceRequest) -> Iterator[SunkSpan]:
    """All spans of a request."""
    for resource_spans in request.resource_spans:
        resource = _pairs(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield SunkSpan(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _pairs(span.attributes),
                    resource,
                    scope_spans.scope.name,
                    span.status.code,
                    span.status.message,
                    span.trace_state,
                    span.flags,
                    tuple(event.name for event in span.events),
                )


@dataclass
class Mood:
    """How the sink behaves. refuse: a gRPC status and an HTTP status to answer with, instead of taking anything;
    refusals: how many more requests it is said to, None for all.
    hang: never answer. rejected: spans of each batch that it says it does not want. retry_after_s: said with refusals.
    """

    refuse: tuple[grpc.StatusCode, int] | None = None
    refusals: int | None = None
    hang: bool = False
    rejected: int = 0
    retry_after_s: float | None = None
    headers: list[dict[str, str]] = field(default_factory=list)


class OtlpSink:
    """Listens on ports of its own. `mood` may be changed at any time."""

    def __init__(self, grpc_port: int = 0, http_port: int = 0, tls: Certificates | None = None) -> None:
        """The ports: 0 for any that is free. tls: both ports speak TLS only, and demand a client's certificate.

        Raises RuntimeError or OSError for ports that are taken."""
        self.mood = Mood()
        self.requests = 0
        # When each of them came, on time.monotonic().
        self.moments: list[float] = []
        self._spans: list[SunkSpan] = []
        self._changed = threading.Condition()
        self._let_go = threading.Event()
        self._grpc = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        handler: Any = grpc.unary_unary_rpc_method_handler(self._export)
        self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),))
        self._scheme = "http" if tls is None else "https"
        if tls is None:
            self.grpc_port = self._grpc.add_insecure_port(f"127.0.0.1:{grpc_port}")
        else:
            pair = tls.server_key.read_bytes(), tls.server.read_bytes()
            credentials = grpc.ssl_server_credentials([pair], tls.ca.read_bytes(), require_client_auth=True)
            self.grpc_port = self._grpc.add_secure_port(f"127.0.0.1:{grpc_port}", credentials)
        self._http = ThreadingHTTPServer(("127.0.0.1", http_port), _http_handler(self))
        self._http.daemon_threads = True
        self.http_port: int = self._http.server_address[1]
        if tls is not None:
            wrapping = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.ca))
            wrapping.verify_mode = ssl.CERT_REQUIRED
            wrapping.load_cert_chain(tls.server, tls.server_key)
            self._http.socket = wrapping.wrap_socket(self._http.socket, server_side=True)
        self._grpc.start()
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def grpc_endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.http_port}{_PATH}"

    def stop(self) -> None:
        """Closes both ports and what is open on them."""
        self._let_go.set()
        self._grpc.stop(None).wait()
        self._http.shutdown()
        self._http.server_close()

    def _take(self, body: bytes, headers: dict[str, str]) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            self.mood.headers.append(headers)
            self._spans += read_spans(request)
            self._changed.notify_all()

    def _answer(self) -> bytes:
        response = ExportTraceServiceResponse()
        if self.mood.rejected:
            response.partial_success.rejected_spans = self.mood.rejected
            response.partial_success.error_message = "some are not wanted"
        return response.SerializeToString()

    def _came(self) -> None:
        self.requests += 1
        self.moments.append(time.monotonic())

    def _refusal(self) -> tuple[grpc.StatusCode, int] | None:
        mood = self.mood
        if mood.refusals is not None:
            mood.refusals -= 1
            if mood.refusals < 0:
                return None
        return mood.refuse

    def _export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self._came()
        if self.mood.hang:
            self._let_go.wait()
        if (refusal := self._refusal()) is not None:
            if self.mood.retry_after_s is not None:
                detail = any_pb2.Any()
                delay = duration_pb2.Duration(nanos=int(self.mood.retry_after_s * 1e9))
                detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
                status = status_pb2.Status(code=refusal[0].value[0], details=[detail])
                context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(refusal[0], "not now")
        self._take(body, {key: str(value) for key, value in context.invocation_metadata()})
        return self._answer()

    @property
    def spans(self) -> list[SunkSpan]:
        """Everything taken so far."""
        with self._changed:
            return list(self._spans)

    def wait(self, enough: Callable[[Sequence[SunkSpan]], bool], timeout_s: float = 60.0) -> list[SunkSpan]:
        """Waits for spans. Raises AssertionError when they do not come in time."""
        end_s = time.monotonic() + timeout_s
        with self._changed:
            while not enough(self._spans):
                left_s = end_s - time.monotonic()
                assert left_s > 0, f"the sink has only {len(self._spans)} spans"
                self._changed.wait(left_s)
            return list(self._spans)

    def wait_count(self, count: int, timeout_s: float = 60.0) -> list[SunkSpan]:
        """Waits for so many spans."""
        return self.wait(lambda spans: len(spans) >= count, timeout_s)


def _http_handler(sink: OtlpSink) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if not sink._let_go.is_set():
                sink._came()
            if sink.mood.hang:
                sink._let_go.wait()
            if sink._let_go.is_set():  # a connection that is kept outlives the server that took it
                self.close_connection = True
                return
            if self.path != _PATH or self.headers["Content-Type"] != "application/x-protobuf":
                self._say(400, b"")
            elif (refusal := sink._refusal()) is not None:
                self._say(refusal[1], b"")
            else:
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                sink._take(body, {key.lower(): value for key, value in self.headers.items()})
                self._say(200, sink._answer())

        def _say(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(content)))
            if status != 200 and sink.mood.retry_after_s is not None:
                self.send_header("Retry-After", str(round(sink.mood.retry_after_s)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    return Handler


@contextmanager
def sinking(grpc_port: int = 0, http_port: int = 0, tls: Certificates | None = None) -> Iterator[OtlpSink]:
    """A sink that is stopped at the end."""
    sink = OtlpSink(grpc_port, http_port, tls)
    try:
        yield sink
    finally:
        sink.stop()


def assert_trees(spans: Sequence[SunkSpan]) -> dict[str, SunkSpan]:
    """Every trace has one root of ours, every other span a parent in its trace that it lies within, and no id stands
    twice. Gives the roots by trace id."""
    by_trace: dict[str, dict[str, SunkSpan]] = defaultdict(dict)
    for span in spans:
        assert span.span_id not in by_trace[span.trace_id], f"the id of {span.name} stands twice"
        by_trace[span.trace_id][span.span_id] = span
    roots = {}
    for trace_id, members in by_trace.items():
        outermost = [span for span in members.values() if span.parent_id not in members]
        assert len(outermost) == 1, f"{len(outermost)} roots in one trace: {[span.name for span in outermost]}"
        roots[trace_id] = outermost[0]
        for span in members.values():
            parent = members.get(span.parent_id, span)
            assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns, f"{span.name} leaves its parent"
    return roots


def assert_arrived(record: TraceRecord, spans: Sequence[SunkSpan]) -> None:
    """Tree, names, times and attributes of one recorded call, each against what was recorded."""
    arrived = {(span.name, span.start_ns): span for span in spans if span.trace_id == record[0].hex()}
    assert len(arrived) == len(record[8])
    offset = record[5] - record[6]
    for number, _, parent, start, end, status, values in record[8]:
        shape = SHAPES[number]
        span = arrived[shape.name, start + offset]
        expected = {a.key: v for a, v in zip(shape.attributes, values, strict=True) if v is not None}
        expected |= dict(shape.constants)
        assert span.attributes == {k: list(v) if isinstance(v, tuple) else v for k, v in expected.items()}
        assert (span.end_ns, span.kind) == (end + offset, shape.kind)
        assert (span.status, span.status_message) == ((0, "") if status is None else (2, status))
        caller = record[2].hex() if record[2] else ""
        assert span.parent_id == (record[1].hex() if parent == 0 else caller)
        assert span.flags == (0x300 if parent < 0 and record[2] else 0x100)
        assert span.tracestate == (record[3] or "")
