"""The one place that names concrete classes: settings in, a running server out."""

from __future__ import annotations

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from engine.bootstrap_bundles import Around, Bundles, open_admin
from engine.bootstrap_group import Group
from engine.bootstrap_record import Keeping, open_keeping, open_log
from engine.bootstrap_stores import open_store
from engine.bootstrap_telemetry import Telemetry
from engine.clock import SystemClock
from engine.config import Config
from engine.decider import Decider, DeciderSettings
from engine.erased import FILE_NAME as ERASED
from engine.erased import Erased
from engine.feature_desk import FeatureDesk
from engine.feature_reader import FeatureReader, ReadSettings
from engine.outcomes.desk import OutcomeDesk
from engine.record_reader import RecordReader
from engine.rpc.admin_server import AdminServer
from engine.rpc.feature_servicer import FEATURE_SERVICE, FeatureServicer, feature_handlers
from engine.rpc.outcome_servicer import OUTCOME_SERVICE, OutcomeServicer, outcome_handlers
from engine.rpc.server import Server, ServerSettings
from engine.rpc.servicer import DecisionServicer
from engine.schema_keeper import SchemaKeeper
from engine.telemetry.counter_log import CounterLog
from engine.telemetry.counters import Counters
from engine.telemetry.metrics import sources
from engine.telemetry.tracing import shapes
from engine.under_way import UnderWay

_log = logging.getLogger("assay.bootstrap")
# A change of what is served may have to load a bundle in every worker.
_CHANGE_GRACE_S = 10.0


class Duties:
    """What one worker of a group does for all of them: changes are made through it, and what is kept long enough is let
    go of."""

    def __init__(self, make_admin: Callable[[], AdminServer | None], keeping: Keeping) -> None:
        self._make_admin, self._keeping = make_admin, keeping
        self._admin: AdminServer | None = None

    def begin(self) -> None:
        """Begins. Raises ConfigError for an address that is taken."""
        self._admin = self._make_admin()
        if self._admin is not None:
            self._admin.start()
        self._keeping.prune()

    def end(self) -> None:
        """Ends, when changes under way are made. Harmless when repeated."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.stop(_CHANGE_GRACE_S)
        self._keeping.prune_no_more()


class Erasures:
    """What follows when an entity is erased, by this worker or by another of the host.

    known: the host's list."""

    def __init__(self, config: Config, features: FeatureReader) -> None:
        former = config.record.path / f"velocity.{config.record.worker}.erased"
        self.known = Erased(config.record.path / ERASED, former)
        self._features = features
        self.known.load()
        features.erased = self.known.covers
        self.known.follow(features.forget_erased)

    def note(self, prefix: bytes) -> None:
        """All that is older than this moment of an entity, by the prefix of its keys, is not used any more. Raises
        OSError."""
        self.known.add(prefix, time.time_ns() // 1000)

    def forget(self, prefix: bytes) -> None:
        """It is erased, or not wholly yet: nothing is kept of it here, and what was read meanwhile is not used."""
        self._features.forget(prefix)
        try:
            self.note(prefix)
        except OSError as error:
            _log.error("an erasure cannot be told to other workers a second time", extra={"error": str(error)})


def serve(
    config: Config,
    on_ready: Callable[[int], None] | None = None,
    file: Path | None = None,
    group: Group | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains. on_ready: told the port once calls are answered. file: of the
    settings, for processes that this one starts. group: that this process is a worker of; None: it serves alone."""
    counters = Counters()
    telemetry = Telemetry(config, counters, group)
    store = open_store(config, metrics=telemetry.metrics)
    counter_log = CounterLog(counters)
    log, master = open_log(config)
    keeping = open_keeping(config, log, master, store, file, group is None)
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
    erasures = Erasures(config, features)
    desk = FeatureDesk(store, SystemClock(), counters, erasures.forget)
    desk.erased = erasures.note
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
    shared = group is not None or config.server.reuse_port
    under_way = UnderWay(config.record.path, config.record.worker) if shared else None
    around = Around(store, log, features, desk, schemas, telemetry.watch, counters, erasures.known, under_way)
    bundles = Bundles(config, decider, around)
    admin = open_admin(config, bundles.traffic) if group is None else None

    def open_server() -> Server:
        return Server(
            servicer,
            ServerSettings(
                address=config.server.address,
                threads=config.server.threads,
                waiting_max=config.server.waiting_max,
                message_bytes_max=config.server.message_bytes_max,
                drain_grace_s=config.server.drain_grace_s,
                reuse_port=config.server.reuse_port or group is not None,
                direct=config.server.direct and config.idempotency.share != "store",
                connection_age_s=0.0 if group is None else config.server.connection_age_s,
                tls_certificate=config.server.tls_certificate,
                tls_key=config.server.tls_key,
                tls_client_ca=config.server.tls_client_ca,
            ),
            {
                FEATURE_SERVICE: feature_handlers(feature_servicer),
                OUTCOME_SERVICE: outcome_handlers(outcome_servicer),
            },
        )

    # A worker listens once its bundle is in service: until then the others have the calls.
    server = open_server() if group is None else None
    telemetry.metrics.add(keeping.put)
    telemetry.metrics.add(sources.velocity(lambda: None if bundles.outbox is None else bundles.outbox.applier))
    telemetry.metrics.add(sources.gauge("assay.requests.waiting", lambda: 0 if server is None else server.waiting))
    telemetry.metrics.add(sources.gauge("assay.streams.open", lambda: servicer.streams.count))
    telemetry.metrics.add(sources.gauge("assay.shadow.queue.size", lambda: bundles.traffic.shadows.depth))
    duties = Duties(lambda: open_admin(config, bundles.traffic), keeping)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        telemetry.start(lambda: decider.plan is not None and not servicer.draining)
        if group is None:
            assert server is not None
            server.start()
            bundles.start()
            if admin is not None:
                admin.start()
            _settle_memory()
            server.ready()
            if on_ready is not None:
                on_ready(server.port)
        else:
            group.follow(stop)
            bundles.start()
            group.loaded(stop)
            if not stop.is_set():
                _settle_memory()
                server = open_server()
                server.start()
                server.ready()
                group.serving(server.port, telemetry.publish, duties.begin, duties.end)
        stop.wait()
    finally:
        # Whatever fails on the way out, the rest is still closed: gRPC's threads would keep the process alive.
        with ExitStack() as closing:
            closing.callback(telemetry.stop)
            closing.callback(store.close)
            closing.callback(counter_log.stop)
            closing.callback(schemas.stop)
            closing.callback(erasures.known.stop)
            closing.callback(log.close)
            closing.callback(keeping.stop_sharing)
            closing.callback(outcomes.close)
            closing.callback(bundles.stop)
            if server is not None:
                closing.callback(server.stop)
                closing.callback(server.drain, servicer)
            closing.callback(duties.end)
            if admin is not None:
                closing.callback(admin.stop)


def _settle_memory() -> None:
    """What was loaded stays: the collector of cycles need not look through it again. Decisions make next to no
    cycles, so it may look seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
