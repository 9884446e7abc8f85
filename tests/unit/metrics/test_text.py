"""The text for Prometheus, read by Prometheus' own client."""

from __future__ import annotations

import pytest

from engine.telemetry.metrics.catalogue import METRICS
from engine.telemetry.metrics.snapshot import Exemplar, Histogram, Snapshot
from engine.telemetry.metrics.text import families, wants_openmetrics

parser = pytest.importorskip("prometheus_client.parser")
openmetrics_parser = pytest.importorskip("prometheus_client.openmetrics.parser")


@pytest.fixture
def whole() -> Snapshot:
    """Every metric there is, each with labels that need escaping."""
    snapshot = Snapshot(1000.0, 900.0)
    for name, metric in METRICS.items():
        labels = [f'a"b\\c\nd-{label}' for label in metric.labels]
        if metric.kind == "histogram":
            bounds = metric.bounds or (100.0, 200.0)
            histogram = Histogram(bounds, [1] * (len(bounds) + 1), 12.5)
            histogram.exemplars[1] = Exemplar("ab" * 16, bounds[1], 999.5)
            snapshot.put_histogram(name, labels, histogram)
        else:
            snapshot.put(name, labels, 3 if metric.kind == "counter" else 0.25)
    return snapshot


def test_the_plain_format(whole: Snapshot) -> None:
    text = "".join(families(whole))
    found = {family.name: family for family in parser.text_string_to_metric_families(text)}
    for metric in METRICS.values():
        family = found[metric.prometheus.removesuffix("_total")]
        assert family.type == metric.kind
        assert family.documentation == metric.help
        for sample in family.samples:
            assert {k: v for k, v in sample.labels.items() if k != "le"} == {
                label: f'a"b\\c\nd-{label}' for label in metric.labels
            }
    assert " # {" not in text


def test_openmetrics(whole: Snapshot) -> None:
    text = "".join(families(whole, openmetrics=True))
    assert text.endswith("# EOF\n")
    found = {family.name: family for family in openmetrics_parser.text_string_to_metric_families(text)}
    for metric in METRICS.values():
        family = found[metric.prometheus.removesuffix("_total")]
        assert family.type == metric.kind
        if metric.prometheus_unit and family.name.endswith(metric.prometheus_unit):
            assert family.unit == metric.prometheus_unit
        if metric.kind == "histogram":
            [exemplar] = [sample.exemplar for sample in family.samples if sample.exemplar]
            assert exemplar.labels == {"trace_id": "ab" * 16}
            assert float(exemplar.timestamp) == 999.5
            counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
            assert counts == sorted(counts) and counts[-1] == len(counts)


def test_numbers() -> None:
    snapshot = Snapshot()
    for label, value in (("a", float("inf")), ("b", float("nan")), ("c", 10**20), ("d", 1e-7)):
        snapshot.put("assay.model.score.psi", (label,), value)
    lines = [line for line in "".join(families(snapshot)).splitlines() if not line.startswith("#")]
    assert [line.rpartition(" ")[2] for line in lines] == ["+Inf", "NaN", "100000000000000000000", "1e-07"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),
        ("text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=much", False),
    ],
)
def test_which_format_is_wanted(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected
