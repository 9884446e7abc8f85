"""Files of lines: CSV and JSON lines, plain or gzipped."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from engine.features.writing.columns import Column
from engine.features.writing.outcome import Fault, RejectReason
from engine.loading.batch import Batch, FileError, event_times, fixed_times, id_of
from engine.loading.columns import TextColumn, ValueColumn
from engine.loading.layout import Layout

_LINE_BYTES_MAX = 4 * 1024 * 1024
_SPOILT = (EOFError, gzip.BadGzipFile, zlib.error, OSError)


class _Opened:
    """A file, and through it what it holds when it is gzipped. Progress is told in bytes of the file itself."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size
        packed = path.suffix == ".gz"
        self.content: IO[bytes] = gzip.GzipFile(fileobj=self._file) if packed else self._file  # type: ignore[assignment]

    @property
    def position(self) -> int:
        """How many bytes were read."""
        return self._file.tell()

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class CsvFile:
    """A CSV file with a header, in UTF-8. Rows are counted from the first after the header."""

    def __init__(self, path: Path, delimiter: str) -> None:
        """Raises FileError, OSError."""
        self._opened = _Opened(path)
        # What is no UTF-8 becomes a mark that no id, number or category holds, and its row is rejected as such.
        self._lines = io.TextIOWrapper(self._opened.content, encoding="utf-8-sig", errors="replace", newline="")
        self._delimiter = delimiter
        try:
            header = self._record(self._lines.readline(_LINE_BYTES_MAX))
        except _SPOILT as error:
            raise FileError(f"the header cannot be read ({error})") from error
        if not header:
            raise FileError("there is no header: the first line must name the columns")
        self.columns: Sequence[str] = [name.strip() for name in header]

    @property
    def size(self) -> int:
        """See `RowFile.size`."""
        return self._opened.size

    @property
    def position(self) -> int:
        """See `RowFile.position`."""
        return self._opened.position

    def close(self) -> None:
        """See `RowFile.close`."""
        self._opened.close()

    def batches(self, layout: Layout, start: int, rows: int) -> Iterator[Batch]:
        """See `RowFile.batches`."""
        end, width = 0, len(self.columns)
        numbers: list[int] = []
        records: list[list[str]] = []
        broken: list[int] = []
        for end, record in enumerate(self._all(), 1):
            if end <= start or record == []:
                continue
            numbers.append(end)
            if record is None or len(record) != width:
                broken.append(len(records))
                records.append([""] * width)
            else:
                records.append(record)
            if len(records) >= rows:
                yield self._batch(layout, end, numbers, records, broken)
                numbers, records, broken = [], [], []
        if records:
            yield self._batch(layout, end, numbers, records, broken)

    def _all(self) -> Iterator[list[str] | None]:
        """The record of every line; None for one that cannot be read. A quoted cell ends with its line: no feature
        holds a line break, and a quote that is never closed must not swallow the rows after it."""
        while True:
            try:
                line = self._lines.readline(_LINE_BYTES_MAX)
            except _SPOILT as error:
                raise FileError(f"the file ends before its end or is damaged ({error})") from error
            if not line:
                return
            yield self._record(line)

    def _record(self, line: str) -> list[str] | None:
        try:
            return next(csv.reader([line.rstrip("\r\n")], delimiter=self._delimiter, strict=True), [])
        except csv.Error:
            return None

    def _batch(
        self, layout: Layout, end: int, numbers: list[int], records: list[list[str]], broken: list[int]
    ) -> Batch:
        message = f"the row does not have {len(self.columns)} cells, as the header has"
        faults = {index: [Fault("", RejectReason.UNREADABLE, message)] for index in broken}
        cells = dict(zip(self.columns, zip(*records, strict=True), strict=True))
        return Batch(
            end,
            numbers,
            cells[layout.id_column],
            event_times(cells[layout.event_time_column], layout.event_time_column, layout.cells, faults)
            if layout.event_time_column is not None
            else fixed_times(len(records), layout.event_time_us or 0),
            {name: TextColumn(cells[column], layout.cells) for name, column in layout.features.items()},
            faults,
        )


class JsonLinesFile:
    """A file of JSON objects, one a line. Rows are counted by line; empty lines are no rows."""

    columns: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._opened = _Opened(path)

    @property
    def size(self) -> int:
        """See `RowFile.size`."""
        return self._opened.size

    @property
    def position(self) -> int:
        """See `RowFile.position`."""
        return self._opened.position

    def close(self) -> None:
        """See `RowFile.close`."""
        self._opened.close()

    def batches(self, layout: Layout, start: int, rows: int) -> Iterator[Batch]:
        """See `RowFile.batches`."""
        end = 0
        numbers: list[int] = []
        records: list[dict[str, Any] | None] = []
        for end, line in enumerate(self._lines(), 1):
            if end <= start or (line is not None and not line.strip()):
                continue
            numbers.append(end)
            records.append(None if line is None else _object_of(line))
            if len(records) >= rows:
                yield self._batch(layout, end, numbers, records)
                numbers, records = [], []
        if records:
            yield self._batch(layout, end, numbers, records)

    def _lines(self) -> Iterator[bytes | None]:
        """Every line; None for one that is too long."""
        content = self._opened.content
        try:
            while line := content.readline(_LINE_BYTES_MAX):
                if len(line) == _LINE_BYTES_MAX and not line.endswith(b"\n"):
                    while (rest := content.readline(_LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                        pass
                    yield None
                else:
                    yield line
        except _SPOILT as error:
            raise FileError(f"the file ends before its end or is damaged ({error})") from error

    def _batch(self, layout: Layout, end: int, numbers: list[int], records: list[dict[str, Any] | None]) -> Batch:
        faults: dict[int, list[Fault]] = {}
        found: list[dict[str, Any]] = []
        known = layout.known
        for index, record in enumerate(records):
            if record is None:
                faults[index] = [Fault("", RejectReason.UNREADABLE, "the line is no JSON object")]
            elif not layout.anything and not record.keys() <= known:
                faults[index] = [
                    Fault(name[:64], RejectReason.UNKNOWN_FEATURE, "is no feature of this view")
                    for name in record
                    if name not in known
                ]
            found.append(record or {})
        columns: dict[str, Column] = {
            name: ValueColumn([record.get(column) for record in found], layout.cells)
            for name, column in layout.features.items()
        }
        times_column = layout.event_time_column
        return Batch(
            end,
            numbers,
            [id_of(record.get(layout.id_column)) for record in found],
            event_times([record.get(times_column) for record in found], times_column, layout.cells, faults)
            if times_column is not None
            else fixed_times(len(found), layout.event_time_us or 0),
            columns,
            faults,
        )


def _object_of(line: bytes) -> dict[str, Any] | None:
    try:
        # Editors put a mark before the first line.
        found = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
