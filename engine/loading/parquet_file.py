"""Parquet files. The only place that imports pyarrow, which is not needed for anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.features.row_schema import Kind
from engine.features.writing.columns import Column
from engine.features.writing.outcome import Fault
from engine.loading.batch import NO_TIME, Batch, FileError, event_times, fixed_times, id_of
from engine.loading.cells import Cells
from engine.loading.columns import NumberColumn, ValueColumn
from engine.loading.layout import Layout

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:  # told to the person who wants to load such a file
    raise FileError("Parquet files need pyarrow, which is not installed: pip install 'assay-engine[load]'") from error

_NUMBERS = frozenset({Kind.FLOAT64, Kind.INT64})


class ParquetFile:
    """A Parquet file. Rows are counted from 1; progress is told in rows."""

    def __init__(self, path: Path) -> None:
        """Raises FileError, OSError."""
        self._stream = path.open("rb")
        try:
            self._file = pq.ParquetFile(self._stream)
            self.columns: Sequence[str] = list(self._file.schema_arrow.names)
        except (pa.ArrowException, OSError) as error:
            self._stream.close()
            raise FileError(f"is no Parquet file that can be read ({_first_line(error)})") from error
        self.size: int = self._file.metadata.num_rows
        self.position = 0

    def close(self) -> None:
        """See `RowFile.close`."""
        self._file.close()
        self._stream.close()

    def batches(self, layout: Layout, start: int, rows: int) -> Iterator[Batch]:
        """See `RowFile.batches`."""
        names = [layout.id_column, *([layout.event_time_column] if layout.event_time_column else [])]
        names += layout.features.values()
        skipped, groups = self._groups_after(start)
        end = skipped
        self.position = end
        try:
            # Threads would only wait for the one that packs and writes.
            for part in self._file.iter_batches(rows, groups, columns=names, use_threads=False):
                part_end = end + part.num_rows
                if part_end > start:
                    yield self._batch(part.slice(max(start - end, 0)), part_end, layout)
                end = part_end
                self.position = end
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"the file is damaged ({_first_line(error)})") from error

    def _groups_after(self, start: int) -> tuple[int, list[int]]:
        """How many rows the groups before `start` hold, and the groups after them."""
        skipped, metadata = 0, self._file.metadata
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if skipped + count > start:
                return skipped, list(range(group, metadata.num_row_groups))
            skipped += count
        return skipped, []

    def _batch(self, part: Any, end: int, layout: Layout) -> Batch:
        count = part.num_rows
        faults: dict[int, list[Fault]] = {}
        times: NDArray[np.int64]
        if layout.event_time_column is None:
            times = fixed_times(count, layout.event_time_us or 0)
        else:
            times = _event_times(part.column(layout.event_time_column), layout, faults)
        return Batch(
            end,
            range(end - count + 1, end + 1),
            [id_of(value) for value in _plain(part.column(layout.id_column)).to_pylist()],
            times,
            {name: _column(part.column(column), layout.cells) for name, column in layout.features.items()},
            faults,
        )


def _plain(array: Any) -> Any:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _is_moment(kind: Any) -> bool:
    """Whether it is a moment that says its time zone."""
    return bool(pa.types.is_timestamp(kind)) and kind.tz is not None


def _micros(array: Any) -> Any:
    """Moments cut to microseconds."""
    return array.cast(pa.timestamp("us", "UTC"), safe=False)


def _event_times(array: Any, layout: Layout, faults: dict[int, list[Fault]]) -> NDArray[np.int64]:
    array = _plain(array)
    if not _is_moment(array.type):
        return event_times(_values(array), layout.event_time_column or "", layout.cells, faults)
    times: NDArray[np.int64] = _filled(_micros(array).cast(pa.int64()), NO_TIME, np.int64)
    return times


def _filled(array: Any, instead: float, kind: type[np.generic]) -> Any:
    """A numpy array, with something instead of what is NULL."""
    if array.null_count:
        array = array.fill_null(False if pa.types.is_boolean(array.type) else pa.scalar(instead, array.type))
    return array.to_numpy(zero_copy_only=False).astype(kind, copy=False)


def _column(array: Any, cells: Cells) -> Column:
    array = _plain(array)
    kind = array.type
    null = array.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        array, kind = array.cast(pa.float64(), safe=False), pa.float64()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return NumberColumn(_filled(array, 0, np.float64), null, _NUMBERS, _getter(array), cells)
    if pa.types.is_boolean(kind):
        return NumberColumn(_filled(array, 0, np.float64), null, frozenset({Kind.BOOLEAN}), _getter(array), cells)
    if _is_moment(kind):
        micros = _micros(array)
        seconds = _filled(micros.cast(pa.int64()), 0, np.int64) / 1e6
        return NumberColumn(seconds, null, frozenset({Kind.TIMESTAMP}), _getter(micros), cells)
    return ValueColumn(_values(array), cells)


def _getter(array: Any) -> Callable[[int], object]:
    return lambda index: array[index].as_py()


def _values(array: Any) -> list[object]:
    """Python values. Moments without a zone are cut to microseconds, for Python knows none finer."""
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    values: list[object] = array.to_pylist()
    return values


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
