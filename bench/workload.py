"""What the engine is asked: the applications of the bundle's golden scenarios, with their rows in an embedded store.

Every application is sent for many subjects, so that the store is read at many places, and each call carries an id of
its own (`bench.h2gen`), so that every call is a decision and none a replay.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml
from google.protobuf.json_format import ParseDict

from assay.decision.v1 import decision_pb2
from assay.decision.v1 import decision_service_pb2 as pb
from bench.messages import ID_MARKER
from bench.targets import Answers, TargetError
from engine.bundle.load import load_bundle
from engine.bundle.scenarios import encode_rows
from engine.bundle.schema import Scenario, ScenarioFile
from engine.errors import RequestError
from engine.features.store import event_time_of
from engine.features.stores.embedded import EmbeddedStore
from engine.pipeline import prepare

REQUESTS = 240


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests, each with `ID_MARKER` as its id, how many scenarios they come from, and how many rows were laid."""

    requests: tuple[bytes, ...]
    scenarios: int
    rows: int


def lay_out(store_path: Path, bundle: Path) -> Workload:
    """Writes the rows of a bundle's golden scenarios to a new embedded store, and returns the requests.

    Scenarios whose application is refused, or whose store fails, are left out: they decide nothing.
    Raises TargetError when no scenario is left.
    """
    loaded = load_bundle(bundle, scenarios=False)
    usable = [
        scenario for scenario in scenarios_of(bundle) if all(r.status == "found" for r in scenario.features.values())
    ]
    now_us = time.time_ns() // 1000
    requests: list[bytes] = []
    rows: list[tuple[bytes, bytes, int]] = []
    left_out = 0
    for number in range(REQUESTS):
        if left_out >= len(usable):
            raise TargetError(f"no golden scenario in {bundle} can be sent")
        scenario = usable[number % len(usable)]
        request = request_of(scenario, number)
        try:
            prepared = prepare(loaded.plan, request, now_us, time.perf_counter_ns)
        except RequestError:
            left_out += 1
            continue
        values = encode_rows(loaded.catalogue, prepared, scenario.features, now_us)
        for key, value in zip(prepared.reads, values, strict=True):
            if key is not None and isinstance(value, bytes):
                rows.append((key, value, event_time_of(value)))
        requests.append(request.SerializeToString(deterministic=True))
    store = EmbeddedStore(store_path)
    try:
        store.write(rows)
        for flow in loaded.plan.flows.values():
            for view in flow.features.views:
                store.put_schema(view.decoder.schema.fingerprint, view.decoder.schema.canonical)
    finally:
        store.close()
    return Workload(tuple(requests), len(usable), len(rows))


def describe(answers: Answers) -> Counter[str]:
    """How many of the answers gave which verdict.

    Raises TargetError when an answer is no decision, or one from the records.
    """
    verdicts: Counter[str] = Counter()
    for message in answers.messages:
        decision = pb.DecideResponse.FromString(message).decision
        if not decision.decision_id or decision.verdict == decision_pb2.VERDICT_UNSPECIFIED:
            raise TargetError("an answer holds no decision")
        if decision.replayed:
            raise TargetError("an answer came from the records: the figures would be those of a replay")
        verdicts[decision_pb2.Verdict.Name(decision.verdict).removeprefix("VERDICT_")] += 1
    return verdicts


def scenarios_of(bundle: Path) -> list[Scenario]:
    """The golden scenarios of a bundle."""
    found: list[Scenario] = []
    for file in sorted((bundle / "scenarios").glob("*.yaml")):
        found += ScenarioFile.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))).scenarios
    return found


def request_of(scenario: Scenario, number: int) -> pb.DecideRequest:
    """The request of a scenario for the subject of that number."""
    request = pb.DecideRequest(request_id=ID_MARKER.decode())
    application = request.application
    ParseDict(scenario.application, application)
    # The scenario's own moment is past or to come; ids are this run's, so that no two requests share a subject.
    application.ClearField("submitted_at")
    application.subject.id = f"bench-{number:06d}"
    for entity in application.entities:
        entity.id = f"bench-{entity.entity}-{number:06d}"[:128]
    return request
