"""OpenTelemetry's variables over the settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from engine.errors import ConfigError
from engine.telemetry.tracing import names
from engine.telemetry.tracing.otlp_grpc import target_of
from engine.telemetry.tracing.resource import resource_of
from engine.telemetry.tracing.settings import OtlpSettings, TracingSettings, from_plain, to_plain
from engine.telemetry.tracing.settings_environment import with_environment
from engine.telemetry.tracing.tail import TailRule

BASE = TracingSettings()


def over(base: TracingSettings, **variables: str) -> TracingSettings:
    return with_environment(base, {f"OTEL_{name}": value for name, value in variables.items()})


def read(**variables: str) -> TracingSettings:
    return over(BASE, **variables)


def test_without_variables_nothing_changes() -> None:
    assert read() == BASE
    assert read(TRACES_EXPORTER="", EXPORTER_OTLP_ENDPOINT=" ") == BASE


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    assert with_environment(BASE).exporters == ("console",)


def test_exporters() -> None:
    assert read(TRACES_EXPORTER="otlp, file,otlp").exporters == ("otlp", "file")
    none = read(TRACES_EXPORTER="none")
    assert (none.exporters, none.mode) == ((), "off")
    assert read(SDK_DISABLED="TRUE").mode == "off"


def test_naming_a_collector_is_wanting_traces_there() -> None:
    assert read(EXPORTER_OTLP_ENDPOINT="http://c:4317").exporters == ("file", "otlp")
    assert read(EXPORTER_OTLP_ENDPOINT="http://c:4317", TRACES_EXPORTER="file").exporters == ("file",)


@pytest.mark.parametrize(
    ("variables", "protocol", "endpoint"),
    [
        ({"EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "grpc", "http://c:4317"),
        ({"EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http/protobuf", "http://c:4318/v1/traces"),
        ({"EXPORTER_OTLP_ENDPOINT": "http://c:4318/base/"}, "http/protobuf", "http://c:4318/base/v1/traces"),
        ({"EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/x"}, "http/protobuf", "http://c:4318/x"),
        ({"EXPORTER_OTLP_ENDPOINT": "c:4317"}, "grpc", "c:4317"),
        (
            {"EXPORTER_OTLP_ENDPOINT": "https://c", "EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http/protobuf",
            "https://c/v1/traces",
        ),
        (
            {"EXPORTER_OTLP_ENDPOINT": "http://a:4317", "EXPORTER_OTLP_TRACES_ENDPOINT": "http://b:4317"},
            "grpc",
            "http://b:4317",
        ),
        ({"EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "http/protobuf", "http://localhost:4318/v1/traces"),
        (
            {"EXPORTER_OTLP_PROTOCOL": "http/protobuf", "EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "grpc",
            "http://localhost:4317",
        ),
    ],
)
def test_protocol_and_endpoint(variables: dict[str, str], protocol: str, endpoint: str) -> None:
    otlp = read(**variables).otlp
    assert (otlp.protocol, otlp.endpoint) == (protocol, endpoint)


@pytest.mark.parametrize(
    ("endpoint", "insecure", "target"),
    [
        ("http://c:4317", False, ("c:4317", False)),
        ("https://c:4317", False, ("c:4317", True)),
        ("c:4317", False, ("c:4317", True)),
        ("c:4317", True, ("c:4317", False)),
        ("unix:/run/otel.sock", False, ("unix:/run/otel.sock", False)),
    ],
)
def test_targets_of_grpc(endpoint: str, insecure: bool, target: tuple[str, bool]) -> None:
    assert target_of(OtlpSettings(endpoint=endpoint, insecure=insecure)) == target


def test_everything_of_the_exporter() -> None:
    otlp = read(
        EXPORTER_OTLP_HEADERS="api-key=s%20e=c, x=1",
        EXPORTER_OTLP_TIMEOUT="2500",
        EXPORTER_OTLP_COMPRESSION="gzip",
        EXPORTER_OTLP_CERTIFICATE="/ca",
        EXPORTER_OTLP_CLIENT_CERTIFICATE="/cert",
        EXPORTER_OTLP_CLIENT_KEY="/key",
        EXPORTER_OTLP_INSECURE="true",
    ).otlp
    assert otlp.headers == (("api-key", "s e=c"), ("x", "1"))
    assert (otlp.timeout_s, otlp.compression, otlp.insecure) == (2.5, "gzip", True)
    assert (otlp.certificate, otlp.client_certificate, otlp.client_key) == ("/ca", "/cert", "/key")
    assert read(EXPORTER_OTLP_TIMEOUT="3").otlp.timeout_s == 3


def test_sizes_and_sampler() -> None:
    got = read(
        BSP_SCHEDULE_DELAY="250",
        BSP_MAX_EXPORT_BATCH_SIZE="77",
        BSP_MAX_QUEUE_SIZE="1000",
        TRACES_SAMPLER="parentbased_traceidratio",
        TRACES_SAMPLER_ARG="0.5",
    )
    assert (got.batch_delay_s, got.batch_spans_max, got.export_queue_bytes_max) == (0.25, 77, 512_000)
    assert (got.sampler, got.sampler_ratio) == ("parentbased_traceidratio", 0.5)


def test_all_mistakes_are_told_at_once_and_no_secret_with_them() -> None:
    with pytest.raises(ConfigError) as raised:
        read(
            TRACES_EXPORTER="zipkin",
            TRACES_SAMPLER="jaeger_remote",
            TRACES_SAMPLER_ARG="2",
            EXPORTER_OTLP_PROTOCOL="http/json",
            EXPORTER_OTLP_HEADERS="top-secret",
            EXPORTER_OTLP_TIMEOUT="0",
            EXPORTER_OTLP_COMPRESSION="zstd",
            BSP_SCHEDULE_DELAY="soon",
            BSP_MAX_QUEUE_SIZE="-1",
            RESOURCE_ATTRIBUTES="=x",
        )
    problems = raised.value.problems
    assert len(problems) == 10
    assert all(problem.file == "environment" for problem in problems)
    assert "top-secret" not in str(raised.value)
    with pytest.raises(ConfigError, match="no URL"):
        read(EXPORTER_OTLP_TRACES_ENDPOINT="c:4318", EXPORTER_OTLP_PROTOCOL="http/protobuf")


def test_the_resource() -> None:
    got = over(
        replace(BASE, resource={"a": "file", "service.name": "from-file"}, tail=TailRule(plain_kept_ratio=0.1)),
        RESOURCE_ATTRIBUTES="a=variable,deployment.environment.name=test%20bed,service.name=generic",
        SERVICE_NAME="loans",
    )
    resource = resource_of(got, {names.WORKER: 3})
    assert (resource["a"], resource["service.name"], resource["deployment.environment.name"]) == (
        "variable",
        "loans",
        "test bed",
    )
    assert (resource[names.WORKER], resource["process.pid"]) == (3, os.getpid())
    assert resource[names.PLAIN_KEPT_RATIO] == 0.1
    assert names.PLAIN_KEPT_RATIO not in resource_of(BASE)
    assert resource_of(BASE)["service.instance.id"] == resource_of(BASE)["service.instance.id"]


def test_settings_survive_json() -> None:
    whole = replace(
        BASE,
        otlp=OtlpSettings(headers=(("a", "b"),), protocol="http/protobuf"),
        tail=TailRule(0.5, 10),
        resource={"a": "b"},
        exporters=("otlp", "console"),
        spill_path="/spill",
    )
    assert from_plain(json.loads(json.dumps(to_plain(whole)))) == whole
    assert all(field.name in to_plain(whole) for field in fields(TracingSettings))


def test_a_fork_is_an_instance_of_its_own() -> None:
    code = """
import os
from engine.telemetry.tracing.resource import resource_of
from engine.telemetry.tracing.settings import TracingSettings
def instance():
    return resource_of(TracingSettings())["service.instance.id"].encode()
before = instance()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, instance())
    os._exit(0)
os.wait()
assert os.read(reader, 36) != before == instance()
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": "."}, timeout=100)
