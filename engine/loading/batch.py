"""Some rows of a file, by column; and the small steps that every kind of file shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import AssayError
from engine.features.writing.checks import microseconds_of
from engine.features.writing.columns import Column
from engine.features.writing.outcome import Fault, Rejected, RejectReason
from engine.loading.cells import Cells
from engine.loading.layout import Layout

# An event time that is not there, or cannot be read: in the latter case the cause stands among the faults.
NO_TIME = -(2**63)


class FileError(AssayError):
    """A file cannot be read any further."""


@dataclass(slots=True)
class Batch:
    """Some rows. end: how many rows of the file have been gone through after these; numbers: the place of each row in
    the file, from 1; ids: as given, None where there is none; event_times_us: NO_TIME where there is none; columns: by
    feature; faults: by row of the batch, what was wrong before anybody looked at the values."""

    end: int
    numbers: Sequence[int]
    ids: Sequence[str | None]
    event_times_us: NDArray[np.int64]
    columns: Mapping[str, Column]
    faults: dict[int, list[Fault]] = field(default_factory=dict)


class RowFile(Protocol):
    """A file of rows, open for reading."""

    @property
    def columns(self) -> Sequence[str]:
        """The names of its columns; empty when they are known only as rows are read."""

    @property
    def size(self) -> int:
        """How much there is, in the same measure as `position`."""

    @property
    def position(self) -> int:
        """How much of it was gone through."""

    def batches(self, layout: Layout, start: int, rows: int) -> Iterator[Batch]:
        """All rows after the first `start`, some at a time. To be called once. Raises FileError."""

    def close(self) -> None:
        """Lets go of the file."""


def id_of(value: object) -> str | None:
    """An id as text: whole numbers are ids too. None for what is none."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def event_times(
    values: Sequence[object], field: str, cells: Cells, faults: dict[int, list[Fault]]
) -> NDArray[np.int64]:
    """Event times in microseconds since 1970 UTC; NO_TIME for those that are absent, and for those that cannot be
    read, of which the cause is added to the faults of their row. field: the column's name."""
    seen: dict[object, int] = {}
    times = []
    for index, value in enumerate(values):
        try:
            # Files of one export day hold the same moment over and over.
            time_us = seen.get(value) if isinstance(value, str | int | datetime) else None
            if time_us is None:
                if value is None or (isinstance(value, str) and value.strip() in cells.nulls):
                    times.append(NO_TIME)
                    continue
                time_us = microseconds_of(cells.moment(value))
                if len(seen) < 100_000:
                    seen[value] = time_us
            times.append(time_us)
        except Rejected as cause:
            faults.setdefault(index, []).append(Fault(field, RejectReason.EVENT_TIME_INVALID, cause.message))
            times.append(NO_TIME)
    return np.array(times, dtype=np.int64)


def fixed_times(rows: int, event_time_us: int) -> NDArray[np.int64]:
    """The same event time for all rows."""
    return np.full(rows, event_time_us, dtype=np.int64)
