"""What deploy/ holds fits the engine: variables are settings, ports are theirs, probes and pods are as they must be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import __version__
from engine.config import Config, load_config
from engine.features.stores.cassandra_schema import MIGRATIONS
from tools.cassandra_schema import FILE, schema

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
UNIT = (DEPLOY / "systemd" / "assay.service").read_text("utf-8")
VALUES: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "assay" / "values.yaml").read_text("utf-8"))
RENDERED = {name: ROOT / "tests" / "fixtures" / "helm" / f"{name}.yaml" for name in ("default", "all")}
DEFAULTS = Config()
USER = 10001
# A supervisor kills a worker that takes 25 s longer than its drain (docs/workers.md).
CLOSING_S = 30


@cache
def manifests(name: str) -> dict[str, dict[str, Any]]:
    """What the chart renders, by kind; of two services the headless one is `Headless`."""
    found = {}
    for one in yaml.safe_load_all(RENDERED[name].read_text("utf-8")):
        kind = "Headless" if one["metadata"]["name"].endswith("-headless") else one["kind"]
        assert kind not in found
        found[kind] = one
    return found


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifests(name)["StatefulSet"]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (one,) = pod(name)["containers"]
    return dict(one)


def dockerfile_variables() -> dict[str, str]:
    return dict(re.findall(r"\b(ASSAY_\w+)=(\S+)", DOCKERFILE))


def unit_variables() -> dict[str, str]:
    return dict(re.findall(r"^Environment=(ASSAY_\w+)=(\S+)", UNIT, re.MULTILINE))


def chart_variables(name: str) -> dict[str, str]:
    values = {one["name"]: one.get("value", "a-secret") for one in container(name)["env"]}
    return {key: value for key, value in values.items() if key.startswith("ASSAY_")}


def compose_variables() -> dict[str, str]:
    settings = COMPOSE["services"]["assay"]["environment"]
    return {key: re.sub(r"\$\{.*", "a-secret", value) for key, value in settings.items()}


def of(variables: dict[str, str], file: Path | None = None) -> Config:
    """The settings that come of them; ConfigError for a variable that names none."""
    environment = {key: value for key, value in variables.items() if key != "ASSAY_CONFIG"}
    empty = file or Path(os.devnull)
    return load_config(empty, environment)


def test_every_variable_names_a_setting() -> None:
    for variables in (dockerfile_variables(), unit_variables(), compose_variables()):
        assert len(variables) > 5
        of(variables)
    for name in RENDERED:
        of(chart_variables(name))
    assert of(dockerfile_variables() | compose_variables()).store.kind == "tiered"
    # Anything else in the text that looks like one.
    known = {f"ASSAY_{s}_{n}".upper() for s, f in Config.model_fields.items() for n in f.annotation.model_fields}  # type: ignore[union-attr]
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix not in {".json", ".cql"}:
            named = set(re.findall(r"\bASSAY_[A-Z_]+[A-Z]\b", path.read_text("utf-8")))
            assert named <= known | {"ASSAY_CONFIG"}, path


def test_the_charts_settings_are_settings(tmp_path: Path) -> None:
    for name in RENDERED:
        text = manifests(name)["ConfigMap"]["data"]["assay.toml"]
        assert tomllib.loads(text)
        (tmp_path / "assay.toml").write_text(text)
        config = of(dockerfile_variables() | chart_variables(name), tmp_path / "assay.toml")
        assert config.idempotency.share == "store", "pods share request ids"
        assert config.store.kind not in {"embedded", "memory"}, "pods share features"
        assert config.record.durability == "disk"
        if name == "all":
            assert config.record.bytes_max == 40 * 1024**3
            assert config.record.retain_days == {"de": 1095, "other": 365}
            assert config.server.workers == 4
            assert config.server.tls_client_ca is not None


def test_ports_are_those_of_the_settings() -> None:
    port = int(DEFAULTS.server.address.rpartition(":")[2])
    assert re.search(rf"^EXPOSE {port} {DEFAULTS.metrics.port}$", DOCKERFILE, re.MULTILINE)
    assert COMPOSE["services"]["assay"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    targets = yaml.safe_load((DEPLOY / "compose" / "prometheus.yml").read_text("utf-8"))["scrape_configs"][0]
    assert targets["static_configs"] == [{"targets": [f"assay:{DEFAULTS.metrics.port}"]}]
    for name in RENDERED:
        found = manifests(name)
        ports = {one["name"]: one["containerPort"] for one in container(name)["ports"]}
        assert ports == {"grpc": port, "metrics": DEFAULTS.metrics.port}
        assert found["Service"]["spec"]["ports"][0]["port"] == port
        assert {one["port"] for one in found["Headless"]["spec"]["ports"]} == set(ports.values())
        allowed = [one["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for one in rule["ports"]]
        assert allowed == [port, DEFAULTS.metrics.port]


def test_everything_that_is_written_goes_to_the_volumes() -> None:
    """Every path that the engine writes to by default stands somewhere else in an image with a read-only root."""
    for variables, places in (
        (dockerfile_variables(), ("/var/lib/assay",)),
        (unit_variables(), ("/var/lib/assay",)),
        (dockerfile_variables() | chart_variables("all"), ("/var/lib/assay", "/run/assay/keys")),
    ):
        config = of(variables)
        for section in Config.model_fields:
            part = getattr(config, section)
            for name in type(part).model_fields:
                value = getattr(part, name)
                default = getattr(getattr(DEFAULTS, section), name)
                if isinstance(default, Path):
                    assert str(value).startswith(places), f"{section}.{name} is {value}"
    mounts = {one["mountPath"] for one in container("default")["volumeMounts"]}
    assert {"/var/lib/assay", "/run/assay/keys", "/tmp"} <= mounts


@pytest.mark.parametrize("name", list(RENDERED))
def test_pods_may_do_nothing_but_serve(name: str) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert manifests(name)["ServiceAccount"]["automountServiceAccountToken"] is False
    outer = spec["securityContext"]
    assert outer["runAsNonRoot"] is True
    assert (outer["runAsUser"], outer["runAsGroup"], outer["fsGroup"]) == (USER, USER, USER)
    assert outer["seccompProfile"] == {"type": "RuntimeDefault"}
    # Anything else would have kubelet open the files of keys to the group, which the engine refuses.
    assert outer["fsGroupChangePolicy"] == "OnRootMismatch"
    for one in (*spec["containers"], *spec["initContainers"]):
        inner = one["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False
        assert inner["readOnlyRootFilesystem"] is True
        assert inner["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["limits"]["memory"]
        assert one["resources"]["requests"]["cpu"]
    assert not any("hostPath" in volume for volume in spec["volumes"])
    # Secrets come by reference.
    text = RENDERED[name].read_text("utf-8")
    assert not re.search(r"kind: Secret$", text, re.MULTILINE)
    for variable in container(name)["env"]:
        if re.search(r"PASSWORD|USER", variable["name"]):
            assert "secretKeyRef" in variable["valueFrom"], variable


@pytest.mark.parametrize("name", list(RENDERED))
def test_a_pod_has_time_to_leave(name: str) -> None:
    found, one = manifests(name), container(name)
    config = tomllib.loads(found["ConfigMap"]["data"]["assay.toml"])
    sleep, seconds = one["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    drain_s = config["server"]["drain_grace_s"]
    assert pod(name)["terminationGracePeriodSeconds"] >= int(seconds) + drain_s + CLOSING_S
    # It has left the endpoints by the time that it is told to end: a probe can have failed by then as well.
    readiness = one["readinessProbe"]
    assert int(seconds) >= readiness["periodSeconds"] * readiness["failureThreshold"]


def test_pods_are_asked_by_grpc_and_with_tls_over_http() -> None:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container("default")[probe]["grpc"] == {"port": 50051}
        page = container("all")[probe]["httpGet"]
        assert page["port"] == "metrics"
        assert page["path"] in {"/healthz", "/live"}
    start = container("default")["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 120, "a bundle may take long to load"
    live = container("default")["livenessProbe"]
    assert live["periodSeconds"] * live["failureThreshold"] >= 60, "who has much to do is not killed for it"


@pytest.mark.parametrize("name", list(RENDERED))
def test_a_journal_outlives_its_pod(name: str) -> None:
    found = manifests(name)
    spec = found["StatefulSet"]["spec"]
    assert spec["serviceName"] == found["Headless"]["metadata"]["name"]
    assert found["Headless"]["spec"]["clusterIP"] == "None"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    (mount,) = [one for one in container(name)["volumeMounts"] if one["name"] == claim["metadata"]["name"]]
    assert dockerfile_variables()["ASSAY_RECORD_PATH"].startswith(mount["mountPath"] + "/")
    selectors = [
        spec["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["Headless"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    labels = spec["template"]["metadata"]["labels"]
    for selector in selectors:
        assert selector == selectors[0]
        assert selector.items() <= labels.items()
    assert re.fullmatch(r"[0-9a-f]{64}", spec["template"]["metadata"]["annotations"]["checksum/config"])


def test_it_grows_by_a_metric_that_there_is() -> None:
    from engine.telemetry.metrics.catalogue import METRICS

    spec = manifests("all")["HorizontalPodAutoscaler"]["spec"]
    assert spec["scaleTargetRef"]["kind"] == "StatefulSet"
    concurrency, cpu = spec["metrics"]
    name = concurrency["pods"]["metric"]["name"]
    assert name in {metric.prometheus for metric in METRICS.values() if metric.kind == "gauge"}
    assert name in (DEPLOY / "helm" / "prometheus-adapter.yaml").read_text("utf-8")
    assert cpu["resource"]["name"] == "cpu"
    assert "replicas" not in manifests("all")["StatefulSet"]["spec"], "two would set it"
    assert manifests("default")["StatefulSet"]["spec"]["replicas"] == VALUES["replicas"]


def test_the_image_is_small_confined_and_pinned() -> None:
    stages = re.findall(r"^FROM \$\{PYTHON\} AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert stages == ["stubs", "tree", "runtime"]
    assert re.search(r"^ARG PYTHON=python:3\.\d+\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    runtime = DOCKERFILE.rpartition(" AS runtime")[2]
    assert f"USER {USER}:{USER}" in runtime
    assert "pip install" not in runtime
    assert "--require-hashes" in DOCKERFILE
    assert "engine.rpc.probe" in runtime
    for path in re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE):
        assert (ROOT / path).exists(), path
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "**" in ignored
    for line in ignored:
        if line.startswith("!"):
            assert (ROOT / line[1:].removesuffix("/**")).exists(), line
    assert f"ARG VERSION={__version__}" in DOCKERFILE
    chart = yaml.safe_load((DEPLOY / "helm" / "assay" / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == __version__


def test_compose_starts_in_order_within_limits_and_holds_no_secret() -> None:
    services = COMPOSE["services"]
    assert services["assay"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["migrate"]["depends_on"]["cassandra"] == {"condition": "service_healthy"}
    for name, service in services.items():
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        merged = service["<<"] if isinstance(service.get("<<"), list) else service
        assert "no-new-privileges:true" in str(merged), name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        for variable, value in (service.get("environment") or {}).items():
            if "PASSWORD" in variable:
                assert re.fullmatch(r"\$\{\w+:\?.*\}", str(value)), variable
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / "compose" / source).exists(), source
    for line in (DEPLOY / "compose" / ".env.example").read_text("utf-8").splitlines():
        assert line.startswith("#") or line.endswith("=")
    grace_s = int(services["assay"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= DEFAULTS.server.drain_grace_s + CLOSING_S


def test_the_unit_is_confined_and_has_time_to_end() -> None:
    settings = dict(line.split("=", 1) for line in UNIT.splitlines() if "=" in line and not line.startswith("#"))
    for name, value in {
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "StateDirectory": "assay",
        "StateDirectoryMode": "0700",
        "CapabilityBoundingSet": "",
        "UMask": "0077",
        "User": "assay",
    }.items():
        assert settings[name] == value, name
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(settings["TimeoutStopSec"]) >= DEFAULTS.server.drain_grace_s + CLOSING_S
    assert "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX" in UNIT


def test_redis_forgets_only_where_it_is_a_tier() -> None:
    tier = (DEPLOY / "redis" / "redis-tier.conf").read_text("utf-8")
    alone = (DEPLOY / "redis" / "redis-store.conf").read_text("utf-8")
    assert "\nmaxmemory-policy allkeys-lru\n" in tier
    assert "\nmaxmemory-policy noeviction\n" in alone
    assert "\nappendonly yes\n" in alone


def test_the_tables_of_cassandra_are_those_that_migrate_makes() -> None:
    assert FILE.read_text("utf-8") == schema(), "python -m tools.cassandra_schema writes it again"
    for migration in MIGRATIONS:
        assert migration.checksum in schema()


def test_the_tables_of_the_capacity_guide_are_those_of_its_figures() -> None:
    from tools.capacity import FIGURES, PAGE, filled

    page = PAGE.read_text("utf-8")
    assert page == filled(page, json.loads(FIGURES.read_text("utf-8"))), "python -m tools.capacity writes them again"


def test_what_can_be_judged_by_others_is_judged() -> None:
    """hadolint, helm, Compose's library, systemd: those that are there. `tools/check_deploy.sh fetch` gets them."""
    done = subprocess.run(
        [ROOT / "tools" / "check_deploy.sh"], capture_output=True, text=True, check=False, timeout=200, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stderr)


GUIDES = [ROOT / "docs" / f"{name}.md" for name in ("backup", "capacity", "deployment", "runbook", "upgrade")]


@pytest.mark.parametrize(
    "file", [*GUIDES, DEPLOY / "helm" / "assay" / "templates" / "NOTES.txt"], ids=lambda one: one.name
)
def test_every_command_in_a_guide_is_one(file: Path) -> None:
    from typer.main import get_command

    from engine.cli import app

    commands: Any = get_command(app)
    text = file.read_text("utf-8")
    found = re.findall(r"(?:`|^|-- |nice |exec assay )assay ((?:[a-z]+)(?: [a-z]+)?)", text, re.MULTILINE)
    assert found or file.name == "capacity.md"
    for words in found:
        group, _, name = words.partition(" ")
        assert group in commands.commands, words
        inner = getattr(commands.commands[group], "commands", None)
        if inner is not None and name:
            assert name in inner, words
