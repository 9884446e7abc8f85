"""Everything behind the recorder, put together: batcher, local exporters, sender, spill. It runs in the exporter
process, or in a thread of the server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.telemetry.tracing.batcher import Batcher
from engine.telemetry.tracing.local import ConsoleOutput, FileOutput
from engine.telemetry.tracing.otlp_output import OtlpOutput
from engine.telemetry.tracing.output import Output
from engine.telemetry.tracing.sender import Sender
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.spill import Spill
from engine.telemetry.tracing.transport import Transport

_log = logging.getLogger("assay.tracing")


class Pipeline:
    """A batcher and what it feeds. Its batcher belongs to the thread that made it."""

    def __init__(self, settings: TracingSettings, on_settled: Callable[[], None] | None = None) -> None:
        """An exporter that cannot be opened is complained of and left out: traces never keep a server from serving.

        on_settled: called whenever a batch has found its end, from another thread.
        """
        self.sender: Sender | None = None
        self._spill: Spill | None = None
        outputs: list[Output[Any]] = []
        for name in settings.exporters:
            try:
                if name == "file":
                    outputs.append(FileOutput(Path(settings.file_path), settings.file_bytes_max, settings.files_max))
                elif name == "console":
                    outputs.append(ConsoleOutput(sys.stdout))
                else:
                    self.sender = self._open_sender(settings, on_settled)
                    outputs.append(OtlpOutput(self.sender.put))
            except (OSError, ValueError) as error:
                _log.error("traces: an exporter cannot be opened", extra={"exporter": name, "error": str(error)})
        self.batcher = Batcher(settings, outputs)

    def _open_sender(self, settings: TracingSettings, on_settled: Callable[[], None] | None) -> Sender:
        transport = _transport(settings)
        if settings.spill_path is not None:
            try:
                self._spill = Spill(Path(settings.spill_path), settings.spill_bytes_max)
            except OSError as error:
                _log.warning("traces: no spill to disk", extra={"error": str(error)})
        return Sender(
            transport,
            timeout_s=settings.otlp.timeout_s,
            queue_bytes_max=settings.export_queue_bytes_max,
            retry_max_s=settings.retry_max_s,
            spill=self._spill,
            on_settled=on_settled,
        )

    def close(self, timeout_s: float) -> None:
        """Lets everything go, as far as the time allows."""
        self.batcher.close()
        if self.sender is not None:
            self.sender.close(timeout_s)

    def abandon(self) -> None:
        """After a fork, in the child: lets go of what belongs to the parent, and sends nothing."""
        if self._spill is not None:
            self._spill.close()

    def stats(self) -> dict[str, int]:
        """What became of records and spans so far."""
        return self.batcher.stats() | ({} if self.sender is None else self.sender.stats())


def load(settings: TracingSettings) -> None:
    """Imports what a pipeline with these settings needs. A process that forks while another of its threads imports
    something has it half imported for ever in the child."""
    if "otlp" in settings.exporters and settings.otlp.protocol == "grpc":
        import engine.telemetry.tracing.otlp_grpc
    elif "otlp" in settings.exporters:
        import engine.telemetry.tracing.otlp_http  # noqa: F401


def _transport(settings: TracingSettings) -> Transport:
    # Imported when needed: gRPC takes longer to import than the rest of the exporter process to start.
    if settings.otlp.protocol == "grpc":
        from engine.telemetry.tracing.otlp_grpc import GrpcTransport

        return GrpcTransport(settings.otlp)
    from engine.telemetry.tracing.otlp_http import HttpTransport

    return HttpTransport(settings.otlp)
