"""Records in, batches out: the tail rule, the encoding, and the exporters that need no collector.

It belongs to one thread: the exporter process's only one, or the recorder's in thread mode.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from engine import __version__
from engine.telemetry.tracing import names
from engine.telemetry.tracing.encode import (
    FLAGS_LOCAL,
    FLAGS_REMOTE,
    Encoder,
    compile_shape,
    encode_request,
    encode_resource,
    encode_span,
    ids_field,
)
from engine.telemetry.tracing.local import LocalExporter
from engine.telemetry.tracing.settings import TracingSettings
from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.tail import Followers
from engine.telemetry.tracing.trace_record import (
    MASK,
    OUTCOMES,
    STEPS,
    AnyRecord,
    ForeignRecord,
    Scope,
    Span,
    TraceRecord,
    foreign_span,
    spell_out,
    steps_to,
)
from engine.telemetry.tracing.wire import text_field

_log = logging.getLogger("assay.tracing")
OWN_SCOPE = Scope(names.SCOPE, __version__, names.SCHEMA_URL)
_COMPLAIN_S = 60.0


@cache
def _encoders() -> tuple[Encoder, ...]:
    return tuple(compile_shape(shape) for shape in SHAPES)


class Source:
    """A process that makes records: its resource. Spans of one source travel together."""

    def __init__(self, resource: Mapping[str, Any]) -> None:
        self.resource = dict(resource)
        self.field = encode_resource(self.resource)


class Batcher:
    """emit: takes an encoded batch and the number of its spans; None when there is no collector to send to."""

    def __init__(
        self,
        settings: TracingSettings,
        emit: Callable[[bytes, int], None] | None,
        local: Sequence[LocalExporter] = (),
    ) -> None:
        self._settings, self._rule, self._emit, self._local = settings, settings.tail, emit, local
        self._followers = Followers(settings.tail) if settings.tail.plain_kept_ratio < 1.0 else None
        self._encoders = _encoders()
        self._encoded: dict[Source, dict[Scope, list[bytes]]] = {}
        self._spelled: dict[Source, dict[Scope, list[Span]]] = {}
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
                    self._add(record, source, now_s)
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
        encoded, spelled, spans = self._encoded, self._spelled, self._spans
        self._encoded, self._spelled, self._spans, self._bytes = {}, {}, 0, 0
        for exporter in self._local:
            for source, scopes in spelled.items():
                self._export(exporter, source, list(scopes.items()))
        if self._emit is not None:
            groups = [(source.field, "", list(scopes.items())) for source, scopes in encoded.items()]
            self._emit(encode_request(groups), spans)

    def close(self) -> None:
        """Lets everything go, also what waits for the fate of its trace."""
        if self._followers is not None:
            for record in self._followers.overdue(time.monotonic(), all_of_them=True):
                self._put_foreign(record)
        self.flush()
        for exporter in self._local:
            exporter.close()

    def stats(self) -> dict[str, int]:
        """What became of the records so far, and the spans of the batch that is begun."""
        return dict(self._counts) | {"batch_spans": self._spans}

    def _export(self, exporter: LocalExporter, source: Source, scopes: Sequence[tuple[Scope, Sequence[Span]]]) -> None:
        try:
            exporter.export(source.resource, scopes)
        except OSError as error:
            self._counts["local_failed_spans"] += sum(len(spans) for _, spans in scopes)
            self._complain("traces cannot be written", error)

    def _complain(self, what: str, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s - self._complained_s >= _COMPLAIN_S:
            self._complained_s = now_s
            _log.warning(what, extra={"error": f"{type(error).__name__}: {error}"})

    def _add(self, record: TraceRecord, source: Source, now_s: float) -> None:
        kept = self._rule.keeps(record)
        if self._followers is not None:
            for follower in self._followers.decide(record[0], kept):
                self._put_foreign(follower)
        if not kept:
            self._counts["thinned_traces"] += 1
            self._counts["thinned_spans"] += len(record[8])
            return
        encoded = self._encode(record) if self._emit is not None else []
        spelled = spell_out(record, SHAPES) if self._local else []
        self._counts[f"kept_{OUTCOMES[record[7]]}"] += 1
        self._take(source, OWN_SCOPE, encoded, spelled, len(record[8]))

    def _encode(self, record: TraceRecord) -> list[bytes]:
        """The spans of a record, encoded. The loop that an exporter spends its time in."""
        trace_id, root_id, caller_id, tracestate, _, wall_ns, base_tick, _, spans = record
        state = text_field(b"\x1a", tracestate) if tracestate else b""
        offset = wall_ns - base_tick
        encoders = self._encoders
        root, steps = int.from_bytes(root_id, "big"), STEPS if len(spans) <= len(STEPS) else steps_to(len(spans))
        ids: list[bytes] = []
        encoded = []
        head, middle = b"\x0a\x10" + trace_id + b"\x12\x08", state + b"\x22\x08"
        for place, (number, span_id, parent, start, end, status, values) in enumerate(spans):
            if place:
                own_id = span_id or (root + steps[place] & MASK or 1).to_bytes(8, "big")
                own = head + own_id + middle + ids[parent]
                flags = FLAGS_LOCAL
            else:
                own_id = root_id
                own = ids_field(trace_id, own_id, state, caller_id)
                flags = FLAGS_REMOTE if caller_id else FLAGS_LOCAL
            ids.append(own_id)
            encoded.append(encoders[number](own, start + offset, end + offset, status, flags, values))
        return encoded

    def _add_foreign(self, record: ForeignRecord, source: Source, now_s: float) -> None:
        whole = (*record, source)
        ready = [whole] if self._followers is None else self._followers.take(whole, now_s)
        for one in ready:
            self._put_foreign(one)

    def _put_foreign(self, record: ForeignRecord) -> None:
        """Takes a foreign record that carries its source at its end."""
        span, scope = foreign_span(record[:-1])
        encoded = [encode_span(span)] if self._emit is not None else []
        self._counts["kept_foreign"] += 1
        self._take(record[-1], scope, encoded, [span] if self._local else [], 1)

    def _take(self, source: Source, scope: Scope, encoded: list[bytes], spelled: list[Span], count: int) -> None:
        if not self._spans:
            self._begun_s = time.monotonic()
        if encoded:
            self._encoded.setdefault(source, {}).setdefault(scope, []).extend(encoded)
            self._bytes += sum(map(len, encoded))
        if spelled:
            self._spelled.setdefault(source, {}).setdefault(scope, []).extend(spelled)
            if not encoded:
                self._bytes += count * 512
        self._spans += count
