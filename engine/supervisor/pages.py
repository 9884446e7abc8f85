"""The metrics of all workers as one, and what the supervisor counts itself.

A worker leaves its snapshot in a directory every few seconds, and at once when a scrape asks for it; what those counted
that are gone still counts. The supervisor adds what there is once: traces on their way out, shipping, restarts.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import ConfigError, Problem
from engine.supervisor.group import Supervisor
from engine.telemetry.metrics import sources
from engine.telemetry.metrics.drift import put_drift
from engine.telemetry.metrics.endpoint import Endpoint
from engine.telemetry.metrics.settings import MetricsSettings
from engine.telemetry.metrics.shared import SnapshotDirectory
from engine.telemetry.metrics.snapshot import Snapshot, merge
from engine.telemetry.metrics.sources import Source

if TYPE_CHECKING:
    from engine.telemetry.metrics.otlp_exporter import OtlpMetricsExporter

_log = logging.getLogger("assay.metrics")


class GroupMetrics:
    """One page for all workers. Threads may ask for it at once.

    directory: where workers leave their snapshots.
    """

    def __init__(self, settings: MetricsSettings) -> None:
        """Raises OSError."""
        self._settings = settings
        self._fetch: Callable[[], None] = lambda: None
        self.directory = Path(tempfile.mkdtemp(prefix="assay-workers-"))
        self._workers = SnapshotDirectory(self.directory)
        self._start_s = time.time()
        self._sources: list[Source] = [sources.process()]
        self._endpoint: Endpoint | None = None
        self._exporter: OtlpMetricsExporter | None = None

    def add(self, source: Source) -> None:
        """Asks a part of the supervisor whenever the page is made."""
        self._sources.append(source)

    def finished(self) -> Snapshot:
        """All metrics at this moment, ready to be shown."""
        self._fetch()
        own = Snapshot(time.time(), self._start_s)
        for source in self._sources:
            try:
                source(own)
            except Exception:
                _log.exception("a source of metrics failed")
        whole = merge([self._workers.merged(), own])
        put_drift(whole)
        return whole

    def start(self, group: Supervisor) -> None:
        """Begins to show and to send metrics of a group. Raises ConfigError."""
        settings, self._fetch = self._settings, group.fetch
        if "prometheus" in settings.exporters:
            try:
                self._endpoint = Endpoint(
                    self.finished, settings.host, settings.port, healthy=group.ready, alive=group.alive
                )
            except OSError as error:
                message = f"cannot listen on {settings.host}:{settings.port} ({error.strerror})"
                fix = "Another program may hold the port: choose another, 0 for any that is free, or exporters = []."
                raise ConfigError([Problem("settings", "metrics.port", message, fix)]) from error
            _log.info("metrics", extra={"url": f"http://{settings.host}:{self._endpoint.port}/metrics"})
        if "otlp" in settings.exporters:
            # With gRPC behind it, which a supervisor has no use for otherwise.
            from engine.telemetry.metrics.otlp_exporter import OtlpMetricsExporter

            self._exporter = OtlpMetricsExporter(settings, self.finished)
            self.add(self._exporter.put)
            self._exporter.start()

    def retire(self) -> None:
        """A worker ended: what it counted is kept."""
        try:
            self._workers.retire()
        except OSError as error:
            _log.warning("metrics of a worker that ended cannot be folded", extra={"error": str(error)})

    def stop(self) -> None:
        """Sends what is left, and ends. Harmless when repeated."""
        if self._exporter is not None:
            self._exporter.stop()
            self._exporter = None
        if self._endpoint is not None:
            self._endpoint.stop()
            self._endpoint = None
        shutil.rmtree(self.directory, ignore_errors=True)
