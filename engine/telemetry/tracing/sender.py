"""Batches on their way to the collector: one after the other, tried again as OTLP says, never more than fits.

    put -> memory (bounded) -> transport -> collector
              |                    |
              +--> spill (bounded) +--> again later

Memory comes first; what has no room there, and what is left at the end, goes to the spill directory if there is one.
Where something must go it is the oldest: who looks at traces after an outage looks at the latest.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from engine.telemetry.tracing.spill import Spill
from engine.telemetry.tracing.transport import Answer, Transport

_log = logging.getLogger("assay.tracing")
_WAIT_FIRST_S = 0.5
# A collector that refuses everything is complained of this often.
_COMPLAIN_S = 60.0


class _Batch(NamedTuple):
    number: int
    body: bytes
    spans: int


class Sender:
    """A queue and the thread that empties it. `put`, `flush` and `close` may be called from any thread."""

    def __init__(
        self,
        transport: Transport,
        *,
        timeout_s: float,
        queue_bytes_max: int,
        retry_max_s: float,
        spill: Spill | None = None,
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        """on_settled: called whenever a batch has found its end, from the sender's thread."""
        self._transport, self._timeout_s, self._retry_max_s = transport, timeout_s, retry_max_s
        self._bytes_max, self._spill, self._on_settled = queue_bytes_max, spill, on_settled
        self._queue: deque[_Batch] = deque()
        self._bytes = self._number = self._failures = 0
        self._under_way: _Batch | None = None
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._end_s: float | None = None
        self._complained_s = self._said_dropped_s = -_COMPLAIN_S
        self._thread = threading.Thread(target=self._run, name="trace-sender", daemon=True)
        self._thread.start()

    def put(self, body: bytes, spans: int) -> None:
        """Takes a batch: an ExportTraceServiceRequest and the number of its spans. Never waits for the network."""
        with self._changed:
            if self._end_s is not None:
                self._keep_or_drop(_Batch(0, body, spans))
                return
            self._number += 1
            self._queue.append(_Batch(self._number, body, spans))
            self._bytes += len(body)
            while self._bytes > self._bytes_max and self._queue:
                oldest = self._queue.popleft()
                self._bytes -= len(oldest.body)
                self._keep_or_drop(oldest)
            self._changed.notify_all()

    @property
    def last_number(self) -> int:
        """The number of the batch that came last."""
        return self._number

    def settled(self, number: int) -> bool:
        """Whether all batches up to a number have found their end: sent, refused, spilled or dropped."""
        with self._changed:
            oldest = self._under_way or (self._queue[0] if self._queue else None)
            return oldest is None or oldest.number > number

    def flush(self, timeout_s: float) -> bool:
        """Waits until what was put so far has found its end. False when that took longer."""
        number, end_s = self._number, time.monotonic() + timeout_s
        with self._changed:
            while not self.settled(number):
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not self._thread.is_alive():
                    return False
                self._changed.wait(left_s)
        return True

    def close(self, timeout_s: float) -> None:
        """Sends what it can in that time; the rest goes to the spill directory or is counted as dropped."""
        with self._changed:
            if self._end_s is not None:
                return
            self._end_s = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._transport.close()
        self._thread.join(0.5)
        with self._changed:
            # One that is still under way may arrive twice; that is better than not at all.
            left = ([self._under_way] if self._under_way else []) + list(self._queue)
            self._queue.clear()
            self._bytes = 0
            for batch in left:
                self._keep_or_drop(batch)
            if self._spill is not None:
                self._spill.close()

    def stats(self) -> dict[str, int]:
        """What became of the spans so far, and what waits now."""
        with self._changed:
            now = {"queue_bytes": self._bytes, "queue_batches": len(self._queue) + (self._under_way is not None)}
            waiting = [*self._queue, self._under_way] if self._under_way else self._queue
            now |= {"queue_spans": sum(one.spans for one in waiting), "collector_failing": int(self._failures > 0)}
            if self._spill is not None:
                now |= {"spill_bytes": self._spill.bytes, "spill_batches": len(self._spill)}
            return dict(self._counts) | now

    def _keep_or_drop(self, batch: _Batch) -> None:
        """To the spill directory, or nowhere. With the lock."""
        gone = batch.spans
        if self._spill is not None:
            gone = self._spill.put(batch.body, batch.spans)
            self._counts["spilled_spans"] += batch.spans
        self._counts["dropped_spans"] += gone
        now_s = time.monotonic()
        if gone and now_s - self._said_dropped_s >= _COMPLAIN_S:
            self._said_dropped_s = now_s
            _log.warning("traces are dropped: no room to wait", extra={"spans_so_far": self._counts["dropped_spans"]})

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and self._end_s is None and not self._spill:
                    self._changed.wait()
                ending = self._end_s is not None
                if ending and (not self._queue or time.monotonic() >= (self._end_s or 0)):
                    return
                if self._queue:
                    self._under_way = self._queue.popleft()
                    self._bytes -= len(self._under_way.body)
            batch = self._under_way
            wait_s = self._send_spilled() if batch is None else self._send(batch)
            if self._on_settled is not None:
                self._on_settled()
            if wait_s > 0 and not self._pause(wait_s):
                return

    def _send(self, batch: _Batch) -> float:
        """Sends a batch of the queue; gives how long to wait before the next."""
        answer = self._transport.send(batch.body, self._attempt_s())
        with self._changed:
            self._under_way = None
            if answer.kind == "later" and not self._ended():
                self._counts["retries"] += 1
                self._queue.appendleft(batch)
                self._bytes += len(batch.body)
                if self._bytes > self._bytes_max:
                    self._queue.popleft()
                    self._bytes -= len(batch.body)
                    self._keep_or_drop(batch)
            elif answer.kind == "later":
                self._keep_or_drop(batch)
            else:
                self._count(answer, batch.spans)
            self._changed.notify_all()
            return self._after(answer)

    def _send_spilled(self) -> float:
        with self._changed:
            found = self._spill.oldest() if self._spill is not None else None
        if found is None:
            return 0.0
        file, body, spans = found
        answer = self._transport.send(body, self._attempt_s())
        with self._changed:
            # It may have had to make room meanwhile; then its spans are counted already.
            if answer.kind != "later" and self._spill is not None and self._spill.holds(file):
                self._spill.drop(file)
                self._counts["resent_spans"] += spans
                self._count(answer, spans)
            return self._after(answer)

    def _count(self, answer: Answer, spans: int) -> None:
        if answer.kind == "taken":
            self._counts["rejected_spans"] += answer.rejected
            self._counts["exported_spans"] += spans - answer.rejected
            self._counts["exported_batches"] += 1
        else:
            self._counts["refused_spans"] += spans

    def _after(self, answer: Answer) -> float:
        """Notes how the collector is, and gives how long to leave it alone."""
        if answer.kind != "later":
            if self._failures:
                _log.info("the trace collector takes traces again", extra={"after_attempts": self._failures})
            self._failures = 0
            if answer.message or answer.kind == "refused":
                self._complain("the trace collector refuses spans", answer)
            return 0.0
        self._failures += 1
        if self._failures == 1:
            self._complain("the trace collector cannot be reached; traces wait", answer, always=True)
        # Half of it is left to chance, so that many servers do not come back in step.
        wait_s = min(self._retry_max_s, _WAIT_FIRST_S * 2 ** min(self._failures - 1, 10))
        wait_s *= 0.5 + random.random() / 2
        return wait_s if answer.wait_s is None else min(answer.wait_s, 10 * self._retry_max_s)

    def _complain(self, what: str, answer: Answer, *, always: bool = False) -> None:
        now_s = time.monotonic()
        if always or now_s - self._complained_s >= _COMPLAIN_S:
            self._complained_s = now_s
            _log.warning(what, extra={"answer": answer.message, "rejected": answer.rejected})

    def _attempt_s(self) -> float:
        if self._end_s is None:
            return self._timeout_s
        return max(0.05, min(self._timeout_s, self._end_s - time.monotonic()))

    def _ended(self) -> bool:
        return self._end_s is not None and time.monotonic() >= self._end_s

    def _pause(self, wait_s: float) -> bool:
        """Waits; False when the end comes before the wait is over."""
        until_s = time.monotonic() + wait_s
        with self._changed:
            was_ending = self._end_s is not None
            while (left_s := until_s - time.monotonic()) > 0:
                if self._end_s is not None and not was_ending:
                    # One more attempt at once: the collector may be back, and this is the last chance.
                    return True
                if self._end_s is not None and until_s >= self._end_s:
                    return False
                self._changed.wait(left_s)
        return True
