"""The one place that names concrete classes: settings in, a running server out."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from engine.bootstrap_stores import open_store
from engine.bootstrap_telemetry import Telemetry
from engine.bundle.load import LoadedBundle, default_bundle, load_bundle
from engine.bundle.write_plan import make_desk_plan
from engine.clock import SystemClock
from engine.config import Config
from engine.decider import Answered, Decider, DeciderSettings, Served, Tell
from engine.feature_desk import FeatureDesk
from engine.feature_reader import FeatureReader, ReadSettings
from engine.features.store import FeatureStore
from engine.features.velocity.applier import VelocityApplier
from engine.labels import make_labels
from engine.plan import BundlePlan
from engine.record.log import DecisionLog, Position
from engine.record_reader import RecordReader
from engine.rpc.feature_servicer import FEATURE_SERVICE, FeatureServicer, feature_handlers
from engine.rpc.server import Server, ServerSettings
from engine.rpc.servicer import DecisionServicer
from engine.schema_keeper import SchemaKeeper
from engine.telemetry.counter_log import CounterLog
from engine.telemetry.counters import Counters
from engine.telemetry.metrics import sources
from engine.telemetry.watch import DecisionWatch
from engine.velocity_outbox import VelocityOutbox

_log = logging.getLogger("assay.bootstrap")


def bundle_path(config: Config) -> Path:
    """The directory of the bundle that the settings name."""
    return config.bundle.path or default_bundle()


def put_in_service(
    decider: Decider, loaded: LoadedBundle, store: FeatureStore, schemas: SchemaKeeper, watch: DecisionWatch
) -> None:
    """Prepares a bundle's labels, keeps its row schemas beside the rows, and switches to it."""
    schemas.keep(loaded.plan)
    decider.serve(Served(loaded.plan, make_labels(loaded.plan, store.name), watch.serve(loaded.plan)))
    _log.info(
        "bundle in service",
        extra={"bundle": loaded.plan.name, "version": loaded.plan.version, "digest": loaded.plan.digest},
    )


def _outbox(config: Config, store: FeatureStore, log: DecisionLog, plan: BundlePlan) -> VelocityOutbox | None:
    """What counts applications, None where nothing is to be counted."""
    if not config.velocity.enabled or not plan.counters.views:
        return None

    def make(on_applied: Callable[[Position], None]) -> VelocityApplier:
        waiting_max = config.velocity.waiting_max
        return VelocityApplier(store, plan.counters, queue_max=waiting_max, behind=True, on_applied=on_applied)

    return VelocityOutbox(log, make, store, config.record.path / "velocity.w0.json")


def _counting(outbox: VelocityOutbox) -> Tell:
    def tell(answered: Answered) -> None:
        prepared = answered.conclusion.prepared
        if prepared.flow.records_events:
            outbox.count(prepared, answered.conclusion.now_us, answered.position)

    return tell


def serve(config: Config, on_ready: Callable[[int], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains. on_ready: told the port once calls are answered."""
    counters = Counters()
    telemetry = Telemetry(config, counters)
    store = open_store(config, metrics=telemetry.metrics)
    counter_log = CounterLog(counters)
    log = DecisionLog.open(
        config.record.path, durability=config.record.durability, segment_bytes=config.record.segment_bytes
    )
    found = log.recovery
    level = logging.WARNING if found.torn or found.damage else logging.INFO
    _log.log(
        level,
        "journal open",
        extra={
            "indexed": found.indexed,
            "torn_tails_cut": [str(tail) for tail in found.torn],
            "damage": [str(damage) for damage in found.damage],
        },
    )
    read_settings = ReadSettings(
        budget_s=config.store.read_budget_ms / 1000,
        reserve_s=config.store.deadline_reserve_ms / 1000,
        last_good_rows_max=config.store.last_good_rows_max,
        last_good_max_age_s=config.store.last_good_max_age_s,
    )
    features = FeatureReader(store, read_settings, counters)
    decider = Decider(features, log, SystemClock(), DeciderSettings(config.record.on_failure))
    reader = RecordReader(log, lambda: decider.plan)
    decider.watch = telemetry.watch
    servicer = DecisionServicer(
        decider, reader, config.server.batch_items_max, config.server.streams_max, telemetry.observer
    )
    desk = FeatureDesk(store, SystemClock(), counters, features.forget)
    feature_servicer = FeatureServicer(desk, servicer.streams, telemetry.observer, servicer.check_open)
    server = Server(
        servicer,
        ServerSettings(
            address=config.server.address,
            threads=config.server.threads,
            waiting_max=config.server.waiting_max,
            message_bytes_max=config.server.message_bytes_max,
            drain_grace_s=config.server.drain_grace_s,
            tls_certificate=config.server.tls_certificate,
            tls_key=config.server.tls_key,
            tls_client_ca=config.server.tls_client_ca,
        ),
        {FEATURE_SERVICE: feature_handlers(feature_servicer)},
    )
    schemas = SchemaKeeper(store, features.learn_recorded)
    outbox: VelocityOutbox | None = None
    telemetry.metrics.add(sources.velocity(lambda: None if outbox is None else outbox.applier))
    telemetry.metrics.add(sources.gauge("assay.requests.waiting", lambda: server.waiting))
    telemetry.metrics.add(sources.gauge("assay.streams.open", lambda: servicer.streams.count))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        telemetry.start(lambda: decider.plan is not None and not servicer.draining)
        server.start()
        loaded = load_bundle(bundle_path(config))
        outbox = _outbox(config, store, log, loaded.plan)
        if outbox is not None:
            outbox.start(loaded.plan)
            features.pending, decider.tell = outbox.pending, (*decider.tell, _counting(outbox))
            desk.settle, desk.erased = outbox.settle, outbox.erased
        desk.serve(make_desk_plan(loaded.catalogue, loaded.plan), None if outbox is None else outbox.applier)
        put_in_service(decider, loaded, store, schemas, telemetry.watch)
        server.ready()
        if on_ready is not None:
            on_ready(server.port)
        stop.wait()
    finally:
        # Whatever fails on the way out, the rest is still closed: gRPC's threads would keep the process alive.
        with ExitStack() as closing:
            closing.callback(telemetry.stop)
            closing.callback(store.close)
            closing.callback(counter_log.stop)
            closing.callback(schemas.stop)
            closing.callback(log.close)
            if outbox is not None:
                closing.callback(outbox.stop)
            closing.callback(server.stop)
            closing.callback(server.drain, servicer)
