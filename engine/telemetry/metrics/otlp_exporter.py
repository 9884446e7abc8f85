"""Sends snapshots to a collector on an interval, in a thread that nothing waits for.

What the collector does not take is not kept: the next snapshot holds all that this one did, for counts are told since
the start, or since the last snapshot that was taken. What is lost is how they were spread over the time between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from engine.telemetry.metrics.otlp import encode
from engine.telemetry.metrics.settings import MetricsSettings
from engine.telemetry.metrics.snapshot import Snapshot
from engine.telemetry.tracing.otlp_grpc import GrpcTransport
from engine.telemetry.tracing.otlp_http import HttpTransport
from engine.telemetry.tracing.resource import resource_of
from engine.telemetry.tracing.settings import OtlpSettings, TracingSettings
from engine.telemetry.tracing.transport import Transport

_log = logging.getLogger("assay.metrics")
_METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
_OUTCOMES = {"taken": "taken", "later": "dropped", "refused": "refused"}


class MetricsGrpcTransport(GrpcTransport):
    """The traces' transport to the service for metrics."""

    def __init__(self, settings: OtlpSettings) -> None:
        super().__init__(settings)
        self._export = self._channel.unary_unary(_METHOD)


class OtlpMetricsExporter:
    """Sends what `snapshot` gives. Made after the fork."""

    def __init__(
        self,
        settings: MetricsSettings,
        snapshot: Callable[[], Snapshot],
        resource: Mapping[str, Any] | None = None,
    ) -> None:
        """snapshot: ready to be shown (`Metrics.finished`). resource: attributes of this one process besides those that
        all have. Raises OSError for certificates that cannot be read, ValueError for an endpoint that is no URL."""
        self._settings, self._snapshot = settings, snapshot
        self._resource = resource_of(TracingSettings(resource=settings.resource), resource)
        http = settings.otlp.protocol == "http/protobuf"
        self._transport: Transport = HttpTransport(settings.otlp) if http else MetricsGrpcTransport(settings.otlp)
        self._delta = settings.temporality != "cumulative"
        self._taken: Snapshot | None = None
        self._outcomes: Counter[str] = Counter()
        self._failing = False
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-otlp", daemon=True)

    def start(self) -> None:
        """Sends from now on."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Sends once more, as far as the time allows, and ends."""
        end_s = time.monotonic() + timeout_s
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            self.send(max(0.05, end_s - time.monotonic()))
        self._transport.close()

    def put(self, snapshot: Snapshot) -> None:
        """What became of the sends, for a snapshot (`Metrics.add`)."""
        for outcome, count in self._outcomes.copy().items():
            snapshot.put("assay.metrics.exports", (outcome,), count)

    def send(self, timeout_s: float | None = None) -> bool:
        """Sends a snapshot of now. False when the collector did not take it. Never raises."""
        with self._sending:
            try:
                snapshot = self._snapshot()
                since = self._since(snapshot) if self._delta else None
                body, points = encode(snapshot, self._resource, since)
                answer = self._transport.send(body, timeout_s or self._settings.otlp.timeout_s)
            except Exception:
                self._outcomes["failed"] += 1
                if not self._failing:
                    _log.exception("metrics could not be sent")
                self._failing = True
                return False
            self._outcomes[_OUTCOMES[answer.kind]] += 1
            good = answer.kind == "taken"
            if good:
                self._taken = snapshot
            if not good and not self._failing:
                _log.warning(
                    "the metrics collector does not take metrics; these are dropped",
                    extra={"answer": answer.message, "points": points},
                )
            if good and self._failing:
                _log.info("the metrics collector takes metrics again")
            self._failing = not good
            return good

    def _since(self, snapshot: Snapshot) -> Snapshot:
        """What the collector knows already."""
        return self._taken or Snapshot(time_s=snapshot.start_s, start_s=snapshot.start_s)

    def _run(self) -> None:
        while not self._stop.wait(self._settings.interval_s):
            self.send()
