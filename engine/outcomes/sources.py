"""Decisions and their outcomes, from wherever they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from engine.outcomes.book import OutcomeBook
from engine.record.entries import StoredDecision, Unsealer, unpack_decision
from engine.record.reader import JournalReader
from engine.record.segments import Frame, FrameKind
from engine.replay.items import Item
from engine.replay.sources import JournalSource, ParquetSource, StoredSource


@dataclass(slots=True)
class Portfolio:
    """Decisions with the book of their outcomes. names: where they come from; items: all decisions, once for each time
    it is called; shadows: what challengers decided behind their answers. The book may grow while they are gone through.
    damaged: stretches that could not be read."""

    names: list[str]
    items: Callable[[], Iterator[Item]]
    book: OutcomeBook = field(default_factory=OutcomeBook)
    damaged: Callable[[], int] = lambda: 0
    shadows: Callable[[], Iterator[Item]] = lambda: iter(())


class ShippedRecords(Protocol):
    """What was shipped. `engine.shipping.records.CassandraRecords` is one."""

    def outcomes(self, decision_id: str, request_key: bytes = b"") -> list[bytes]:
        """Outcomes of a decision, serialised."""

    def challengers(self, decision_id: str) -> list[StoredDecision]:
        """What challengers decided behind an answer."""

    def catalogue(self, digest: str) -> bytes | None:
        """A slot list by its digest."""

    def environment(self, digest: str) -> bytes | None:
        """A description of an environment by its digest."""


def of_journals(directories: Sequence[Path], keys: Callable[[Path], Unsealer | None]) -> Portfolio:
    """What the journals of one or several hosts hold. keys: what opens the sealed parts of one. Raises RecordError."""
    opened = [(directory, keys(directory)) for directory in directories]
    readers = [(directory, JournalReader(directory, opener)) for directory, opener in opened]
    book = _book(directories)
    sources: list[JournalSource] = []

    def items() -> Iterator[Item]:
        sources[:] = [JournalSource(directory, reader) for directory, reader in readers]
        for source in sources:
            yield from source.items()

    def shadows() -> Iterator[Item]:
        for directory, opener in opened:
            read = partial(_shadows, directory, opener)
            yield from StoredSource("shadows", read, _nothing, _nothing).items()

    names = [f"journal {directory}" for directory in directories]
    return Portfolio(names, items, book, lambda: sum(source.damaged for source in sources), shadows)


def of_file(path: Path, directories: Sequence[Path]) -> Portfolio:
    """Decisions of a file that `assay replay --export` wrote, outcomes of journals. Raises RecordError."""
    source = ParquetSource(path)
    names = [source.name, *(f"outcomes of journal {directory}" for directory in directories)]
    return Portfolio(names, source.items, _book(directories))


def of_shipped(
    name: str, records: ShippedRecords, decisions: Callable[[], Iterable[StoredDecision]], directories: Sequence[Path]
) -> Portfolio:
    """Decisions and outcomes that were shipped, and outcomes of journals that may not be yet. Raises RecordError; its
    items StoreError."""
    book = _book(directories)

    def stored() -> Iterator[StoredDecision]:
        for one in decisions():
            book.add_payloads(records.outcomes(one.decision_id, one.request_key))
            yield one

    def challengers() -> Iterator[StoredDecision]:
        for one in decisions():
            yield from records.challengers(one.decision_id)

    source = StoredSource(name, stored, records.catalogue, records.environment)
    return Portfolio([name], source.items, book, shadows=StoredSource(name, challengers, _nothing, _nothing).items)


def _book(directories: Sequence[Path]) -> OutcomeBook:
    book = OutcomeBook()
    for directory in directories:
        book.add_journal(directory)
    return book


def _shadows(directory: Path, keys: Unsealer | None) -> Iterator[StoredDecision]:
    reader = JournalReader(directory)
    for worker in reader.workers():
        for item in reader.frames(worker):
            if isinstance(item, Frame) and item.kind == FrameKind.SHADOW:
                yield unpack_decision(item, keys)


def _nothing(digest: str) -> bytes | None:
    """Their facts are those of the answer, and are not looked at."""
