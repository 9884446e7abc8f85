"""The Prometheus endpoint over real sockets, and several processes behind one."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.telemetry.metrics import sources
from engine.telemetry.metrics.endpoint import Endpoint
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.metrics.shared import Publisher, SnapshotDirectory

parser = pytest.importorskip("prometheus_client.parser")
openmetrics_parser = pytest.importorskip("prometheus_client.openmetrics.parser")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(("INTERNAL",))
    made.add(sources.process())
    made.requests.observe("Decide", "OK", 3_000_000, "ef" * 16, 7.0)
    return made


@pytest.fixture
def endpoint(metrics: Metrics) -> Iterator[Endpoint]:
    made = Endpoint(metrics.finished, port=0, connections_max=3)
    yield made
    made.stop()


def _get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.headers), content


def test_a_scrape(endpoint: Endpoint) -> None:
    status, headers, content = _get(endpoint.port, "/metrics?name=x")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in parser.text_string_to_metric_families(content.decode())}
    sample, *others = families["assay_requests"].samples
    assert (sample.name, sample.labels, sample.value) == (
        "assay_requests_total",
        {"method": "Decide", "reason": "OK"},
        1,
    )
    assert {(one.labels["reason"], one.value) for one in others} == {("INTERNAL", 0)}


def test_openmetrics_by_the_header_that_prometheus_sends(endpoint: Endpoint) -> None:
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1"
    status, headers, content = _get(endpoint.port, "/metrics", Accept=accept, Accept_Encoding="gzip")
    assert (status, headers["Content-Encoding"]) == (200, "gzip")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    text = gzip.decompress(content).decode()
    families = {family.name: family for family in openmetrics_parser.text_string_to_metric_families(text)}
    exemplars = [s.exemplar for s in families["assay_request_duration_seconds"].samples if s.exemplar]
    assert [one.labels for one in exemplars] == [{"trace_id": "ef" * 16}]


def test_health_and_nothing_else(metrics: Metrics) -> None:
    healthy = [True]
    endpoint = Endpoint(metrics.finished, port=0, healthy=lambda: healthy[0])
    try:
        assert _get(endpoint.port, "/healthz")[0] == 200
        healthy[0] = False
        assert _get(endpoint.port, "/healthz")[0] == 503
        assert _get(endpoint.port, "/")[0] == 404
    finally:
        endpoint.stop()


def test_connections_are_bounded_and_come_free_again(endpoint: Endpoint) -> None:
    held = [socket.create_connection(("127.0.0.1", endpoint.port), timeout=60) for _ in range(3)]
    extra = socket.create_connection(("127.0.0.1", endpoint.port), timeout=60)
    try:
        extra.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = extra.recv(100)
    except ConnectionError:
        answer = b""
    assert answer == b"", "one too many is closed at once"
    for one in (*held, extra):
        one.close()
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        try:
            if _get(endpoint.port, "/metrics")[0] == 200:
                return
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.05)
    pytest.fail("no connection came free")


def test_many_scrapes_at_once_while_calls_are_counted(metrics: Metrics, endpoint: Endpoint) -> None:
    stop = threading.Event()

    def tell() -> None:
        while not stop.is_set():
            metrics.requests.observe("Decide", "OK", 1_000_000)

    telling = threading.Thread(target=tell)
    telling.start()
    seen = [0.0]
    try:
        for _ in range(4):
            content = _get(endpoint.port, "/metrics")[2].decode()
            families = {family.name: family for family in parser.text_string_to_metric_families(content)}
            calls, _ = families["assay_requests"].samples
            [counted] = [s for s in families["assay_request_duration_seconds"].samples if s.name.endswith("_count")]
            assert calls.value == counted.value >= seen[-1]
            seen.append(calls.value)
    finally:
        stop.set()
        telling.join()


_WORKER = """
import sys, time
from pathlib import Path
from engine.telemetry.metrics import sources
from engine.telemetry.metrics.registry import Metrics
from engine.telemetry.metrics.shared import Publisher

metrics = Metrics()
metrics.add(sources.gauge("assay.requests.in_flight", lambda: 1))
for _ in range(int(sys.argv[2])):
    metrics.requests.observe("Decide", "OK", 1_000_000)
Publisher(Path(sys.argv[1]), metrics.snapshot).publish()
time.sleep(float(sys.argv[3]))
"""


def _worker(directory: Path, calls: int, stays_s: float) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'gen'}"}
    arguments = [sys.executable, "-c", _WORKER, str(directory), str(calls), str(stays_s)]
    return subprocess.Popen(arguments, env=environment)


def test_several_processes_are_one(tmp_path: Path) -> None:
    shared = SnapshotDirectory(tmp_path)
    live = [_worker(tmp_path, calls, 600) for calls in (3, 4)]
    dead = _worker(tmp_path, 5, 0)
    endpoint = Endpoint(shared.finished, port=0)
    try:
        assert dead.wait(60) == 0
        end_s = time.monotonic() + 60
        while len(list(tmp_path.glob("*.metrics"))) < 3 and time.monotonic() < end_s:
            time.sleep(0.02)
        for round_number in range(3):
            found = shared.merged()
            assert found.value("assay.requests", "Decide", "OK") == 12
            assert found.value("assay.workers") == 2
            assert found.value("assay.requests.in_flight") == 2
            if round_number == 0:
                shared.retire()
            if round_number == 1:
                # As if the supervisor had died before it removed the file.
                (tmp_path / f"{dead.pid}-1.metrics").write_bytes(b"broken")
                shared.retire()
        assert len(list(tmp_path.glob("*.metrics"))) >= 3
        assert b'assay_requests_total{method="Decide",reason="OK"} 12' in _get(endpoint.port, "/metrics")[2]
    finally:
        endpoint.stop()
        for process in live:
            process.kill()
            process.wait()
    assert shared.merged().value("assay.requests", "Decide", "OK") == 12
    assert shared.merged().value("assay.workers") == 0
    shared.clear()
    assert not shared.merged().points


def test_a_file_that_was_retired_does_not_count_twice(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.requests.observe("Decide", "OK", 1)
    publisher = Publisher(tmp_path, metrics.snapshot)
    publisher.publish()
    [file] = tmp_path.glob("*.metrics")
    ghost = file.with_name("999999999-5.metrics")
    ghost.write_bytes(file.read_bytes())
    content = ghost.read_bytes()
    shared = SnapshotDirectory(tmp_path)
    assert shared.merged().value("assay.requests", "Decide", "OK") == 2
    shared.retire()
    ghost.write_bytes(content)  # its removal was never seen on the disk
    assert shared.merged().value("assay.requests", "Decide", "OK") == 2
