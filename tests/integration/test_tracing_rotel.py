"""An independent collector between the engine and the sink: what rotel understands of our
bytes and passes on is what was recorded."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from engine.telemetry.tracing.recorder import open_recorder
from engine.telemetry.tracing.settings import OtlpSettings, Protocol, TracingSettings
from tests.support.otlp_sink import OtlpSink, assert_arrived, assert_trees, sinking
from tests.support.traces import SPANS, decision

pytestmark = pytest.mark.slow
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def _binary() -> str | None:
    spec = importlib.util.find_spec("rotel")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "rotel-agent"
        if binary.is_file():
            return str(binary)
    return shutil.which("rotel")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def rotel(sink: OtlpSink, home: Path) -> Iterator[tuple[int, int]]:
    """A collector that passes everything on to the sink. Gives its ports for gRPC and HTTP."""
    binary = _binary()
    if binary is None:
        pytest.skip("rotel is not installed (pip install rotel): no independent collector takes part")
    ports = _free_port(), _free_port()
    command = [binary, "start", "--exporter", "otlp", "--otlp-exporter-endpoint", sink.grpc_endpoint]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{ports[0]}", "--otlp-http-endpoint", f"127.0.0.1:{ports[1]}"]
    command += [
        "--batch-timeout",
        "100ms",
        "--pid-file",
        str(home / "rotel.pid"),
        "--log-file",
        str(home / "rotel.log"),
    ]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=home, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        end_s = time.monotonic() + 20
        for port in ports:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, (home / "output").read_text()
                    assert time.monotonic() < end_s, "rotel does not listen"
                    time.sleep(0.05)
        yield ports
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_an_independent_collector_passes_on_what_was_recorded(
    tmp_path: Path, protocol: Protocol, compression: str
) -> None:
    with sinking() as sink, rotel(sink, tmp_path) as (grpc_port, http_port):
        by_grpc = protocol == "grpc"
        endpoint = f"http://127.0.0.1:{grpc_port}" if by_grpc else f"http://127.0.0.1:{http_port}/v1/traces"
        otlp = OtlpSettings(endpoint=endpoint, protocol=protocol)
        otlp = replace(otlp, compression="gzip" if compression == "gzip" else "none")
        recorder = open_recorder(TracingSettings(exporters=("otlp",), otlp=otlp))
        records = [decision(n) for n in range(200)]
        records.append(decision(200, traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="a=1", status="no store answers"))
        for record in records:
            recorder.record(record)
        assert recorder.flush(20)
        assert recorder.stats()["exported_spans"] == 201 * SPANS
        spans = sink.wait_count(201 * SPANS)
        assert len(assert_trees(spans)) == 201
        for record in records:
            assert_arrived(record, spans)
        assert spans[0].resource["service.name"] == "assay"
        recorder.close(10)
