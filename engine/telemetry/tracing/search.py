"""Finds one trace in the local trace file and its older parts, by its own id or by the id of the decision it led to."""

from __future__ import annotations

import json
import mmap
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.telemetry.tracing import names
from engine.telemetry.tracing.local import numbered

_trace_id = re.compile(r"[0-9a-f]{32}").fullmatch


@dataclass(frozen=True, slots=True)
class StoredSpan:
    """A span as the file holds it. Ids in hexadecimal digits, parent_id empty without one; status_code: 2 for an
    error; events: name and ns since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    status_code: int
    status_message: str
    events: tuple[tuple[str, int], ...]
    resource: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredTrace:
    """All spans of one trace that the files hold, by their start."""

    trace_id: str
    spans: tuple[StoredSpan, ...]


def files_of(path: Path) -> list[Path]:
    """The files of a local trace file that are there, the newest first."""
    files = [path] if path.exists() else []
    number = 1
    while (older := numbered(path, number)).exists():
        files.append(older)
        number += 1
    return files


def find_trace(path: Path, id_: str) -> StoredTrace | None:
    """The trace with an id, or of the decision with an id; None when the files do not hold it (any more).

    path: the newest file. Raises OSError when a file cannot be read.
    """
    files = files_of(path)
    id_ = id_.strip().lower()
    trace_id = id_ if _trace_id(id_) else _trace_of_decision(files, id_)
    if trace_id is None:
        return None
    found: dict[str, StoredSpan] = {}
    for file in files:
        for line in _lines_with(file, trace_id):
            found |= {span.span_id: span for span in read_line(line) if span.trace_id == trace_id}
    if not found:
        return None
    return StoredTrace(trace_id, tuple(sorted(found.values(), key=lambda span: (span.start_ns, -span.end_ns))))


def latest_trace(path: Path) -> StoredTrace | None:
    """The trace that came last; None when there is none."""
    for file in files_of(path):
        for line in _lines_with(file, '"traceId"'):
            spans = list(read_line(line))
            if spans:
                return find_trace(path, spans[-1].trace_id)
    return None


def _trace_of_decision(files: list[Path], decision_id: str) -> str | None:
    """The trace in which a decision was made; failing that, the latest in which it was told again."""
    told_again = None
    for file in files if decision_id else ():
        for line in _lines_with(file, decision_id):
            for span in read_line(line):
                if span.attributes.get(names.DECISION_ID) == decision_id:
                    if not span.attributes.get(names.REPLAYED):
                        return span.trace_id
                    told_again = told_again or span.trace_id
    return told_again


def _lines_with(file: Path, text: str) -> Iterator[bytes]:
    """The lines of a file that hold a text, the last first."""
    with file.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            sought, before = text.encode(), len(content)
            while (at := content.rfind(sought, 0, before)) >= 0:
                begin = content.rfind(b"\n", 0, at) + 1
                end = content.find(b"\n", at)
                yield content[begin : end if end >= 0 else len(content)]
                before = begin


def read_line(line: bytes) -> Iterator[StoredSpan]:
    """The spans of one line; none of a line that is not whole."""
    try:
        whole = json.loads(line)
    except ValueError:
        return
    for resource_spans in whole["resourceSpans"]:
        resource = _attributes(resource_spans["resource"]["attributes"])
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                status = span["status"]
                yield StoredSpan(
                    span["traceId"],
                    span["spanId"],
                    span.get("parentSpanId", ""),
                    span["name"],
                    span["kind"],
                    int(span["startTimeUnixNano"]),
                    int(span["endTimeUnixNano"]),
                    _attributes(span["attributes"]),
                    status.get("code", 0),
                    status.get("message", ""),
                    tuple((event["name"], int(event["timeUnixNano"])) for event in span.get("events", ())),
                    resource,
                )


def _attributes(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _value(pair["value"]) for pair in pairs}


def _value(value: dict[str, Any]) -> Any:
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)
        if kind == "doubleValue":
            return float(content)
        if kind == "arrayValue":
            return tuple(_value(one) for one in content["values"])
        if kind == "kvlistValue":
            return _attributes(content["values"])
        return b64decode(content) if kind == "bytesValue" else content
    return None
