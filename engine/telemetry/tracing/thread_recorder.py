"""The simple mode: encoding and sending happen in threads of the serving process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from engine.telemetry.tracing.output import Source
from engine.telemetry.tracing.pipeline import Pipeline, load
from engine.telemetry.tracing.queue_recorder import QueueRecorder
from engine.telemetry.tracing.resource import resource_of
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.trace_record import AnyRecord

_TICK_S = 0.05
# So many records are encoded before the interpreter lock is offered to the calls that wait for it: some 0.3 ms. Left to
# itself, the interpreter would let them wait for 5 ms.
_AT_ONCE = 8


class ThreadRecorder(QueueRecorder):
    """See `Recorder`."""

    def __init__(self, settings: TracingSettings, resource: Mapping[str, Any] | None = None) -> None:
        self._settings, self._extra = settings, resource
        self._pipeline: Pipeline | None = None
        load(settings)
        super().__init__(settings.queue_bytes_max, _TICK_S)

    def _begin(self) -> None:
        # In this thread, and anew after a fork.
        self._source = Source(resource_of(self._settings, self._extra))
        self._pipeline = Pipeline(self._settings, self._wake.set)
        self._flush_seen, self._flush_number = 0, 0

    def _ship(self, records: list[AnyRecord]) -> None:
        assert self._pipeline is not None
        batcher = self._pipeline.batcher
        for at in range(0, len(records), _AT_ONCE):
            some = records[at : at + _AT_ONCE]
            batcher.add(some, self._source)
            self._shipped(some)
            time.sleep(0)

    def _settle(self, asked: int) -> bool:
        assert self._pipeline is not None
        batcher, sender = self._pipeline.batcher, self._pipeline.sender
        batcher.poll()
        if asked > self._flush_seen:
            batcher.flush()
            self._flush_seen = asked
            self._flush_number = 0 if sender is None else sender.last_number
        return sender is None or sender.settled(self._flush_number)

    def _end(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close(max(0.05, self._end_s - time.monotonic()))

    def _abandon(self) -> None:
        if self._pipeline is not None:
            self._pipeline.abandon()
            self._pipeline = None

    def stats(self) -> dict[str, int]:
        """See `Recorder.stats`."""
        pipeline = self._pipeline
        return super().stats() | ({} if pipeline is None else pipeline.stats())
