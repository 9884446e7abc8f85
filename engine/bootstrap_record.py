"""Opens what keeps decisions: the journal, whose request ids are, and the way to Cassandra."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.bootstrap_shipping import open_shipper_process, put_shipping
from engine.bootstrap_stores import cassandra_settings
from engine.claims.desk import RequestIds
from engine.claims.host import HostClaims
from engine.claims.layered import LayeredClaims
from engine.claims.reconcile import Reconciler
from engine.claims.shared import NoSharedClaims, SharedClaims
from engine.claims.store import StoreClaims, StoreClaimSettings
from engine.claims.superseded import FILE_NAME, Superseded
from engine.config import Config
from engine.errors import ConfigError, Problem, RecordError, StoreError
from engine.features.store import FeatureStore
from engine.record.log import DecisionLog, Position
from engine.record.master import MasterKey
from engine.shipping.config import open_records, open_shipper
from engine.shipping.drop import velocity_hold
from engine.shipping.fallback import Decisions, DecisionsEverywhere
from engine.shipping.process import ShipperProcess
from engine.shipping.records import CassandraRecords
from engine.shipping.shipper import Shipper
from engine.shipping.state import ShippingState
from engine.telemetry.metrics.snapshot import Snapshot

_log = logging.getLogger("assay.bootstrap")
_PRUNE_EVERY_S = 3600.0


class Pruner:
    """Lets go of what was kept as long as it may be, once an hour."""

    def __init__(
        self, log: DecisionLog, days: Mapping[str, int], shipped: Callable[[], Mapping[str, Position] | None]
    ) -> None:
        """days: see `DecisionLog.prune`. shipped: up to where the journal was shipped, None where nothing is."""
        self._log, self._days, self._shipped = log, days, shipped
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prune", daemon=True)

    def start(self) -> None:
        """Begins, with what is due now."""
        self._thread.start()

    def stop(self) -> None:
        """Ends. Before the log is closed."""
        self._stopped.set()
        self._thread.join(30.0)

    def _run(self) -> None:
        while True:
            try:
                keys, segments = self._log.prune(time.time_ns() // 1000, self._days, self._shipped())
                if keys or segments:
                    _log.info("retention is over", extra={"keys_erased": keys, "segments": segments})
            except (RecordError, OSError) as error:
                _log.error("what may not be kept longer cannot be let go", extra={"error": str(error)})
            if self._stopped.wait(_PRUNE_EVERY_S):
                return


@dataclass(slots=True)
class Keeping:
    """What keeps the decisions of one process.

    decisions: finds them, also where only Cassandra has them; ids: whose request ids are; shipper, records: None where
    nothing is shipped.
    """

    log: DecisionLog
    master: MasterKey
    decisions: Decisions
    ids: RequestIds
    reconciler: Reconciler | None
    shipper: Shipper | ShipperProcess | None
    records: CassandraRecords | None
    make_pruner: Callable[[], Pruner] | None = None
    pruner: Pruner | None = None

    def prune(self) -> None:
        """Lets go from now on, where the settings bound how long something is kept, of what was kept so long."""
        if self.make_pruner is not None and self.pruner is None:
            self.pruner = self.make_pruner()
            self.pruner.start()

    def prune_no_more(self) -> None:
        """Another process does it from now on. Harmless when repeated."""
        pruner, self.pruner = self.pruner, None
        if pruner is not None:
            pruner.stop()

    def erase(self, subject: str) -> None:
        """Makes all that is personal in a subject's records unreadable, here and where they were shipped to. Raises
        RecordError, StoreError: it is not complete, call again."""
        self.log.erase(subject)
        if self.records is not None:
            self.records.erase(self.master.subject_mark(subject))

    def stop_sharing(self) -> None:
        """Ends what goes on behind the answers. Before the log is closed."""
        self.prune_no_more()
        if self.shipper is not None:
            self.shipper.stop()
        if self.reconciler is not None:
            self.reconciler.stop()
        self.ids.close()
        if self.records is not None:
            self.records.close()

    def put(self, snapshot: Snapshot) -> None:
        """Adds what is counted of all this to a snapshot of the metrics."""
        for event, count in self.ids.counters().items():
            snapshot.put("assay.claims.events", (event,), count)
        if self.reconciler is not None:
            for event, count in self.reconciler.counters().items():
                snapshot.put("assay.claims.events", (f"reconciler_{event}",), count)
        snapshot.put("assay.record.index.failing", (), int(self.log.index_error is not None))
        if self.shipper is not None:
            put_shipping(self.shipper.status(), snapshot)


def open_log(config: Config) -> tuple[DecisionLog, MasterKey]:
    """The journal, recovered. Raises ConfigError, RecordError."""
    record = config.record
    try:
        record.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"{str(record.path)!r} cannot be made ({error.strerror})"
        fix = "Name a directory that can be written to."
        raise ConfigError([Problem("settings", "record.path", message, fix)]) from error
    master = MasterKey.load(record.master_key, record.path)
    log = DecisionLog.open(
        record.path,
        worker=record.worker,
        durability=record.durability,
        segment_bytes=record.segment_bytes,
        bytes_max=record.bytes_max,
        master=master,
        seal=record.seal,
    )
    found = log.recovery
    _log.log(
        logging.WARNING if found.torn or found.damage else logging.INFO,
        "journal open",
        extra={
            "indexed": found.indexed,
            "torn_tails_cut": [str(tail) for tail in found.torn],
            "damage": [str(damage) for damage in found.damage],
        },
    )
    return log, master


def open_keeping(
    config: Config, log: DecisionLog, master: MasterKey, store: FeatureStore, file: Path | None, alone: bool = True
) -> Keeping:
    """All that stands around the journal; started. file: the settings file, for a process that ships. alone: False in
    a worker, whose supervisor has what is done once for all workers of a host: shipping, and retention by
    `Keeping.prune`. Raises ConfigError."""
    decisions: Decisions = log
    shipper, records = _shipper(config, master, file) if alone else None, None
    if config.ship.mode != "off":
        records = open_records(config.record.path, cassandra_settings(config.cassandra), config.ship, master)
        decisions = DecisionsEverywhere(log, records)

    def elsewhere(decision_id: str) -> bytes | None:
        try:
            found = None if records is None else records.get(decision_id)
        except StoreError:
            return None
        return None if found is None else found.record

    shared, reconciler, superseded = _claims(config, log, store)
    ids = RequestIds(
        log, shared, lease_s=config.idempotency.lease_ms / 1000, superseded=superseded, elsewhere=elsewhere
    )
    if reconciler is not None:
        reconciler.start()
    if shipper is not None:
        shipper.start()
    keeping = Keeping(log, master, decisions, ids, reconciler, shipper, records)
    if days := config.record.retention():
        state = None if config.ship.mode == "off" else ShippingState(config.record.path)
        keeping.make_pruner = lambda: Pruner(log, days, (lambda: None) if state is None else state.shipped_through)
    if alone:
        keeping.prune()
    return keeping


def _claims(
    config: Config, log: DecisionLog, store: FeatureStore
) -> tuple[SharedClaims, Reconciler | None, Superseded | None]:
    settings, path = config.idempotency, config.record.path
    if settings.share == "off":
        return NoSharedClaims(), None, None
    near = HostClaims(path, log.catch_up, log.indexed_to)
    if settings.share == "host":
        return near, None, None
    far = StoreClaims(
        store,
        StoreClaimSettings(
            on_failure=settings.on_store_failure,
            timeout_ms=settings.timeout_ms,
            answers_ttl_s=settings.answers_ttl_s,
            clock_skew_ms=settings.clock_skew_ms,
            answer_bytes_max=settings.answer_bytes_max,
        ),
    )
    superseded = Superseded(path / FILE_NAME)
    reconciler = Reconciler(log, far, superseded, path / f"claims.{config.record.worker}.json")
    return LayeredClaims(near, far), reconciler, superseded


def _shipper(config: Config, master: MasterKey, file: Path | None) -> Shipper | ShipperProcess | None:
    ship, path = config.ship, config.record.path
    if ship.mode == "off":
        return None
    if ship.mode == "process":
        return open_shipper_process(config, file)
    holds = (velocity_hold(path),) if config.velocity.enabled else ()
    try:
        days = config.record.retention()
        return open_shipper(path, cassandra_settings(config.cassandra), ship, days, master, holds)
    except ValueError as error:
        problem = Problem("settings", "ship", str(error), "Correct the section; docs/settings.md lists it.")
        raise ConfigError([problem]) from error
