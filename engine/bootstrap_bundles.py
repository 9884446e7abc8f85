"""Bundles made ready, put in service and changed: what follows a switch in one worker process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.bundle.load import default_bundle, load_bundle
from engine.bundle.write_plan import make_desk_plan
from engine.config import Config
from engine.decider import Answered, Decider, Served
from engine.erased import Erased
from engine.feature_desk import FeatureDesk
from engine.feature_reader import FeatureReader
from engine.features.store import FeatureStore
from engine.features.velocity.applier import VelocityApplier
from engine.features.writing.plan import DeskPlan
from engine.labels import make_labels
from engine.plan import BundlePlan
from engine.record.log import DecisionLog, Position
from engine.record.segments import FrameKind
from engine.rpc.admin_access import AdminAccess
from engine.rpc.admin_server import AdminServer, AdminServerSettings
from engine.rpc.admin_servicer import AdminServicer
from engine.schema_keeper import SchemaKeeper
from engine.telemetry.counters import Counters
from engine.telemetry.watch import DecisionWatch
from engine.traffic.desk import TrafficDesk, TrafficSettings
from engine.traffic.serving import Loaded, Serving
from engine.under_way import UnderWay
from engine.velocity_outbox import VelocityOutbox

_log = logging.getLogger("assay.bootstrap")


def bundle_path(config: Config) -> Path:
    """The directory of the bundle that the settings name."""
    return config.bundle.path or default_bundle()


@dataclass(frozen=True, slots=True)
class Ready(Served):
    """A bundle that can be served at once. desk: how rows and events are written under it."""

    desk: DeskPlan | None = None


@dataclass(frozen=True, slots=True)
class Around:
    """What a switch reaches besides the decider. erased: the host's list of erasures; under_way: which counts the
    host's workers have under way, None where there is one worker."""

    store: FeatureStore
    log: DecisionLog
    features: FeatureReader
    desk: FeatureDesk
    schemas: SchemaKeeper
    watch: DecisionWatch
    counters: Counters
    erased: Erased
    under_way: UnderWay | None = None


class Bundles:
    """The bundles of one worker process: made ready off the path of calls, switched at once for all that follow."""

    def __init__(self, config: Config, decider: Decider, around: Around) -> None:
        """Raises OSError."""
        self._config, self._decider, self._around = config, decider, around
        self.outbox: VelocityOutbox | None = None
        traffic, log = config.traffic, around.log
        self.traffic: TrafficDesk[Ready] = TrafficDesk(
            TrafficSettings(
                traffic.path,
                traffic.bundles,
                bundles_kept=traffic.bundles_kept,
                bundle_bytes_max=config.admin.upload_bytes_max,
                bundle_directories=config.admin.bundle_directories,
                prepare_timeout_s=traffic.prepare_timeout_s,
                shadow_queue_max=traffic.shadow_queue_max,
                shadow_cpu_share=traffic.shadow_cpu_share,
            ),
            lambda path: self._make_ready(path, scenarios=False),
            lambda path: self._make_ready(path, scenarios=True),
            lambda content: log.append(FrameKind.CHANGE, content),
            log.append_shadow,
            worker=config.record.worker,
            counters=around.counters,
            on_switch=self._switched,
            learn=around.features.learn,
        )
        decider.tell = (*decider.tell, self.traffic.tell)

    def start(self) -> None:
        """Serves what the host served last, or what the settings name. Raises BundleError, Refusal, ConfigError."""
        self.traffic.start(bundle_path(self._config))

    def stop(self) -> None:
        """Ends what goes on behind the answers. Harmless when repeated."""
        self.traffic.stop()
        if self.outbox is not None:
            self.outbox.stop()

    def _make_ready(self, path: Path, *, scenarios: bool) -> Loaded[Ready]:
        loaded = load_bundle(path, scenarios=scenarios)
        plan, around = loaded.plan, self._around
        served = Ready(
            plan,
            make_labels(plan, around.store.name),
            around.watch.prepare(plan),
            make_desk_plan(loaded.catalogue, plan),
        )
        self._decider.declare(served)
        around.schemas.keep(plan)
        counted = frozenset(fingerprint for fingerprint, _ in plan.counters.schemas)
        return Loaded(served, plan.digest, plan.name, plan.version, frozenset(plan.flows), counted)

    def _switched(self, serving: Serving[Ready]) -> None:
        """Another generation is served from now on."""
        served, around = serving.default.served, self._around
        plan = served.plan
        if self._config.velocity.enabled:
            self._count(plan)
        assert served.desk is not None
        counts = self.outbox is not None and plan.counters.views
        around.desk.serve(served.desk, self.outbox.applier if self.outbox is not None and counts else None)
        around.watch.switch(plan, served.watched)
        self._decider.serve(serving)
        _log.info("bundle in service", extra={"bundle": plan.name, "version": plan.version, "digest": plan.digest})

    def _count(self, plan: BundlePlan) -> None:
        """Counts applications as a bundle has it."""
        if self.outbox is not None:
            self.outbox.use(plan)
            return
        if not plan.counters.views:
            return
        config, around = self._config, self._around

        def make(on_applied: Callable[[Position], None]) -> VelocityApplier:
            waiting_max = config.velocity.waiting_max
            return VelocityApplier(
                around.store,
                plan.counters,
                queue_max=waiting_max,
                behind=True,
                on_applied=on_applied,
                shared=around.under_way,
            )

        checkpoint = config.record.path / f"velocity.{config.record.worker}.json"
        self.outbox = outbox = VelocityOutbox(
            around.log, make, around.store, checkpoint, erased=around.erased, under_way=around.under_way
        )
        outbox.start(plan)
        around.features.pending = outbox.pending
        around.desk.settle, around.desk.erased = outbox.settle, outbox.erased

        def tell(answered: Answered) -> None:
            prepared = answered.conclusion.prepared
            if prepared.flow.records_events:
                outbox.count(prepared, answered.conclusion.now_us, answered.position)

        self._decider.tell = (tell, *self._decider.tell)


def open_admin(config: Config, traffic: TrafficDesk[Ready]) -> AdminServer | None:
    """The service of changes, not started; None where the settings have none. Raises ConfigError."""
    admin = config.admin
    if not admin.address:
        return None
    servicer = AdminServicer(traffic.control, traffic.intake, AdminAccess(admin.names), admin.upload_bytes_max)
    settings = AdminServerSettings(
        admin.address, admin.tls_certificate, admin.tls_key, admin.tls_client_ca, admin.names
    )
    return AdminServer(servicer, settings)
