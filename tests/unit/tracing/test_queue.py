"""The bound of the recorder's queue, in bytes that are really taken."""

from __future__ import annotations

import time
import tracemalloc

from engine.telemetry.tracing.queue_recorder import QueueRecorder
from engine.telemetry.tracing.recorder import NoRecorder, open_recorder
from engine.telemetry.tracing.settings import SPAN_BYTES, TracingSettings
from engine.telemetry.tracing.trace_record import AnyRecord
from tests.support.traces import SPANS, decision


class Stuck(QueueRecorder):
    """Whoever takes from its queue never comes back for more."""

    def _begin(self) -> None:
        time.sleep(3600)

    def _ship(self, records: list[AnyRecord]) -> None:
        raise AssertionError

    def _settle(self, asked: int) -> bool:
        raise AssertionError

    def _end(self) -> None:
        raise AssertionError

    def _abandon(self) -> None:
        raise AssertionError


def test_a_span_takes_no_more_memory_than_it_is_counted_as() -> None:
    decision()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [decision(n) for n in range(500)]
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken / (len(kept) * SPANS) < SPAN_BYTES


def test_what_is_beyond_the_bound_is_dropped_and_counted() -> None:
    recorder = Stuck(100_000, 0.05)
    for n in range(100):
        recorder.record(decision(n))
    stats = recorder.stats()
    assert stats["recorder_queue_bytes"] <= 100_000
    assert stats["recorded_traces"] == 100_000 // ((SPANS + 2) * SPAN_BYTES)
    assert stats["recorded_traces"] + stats["dropped_traces"] == 100
    assert stats["dropped_queue_spans"] == stats["dropped_traces"] * SPANS
    began_s = time.monotonic()
    assert not recorder.flush(0.1)
    recorder.close(0.1)
    assert time.monotonic() - began_s < 20


def test_off_does_nothing() -> None:
    for settings in (TracingSettings(mode="off"), TracingSettings(exporters=())):
        recorder = open_recorder(settings)
        assert isinstance(recorder, NoRecorder)
        assert not recorder.active
        recorder.record(decision())
        assert recorder.flush(1)
        recorder.close(1)
        assert recorder.stats() == {}
