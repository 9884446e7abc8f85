"""`assay serve` with several workers: opens what all of them share, starts them, and waits for the end."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from engine.bootstrap_levels import set_levels_from
from engine.config import Config, load_config
from engine.config_serving import AUTO, WORKERS_MAX
from engine.errors import ConfigError, Problem
from engine.record.master import MasterKey
from engine.record.worker_lock import WorkerLock
from engine.supervisor.control import ControlSocket
from engine.supervisor.cores import auto, cores
from engine.supervisor.group import Supervisor
from engine.supervisor.names import in_use, left_beyond, names_of
from engine.supervisor.pages import GroupMetrics
from engine.supervisor.port import Port
from engine.supervisor.slots import GroupSettings
from engine.telemetry.metrics import sources
from engine.telemetry.metrics.snapshot import Snapshot
from engine.telemetry.tracing.process_recorder import ProcessRecorder
from engine.telemetry.tracing.recorder import open_recorder
from engine.telemetry.tracing.redact import load_key
from engine.under_way import forget_others

_log = logging.getLogger("assay.workers")
_LOCK = "supervisor"
# Beyond the grace of a drain.
_ORPHANS_S = 10.0


def worker_count(config: Config) -> int:
    """How many workers the settings ask for on this machine."""
    return auto() if config.server.workers == AUTO else config.server.workers


def serve_group(config: Config, workers: int, on_ready: Callable[[int], None], file: Path | None) -> None:
    """Serves with several workers until SIGTERM or SIGINT, then has all drain. on_ready: told the port once all serve.
    file: of the settings, which every worker reads itself. Raises ConfigError, BundleError, AssayError."""
    _check(config)
    with ExitStack() as closing:
        _prepare(config, closing)
        port = Port(config.server.address, config.server.reuse_port)
        closing.callback(port.close)
        tracing = config.tracing.settings()
        recorder = open_recorder(tracing) if tracing.mode == "process" else None
        exporter = recorder.exporter if isinstance(recorder, ProcessRecorder) else None
        if recorder is not None:
            closing.callback(recorder.close, tracing.drain_s)
        metrics = GroupMetrics(config.metrics.settings())
        closing.callback(metrics.stop)
        settings = GroupSettings(
            workers=workers,
            journal=config.record.path,
            counted=config.velocity.enabled,
            pinned=cores() if config.server.pin_workers else (),
            connection_age_s=config.server.connection_age_s,
            drain_grace_s=config.server.drain_grace_s,
        )
        facts = {
            "file": None if file is None else str(file),
            "address": port.address,
            "trace_address": None if exporter is None else exporter.address,
            "snapshots": str(metrics.directory),
            "connection_age_s": settings.connection_age_s,
            "drain_grace_s": settings.drain_grace_s,
        }
        control = ControlSocket(config.record.path)
        closing.callback(control.close)
        group = Supervisor(settings, facts, control, metrics.retire)
        if recorder is not None:
            metrics.add(sources.tracing(recorder))
        if config.ship.mode != "off":
            _ship(config, file, metrics, closing)

        def put(snapshot: Snapshot) -> None:
            snapshot.put("assay.workers.wanted", (), workers)
            snapshot.put("assay.workers.serving", (), group.serving)
            for how in ("replaced", "crashed", "not_ready", "hung"):
                snapshot.put("assay.workers.ended", (how,), group.ended[how])

        metrics.add(put)
        metrics.start(group)
        signal.signal(signal.SIGHUP, lambda number, _: _reread(group, file, number))
        _log.info("supervising", extra={"workers": workers, "address": port.address})
        group.run(lambda: on_ready(port.number))


def _ship(config: Config, file: Path | None, metrics: GroupMetrics, closing: ExitStack) -> None:
    """Ships what all workers record."""
    # With Cassandra's driver behind it.
    from engine.bootstrap_shipping import open_shipper_process, put_shipping

    shipper = open_shipper_process(config, file)
    metrics.add(lambda snapshot: put_shipping(shipper.status(), snapshot))
    shipper.start()
    closing.callback(shipper.stop)


def _check(config: Config) -> None:
    """What cannot be with several workers. Raises ConfigError."""
    problems = []
    if config.server.address.startswith("unix:"):
        fix = "Listen on host:port, or set server.workers = 1."
        problems.append(Problem("settings", "server.address", "several workers cannot share a Unix socket", fix))
    if config.idempotency.share == "off":
        fix = "Set host (or store), or server.workers = 1."
        message = "several workers must share request ids, or one that is sent twice is decided twice"
        problems.append(Problem("settings", "idempotency.share", message, fix))
    if config.store.kind == "memory":
        fix = "Name another store, or set server.workers = 1."
        problems.append(Problem("settings", "store.kind", "each worker would have a memory of its own", fix))
    if problems:
        raise ConfigError(problems)


def _prepare(config: Config, closing: ExitStack) -> None:
    """Makes once what workers would make side by side. Raises ConfigError."""
    record = config.record
    try:
        record.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = WorkerLock(record.path, _LOCK, wait_s=1.0)
    except BlockingIOError as error:
        fix = "End it, or give this one a record.path of its own."
        message = "another supervisor keeps workers that write here"
        raise ConfigError([Problem("settings", "record.path", f"{str(record.path)!r}: {message}", fix)]) from error
    except OSError as error:
        message = f"{str(record.path)!r} cannot be used ({error.strerror})"
        fix = "Name a directory that can be written to."
        raise ConfigError([Problem("settings", "record.path", message, fix)]) from error
    closing.callback(lock.release)
    MasterKey.load(record.master_key, record.path)
    load_key(config.tracing.id_key_path)
    _wait_for_orphans(config)
    names = [name for number in range(worker_count(config)) for name in names_of(number)]
    try:
        forget_others(record.path, names)
    except OSError as error:
        _log.warning("what is under way cannot be cleared", extra={"error": str(error)})
    left = left_beyond(record.path, worker_count(config), config.velocity.enabled)
    if left:
        _log.warning(
            "applications that earlier workers recorded are not counted: start once with as many workers as there were",
            extra={"left_by": left},
        )


def _wait_for_orphans(config: Config) -> None:
    """Workers of a supervisor that was killed drain and end; until then they have the port and their names."""
    path, end_s, told = config.record.path, time.monotonic() + config.server.drain_grace_s + _ORPHANS_S, False
    names = [name for number in range(WORKERS_MAX) for name in names_of(number)]
    while (left := [name for name in names if in_use(path, name)]) and time.monotonic() < end_s:
        if not told:
            _log.warning("workers of an earlier supervisor are still draining", extra={"left": left})
        told = True
        time.sleep(0.2)


def _reread(group: Supervisor, file: Path | None, number: int) -> None:
    set_levels_from(lambda: load_config(file))
    group.hang_up(number)
