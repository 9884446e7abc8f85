"""A bounded queue of records and a thread that empties it: what the process and the thread mode have in common."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Sequence

from engine.telemetry.tracing.recorder import Recorder
from engine.telemetry.tracing.settings import SPAN_BYTES
from engine.telemetry.tracing.stage_run import spans_in
from engine.telemetry.tracing.trace_record import AnyRecord, ForeignRecord, TraceRecord

_log = logging.getLogger("assay.tracing")
# A record's own size besides its spans, in spans.
_OVERHEAD_SPANS = 2
_FLUSH_POLL_S = 0.005
_COMPLAIN_S = 60.0


class QueueRecorder(Recorder):
    """Threads may call `record` at once; it appends to a list and does nothing else.

    The queue is bounded by what its records take in memory, counted as SPAN_BYTES for each span. What is beyond is
    dropped and counted: the call goes on, its trace does not.
    """

    active = True

    def __init__(self, queue_bytes_max: int, tick_s: float) -> None:
        """tick_s: how often the queue is emptied."""
        self._bytes_max, self._tick_s = queue_bytes_max, tick_s
        self._clear()
        _alive.add(self)

    def _clear(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[AnyRecord] = []
        self._bytes = self._recorded = self._dropped = self._dropped_spans = 0
        self._wake = threading.Event()
        self._flushed = threading.Condition()
        self._flush_asked = self._flush_done = 0
        self._dropped_said, self._said_s = 0, -_COMPLAIN_S
        self._closing = False
        self._end_s = 0.0
        self._thread: threading.Thread | None = None

    def record(self, record: TraceRecord) -> None:
        """See `Recorder.record`."""
        spans = spans_in(record[8])
        size = (spans + _OVERHEAD_SPANS) * SPAN_BYTES
        with self._lock:
            if self._bytes + size > self._bytes_max or self._closing:
                self._dropped += 1
                self._dropped_spans += spans
                return
            self._waiting.append(record)
            self._bytes += size
            self._recorded += 1
            if self._thread is None:
                self._start()

    def record_foreign(self, record: ForeignRecord) -> None:
        """See `Recorder.record_foreign`."""
        size = _foreign_size(record)
        with self._lock:
            if self._bytes + size > self._bytes_max or self._closing:
                self._dropped_spans += 1
                return
            self._waiting.append(record)
            self._bytes += size
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="trace-recorder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._begin()
        while True:
            hurry = self._closing or self._flush_asked > self._flush_done
            self._wake.wait(_FLUSH_POLL_S if hurry else self._tick_s)
            self._wake.clear()
            asked, closing = self._flush_asked, self._closing
            with self._lock:
                records, self._waiting = self._waiting, []
            if records:
                self._ship(records)
            self._say_dropped()
            if self._settle(asked):
                with self._flushed:
                    self._flush_done = max(self._flush_done, asked)
                    self._flushed.notify_all()
            with self._lock:
                if closing and (not self._waiting or time.monotonic() >= self._end_s):
                    self._dropped += sum(one[0] is not None for one in self._waiting)
                    self._dropped_spans += spans_of(self._waiting)
                    break
        self._end()

    def _say_dropped(self) -> None:
        """Complains once in a while, and not on the calls' own time."""
        now_s = time.monotonic()
        if self._dropped > self._dropped_said and now_s - self._said_s >= _COMPLAIN_S:
            self._said_s, self._dropped_said = now_s, self._dropped
            _log.warning("traces are dropped: the exporter does not keep up", extra={"traces_so_far": self._dropped})

    def _shipped(self, records: Sequence[AnyRecord]) -> None:
        """Gives the room of records back to the queue."""
        size = sum(
            _foreign_size(one) if one[0] is None else (spans_in(one[8]) + _OVERHEAD_SPANS) * SPAN_BYTES
            for one in records
        )
        with self._lock:
            self._bytes -= size

    def flush(self, timeout_s: float) -> bool:
        """See `Recorder.flush`."""
        with self._lock:
            if self._closing:
                return False
            if self._thread is None:
                self._start()
        with self._flushed:
            self._flush_asked += 1
            asked = self._flush_asked
            self._wake.set()
            return self._flushed.wait_for(lambda: self._flush_done >= asked, timeout_s)

    def close(self, timeout_s: float) -> None:
        """See `Recorder.close`."""
        with self._lock:
            self._end_s = time.monotonic() + timeout_s
            self._closing = True
            thread = self._thread
        self._wake.set()
        if thread is not None:
            thread.join(timeout_s)
        _alive.discard(self)

    def stats(self) -> dict[str, int]:
        """See `Recorder.stats`."""
        with self._lock:
            return {
                "recorded_traces": self._recorded,
                "dropped_traces": self._dropped,
                "dropped_queue_spans": self._dropped_spans,
                "recorder_queue_bytes": self._bytes,
            }

    def _after_fork(self) -> None:
        """In the child: what the parent recorded is the parent's to send."""
        self._abandon()
        self._clear()

    @abstractmethod
    def _begin(self) -> None:
        """Called first in the thread that empties the queue."""

    @abstractmethod
    def _ship(self, records: list[AnyRecord]) -> None:
        """Passes records on and gives their room back with `_shipped`. May wait, but not for ever when closing."""

    @abstractmethod
    def _settle(self, asked: int) -> bool:
        """Called each tick after shipping. asked: the number of the latest flush. Whether everything that was shipped
        before has left."""

    @abstractmethod
    def _end(self) -> None:
        """Called last in that thread. `_end_s` says until when it may take."""

    @abstractmethod
    def _abandon(self) -> None:
        """In a forked child: closes what it has inherited and does not own."""


def _foreign_size(record: ForeignRecord) -> int:
    """What a plug-in's span takes: its attributes and events are the plug-in's business."""
    attributes, events = len(record[10]), sum(2 + len(event[2]) for event in record[12])
    return SPAN_BYTES * (4 + attributes // 2 + events)


def spans_of(records: Sequence[AnyRecord]) -> int:
    """How many spans records hold."""
    return sum([1 if one[0] is None else spans_in(one[8]) for one in records])


_alive: weakref.WeakSet[QueueRecorder] = weakref.WeakSet()


def _after_fork() -> None:
    for recorder in list(_alive):
        recorder._after_fork()


os.register_at_fork(after_in_child=_after_fork)
