"""The one place that names concrete classes: settings in, a running server out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from engine.bootstrap_bundles import Around, Bundles, open_admin
from engine.bootstrap_record import open_keeping, open_log
from engine.bootstrap_stores import open_store
from engine.bootstrap_telemetry import Telemetry
from engine.clock import SystemClock
from engine.config import Config
from engine.decider import Decider, DeciderSettings
from engine.feature_desk import FeatureDesk
from engine.feature_reader import FeatureReader, ReadSettings
from engine.outcomes.desk import OutcomeDesk
from engine.record_reader import RecordReader
from engine.rpc.feature_servicer import FEATURE_SERVICE, FeatureServicer, feature_handlers
from engine.rpc.outcome_servicer import OUTCOME_SERVICE, OutcomeServicer, outcome_handlers
from engine.rpc.server import Server, ServerSettings
from engine.rpc.servicer import DecisionServicer
from engine.schema_keeper import SchemaKeeper
from engine.telemetry.counter_log import CounterLog
from engine.telemetry.counters import Counters
from engine.telemetry.metrics import sources
from engine.telemetry.tracing import shapes


def serve(config: Config, on_ready: Callable[[int], None] | None = None, file: Path | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains. on_ready: told the port once calls are answered. file: of the
    settings, for processes that this one starts."""
    counters = Counters()
    telemetry = Telemetry(config, counters)
    store = open_store(config, metrics=telemetry.metrics)
    counter_log = CounterLog(counters)
    log, master = open_log(config)
    keeping = open_keeping(config, log, master, store, file)
    read_settings = ReadSettings(
        budget_s=config.store.read_budget_ms / 1000,
        reserve_s=config.store.deadline_reserve_ms / 1000,
        last_good_rows_max=config.store.last_good_rows_max,
        last_good_max_age_s=config.store.last_good_max_age_s,
    )
    features = FeatureReader(store, read_settings, counters)
    deciding = DeciderSettings(config.record.on_failure, config.record.country_field)
    decider = Decider(features, log, SystemClock(), deciding, keeping.ids, master.payload_digest)
    reader = RecordReader(keeping.decisions, lambda: decider.plan, keeping.ids.was_given)
    decider.watch = telemetry.watch
    servicer = DecisionServicer(
        decider, reader, config.server.batch_items_max, config.server.streams_max, telemetry.observer
    )
    desk = FeatureDesk(store, SystemClock(), counters, features.forget)
    desk.erase_records = keeping.erase
    outcomes = OutcomeDesk(
        log,
        keeping.decisions,
        config.record.path,
        SystemClock(),
        counters,
        worker=config.record.worker,
        durability=config.record.durability,
        sealer=log.keys if config.record.seal else None,
    )
    feature_servicer = FeatureServicer(desk, servicer.streams, telemetry.observer, servicer.check_open)
    outcome_servicer = OutcomeServicer(
        outcomes, servicer.streams, shapes.OUTCOME_RPC, telemetry.observer, servicer.check_open
    )
    schemas = SchemaKeeper(store, features.learn_recorded)
    around = Around(store, log, features, desk, schemas, telemetry.watch, counters)
    bundles = Bundles(config, decider, around)
    admin = open_admin(config, bundles.traffic)
    server = Server(
        servicer,
        ServerSettings(
            address=config.server.address,
            threads=config.server.threads,
            waiting_max=config.server.waiting_max,
            message_bytes_max=config.server.message_bytes_max,
            drain_grace_s=config.server.drain_grace_s,
            reuse_port=config.server.reuse_port,
            tls_certificate=config.server.tls_certificate,
            tls_key=config.server.tls_key,
            tls_client_ca=config.server.tls_client_ca,
        ),
        {
            FEATURE_SERVICE: feature_handlers(feature_servicer),
            OUTCOME_SERVICE: outcome_handlers(outcome_servicer),
        },
    )
    telemetry.metrics.add(keeping.put)
    telemetry.metrics.add(sources.velocity(lambda: None if bundles.outbox is None else bundles.outbox.applier))
    telemetry.metrics.add(sources.gauge("assay.requests.waiting", lambda: server.waiting))
    telemetry.metrics.add(sources.gauge("assay.streams.open", lambda: servicer.streams.count))
    telemetry.metrics.add(sources.gauge("assay.shadow.queue.size", lambda: bundles.traffic.shadows.depth))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        telemetry.start(lambda: decider.plan is not None and not servicer.draining)
        server.start()
        bundles.start()
        if admin is not None:
            admin.start()
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
            closing.callback(keeping.stop_sharing)
            closing.callback(outcomes.close)
            closing.callback(bundles.stop)
            closing.callback(server.stop)
            closing.callback(server.drain, servicer)
            if admin is not None:
                closing.callback(admin.stop)
