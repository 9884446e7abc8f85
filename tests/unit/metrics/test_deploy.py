"""What is deployed names metrics that there are, labels that they have, and runbook sections that are written."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.telemetry.metrics.catalogue import METRICS, Metric
from engine.telemetry.tracing.settings import DEFAULT_ENDPOINT

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy" / "observability"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

NAMES: dict[str, Metric] = {}
for _metric in METRICS.values():
    _suffixes = ("_bucket", "_sum", "_count") if _metric.kind == "histogram" else ("",)
    NAMES |= {_metric.prometheus + suffix: _metric for suffix in _suffixes}
# Of Prometheus' own making.
OTHERS = {"up": {"job", "instance"}}
EVERYWHERE = {"le", "job", "instance"}


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}: {panel['title']}", target["expr"]


EXPRESSIONS = list(_expressions())


def test_there_are_dashboards_and_alerts() -> None:
    assert [file.stem for file in DASHBOARDS] == ["decisions", "drift", "latency", "models", "stores"]
    assert len(RULES) > 20


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_every_metric_and_label_exists(where: str, expression: str) -> None:
    names = re.findall(r"\b(?:assay|process)_\w+|\bup\b", expression)
    assert names, where
    labels: set[str] = set(EVERYWHERE)
    for name in names:
        assert name in NAMES or name in OTHERS, f"{where}: there is no metric {name}"
        labels |= set(NAMES[name].labels) if name in NAMES else OTHERS[name]
    for name, inner in re.findall(r"\b((?:assay|process)_\w+|up)\{([^}]*)\}", expression):
        own = (set(NAMES[name].labels) if name in NAMES else OTHERS[name]) | EVERYWHERE
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inner))
        assert used <= own, f"{where}: {name} has no {used - own}"
    grouped = {label.strip() for inner in re.findall(r"\bby \(([^)]*)\)", expression) for label in inner.split(",")}
    assert grouped <= labels, f"{where}: nothing has {grouped - labels}"


def test_every_metric_for_alerting_words_is_a_word_of_the_engine() -> None:
    from assay.decision.v1.error_reason_pb2 import ErrorReason

    reasons = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118
    for where, expression in EXPRESSIONS:
        for value in re.findall(r'reason(?:=~|!=|=)"([^"]*)"', expression):
            assert set(value.split("|")) <= reasons | {"OK"}, where


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_has_its_section_in_the_runbook(rule: dict[str, Any]) -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert rule["labels"]["severity"] in {"critical", "warning"}
    section = runbook.partition(f"\n## {rule['alert']}\n")[2].partition("\n## ")[0]
    for part in ("**Means.**", "**Check.**", "**Act.**"):
        assert part in section, f"{rule['alert']} has no {part}"


def test_the_runbook_has_no_section_without_an_alert() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", runbook, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_dashboards_are_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DEPLOY / "grafana"))
    maker = importlib.import_module("make_dashboards")
    assert set(maker.DASHBOARDS) == {file.stem for file in DASHBOARDS}
    for file in DASHBOARDS:
        assert file.read_text(encoding="utf-8") == maker.render(file.stem), f"run {maker.__file__}"


def test_panels_do_not_overlap() -> None:
    for file in DASHBOARDS:
        whole = json.loads(file.read_text(encoding="utf-8"))
        taken: set[tuple[int, int]] = set()
        for panel in whole["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken and max(x for x, _ in cells) < 24
            taken |= cells
        assert len({panel["id"] for panel in whole["panels"]}) == len(whole["panels"])


def test_the_collector_uses_all_that_it_defines() -> None:
    config = yaml.safe_load((DEPLOY / "collector" / "config.yaml").read_text(encoding="utf-8"))
    pipelines = config["service"]["pipelines"]
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(config[kind]), kind
    assert config["service"]["extensions"] == list(config["extensions"])
    assert set(pipelines) == {"metrics", "traces"}
    for pipeline in pipelines.values():
        assert pipeline["processors"][0] == "memory_limiter"
    listens = config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    assert DEFAULT_ENDPOINT["grpc"].endswith(listens)


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def _promtool(*arguments: str, at: Path = DEPLOY / "prometheus") -> None:
    done = subprocess.run(["promtool", *arguments], cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_configuration_and_the_alerts() -> None:
    _promtool("check", "config", "prometheus.yml")
    _promtool("test", "rules", "alerts_test.yml")


@needs_promtool
def test_promtool_takes_every_query_of_the_dashboards(tmp_path: Path) -> None:
    rules = [
        {"record": f"q{number}", "expr": re.sub(r"\$__(rate_interval|range)", "5m", expression)}
        for number, (_, expression) in enumerate(EXPRESSIONS)
    ]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules}]}), encoding="utf-8")
    _promtool("check", "rules", "queries.yml", at=tmp_path)


@needs_promtool
def test_promtool_takes_what_the_endpoint_gives(tmp_path: Path) -> None:
    from engine.telemetry.metrics.registry import Metrics
    from engine.telemetry.metrics.text import families
    from tests.support.bundles import shipped

    metrics = Metrics(("INTERNAL",))
    metrics.serve(shipped().plan)
    text = "".join(families(metrics.finished()))
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    # 3 is for matters of style only; the names that it minds are held by `test_names_end_with_their_units`.
    assert done.returncode in {0, 3}, done.stderr
    assert "error" not in done.stderr.lower(), done.stderr


def test_the_page_has_the_table_of_all_metrics() -> None:
    from engine.telemetry.metrics.reference import table

    page = (ROOT / "docs" / "observability-metrics.md").read_text(encoding="utf-8")
    assert table() in page, "python -m engine.telemetry.metrics.reference gives the new one"
    explained = set(re.findall(r"`(\w+)`", page.partition("\nLabels and how many values")[2].replace("| values |", "")))
    assert {label for metric in METRICS.values() for label in metric.labels} <= explained
