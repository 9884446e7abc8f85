"""The tail rule: which traces are kept, decided when the whole call is known.

Everything that is not plain is kept: errors, declines, refers, counter-offers, degraded and slow calls. Of the rest a
declared share is, by its trace id alone: the last 56 bits are a number that nobody chose, as W3C Trace Context Level 2
and OpenTelemetry's consistent probability sampling have it, so that every process that thins by the same share keeps
the same traces.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from engine.telemetry.tracing.trace_record import ForeignRecord, TraceRecord

_RANDOM_BITS = 56
_REMEMBERED_MAX = 4096
_WAITING_MAX = 2048


@dataclass(frozen=True, slots=True)
class TailRule:
    """plain_kept_ratio: the share of plain calls to keep, 0 to 1. slow_ms: a call that took longer is kept."""

    plain_kept_ratio: float = 1.0
    slow_ms: float = 250.0

    def in_share(self, trace_id: bytes) -> bool:
        """Whether a plain trace is among those kept."""
        if self.plain_kept_ratio >= 1.0:
            return True
        random = int.from_bytes(trace_id[-(_RANDOM_BITS // 8) :], "big")
        return random >= (1.0 - self.plain_kept_ratio) * (1 << _RANDOM_BITS)

    def keeps(self, record: TraceRecord) -> bool:
        """Whether a call's trace is kept."""
        if record[7] or self.plain_kept_ratio >= 1.0:
            return True
        _, _, _, start, end, status, _ = record[8][0]
        return status is not None or end - start > self.slow_ms * 1e6 or self.in_share(record[0])


class Followers:
    """Spans of plug-ins, which end before their call does: they wait until it is known whether its trace is kept.

    One that waits longer than `wait_s`, or beyond so many, is kept: nothing is lost for being early.
    """

    def __init__(self, rule: TailRule, wait_s: float = 10.0) -> None:
        self._rule, self._wait_s = rule, wait_s
        self._waiting: OrderedDict[bytes, tuple[float, list[ForeignRecord]]] = OrderedDict()
        self._count = 0
        self._decided: OrderedDict[bytes, bool] = OrderedDict()

    def take(self, record: ForeignRecord, now_s: float) -> list[ForeignRecord]:
        """What may go on now that this span has come. now_s: monotonic."""
        trace_id: bytes = record[1]
        if self._rule.in_share(trace_id):
            return [record]
        kept = self._decided.get(trace_id)
        if kept is not None:
            return [record] if kept else []
        self._waiting.setdefault(trace_id, (now_s, []))[1].append(record)
        self._count += 1
        return self._overdue(now_s) if self._count > _WAITING_MAX else []

    def decide(self, trace_id: bytes, kept: bool) -> list[ForeignRecord]:
        """What may go on now that a trace's fate is known. One kept call keeps its whole trace."""
        if kept or trace_id not in self._decided:
            self._decided[trace_id] = kept
            if len(self._decided) > _REMEMBERED_MAX:
                self._decided.popitem(last=False)
        _, records = self._waiting.pop(trace_id, (0.0, []))
        self._count -= len(records)
        return records if kept else []

    def _overdue(self, now_s: float, all_of_them: bool = False) -> list[ForeignRecord]:
        """What has waited long enough, and as much as is beyond the bound."""
        gone: list[ForeignRecord] = []
        while self._waiting:
            since_s, records = next(iter(self._waiting.values()))
            if not all_of_them and self._count <= _WAITING_MAX and now_s - since_s < self._wait_s:
                break
            self._waiting.popitem(last=False)
            self._count -= len(records)
            gone += records
        return gone

    def overdue(self, now_s: float, all_of_them: bool = False) -> list[ForeignRecord]:
        """What has waited long enough; everything with `all_of_them`."""
        return self._overdue(now_s, all_of_them) if self._waiting else []
