"""Loads one file into one view: read, clean, write, note how far; some thousand rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.clock import Clock
from engine.domain.facts import FloatArray
from engine.features.store import FeatureStore, WriteResult
from engine.features.writing.checks import event_time_fault, id_fault, is_id
from engine.features.writing.columns import BoolArray
from engine.features.writing.outcome import CleaningRule, Fault, RejectReason
from engine.features.writing.view_writer import Repairs, ViewWriter
from engine.loading.batch import NO_TIME, Batch, FileError, RowFile
from engine.loading.layout import Layout, LoadOptions
from engine.loading.rejects import RejectsFile
from engine.loading.state import Progress, StateFile

_EXAMPLES_MAX = 10


@dataclass(slots=True)
class LoadReport:
    """What became of a file. rows: all that were gone through, those of an earlier part of the same load included;
    faults: by field and reason; repairs: by feature and rule, of rows that were taken; examples: the first rejected
    rows of this part, by row; started_at, resumed_rows: how far an earlier part had come in the file, and its rows."""

    rows: int = 0
    written: int = 0
    ignored_older: int = 0
    rejected: int = 0
    faults: Counter[tuple[str, RejectReason]] = field(default_factory=Counter)
    repairs: Repairs = field(default_factory=Counter)
    examples: list[tuple[int, Fault]] = field(default_factory=list)
    started_at: int = 0
    resumed_rows: int = 0

    def progress(self, position: int, rejects_bytes: int) -> Progress:
        """The same, to be kept."""
        return Progress(
            position,
            self.rows,
            self.written,
            self.ignored_older,
            self.rejected,
            rejects_bytes,
            [(name, int(reason), count) for (name, reason), count in self.faults.items()],
            [(name, int(rule), count) for (name, rule), count in self.repairs.items()],
        )

    def go_on(self, progress: Progress) -> None:
        """Takes over what an earlier part of the same load came to."""
        self.rows, self.written = progress.rows, progress.written
        self.ignored_older, self.rejected = progress.ignored_older, progress.rejected
        self.faults = Counter({(name, RejectReason(reason)): count for name, reason, count in progress.faults})
        self.repairs = Counter({(name, CleaningRule(rule)): count for name, rule, count in progress.repairs})
        self.started_at, self.resumed_rows = progress.position, progress.rows


def open_rows(path: Path, options: LoadOptions) -> RowFile:
    """A file of rows, by the end of its name. Raises FileError, OSError."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet") and not path.name.lower().endswith(".gz"):
        from engine.loading.parquet_file import ParquetFile

        return ParquetFile(path)
    from engine.loading.text_files import CsvFile, JsonLinesFile

    if name.endswith(".csv"):
        return CsvFile(path, options.delimiter)
    if name.endswith((".jsonl", ".ndjson")):
        return JsonLinesFile(path)
    raise FileError("is of no kind that can be loaded: name it .parquet, .csv, .csv.gz, .jsonl or .jsonl.gz")


class Loader:
    """Loads batches of rows into one view. store: None checks rows without writing any."""

    def __init__(
        self,
        writer: ViewWriter,
        store: FeatureStore | None,
        clock: Clock,
        rejects: RejectsFile | None = None,
        state: StateFile | None = None,
    ) -> None:
        self._writer, self._store, self._clock = writer, store, clock
        self._rejects, self._state = rejects, state

    def run(
        self,
        file: RowFile,
        layout: Layout,
        report: LoadReport,
        batch_rows: int,
        on_progress: Callable[[LoadReport], None] | None = None,
    ) -> None:
        """Loads everything after `report.started_at` and counts it in the report, which is right at every moment, so
        that it can be told when this is interrupted. Raises FileError, StoreError, OSError."""
        if self._store is not None:
            schema = self._writer.schema
            self._store.put_schema(schema.fingerprint, schema.canonical)
        for batch in file.batches(layout, report.started_at, batch_rows):
            self._load(batch, layout, report)
            if on_progress is not None:
                on_progress(report)
        if self._rejects is not None:
            self._rejects.flush()
        if self._state is not None:
            self._state.remove()

    def _load(self, batch: Batch, layout: Layout, report: LoadReport) -> None:
        count, faults = len(batch.numbers), batch.faults
        self._check(batch, layout)
        cleaned = self._writer.clean_columns(batch.columns, layout.units, count, layout.features.__getitem__)
        for index, found in cleaned.faults.items():
            faults.setdefault(index, []).extend(found)
        taken = np.ones(count, dtype=np.bool_)
        taken[list(faults)] = False
        result = self._write(batch, taken, cleaned.numbers)
        # From here on the batch is durable, and counts.
        report.rows += count
        report.written += result.written
        report.ignored_older += result.ignored_older
        report.repairs.update(cleaned.repairs(taken))
        self._tell_rejected(batch, report)
        rejects_bytes = self._rejects.flush() if self._rejects is not None else 0
        if self._state is not None:
            self._state.write(report.progress(batch.end, rejects_bytes))

    def _check(self, batch: Batch, layout: Layout) -> None:
        """Ids and event times, as for every row that is written."""
        faults, now_us = batch.faults, self._clock.now_us()
        unreadable = {i for i, found in faults.items() if found[0].reason is RejectReason.UNREADABLE}
        for index, entity_id in enumerate(batch.ids):
            if (entity_id is None or is_id(entity_id) is None) and index not in unreadable:
                fault = id_fault(layout.id_column, entity_id or "")
                faults.setdefault(index, []).append(fault)  # type: ignore[arg-type]
        times = batch.event_times_us
        for index in np.flatnonzero((times < 0) | (times > now_us)).tolist():
            known = faults.get(index, [])
            if index in unreadable or any(fault.reason is RejectReason.EVENT_TIME_INVALID for fault in known):
                continue
            fault = event_time_fault(None if times[index] == NO_TIME else int(times[index]), now_us)
            if fault is not None:
                faults.setdefault(index, []).append(fault._replace(field=layout.event_time_column or "--at"))

    def _write(self, batch: Batch, taken: BoolArray, numbers: FloatArray) -> WriteResult:
        if self._store is None or not taken.any():
            return WriteResult()
        if taken.all():
            ids: list[str] = list(batch.ids)  # type: ignore[arg-type]
            times = batch.event_times_us
        else:
            ids = [batch.ids[index] for index in np.flatnonzero(taken).tolist()]  # type: ignore[misc]
            times, numbers = batch.event_times_us[taken], numbers[taken]
        # In the order of their keys rows that lie side by side are written side by side, which costs an ordered store
        # half as much.
        return self._store.write(sorted(self._writer.pack(ids, times, numbers)))

    def _tell_rejected(self, batch: Batch, report: LoadReport) -> None:
        for index in sorted(batch.faults):
            found, number = batch.faults[index], batch.numbers[index]
            report.rejected += 1
            report.faults.update((fault.field, fault.reason) for fault in found)
            if len(report.examples) < _EXAMPLES_MAX:
                report.examples.append((number, found[0]))
            if self._rejects is not None:
                self._rejects.add(number, batch.ids[index], found)
