"""Where recorded decisions come from: a journal, a Parquet file, or whatever gives stored decisions one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from engine.errors import RecordError
from engine.record.read import parse_record
from engine.record.reader import JournalReader
from engine.record.segments import Damage
from engine.replay.again import decided_us
from engine.replay.items import Item, Selection

COLUMNS = ("decision_id", "decided_at", "flow", "erased", "catalogue", "environment", "record")
_BATCH_ROWS = 1024


class Stored(Protocol):
    """A stored decision, wherever it stands."""

    @property
    def decision_id(self) -> str:
        """Its id."""
        ...

    @property
    def record(self) -> bytes:
        """The serialised DecisionRecord."""
        ...

    @property
    def erased(self) -> bool:
        """Whether its personal part is gone."""
        ...


Lookup = Callable[[str], bytes | None]


class StoredSource:
    """Stored decisions, with what gives slot lists and environments by digest."""

    def __init__(
        self, name: str, decisions: Callable[[], Iterable[Stored]], catalogue: Lookup, environment: Lookup
    ) -> None:
        self.name = name
        self.total: int | None = None
        self.damaged = 0
        self._decisions, self._lookups = decisions, (catalogue, environment)
        self._found: dict[tuple[int, str], bytes] = {}

    def items(self) -> Iterator[Item]:
        """See `Source.items`."""
        for stored in self._decisions():
            try:
                record = parse_record(stored.record)
            except RecordError:
                yield Item(stored.decision_id, stored.record, stored.erased, b"", b"", 0, "")
                continue
            yield Item(
                stored.decision_id,
                stored.record,
                stored.erased,
                self._look_up(0, record.packed_facts.catalogue_digest),
                self._look_up(1, record.environment_digest),
                decided_us(record),
                record.decision.flow,
            )

    def _look_up(self, kind: int, digest: str) -> bytes:
        """The one object for a digest: a chunk that is sent to a worker then holds it once."""
        key = (kind, digest)
        if key not in self._found:
            self._found[key] = (self._lookups[kind](digest) or b"") if digest else b""
        return self._found[key]


class JournalSource(StoredSource):
    """All decisions that a journal's directory holds. What is damaged is counted and left out."""

    def __init__(self, directory: Path, reader: JournalReader | None = None) -> None:
        """reader: one that has the keys of personal parts; absent, one without. Raises RecordError."""
        read = reader or JournalReader(directory)

        def decisions() -> Iterable[Stored]:
            return read.decisions(on_damage=self._damage)

        super().__init__(f"journal {directory}", decisions, read.catalogue, read.environment)

    def _damage(self, damage: Damage) -> None:
        self.damaged += 1


class Shipped(Protocol):
    """What is kept of a journal elsewhere, by day. `engine.shipping.records.CassandraRecords` is one."""

    def by_day(self, day: date) -> Iterable[Stored]:
        """The decisions of a day (UTC). Raises StoreError, RecordError."""
        ...

    def catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest."""
        ...

    def environment(self, digest: str) -> bytes | None:
        """A description of a pinned environment by its digest."""
        ...


def shipped_source(name: str, records: Shipped, days: Sequence[date]) -> StoredSource:
    """What was shipped, day after day."""

    def decisions() -> Iterator[Stored]:
        for day in days:
            yield from records.by_day(day)

    return StoredSource(name, decisions, records.catalogue, records.environment)


def days_of(selection: Selection) -> list[date]:
    """The days (UTC) that a selection with a beginning touches, to this day where it has no end."""
    assert selection.since_us is not None
    first = datetime.fromtimestamp(selection.since_us / 1e6, UTC).date()
    end_us = time.time_ns() // 1000 if selection.until_us is None else selection.until_us - 1
    last = datetime.fromtimestamp(end_us / 1e6, UTC).date()
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


class ParquetSource:
    """A file that `assay replay --export` wrote."""

    def __init__(self, path: Path) -> None:
        """Raises RecordError for a file that is none, and where pyarrow is not installed."""
        self._path, self._pq = path, _pyarrow()
        self.name, self.damaged = f"file {path}", 0
        self.total: int | None = self._open().metadata.num_rows

    def _open(self) -> Any:
        try:
            found = self._pq.ParquetFile(self._path, read_dictionary=["catalogue", "environment"])
        except (OSError, ValueError) as error:
            raise RecordError(f"{self._path} cannot be read as Parquet: {error}") from error
        missing = [name for name in COLUMNS if name not in found.schema_arrow.names]
        if missing:
            raise RecordError(f"{self._path} is no export of records: it has no column {', '.join(missing)}")
        return found

    def items(self) -> Iterator[Item]:
        """See `Source.items`."""
        try:
            for batch in self._open().iter_batches(batch_size=_BATCH_ROWS, columns=list(COLUMNS)):
                yield from items_of_columns({name: batch.column(name) for name in COLUMNS})
        except (OSError, ValueError) as error:
            raise RecordError(f"{self._path} cannot be read: {error}") from error


def items_of_columns(columns: dict[str, Any]) -> Iterator[Item]:
    """Items from Arrow arrays by name; `decided_at` is a timestamp in microseconds."""
    import pyarrow as pa

    kept: dict[bytes, bytes] = {}
    moments = columns["decided_at"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()
    rest = [columns[n].to_pylist() for n in ("decision_id", "record", "erased", "catalogue", "environment", "flow")]
    for decided, (decision_id, record, erased, catalogue, environment, flow) in zip(
        moments, zip(*rest, strict=True), strict=True
    ):
        first, second = (kept.setdefault(one, one) for one in (catalogue or b"", environment or b""))
        yield Item(decision_id, record, bool(erased), first, second, decided or 0, flow or "")


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RecordError('Parquet needs pyarrow: pip install "assay-engine[load]"') from error
    return pq
