"""A host's traffic without its server: registry, worker, control, journal, and decisions made with what they serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from assay.decision.v1 import decision_pb2
from assay.decision.v1.decision_service_pb2 import DecideRequest
from engine import served
from engine.bundle.catalogue import Catalogue
from engine.bundle.load import load_bundle
from engine.bundle.scenarios import encode_rows
from engine.bundle.schema import ScenarioRow
from engine.clock import new_decision_id
from engine.decider import Answered
from engine.domain.facts import Row
from engine.labels import make_labels
from engine.pipeline import Conclusion, conclude, prepare
from engine.record.build import Parts, build_decision
from engine.record.log import DecisionLog, Position
from engine.record.segments import FrameKind
from engine.telemetry.counters import Counters
from engine.traffic.desk import TrafficDesk, TrafficSettings
from engine.traffic.serving import Arm, Loaded, Serving
from tests.support.tiny import ACCOUNT, HOME, change, request, write_bundle

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Served(served.Served):
    """What decides here, and how its rows are written."""

    catalogue: Catalogue | None = None


def tiny_variant(root: Path, version: str, rate_percent: float = 6.0) -> Path:
    """The tiny bundle as another version, which lends at another rate."""
    write_bundle(root)
    change(root / "bundle.yaml", ["version"], version)
    change(root / "policy" / "price.json", ["nodes", 1, "content", "rules", 0, "o0"], str(rate_percent))
    return root


def load(path: Path, *, scenarios: bool = False) -> Loaded[Served]:
    """A real bundle, ready to decide."""
    loaded = load_bundle(path, scenarios=scenarios)
    plan = loaded.plan
    counters = frozenset(fingerprint for fingerprint, _ in plan.counters.schemas)
    ready = Served(plan, make_labels(plan, "test"), catalogue=loaded.catalogue)
    return Loaded(ready, plan.digest, plan.name, plan.version, frozenset(plan.flows), counters)


def load_whole(path: Path) -> Loaded[Served]:
    """The same with its golden scenarios."""
    return load(path, scenarios=True)


class Host:
    """One worker process of a host, in this process. The first bundle is what its settings name."""

    def __init__(self, home: Path, configured: Path) -> None:
        self.home, self.counters = home, Counters()
        self.log = DecisionLog.open(home / "decisions")
        self.switches: list[int] = []
        self.desk: TrafficDesk[Served] = TrafficDesk(
            # Quick to look, and with shadows that take all that they can get.
            TrafficSettings(home / "traffic", home / "bundles", shadow_cpu_share=1.0, poll_s=POLL_S),
            load,
            load_whole,
            lambda payload: self.log.append(FrameKind.CHANGE, payload),
            self.log.append_shadow,
            counters=self.counters,
            on_switch=lambda serving: self.switches.append(serving.generation),
        )
        self.registry, self.worker, self.control = self.desk.registry, self.desk.worker, self.desk.control
        self.shadows = self.desk.shadows
        self.desk.start(configured)

    def decide(self, subject: str = "p1") -> decision_pb2.Decision:
        """Decides the good applicant's request with what is served now."""
        tell = self.desk.tell if self.shadows is self.desk.shadows else self.shadows.offer
        return decide(self.control.serving, tell, subject)

    def close(self) -> None:
        """Ends everything."""
        self.desk.stop()
        self.log.close()


@contextmanager
def host(home: Path, configured: Path) -> Iterator[Host]:
    """A host, closed at the end."""
    opened = Host(home, configured)
    try:
        yield opened
    finally:
        opened.close()


def decide(serving: Serving[Served], tell: Callable[[Answered], None] | None, subject: str) -> decision_pb2.Decision:
    """What a call does: takes its arm once, decides, tells of it."""
    asked = request()
    asked.application.subject.id = subject
    application = asked.application
    flow = f"{application.product}.{application.moment or 'application'}"
    arm = serving.choose(flow, application.subject.id)
    concluded, rows = conclude_tiny(arm.served, asked)
    decision_id = new_decision_id(concluded.now_us)
    decision = _answer(arm, concluded, decision_id)
    if tell is not None:
        nowhere = Position("", 0)
        tell(Answered(asked, serving, arm, concluded, rows, decision_id, b"d" * 32, "0" * 32, nowhere))
    return decision


def conclude_tiny(ready: Served, asked: DecideRequest) -> tuple[Conclusion, list[Row]]:
    """Decides with the good applicant's rows."""
    now_us = time.time_ns() // 1000
    prepared = prepare(ready.plan, asked, now_us, time.perf_counter_ns)
    values = {"account": ScenarioRow(values=ACCOUNT), "home": ScenarioRow(values=HOME)}
    assert ready.catalogue is not None
    known = {view.name for view in prepared.flow.features.views}
    rows: list[Row] = encode_rows(
        ready.catalogue, prepared, {name: row for name, row in values.items() if name in known}, now_us
    )
    prepared.marks.append(time.perf_counter_ns())
    return conclude(prepared, rows, now_us, time.perf_counter_ns), rows


def _answer(arm: Arm[Served], concluded: Conclusion, decision_id: str) -> decision_pb2.Decision:
    prepared = concluded.prepared
    parts = Parts(
        prepared.application,
        concluded.facts,
        concluded.scores,
        concluded.outcome,
        concluded.reasons,
        concluded.now_us,
        prepared.marks,
    )
    labels = arm.served.labels.flows[prepared.flow.name]
    return decision_pb2.Decision.FromString(build_decision(labels, parts, decision_id, "", time.perf_counter_ns()))
