"""Workload W1: the shipped consumer loan with all that is known of an applicant in four rows of thirty features.

The bundle is the shipped one (both models, all policy tables, all reasons) with its catalogue laid out anew: the
features that its models and tables read are spread over four views of the applicant, filled up to 120 with numbers
that are read, decoded, checked and recorded like every other.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from assay.decision.v1 import decision_service_pb2 as pb
from bench.workload import REQUESTS, Workload, request_of, scenarios_of
from engine.bundle.load import LoadedBundle, load_bundle
from engine.bundle.rows import RowWriter
from engine.bundle.schema import Scenario
from engine.features.store import FeatureStore, Row

VIEWS, PER_VIEW = 4, 30
FLOW = "flows/consumer_loan.yaml"


def write_bundle(shipped: Path, target: Path) -> Path:
    """Writes the bundle of W1, made from the one that ships, into a new directory, and returns that."""
    shutil.copytree(shipped, target, ignore=shutil.ignore_patterns("*.png", "*.md", "scenarios"))
    catalogue = _read(target / "features.yaml")
    flow = _read(target / FLOW)
    old = {name: catalogue["views"][name] for name in flow["views"]}
    catalogue["views"] = _four_views(old)
    flow["views"] = list(catalogue["views"])
    flow["records_events"] = False
    bundle = _read(target / "bundle.yaml")
    bundle |= {"name": "w1", "flows": [FLOW], "scenarios": []}
    for file, content in (("features.yaml", catalogue), (FLOW, flow), ("bundle.yaml", bundle)):
        (target / file).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return target


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def _four_views(old: Mapping[str, Any]) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for view in old.values():
        for name, entry in view["features"].items():
            made = copy.deepcopy(entry)
            # Counts are rows like every other here: what reading costs is the question.
            made.pop("counter", None)
            made.pop("on_unnamed", None)
            made.pop("expiry", None)
            if "max_age_days" in view:
                made.setdefault("max_age_days", view["max_age_days"])
            features[name] = made
    for number in range(VIEWS * PER_VIEW - len(features)):
        features[f"filler_{number:03d}"] = {
            "type": "float",
            "unit": "points",
            "range": [0, 1_000_000],
            "max_age_days": 365,
            "description": "Read, checked and recorded; no model takes it",
        }
    names = list(features)
    return {
        f"w1_{part}": {
            "entity": "applicant",
            "source": "benchmark",
            "features": {name: features[name] for name in names[part::VIEWS]},
        }
        for part in range(VIEWS)
    }


def lay_out(store: FeatureStore, shipped: Path, bundle: Path) -> Workload:
    """Writes the rows of W1 to a store: the values of the shipped golden scenarios, each for many subjects. Returns
    the requests."""
    loaded = load_bundle(bundle, scenarios=False)
    writer = RowWriter(loaded.catalogue)
    scenarios = [s for s in scenarios_of(shipped) if _is_whole(s)]
    now_us = time.time_ns() // 1000
    rows: list[Row] = []
    requests = []
    for number in range(REQUESTS):
        scenario = scenarios[number % len(scenarios)]
        request = request_of(scenario, number)
        del request.application.entities[:]
        rows += _rows(loaded, writer, scenario, request, now_us)
        requests.append(request.SerializeToString(deterministic=True))
    store.write(rows)
    for flow in loaded.plan.flows.values():
        for view in flow.features.views:
            store.put_schema(view.decoder.schema.fingerprint, view.decoder.schema.canonical)
    return Workload(tuple(requests), len(scenarios), len(rows))


def _is_whole(scenario: Scenario) -> bool:
    """Whether a consumer scenario has its credit file, so that models run on it."""
    product = scenario.application.get("product")
    found = all(row.status == "found" for row in scenario.features.values())
    return product == "consumer_loan" and found and "credit_file" in scenario.features


def _rows(
    loaded: LoadedBundle, writer: RowWriter, scenario: Scenario, request: pb.DecideRequest, now_us: int
) -> Sequence[Row]:
    known = {name: value for row in scenario.features.values() for name, value in row.values.items()}
    made = []
    for name, view in loaded.catalogue.file.views.items():
        values = {f: known.get(f, 17.0 if f.startswith("filler_") else None) for f in view.features}
        for feature, entry in view.features.items():
            # A scenario's absent counter stands for none.
            if values[feature] is None and entry.on_missing.default is not None:
                values[feature] = int(entry.on_missing.default) if entry.type == "integer" else entry.on_missing.default
        made.append(writer.row(name, request.application.subject.id, values, now_us))
    return made
