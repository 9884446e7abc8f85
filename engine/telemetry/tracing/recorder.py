"""What the request path sees of tracing: a recorder that takes records and never waits."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.trace_record import ForeignRecord, TraceRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

_log = logging.getLogger("assay.tracing")


class Recorder(ABC):
    """Takes trace records.

    active: False when nothing becomes of records, so that nobody need make them.
    """

    active: bool = False

    @abstractmethod
    def record(self, record: TraceRecord) -> None:
        """Takes the trace of a call. Never waits, never raises; what has no room is dropped and counted."""

    @abstractmethod
    def record_foreign(self, record: ForeignRecord) -> None:
        """Takes a span that someone else made. As `record`."""

    @abstractmethod
    def flush(self, timeout_s: float) -> bool:
        """Sends what was recorded so far. False when that took longer; what has not left then still will."""

    @abstractmethod
    def close(self, timeout_s: float) -> None:
        """Sends what was recorded, as far as the time allows, and stops. Records that come later are dropped."""

    @abstractmethod
    def stats(self) -> Mapping[str, int]:
        """What became of records and spans so far, and what waits now:

        recorded_traces, dropped_traces, dropped_queue_spans, recorder_queue_bytes    in the serving process
        exporter_restarts, exporter_lost_spans                                        process mode
        kept_*, thinned_traces, thinned_spans, malformed_records                      tail rule and encoding
        exported_spans, rejected_spans, refused_spans, dropped_spans, retries,
        spilled_spans, resent_spans, queue_bytes, spill_bytes, collector_failing      on the way to the collector
        local_failed_spans                                                            file and console
        """


class NoRecorder(Recorder):
    """Traces are off."""

    def record(self, record: TraceRecord) -> None:
        """Does nothing."""

    def record_foreign(self, record: ForeignRecord) -> None:
        """Does nothing."""

    def flush(self, timeout_s: float) -> bool:
        """There is nothing to send."""
        return True

    def close(self, timeout_s: float) -> None:
        """There is nothing to close."""

    def stats(self) -> Mapping[str, int]:
        """Nothing is counted."""
        return {}


def open_recorder(
    settings: TracingSettings,
    *,
    resource: Mapping[str, Any] | None = None,
    address: str | None = None,
    processor: SpanProcessor | None = None,
) -> Recorder:
    """The recorder that the settings ask for.

    resource: attributes of this one process, for example `assay.worker`. address: of an exporter process that another
    process of this server keeps (`ExporterProcess.address`); None: one of its own. processor: for the mode `stock`,
    what takes the SDK's spans. Raises ValueError for `stock` without one.

    Where no exporter process can be started a thread does its work, and the log says so.
    """
    if settings.mode == "off" or not (settings.exporters or settings.mode == "stock"):
        return NoRecorder()
    if settings.mode == "stock":
        from engine.telemetry.tracing.stock import StockRecorder

        if processor is None:
            raise ValueError("the mode `stock` needs a SpanProcessor of the OpenTelemetry SDK")
        return StockRecorder(settings, processor, resource)
    if settings.mode == "process":
        from engine.telemetry.tracing.process_recorder import ProcessRecorder

        try:
            return ProcessRecorder(settings, resource=resource, address=address)
        except OSError as error:
            _log.warning("traces: no exporter process, a thread does its work", extra={"error": str(error)})
    from engine.telemetry.tracing.thread_recorder import ThreadRecorder

    return ThreadRecorder(settings, resource)
