"""Metrics over OTLP, to a collector that reads them with OpenTelemetry's own messages."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1 import metrics_pb2 as pb

from engine.telemetry.metrics import sources
from engine.telemetry.metrics.otlp_exporter import OtlpMetricsExporter
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.metrics.settings import MetricsSettings
from engine.telemetry.metrics.snapshot import Snapshot
from engine.telemetry.tracing.settings import OtlpSettings


class Sink:
    """Takes metrics over gRPC and HTTP. refuse: answers UNAVAILABLE instead; hang: not at all."""

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.refuse = False
        self.hang = threading.Event()
        self.hang.set()
        self._grpc = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        handler: Any = grpc.unary_unary_rpc_method_handler(self._export)
        service = "opentelemetry.proto.collector.metrics.v1.MetricsService"
        self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        self._grpc.start()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                good = self.path == "/v1/metrics" and not sink.refuse
                if good:
                    sink.requests.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200 if good else 503)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http_port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def _export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self.hang.wait(60)
        if self.refuse:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        self.requests.append(ExportMetricsServiceRequest.FromString(body))
        return ExportMetricsServiceResponse().SerializeToString()

    def stop(self) -> None:
        self.hang.set()
        self._grpc.stop(None).wait()
        self._http.shutdown()
        self._http.server_close()

    def metric(self, name: str, request: int = -1) -> pb.Metric:
        [group] = self.requests[request].resource_metrics
        [found] = [one for one in group.scope_metrics[0].metrics if one.name == name]
        return found


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.stop()


def _settings(sink: Sink, protocol: str = "grpc", **changes: Any) -> MetricsSettings:
    otlp = (
        OtlpSettings(endpoint=f"http://127.0.0.1:{sink.grpc_port}", timeout_s=10.0)
        if protocol == "grpc"
        else OtlpSettings(
            endpoint=f"http://127.0.0.1:{sink.http_port}/v1/metrics", protocol="http/protobuf", compression="gzip"
        )
    )
    return MetricsSettings(exporters=("otlp",), otlp=otlp, resource={"service.name": "loans"}, **changes)


def _counted() -> Metrics:
    metrics = Metrics(("INTERNAL",))
    metrics.add(sources.gauge("assay.streams.open", lambda: 2))
    metrics.requests.observe("Decide", "OK", 3_000_000, "ab" * 16, 7.5)
    metrics.requests.observe("Decide", "OK", 80_000_000)
    return metrics


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_arrives_is_what_was_counted(sink: Sink, protocol: str) -> None:
    metrics = _counted()
    exporter = OtlpMetricsExporter(_settings(sink, protocol), metrics.finished, {"assay.worker": 3})
    assert exporter.send()
    [group] = sink.requests[0].resource_metrics
    resource = {one.key: one.value for one in group.resource.attributes}
    assert resource["service.name"].string_value == "loans"
    assert resource["assay.worker"].int_value == 3
    calls = sink.metric("assay.requests")
    assert (calls.unit, calls.sum.is_monotonic) == ("{request}", True)
    assert calls.sum.aggregation_temporality == pb.AGGREGATION_TEMPORALITY_CUMULATIVE
    point, zero = calls.sum.data_points
    assert {one.key: one.value.string_value for one in point.attributes} == {"method": "Decide", "reason": "OK"}
    assert (point.as_int, zero.as_int) == (2, 0)
    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
    [spread] = sink.metric("assay.request.duration").histogram.data_points
    assert spread.count == 2
    assert spread.sum == pytest.approx(0.083)
    assert len(spread.bucket_counts) == len(spread.explicit_bounds) + 1
    [exemplar] = spread.exemplars
    assert (exemplar.trace_id, exemplar.as_double) == (b"\xab" * 16, 0.003)
    assert exemplar.time_unix_nano == 7_500_000_000
    [streams] = sink.metric("assay.streams.open").gauge.data_points
    assert streams.as_int == 2
    exporter.stop()


def test_differences_are_from_the_last_one_that_was_taken(sink: Sink) -> None:
    metrics = _counted()
    exporter = OtlpMetricsExporter(_settings(sink, temporality="delta"), metrics.finished)
    assert exporter.send()
    assert sink.metric("assay.requests").sum.aggregation_temporality == pb.AGGREGATION_TEMPORALITY_DELTA
    assert sink.metric("assay.requests").sum.data_points[0].as_int == 2
    sink.refuse = True
    metrics.requests.observe("Decide", "OK", 1_000_000)
    assert not exporter.send()
    sink.refuse = False
    metrics.requests.observe("Decide", "OK", 3_000_000, "cd" * 16, 9.0)
    assert exporter.send()
    assert sink.metric("assay.requests").sum.data_points[0].as_int == 2, "what was refused is told again"
    [spread] = sink.metric("assay.request.duration").histogram.data_points
    assert spread.count == 2
    assert spread.sum == pytest.approx(0.004)
    assert [one.trace_id for one in spread.exemplars] == [b"\xcd" * 16], "the old one was told before"
    exporter.stop()


def test_a_collector_that_is_down_is_counted_and_holds_nobody_up(sink: Sink) -> None:
    sink.refuse = True
    metrics = _counted()
    exporter = OtlpMetricsExporter(_settings(sink, interval_s=0.05), metrics.finished)
    metrics.add(exporter.put)
    exporter.start()
    end_s = time.monotonic() + 60
    while metrics.snapshot().value("assay.metrics.exports", "dropped") < 2 and time.monotonic() < end_s:
        time.sleep(0.02)
    assert metrics.snapshot().value("assay.metrics.exports", "dropped") >= 2
    sink.refuse = False
    while not sink.requests and time.monotonic() < end_s:
        time.sleep(0.02)
    assert sink.metric("assay.requests").sum.data_points[0].as_int == 2
    exporter.stop()
    assert metrics.snapshot().value("assay.metrics.exports", "taken") >= 1


def test_a_collector_that_hangs_does_not_hold_up_the_end(sink: Sink) -> None:
    sink.hang.clear()
    exporter = OtlpMetricsExporter(_settings(sink, interval_s=0.01), _counted().finished)
    exporter.start()
    time.sleep(0.2)
    begun_s = time.monotonic()
    exporter.stop(0.5)
    assert time.monotonic() - begun_s < 30.0


def test_the_last_counts_are_sent_at_the_end(sink: Sink) -> None:
    metrics = _counted()
    exporter = OtlpMetricsExporter(_settings(sink, interval_s=3600.0), metrics.finished)
    exporter.start()
    metrics.requests.observe("Decide", "INTERNAL", 1)
    exporter.stop()
    reasons = {
        one.value.string_value
        for point in sink.metric("assay.requests").sum.data_points
        for one in point.attributes
        if one.key == "reason"
    }
    assert reasons == {"OK", "INTERNAL"}


def test_a_snapshot_that_fails_is_counted() -> None:
    def bad() -> Snapshot:
        raise RuntimeError("no")

    exporter = OtlpMetricsExporter(MetricsSettings(), bad)
    assert not exporter.send()
    found = Snapshot()
    exporter.put(found)
    assert found.value("assay.metrics.exports", "failed") == 1
    exporter.stop()
