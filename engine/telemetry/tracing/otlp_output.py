"""Spans as OTLP's bytes, and batches of them as the requests that a collector takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from engine.telemetry.tracing.encode import (
    FLAGS_LOCAL,
    FLAGS_REMOTE,
    Encoder,
    compile_shape,
    encode_request,
    encode_span,
    ids_field,
)
from engine.telemetry.tracing.encode_run import RunEncoder, is_plain
from engine.telemetry.tracing.output import Groups
from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.stage_run import plain_spans
from engine.telemetry.tracing.trace_record import MASK, STAGES, STRIDE, Span, TraceRecord
from engine.telemetry.tracing.wire import text_field


@cache
def _encoders() -> tuple[Encoder, ...]:
    return tuple(compile_shape(shape) for shape in SHAPES)


class OtlpOutput:
    """See `Output`. emit: takes an ExportTraceServiceRequest and the number of its spans."""

    def __init__(self, emit: Callable[[bytes, int], None]) -> None:
        self._emit, self._encoders, self._runs = emit, _encoders(), RunEncoder()

    def forms(self, record: TraceRecord) -> list[bytes]:
        """See `Output.forms`; all spans as one form. The loop that an exporter spends its time in."""
        trace_id, root_id, caller_id, tracestate, _, wall_ns, base_tick, _, spans = record
        state = b""
        if tracestate:
            state, spans = text_field(b"\x1a", tracestate), plain_spans(root_id, spans)
        offset = wall_ns - base_tick
        encoders = self._encoders
        root = int.from_bytes(root_id, "little")
        ids: list[bytes] = []
        encoded: list[bytes] = []
        head, middle = b"\x0a\x10" + trace_id + b"\x12\x08", state + b"\x22\x08"
        for place, (number, span_id, parent, start, end, status, values) in enumerate(spans):
            if number == STAGES:
                if not is_plain(status, values):
                    return self.forms((*record[:8], plain_spans(root_id, spans)))
                self._runs.write(encoded, trace_id, root, place, ids[parent], offset, values)
                # Nothing nests within a run; the place is taken all the same.
                ids.append(ids[parent])
                continue
            if place:
                own_id = span_id or (root + place * STRIDE & MASK or 1).to_bytes(8, "little")
                own = head + own_id + middle + ids[parent]
                flags = FLAGS_LOCAL
            else:
                own_id = root_id
                own = ids_field(trace_id, own_id, state, caller_id)
                flags = FLAGS_REMOTE if caller_id else FLAGS_LOCAL
            ids.append(own_id)
            encoded.append(encoders[number](own, start + offset, end + offset, status, flags, values))
        return [b"".join(encoded)]

    def form(self, span: Span) -> bytes:
        """See `Output.form`."""
        return encode_span(span)

    def export(self, groups: Groups[bytes], spans: int) -> None:
        """See `Output.export`."""
        self._emit(encode_request([(one.field, "", list(scopes.items())) for one, scopes in groups.items()]), spans)

    def close(self) -> None:
        """There is nothing to close: whoever takes the requests is another's."""
