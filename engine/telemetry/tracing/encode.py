"""OTLP's trace messages, written by hand: an ExportTraceServiceRequest with the very bytes that the OpenTelemetry
SDK's own encoder gives for the same spans, at a small part of its price (no object for each attribute and its value).

The format is public (opentelemetry-proto, collector/trace/v1). Tests hold every piece against the SDK's encoder.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.telemetry.tracing.shapes import Attribute, SpanShape
from engine.telemetry.tracing.trace_record import Pairs, Scope, Span, plain_value
from engine.telemetry.tracing.wire import FIXED64, count_field, key_value, text_field, varint64
from engine.wire import DOUBLE, VARINTS, field, varint

# What a shape's encoder takes: the ids' bytes, start and end (ns since 1970), status, the flags' bytes, the values.
Encoder = Callable[[bytes, int, int, str | None, bytes, tuple[Any, ...]], bytes]

_ATTRIBUTE = b"\x4a"
_SPAN = b"\x12"
# SpanFlags: whether the parent is remote is known, and is so.
_KNOWN, _REMOTE = 0x100, 0x200
FLAGS_LOCAL = b"\x85\x01" + struct.pack("<I", _KNOWN)
FLAGS_REMOTE = b"\x85\x01" + struct.pack("<I", _KNOWN | _REMOTE)
STATUS_UNSET = b"\x7a\x00"
_TIMES = struct.Struct("<BQBQ").pack
# Encoded attributes are kept for values that come again and again; so many of each, then all are let go of.
_KEPT_MAX = 4096
_KEPT_TEXT_MAX = 512
# Shorter texts of varied attributes have a ready-made head.
_SHORT_TEXT = 64


def status_field(code: int, message: str) -> bytes:
    """A span's status."""
    if not code and not message:
        return STATUS_UNSET
    return field(b"\x7a", text_field(b"\x12", message) + count_field(b"\x18", code))


def ids_field(trace_id: bytes, span_id: bytes, tracestate: bytes, parent_id: bytes | None) -> bytes:
    """The head of a span. tracestate: as a field already."""
    head = b"\x0a\x10" + trace_id + b"\x12\x08" + span_id + tracestate
    return head + b"\x22\x08" + parent_id if parent_id else head


def _time_field(tag: bytes, time_ns: int) -> bytes:
    return tag + FIXED64(time_ns) if time_ns else b""


def _pairs(tag: bytes, pairs: Pairs) -> bytes:
    return b"".join([key_value(tag, key, value) for key, value in pairs])


def encode_span(span: Span) -> bytes:
    """Any span, as a field of its ScopeSpans. Raises TypeError or OverflowError for values that OTLP cannot hold."""
    parts = [
        ids_field(span.trace_id, span.span_id, text_field(b"\x1a", span.tracestate), span.parent_id),
        text_field(b"\x2a", span.name),
        b"\x30" + varint(span.kind),
        _time_field(b"\x39", span.start_ns),
        _time_field(b"\x41", span.end_ns),
        _pairs(_ATTRIBUTE, span.attributes),
        count_field(b"\x50", span.attributes_dropped),
    ]
    for event in span.events:
        content = _time_field(b"\x09", event.time_ns) + text_field(b"\x12", event.name)
        content += _pairs(b"\x1a", event.attributes) + count_field(b"\x20", event.attributes_dropped)
        parts.append(field(b"\x5a", content))
    parts.append(count_field(b"\x60", span.events_dropped))
    for link in span.links:
        content = b"\x0a\x10" + link.trace_id + b"\x12\x08" + link.span_id + _pairs(b"\x22", link.attributes)
        content += count_field(b"\x28", link.attributes_dropped)
        content += b"\x35" + struct.pack("<I", _KNOWN | (_REMOTE if link.is_remote else 0))
        parts.append(field(b"\x6a", content))
    parts.append(count_field(b"\x70", span.links_dropped))
    parts.append(status_field(span.status_code, span.status_message))
    parts.append(FLAGS_REMOTE if span.parent_is_remote and span.parent_id else FLAGS_LOCAL)
    return field(_SPAN, b"".join(parts))


def attributes_of(shape: SpanShape, values: tuple[Any, ...]) -> bytes:
    """The attributes of a span, spelled out. Raises ValueError for another number of values than the shape has, and
    what `encode_span` raises."""
    given = [
        (attribute.key, plain_value(attribute.type, value))
        for attribute, value in zip(shape.attributes, values, strict=True)
        if value is not None
    ]
    return _pairs(_ATTRIBUTE, (*shape.constants, *given))


class _Kept(dict[Any, bytes]):
    """Encoded attributes by value, made when they are asked for."""

    def __init__(self, attribute: Attribute) -> None:
        super().__init__()
        self._attribute = attribute

    def __missing__(self, value: Any) -> bytes:
        kind = self._attribute.type
        made = key_value(_ATTRIBUTE, self._attribute.key, plain_value(kind, value))
        if len(made) <= _KEPT_TEXT_MAX:
            if len(self) >= _KEPT_MAX:
                self.clear()
            self[value] = made
        return made


def _heads(attribute: Attribute, sample: Callable[[int], Any], sizes: int) -> list[bytes]:
    """All of an encoded attribute but its content, by the content's size in bytes. sample: a value of a size."""
    return [key_value(_ATTRIBUTE, attribute.key, sample(size))[: -size or None] for size in range(sizes)]


def _lines(place: int, attribute: Attribute, scope: dict[str, Any]) -> list[str]:
    """The code that encodes one attribute whose value is there."""
    value = f"v{place}"
    if attribute.type == "float":
        scope[f"a{place}"] = key_value(_ATTRIBUTE, attribute.key, 0.0)[:-8]
        return [f"add(a{place} + double({value}))"]
    if attribute.type == "bool":
        scope[f"t{place}"] = key_value(_ATTRIBUTE, attribute.key, True)
        scope[f"f{place}"] = key_value(_ATTRIBUTE, attribute.key, False)
        return [f"add(t{place} if {value} else f{place})"]
    if not attribute.varied or attribute.type not in ("str", "int"):
        scope[f"a{place}"] = _Kept(attribute)
        return [f"add(a{place}[{value}])"]
    if attribute.type == "str":
        scope[f"h{place}"] = _heads(attribute, lambda size: "x" * size, _SHORT_TEXT)
        text = f"text = str({value}).encode('utf-8', 'replace')"
    else:
        # The largest number that takes so many bytes.
        scope[f"h{place}"] = _heads(attribute, lambda size: (1 << 7 * size) - 1, 10)
        text = f"text = sizes[{value}] if 0 <= {value} < 16384 else varint64({value})"
    scope[f"a{place}"] = _Kept(attribute)
    return [text, f"add(h{place}[len(text)] + text if len(text) < {len(scope[f'h{place}'])} else a{place}[{value}])"]


def compile_shape(shape: SpanShape) -> Encoder:
    """The encoder of a shape. It raises what `encode_span` raises, and ValueError for another number of values.

    The function is written out, a line for each attribute: no names, loops or tests of types are left for run time.
    Shapes whose values all come again keep the bytes of all their attributes together.
    """
    scope: dict[str, Any] = {"times": _TIMES, "join": b"".join, "sizes": VARINTS, "varint": varint}
    scope |= {"varint64": varint64, "status_field": status_field}
    scope["head"] = text_field(b"\x2a", shape.name) + b"\x30" + varint(shape.kind)
    scope["constants"] = _pairs(_ATTRIBUTE, shape.constants)
    scope["unset"] = STATUS_UNSET
    scope["double"] = DOUBLE
    lines = []
    for place, attribute in enumerate(shape.attributes):
        lines.append(f"if v{place} is not None:")
        lines += [f"    {line}" for line in _lines(place, attribute, scope)]
    unpack = f"({''.join(f'v{place}, ' for place in range(len(shape.attributes)))}) = values"
    parts = ["parts = [constants]", "add = parts.append", unpack, *lines]
    # 0.0 and -0.0 are one key to a dict.
    if any(attribute.varied or attribute.type == "float" for attribute in shape.attributes):
        body = [*parts, "attributes = join(parts)"]
    else:
        kept: dict[tuple[Any, ...], bytes] = {}
        scope |= {"kept": kept, "get": kept.get, "kept_max": _KEPT_MAX}
        body = ["attributes = get(values)", "if attributes is None:"]
        body += [f"    {line}" for line in (*parts, "attributes = join(parts)")]
        body += ["    if len(kept) >= kept_max:", "        kept.clear()", "    kept[values] = attributes"]
    body += [
        "ended = unset if status is None else status_field(2, status)",
        "span = ids + head + times(0x39, start, 0x41, end) + attributes + ended + flags",
        "size = len(span)",
        "return b'\\x12' + (sizes[size] if size < 16384 else varint(size)) + span",
    ]
    source = "def encode(ids, start, end, status, flags, values):\n" + "".join(f"    {line}\n" for line in body)
    exec(compile(source, f"<encoder of {shape.name}>", "exec"), scope)
    encoder: Encoder = scope["encode"]
    return encoder


def encode_resource(attributes: Mapping[str, Any]) -> bytes:
    """A Resource as the field of its ResourceSpans."""
    return field(b"\x0a", _pairs(b"\x0a", tuple(attributes.items())))


def encode_scope(scope: Scope) -> bytes:
    """An InstrumentationScope as the field of its ScopeSpans."""
    content = (
        text_field(b"\x0a", scope.name) + text_field(b"\x12", scope.version or "") + _pairs(b"\x1a", scope.attributes)
    )
    return field(b"\x0a", content)


def encode_request(groups: Sequence[tuple[bytes, str, Sequence[tuple[Scope, Sequence[bytes]]]]]) -> bytes:
    """An ExportTraceServiceRequest.

    groups: for each resource its field, its schema's URL, and by scope the fields of its spans.
    """
    whole = []
    for resource, schema_url, scopes in groups:
        content = [resource]
        for scope, spans in scopes:
            scope_spans = encode_scope(scope) + b"".join(spans) + text_field(b"\x1a", scope.schema_url)
            content.append(field(b"\x12", scope_spans))
        content.append(text_field(b"\x1a", schema_url))
        whole.append(field(b"\x0a", b"".join(content)))
    return b"".join(whole)
