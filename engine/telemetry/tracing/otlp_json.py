"""Spans as OTLP's JSON (opentelemetry.io, "OTLP Specification", JSON Protobuf Encoding): ids in hexadecimal digits,
64-bit numbers as text, enumerations as numbers.

Put together from pieces that are kept, like the binary form: `json.dumps` of a trace costs five times as much.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from json.encoder import encode_basestring
from typing import Any

from engine.telemetry.tracing.shapes import SHAPES, Attribute, SpanShape
from engine.telemetry.tracing.stage_run import FAILED_STATUS, STEP, plain_spans, spell_stages
from engine.telemetry.tracing.trace_record import (
    FAILED,
    MASK,
    STAGES,
    STRIDE,
    UNSET,
    Pairs,
    Scope,
    Span,
    TraceRecord,
    child_id,
    plain_value,
)

_KEPT_MAX = 4096
_FLAGS_LOCAL, _FLAGS_REMOTE = 0x100, 0x300


def text(value: str) -> str:
    """A text in JSON. Halves of surrogate pairs become question marks, as in the binary form."""
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode()
    return encode_basestring(value)


def value_json(value: Any) -> str:
    """An AnyValue. Raises TypeError for what is no attribute's value."""
    if isinstance(value, str):
        return f'{{"stringValue":{text(value)}}}'
    if isinstance(value, bool):
        return f'{{"boolValue":{"true" if value else "false"}}}'
    if isinstance(value, int):
        return f'{{"intValue":"{int(value)}"}}'
    if isinstance(value, float):
        shown = repr(float(value))
        return f'{{"doubleValue":{_NOT_FINITE.get(shown, shown)}}}'
    if value is None:
        return "{}"
    if isinstance(value, bytes):
        return f'{{"bytesValue":"{b64encode(value).decode()}"}}'
    if isinstance(value, Mapping):
        pairs = pairs_json(tuple((str(key), one) for key, one in value.items()))
        return f'{{"kvlistValue":{{"values":{pairs}}}}}'
    if isinstance(value, Sequence):
        return f'{{"arrayValue":{{"values":[{",".join([value_json(one) for one in value])}]}}}}'
    raise TypeError(f"a {type(value).__name__} is no attribute's value")


_NOT_FINITE = {"inf": '"Infinity"', "-inf": '"-Infinity"', "nan": '"NaN"'}


def _pair(key: str, value: Any) -> str:
    return f'{{"key":{text(key)},"value":{value_json(value)}}}'


def pairs_json(pairs: Pairs) -> str:
    """A list of attributes."""
    return f"[{','.join([_pair(key, value) for key, value in pairs])}]"


class _Pieces(dict[Any, str]):
    """An attribute in JSON by its value, made when it is asked for and kept: its values come again."""

    def __init__(self, attribute: Attribute) -> None:
        super().__init__()
        self._head = f'{{"key":{text(attribute.key)},"value":'
        self._type = attribute.type

    def __missing__(self, value: Any) -> str:
        made = f"{self._head}{value_json(plain_value(self._type, value))}}}"
        if len(self) >= _KEPT_MAX:
            self.clear()
        self[value] = made
        return made


class _NewPieces:
    """An attribute in JSON by its value, made anew each time."""

    def __init__(self, attribute: Attribute) -> None:
        self._head = f'{{"key":{text(attribute.key)},"value":'
        self._text_head = self._head + '{"stringValue":'
        self._type = attribute.type

    def __getitem__(self, value: Any) -> str:
        if self._type == "str":
            return f"{self._text_head}{text(str(value))}}}}}"
        if self._type == "int":
            return f'{self._head}{{"intValue":"{int(value)}"}}}}'
        return f"{self._head}{value_json(plain_value(self._type, value))}}}"


class JsonShape:
    """What is the same in all spans of a shape. head: from the name to the start; belongs to one thread."""

    def __init__(self, shape: SpanShape) -> None:
        self.head = f'"name":{text(shape.name)},"kind":{shape.kind},"startTimeUnixNano":"'
        # 0.0 and -0.0 are one key to a dict.
        new = [attribute.varied or attribute.type == "float" for attribute in shape.attributes]
        pairs = zip(shape.attributes, new, strict=True)
        self._pieces = tuple([_NewPieces(one) if is_new else _Pieces(one) for one, is_new in pairs])
        self._constants = [_pair(key, value) for key, value in shape.constants]
        self._kept: dict[tuple[Any, ...], str] | None = None if any(new) else {}

    def attributes(self, values: tuple[Any, ...]) -> str:
        """The attributes of a span, with commas between them. Raises what `record_json` raises."""
        kept = self._kept
        if kept is not None and (found := kept.get(values)) is not None:
            return found
        pieces = zip(self._pieces, values, strict=True)
        made = ",".join(self._constants + [piece[value] for piece, value in pieces if value is not None])
        if kept is not None:
            if len(kept) >= _KEPT_MAX:
                kept.clear()
            kept[values] = made
        return made


@cache
def json_shapes() -> tuple[JsonShape, ...]:
    """By number."""
    return tuple(JsonShape(shape) for shape in SHAPES)


def _status(code: int, message: str) -> str:
    if code == UNSET and not message:
        return '"status":{}'
    parts = [f'"code":{code}'] if code else []
    if message:
        parts.append(f'"message":{text(message)}')
    return f'"status":{{{",".join(parts)}}}'


def _head(trace_id: str, span_id: str, parent_id: str, tracestate: str, remote: bool) -> str:
    state = f'"traceState":{text(tracestate)},' if tracestate else ""
    parent = f'"parentSpanId":"{parent_id}",' if parent_id else ""
    flags = _FLAGS_REMOTE if remote and parent_id else _FLAGS_LOCAL
    return f'{{"traceId":"{trace_id}","spanId":"{span_id}",{state}{parent}"flags":{flags},'


def record_json(record: TraceRecord) -> list[str]:
    """The spans of a trace record; those of a run of stages are one text, with commas between them. Raises ValueError
    for another number of values than a shape has, TypeError for values that JSON cannot hold."""
    trace, root_id, caller_id, tracestate, _, wall_ns, base_tick, _, spans = record
    if tracestate:
        spans = plain_spans(root_id, spans)
    shapes, trace_id, offset = json_shapes(), trace.hex(), wall_ns - base_tick
    ids: list[str] = []
    made: list[str] = []
    for place, (number, span_id, parent, start, end, status, values) in enumerate(spans):
        if number == STAGES:
            if status is not None or FAILED_STATUS in values[2]:
                return record_json((*record[:8], plain_spans(root_id, spans)))
            made.append(_run_json(trace_id, root_id, place, ids[parent], offset, values))
            ids.append(ids[parent])
            continue
        shape = shapes[number]
        own_id = (span_id or (child_id(root_id, place) if place else root_id)).hex()
        above = ids[parent] if place else caller_id.hex() if caller_id else ""
        ids.append(own_id)
        ended = '"status":{}' if status is None else _status(FAILED, status)
        made.append(
            f"{_head(trace_id, own_id, above, tracestate or '', place == 0)}{shape.head}{start + offset}"
            f'","endTimeUnixNano":"{end + offset}","attributes":[{shape.attributes(values)}],{ended}}}'
        )
    return made


def _run_json(trace_id: str, root_id: bytes, place: int, parent_id: str, offset: int, values: tuple[Any, ...]) -> str:
    """The spans of a run without a flaw."""
    shapes, own = json_shapes(), int.from_bytes(root_id, "little") + place * STRIDE
    head, above = f'{{"traceId":"{trace_id}","spanId":"', f'","parentSpanId":"{parent_id}","flags":{_FLAGS_LOCAL},'
    made = []
    for number, start, end, _, own_values in spell_stages(None, values):
        shape = shapes[number]
        made.append(
            f"{head}{(own & MASK or 1).to_bytes(8, 'little').hex()}{above}{shape.head}{start + offset}"
            f'","endTimeUnixNano":"{end + offset}","attributes":[{shape.attributes(own_values)}],"status":{{}}}}'
        )
        own += STEP
    return ",".join(made)


def span_json(span: Span) -> str:
    """Any span."""
    parent_id = span.parent_id.hex() if span.parent_id else ""
    events = ",".join(
        f'{{"timeUnixNano":"{event.time_ns}","name":{text(event.name)},"attributes":{pairs_json(event.attributes)},'
        f'"droppedAttributesCount":{event.attributes_dropped}}}'
        for event in span.events
    )
    links = ",".join(
        f'{{"traceId":"{link.trace_id.hex()}","spanId":"{link.span_id.hex()}","attributes":'
        f'{pairs_json(link.attributes)},"droppedAttributesCount":{link.attributes_dropped},'
        f'"flags":{_FLAGS_REMOTE if link.is_remote else _FLAGS_LOCAL}}}'
        for link in span.links
    )
    more = f'"events":[{events}],' if events else ""
    more += f'"links":[{links}],' if links else ""
    for name, count in (
        ("Attributes", span.attributes_dropped),
        ("Events", span.events_dropped),
        ("Links", span.links_dropped),
    ):
        more += f'"dropped{name}Count":{count},' if count else ""
    head = _head(span.trace_id.hex(), span.span_id.hex(), parent_id, span.tracestate, span.parent_is_remote)
    return (
        f'{head}"name":{text(span.name)},"kind":{span.kind},"startTimeUnixNano":"{span.start_ns}","endTimeUnixNano":'
        f'"{span.end_ns}","attributes":{pairs_json(span.attributes)},{more}'
        f"{_status(span.status_code, span.status_message)}}}"
    )


def request_json(resource: Mapping[str, Any], scopes: Mapping[Scope, Sequence[str]]) -> str:
    """An ExportTraceServiceRequest of spans in JSON, on one line."""
    groups = []
    for scope, spans in scopes.items():
        who = f'"name":{text(scope.name)},"version":{text(scope.version or "")}'
        who += f',"attributes":{pairs_json(scope.attributes)}'
        groups.append(f'{{"scope":{{{who}}},"spans":[{",".join(spans)}],"schemaUrl":{text(scope.schema_url)}}}')
    whose = pairs_json(tuple(resource.items()))
    return f'{{"resourceSpans":[{{"resource":{{"attributes":{whose}}},"scopeSpans":[{",".join(groups)}]}}]}}'
