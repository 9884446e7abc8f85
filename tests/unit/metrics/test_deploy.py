"""What is deployed names metrics that there are, labels that they have, and runbook sections that are written."""

from __future__ import annotations

import importlib
import json
import os
import re
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


def test_dashboards_ask_the_source_that_is_chosen_and_name_only_variables_that_they_have() -> None:
    uids = set()
    for file in DASHBOARDS:
        whole = json.loads(file.read_text(encoding="utf-8"))
        uids.add(whole["uid"])
        variables = {one["name"]: one for one in whole["templating"]["list"]}
        assert variables["source"]["type"] == "datasource" and variables["source"]["query"] == "prometheus"
        own = {"type": "prometheus", "uid": "${source}"}
        asked = [one for one in variables.values() if one["type"] == "query"]
        for part in (*whole["panels"], *asked, *(t for panel in whole["panels"] for t in panel["targets"])):
            assert part["datasource"] == own, file
        for one in asked:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", one["query"]).groups()  # type: ignore[union-attr]
            assert label in NAMES[metric].labels, one["query"]
        for panel in whole["panels"]:
            assert panel["title"] and panel["targets"], file
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)
            for target in panel["targets"]:
                named = set(re.findall(r"\$\{?(\w+)", target["expr"]))
                assert named <= set(variables) | {"__rate_interval", "__range"}, target["expr"]
                shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                grouped = {
                    label.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(",")
                }
                assert shown <= grouped, f"{panel['title']}: the legend shows {shown - grouped}"
    assert len(uids) == len(DASHBOARDS)


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


PROMTOOL = str(ROOT / "tools" / "promtool.sh")


@pytest.fixture(scope="module")
def _promtool_there() -> None:
    done = subprocess.run([PROMTOOL, "fetch"], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == 3 and os.environ.get("CI") not in {"true", "1"}:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


needs_promtool = pytest.mark.usefixtures("_promtool_there")


def _promtool(*arguments: str, at: Path = DEPLOY / "prometheus") -> None:
    done = subprocess.run([PROMTOOL, *arguments], cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_configuration_and_the_alerts() -> None:
    _promtool("check", "config", "prometheus.yml")
    _promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tested_where_it_fires_and_where_it_does_not() -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    cases = [case for group in groups for case in group["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    quiet = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == quiet == {rule["alert"] for rule in RULES}
    # A series of a test that the alerts do not read would prove nothing.
    read = {name for rule in RULES for name in re.findall(r"\b(?:assay|process)_\w+|\bup\b", rule["expr"])}
    fed = {re.split(r"[{ ]", series["series"])[0] for group in groups for series in group["input_series"]}
    assert fed == read


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
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    # 3 is for matters of style only; the names that it minds are held by `test_names_end_with_their_units`.
    assert done.returncode in {0, 3}, done.stderr
    assert "error" not in done.stderr.lower(), done.stderr


def test_the_page_has_the_table_of_all_metrics() -> None:
    from engine.telemetry.metrics.reference import table

    page = (ROOT / "docs" / "observability-metrics.md").read_text(encoding="utf-8")
    assert table() in page, "python -m engine.telemetry.metrics.reference gives the new one"
    explained = set(re.findall(r"`(\w+)`", page.partition("\nLabels and how many values")[2].replace("| values |", "")))
    assert {label for metric in METRICS.values() for label in metric.labels} <= explained
