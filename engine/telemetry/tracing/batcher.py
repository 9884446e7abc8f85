"""Records in, batches out: the tail rule, the form that each way out wants, and how many spans go at once.

It belongs to one thread: the exporter process's only one, or the recorder's in thread mode.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from engine import __version__
from engine.telemetry.tracing import names
from engine.telemetry.tracing.output import Output, Source
from engine.telemetry.tracing.settings import SPAN_BYTES, TracingSettings
from engine.telemetry.tracing.stage_run import spans_in
from engine.telemetry.tracing.tail import Followers
from engine.telemetry.tracing.trace_record import OUTCOMES, AnyRecord, ForeignRecord, Scope, TraceRecord, foreign_span

_log = logging.getLogger("assay.tracing")
OWN_SCOPE = Scope(names.SCOPE, __version__, names.SCHEMA_URL)
_COMPLAIN_S = 60.0
_KEPT = tuple(f"kept_{outcome}" for outcome in OUTCOMES)


class Batcher:
    """One batch at a time, in the forms of all outputs."""

    def __init__(self, settings: TracingSettings, outputs: Sequence[Output[Any]]) -> None:
        self._settings, self._rule, self._outputs = settings, settings.tail, tuple(outputs)
        self._followers = Followers(settings.tail) if settings.tail.plain_kept_ratio < 1.0 else None
        self._batches: list[dict[Source, dict[Scope, list[Any]]]] = [{} for _ in self._outputs]
        # Where the engine's own spans of a source go, by output: what is in the batch already, looked up once.
        self._own: dict[Source, list[list[Any]]] = {}
        self._spans = self._bytes = 0
        self._begun_s = 0.0
        self._counts: Counter[str] = Counter()
        self._complained_s = -_COMPLAIN_S

    def add(self, records: Iterable[AnyRecord], source: Source) -> None:
        """Takes records. One that cannot be encoded is counted and left out; it harms no other."""
        now_s = time.monotonic()
        for record in records:
            try:
                if record[0] is None:
                    self._add_foreign(record, source, now_s)
                else:
                    self._add(record, source)
            except Exception as error:
                self._counts["malformed_records"] += 1
                self._complain("a trace record cannot be encoded", error)
            if self._spans >= self._settings.batch_spans_max or self._bytes >= self._settings.batch_bytes_max:
                self.flush()

    def poll(self) -> float | None:
        """Lets a batch go that is old enough; gives the seconds until the next is, None when none is begun."""
        now_s = time.monotonic()
        if self._followers is not None:
            for record in self._followers.overdue(now_s):
                self._put_foreign(record)
        if not self._spans:
            return None
        left_s = self._begun_s + self._settings.batch_delay_s - now_s
        if left_s <= 0:
            self.flush()
            return None
        return left_s

    def flush(self) -> None:
        """Lets the batch go as it is."""
        if not self._spans:
            return
        batches, spans = self._batches, self._spans
        self._batches, self._own = [{} for _ in self._outputs], {}
        self._spans = self._bytes = 0
        for output, batch in zip(self._outputs, batches, strict=True):
            try:
                output.export(batch, spans)
            except OSError as error:
                self._counts["local_failed_spans"] += spans
                self._complain("traces cannot be written", error)

    def close(self) -> None:
        """Lets everything go, also what waits for the fate of its trace."""
        if self._followers is not None:
            for record in self._followers.overdue(time.monotonic(), all_of_them=True):
                self._put_foreign(record)
        self.flush()
        for output in self._outputs:
            output.close()

    def stats(self) -> dict[str, int]:
        """What became of the records so far, and the spans of the batch that is begun."""
        return dict(self._counts) | {"batch_spans": self._spans}

    def _complain(self, what: str, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s - self._complained_s >= _COMPLAIN_S:
            self._complained_s = now_s
            _log.warning(what, extra={"error": f"{type(error).__name__}: {error}"})

    def _add(self, record: TraceRecord, source: Source) -> None:
        kept = self._rule.keeps(record)
        if self._followers is not None:
            for follower in self._followers.decide(record[0], kept):
                self._put_foreign(follower)
        if not kept:
            self._counts["thinned_traces"] += 1
            self._counts["thinned_spans"] += spans_in(record[8])
            return
        forms = [output.forms(record) for output in self._outputs]
        self._counts[_KEPT[record[7]]] += 1
        into = self._own.get(source)
        if into is None:
            into = [batch.setdefault(source, {}).setdefault(OWN_SCOPE, []) for batch in self._batches]
            self._own[source] = into
        self._take(into, forms, spans_in(record[8]))

    def _add_foreign(self, record: ForeignRecord, source: Source, now_s: float) -> None:
        whole = (*record, source)
        for one in [whole] if self._followers is None else self._followers.take(whole, now_s):
            self._put_foreign(one)

    def _put_foreign(self, record: ForeignRecord) -> None:
        """Takes a foreign record that carries its source at its end."""
        span, scope = foreign_span(record[:-1])
        forms = [[output.form(span)] for output in self._outputs]
        self._counts["kept_foreign"] += 1
        self._take([batch.setdefault(record[-1], {}).setdefault(scope, []) for batch in self._batches], forms, 1)

    def _take(self, into: list[list[Any]], forms: list[list[Any]], count: int) -> None:
        if not self._spans:
            self._begun_s = time.monotonic()
        for batch, made in zip(into, forms, strict=True):
            batch.extend(made)
        self._spans += count
        sized = forms and isinstance(forms[0][0], bytes | str)
        self._bytes += sum(map(len, forms[0])) if sized else count * SPAN_BYTES
