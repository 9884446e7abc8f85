"""Exporters that need no collector: a file of OTLP JSON lines, and a console that a person reads."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from engine.telemetry.tracing.trace_record import FAILED, Pairs, Scope, Span

Spans = Sequence[tuple[Scope, Sequence[Span]]]


class LocalExporter(Protocol):
    """Takes batches at once. Raises OSError when it cannot."""

    def export(self, resource: Mapping[str, Any], spans: Spans) -> None:
        """Takes the spans that one process made."""

    def close(self) -> None:
        """Lets go of everything."""


def _value(value: Any) -> dict[str, Any]:
    """An AnyValue in OTLP's JSON: 64-bit numbers as text."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, str):
        return {"stringValue": value.encode("utf-8", "replace").decode()}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        finite = value == value and abs(value) != float("inf")
        return {"doubleValue": value if finite else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")}
    if isinstance(value, bytes):
        from base64 import b64encode

        return {"bytesValue": b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _attributes(tuple((str(k), v) for k, v in value.items()))}}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_value(one) for one in value]}}
    return {}


def _attributes(pairs: Pairs) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in pairs]


def _span(span: Span) -> dict[str, Any]:
    plain: dict[str, Any] = {"traceId": span.trace_id.hex(), "spanId": span.span_id.hex()}
    if span.tracestate:
        plain["traceState"] = span.tracestate
    if span.parent_id:
        plain["parentSpanId"] = span.parent_id.hex()
    plain |= {"flags": 0x300 if span.parent_is_remote and span.parent_id else 0x100, "name": span.name}
    plain |= {"kind": span.kind, "startTimeUnixNano": str(span.start_ns), "endTimeUnixNano": str(span.end_ns)}
    plain["attributes"] = _attributes(span.attributes)
    if span.events:
        plain["events"] = [
            {"timeUnixNano": str(e.time_ns), "name": e.name, "attributes": _attributes(e.attributes)}
            for e in span.events
        ]
    if span.links:
        plain["links"] = [
            {"traceId": one.trace_id.hex(), "spanId": one.span_id.hex(), "attributes": _attributes(one.attributes)}
            for one in span.links
        ]
    plain["status"] = {"code": span.status_code} if span.status_code else {}
    if span.status_message:
        plain["status"]["message"] = span.status_message
    return plain


def otlp_json(resource: Mapping[str, Any], spans: Spans) -> str:
    """An ExportTraceServiceRequest as OTLP's JSON, on one line: ids in hexadecimal digits, enumerations as numbers."""
    scopes = [
        {
            "scope": {"name": scope.name, "version": scope.version},
            "spans": [_span(span) for span in many],
            "schemaUrl": scope.schema_url,
        }
        for scope, many in spans
    ]
    whole = {"resource": {"attributes": _attributes(tuple(resource.items()))}, "scopeSpans": scopes}
    return json.dumps({"resourceSpans": [whole]}, separators=(",", ":"), ensure_ascii=False)


class FileExporter:
    """Lines of OTLP JSON, one request a line, in a file that is closed and numbered when it has grown enough:
    `traces.jsonl` is the newest, then `traces.jsonl.1`, and so on. Several processes may write to one file."""

    def __init__(self, path: Path, bytes_max: int, files_max: int) -> None:
        """files_max: how many older files are kept. Raises OSError when the file cannot be opened."""
        self._path, self._bytes_max, self._files_max = path, bytes_max, files_max
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def export(self, resource: Mapping[str, Any], spans: Spans) -> None:
        """See `LocalExporter.export`."""
        line = otlp_json(resource, spans).encode() + b"\n"
        if self._elsewhere():  # another process has rotated, or somebody has removed it
            os.close(self._file)
            self._file = self._open()
        size = os.fstat(self._file).st_size
        if size and size + len(line) > self._bytes_max:
            self._rotate()
        # One call, so that lines of several processes do not mix.
        if os.write(self._file, line) != len(line):
            raise OSError(f"{self._path} took a part of a line; the disk may be full")

    def _elsewhere(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return True
        here = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _rotate(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        if not self._elsewhere():
            for number in range(self._files_max, 0, -1):
                older = numbered(self._path, number - 1)
                if older.exists():
                    older.rename(numbered(self._path, number))
            if self._files_max == 0:
                self._path.unlink()
        os.close(self._file)
        self._file = self._open()

    def close(self) -> None:
        """See `LocalExporter.close`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def numbered(path: Path, number: int) -> Path:
    """The file with a number: 0 is the one that is written to, 1 the next older."""
    return path.with_name(f"{path.name}.{number}") if number else path


class ConsoleExporter:
    """A short tree for each batch of a trace's spans."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def export(self, resource: Mapping[str, Any], spans: Spans) -> None:
        """See `LocalExporter.export`."""
        every = [span for _, many in spans for span in many]
        depths: dict[bytes, int] = {}
        # Parents before children: by start, and the longer first where two start together.
        for span in sorted(every, key=lambda s: (s.trace_id, s.start_ns, -s.end_ns)):
            depth = depths[span.span_id] = depths.get(span.parent_id or b"", -1) + 1
            facts = " ".join(f"{key}={_short(value)}" for key, value in span.attributes)
            head = f"trace {span.trace_id.hex()} " if depth == 0 else "  " * depth
            failed = f" ERROR {span.status_message}".rstrip() if span.status_code == FAILED else ""
            duration_ms = (span.end_ns - span.start_ns) / 1e6
            self._stream.write(f"{head}{span.name} {duration_ms:.3f} ms{failed} {facts}\n")
        self._stream.flush()

    def close(self) -> None:
        """See `LocalExporter.close`."""


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
