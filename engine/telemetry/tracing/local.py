"""Ways out that need no collector: a file of OTLP JSON lines, and a console that a person reads."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, TextIO

from engine.telemetry.tracing.otlp_json import record_json, request_json, span_json
from engine.telemetry.tracing.output import Groups
from engine.telemetry.tracing.shapes import SHAPES
from engine.telemetry.tracing.stage_run import spell_out
from engine.telemetry.tracing.trace_record import FAILED, Span, TraceRecord


class FileOutput:
    """Lines of OTLP JSON, one request a line, in a file that is closed and numbered when it has grown enough:
    `traces.jsonl` is the newest, then `traces.jsonl.1`, and so on. Several processes may write to one file."""

    def __init__(self, path: Path, bytes_max: int, files_max: int) -> None:
        """files_max: how many older files are kept. Raises OSError when the file cannot be opened."""
        self._path, self._bytes_max, self._files_max = path, bytes_max, files_max
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def forms(self, record: TraceRecord) -> list[str]:
        """See `Output.forms`."""
        return record_json(record)

    def form(self, span: Span) -> str:
        """See `Output.form`."""
        return span_json(span)

    def export(self, groups: Groups[str], spans: int) -> None:
        """See `Output.export`."""
        for source, scopes in groups.items():
            self._write(request_json(source.resource, scopes).encode() + b"\n")

    def _write(self, line: bytes) -> None:
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
        """See `Output.close`."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def numbered(path: Path, number: int) -> Path:
    """The file with a number: 0 is the one that is written to, 1 the next older."""
    return path.with_name(f"{path.name}.{number}") if number else path


class ConsoleOutput:
    """A tree for each trace, a line for each span."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def forms(self, record: TraceRecord) -> list[Span]:
        """See `Output.forms`."""
        return spell_out(record, SHAPES)

    def form(self, span: Span) -> Span:
        """See `Output.form`."""
        return span

    def export(self, groups: Groups[Span], spans: int) -> None:
        """See `Output.export`."""
        every = [span for scopes in groups.values() for many in scopes.values() for span in many]
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
        """The stream is another's."""


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
