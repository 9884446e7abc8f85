"""The Collector's configuration in deploy/, run by the Collector itself: metrics come out of it under the names that
the engine's own endpoint gives them, traces go on to the next backend."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from engine.telemetry.metrics.catalogue import METRICS
from engine.telemetry.metrics.otlp_exporter import OtlpMetricsExporter
from engine.telemetry.metrics.settings import MetricsSettings
from engine.telemetry.metrics.snapshot import Histogram, Snapshot
from engine.telemetry.metrics.text import families
from engine.telemetry.tracing.recorder import open_recorder
from engine.telemetry.tracing.settings import OtlpSettings, TracingSettings
from tests.support.otlp_sink import assert_arrived, sinking
from tests.support.traces import SPANS, decision
from tools.trace_backend import FETCH_TIMEOUT_S, free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy" / "observability" / "collector" / "config.yaml"
TOOL = ROOT / "tools" / "otelcol.sh"
BINARY = ROOT / "build" / "otelcol" / "otelcol"


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    command = [str(TOOL), "fetch"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


@contextmanager
def _collector(home: Path, traces_endpoint: str) -> Iterator[tuple[int, int]]:
    """The deployed configuration, with nothing changed but the ports. Gives those of OTLP over gRPC and of the page."""
    grpc, http, page, health = free_ports(4)
    moved = {
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {"endpoint": f"127.0.0.1:{grpc}"},
                    "http": {"endpoint": f"127.0.0.1:{http}"},
                }
            }
        },
        "exporters": {"prometheus": {"endpoint": f"127.0.0.1:{page}"}},
        "extensions": {"health_check": {"endpoint": f"127.0.0.1:{health}"}},
        "service": {"telemetry": {"metrics": {"level": "none"}}},
    }
    (home / "ports.yaml").write_text(yaml.safe_dump(moved), encoding="utf-8")
    command = [str(BINARY), "--config", str(CONFIG), "--config", str(home / "ports.yaml")]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "TRACES_ENDPOINT": traces_endpoint},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        end_s = time.monotonic() + 60
        while not _healthy(health):
            assert process.poll() is None, (home / "output").read_text()
            assert time.monotonic() < end_s, "the collector does not say that it is well"
            time.sleep(0.05)
        yield grpc, page
    finally:
        process.terminate()
        process.wait(30)


def _healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _everything() -> Snapshot:
    """One series of every metric that there is, with numbers that tell them apart."""
    snapshot = Snapshot(time_s=time.time(), start_s=time.time() - 60)
    for number, metric in enumerate(METRICS.values(), 1):
        labels = [f"a {label}" for label in metric.labels]
        if metric.kind == "histogram":
            bounds = metric.bounds or (500.0, 600.0, 700.0)
            counts = [number, *range(len(bounds))]
            snapshot.put_histogram(metric.name, labels, Histogram(bounds, counts, number * 1.5))
        else:
            snapshot.put(metric.name, labels, number)
    return snapshot


def _samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels, without what says where it is from."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = {key: value for key, value in sample.labels.items() if key not in ("job", "instance")}
            own = {key: value for key, value in own.items() if not key.startswith("otel_scope_")}
            if "le" in own:
                own["le"] = str(float(own["le"]))
            if sample.name != "target_info":
                found[sample.name, frozenset(own.items())] = sample.value
    return found


def test_metrics_have_the_same_names_behind_the_collector(tmp_path: Path) -> None:
    snapshot = _everything()
    with _collector(tmp_path, "127.0.0.1:9") as (grpc, page):
        otlp = OtlpSettings(endpoint=f"http://127.0.0.1:{grpc}")
        settings = MetricsSettings(exporters=("otlp",), otlp=otlp, resource={"service.name": "assay"})
        exporter = OtlpMetricsExporter(settings, lambda: snapshot)
        assert exporter.send()
        end_s = time.monotonic() + 30
        while "assay_ready" not in (text := _read(page)):
            assert time.monotonic() < end_s, "the collector shows no metrics"
            time.sleep(0.1)
        exporter.stop()
    assert 'job="assay"' in text
    own, behind = _samples("".join(families(snapshot))), _samples(text)
    assert {name for name, _ in own} >= {metric.prometheus for metric in METRICS.values() if metric.kind != "histogram"}
    assert behind == own


def _read(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def test_traces_go_on_to_the_next_backend(tmp_path: Path) -> None:
    with sinking() as sink, _collector(tmp_path, f"127.0.0.1:{sink.grpc_port}") as (grpc, _):
        otlp = OtlpSettings(endpoint=f"http://127.0.0.1:{grpc}")
        recorder = open_recorder(TracingSettings(mode="thread", exporters=("otlp",), otlp=otlp))
        record = decision(1, tracestate="a=1", traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01")
        recorder.record(record)
        assert recorder.flush(20)
        recorder.close(10)
        spans = sink.wait_count(SPANS, timeout_s=60)
        assert_arrived(record, spans)
