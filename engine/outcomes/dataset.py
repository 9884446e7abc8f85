"""Writes training rows as Parquet: one a decision, with the features as they were and the label as it is known.

The decisions are gone through twice, so that memory does not grow with them: once for the columns, once for the rows.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from assay.decision.v1.decision_record_pb2 import DecisionRecord
from assay.outcome.v1 import outcome_pb2
from engine import __version__
from engine.errors import RecordError
from engine.outcomes.book import OutcomeBook
from engine.outcomes.dataset_column import Column, DatasetError, Told
from engine.outcomes.dataset_columns import fixed_columns, label_columns, score_columns
from engine.outcomes.dataset_features import feature_columns, listing_of
from engine.outcomes.labels import Definition, State, credit_label, fraud_label, loss_of, manual_override
from engine.outcomes.rows import Tally, Wanted, parsed
from engine.outcomes.standing import Kind, Observed
from engine.record.read import unpack
from engine.replay.items import Item

METADATA_KEY = b"assay.dataset"
_BATCH_ROWS = 5_000
Keep = Literal["labelled", "mature", "all"]
Target = Literal["credit", "fraud"]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for. as_of_us, as_of: the moment that labels are known at, in microseconds and as text. keep:
    `labelled` decisions that are good or bad by the target's label; `mature` all whose window has passed; `all`."""

    as_of_us: int
    as_of: str
    definition: Definition = field(default_factory=Definition)
    keep: Keep = "labelled"
    target: Target = "credit"
    parts: tuple[str, ...] = ("used", "status", "age")
    wanted: Wanted = field(default_factory=Wanted)


@dataclass(slots=True)
class Written:
    """What came of it. states: all decisions by label of the target; erased, sealed: left out, because the person was
    erased, or no key was given that opens the facts."""

    rows: int = 0
    columns: int = 0
    erased: int = 0
    sealed: int = 0
    states: Counter[str] = field(default_factory=Counter)
    tally: Tally = field(default_factory=Tally)


def export(
    items: Callable[[], Iterable[Item]],
    book: OutcomeBook,
    question: Question,
    path: Path,
    told: Callable[[int], None] = lambda count: None,
) -> Written:
    """Writes the data set. items: gives all decisions, once for each time it is called. told: told how many decisions
    were gone through. Raises DatasetError, RecordError, OSError; then no file is left, and an older one stays."""
    pa, pq = _pyarrow()
    columns, listings = _columns(items, question)
    schema = _schema(pa, columns, question)
    written = Written(columns=len(columns))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for batch in _batches(_rows(items, book, question, listings, written, told)):
                arrays = [pa.array([one.take(row) for row in batch], schema.field(one.name).type) for one in columns]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
        os.replace(partial, path)
    except pa.ArrowException as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return written


def _columns(items: Callable[[], Iterable[Item]], question: Question) -> tuple[list[Column], dict[str, dict[str, Any]]]:
    """The columns of all decisions asked for, and their slot lists by digest."""
    listings: dict[str, dict[str, Any]] = {}
    models: dict[str, None] = {}
    for item, record in parsed(items(), question.wanted, question.as_of_us, Tally()):
        digest = record.packed_facts.catalogue_digest
        if digest and digest not in listings and item.catalogue:
            listings[digest] = listing_of(item.catalogue)
        for score in record.decision.scores:
            models.setdefault(score.model)
    target = str(question.definition)
    columns = fixed_columns() + score_columns(sorted(models)) + feature_columns(listings.values(), question.parts)
    return columns + label_columns(target[0].upper() + target[1:], question.as_of), listings


def _rows(
    items: Callable[[], Iterable[Item]],
    book: OutcomeBook,
    question: Question,
    listings: Mapping[str, dict[str, Any]],
    written: Written,
    told: Callable[[int], None],
) -> Iterator[Told]:
    categories = {
        digest: {entry["name"]: list(entry.get("categories", ())) for entry in listing["features"]}
        for digest, listing in listings.items()
    }
    encoded = {digest: json.dumps(listing).encode() for digest, listing in listings.items()}
    for item, record in parsed(items(), question.wanted, question.as_of_us, written.tally):
        told(written.tally.decisions)
        digest = record.packed_facts.catalogue_digest
        if item.erased:
            written.erased += 1
            continue
        if not record.packed_facts.statuses:
            written.sealed += 1
            continue
        try:
            if digest not in encoded:
                raise RecordError("its slot list is lost")
            unpack(record, encoded[digest], {})
        except RecordError:
            written.tally.unreadable += 1
            continue
        row = _told(record, categories[digest], book, question)
        state = (row.credit if question.target == "credit" else row.fraud).state
        written.states[state.name.lower()] += 1
        if _kept(state, question.keep):
            written.rows += 1
            yield row


def _told(record: DecisionRecord, categories: Mapping[str, list[str]], book: OutcomeBook, question: Question) -> Told:
    decision, as_of_us = record.decision, question.as_of_us
    decided_us = decision.decided_at.ToMicroseconds()
    held = book.holding(decision.decision_id, decision.request_id, record.tenant, as_of_us)
    override = manual_override(held)
    return Told(
        record=record,
        facts={fact.feature: fact for fact in record.facts},
        categories=categories,
        credit=credit_label(decided_us, held, question.definition, as_of_us),
        fraud=fraud_label(decided_us, held, question.definition, as_of_us),
        loss=loss_of(held),
        override=0 if override is None else override.result,
        taken_up=_taken_up(held),
    )


def _taken_up(held: Sequence[Observed]) -> bool | None:
    last = [one for one in held if one.kind is Kind.TAKE_UP]
    return last[-1].result == outcome_pb2.TAKE_UP_RESULT_ACCEPTED if last else None


def _kept(state: State, keep: Keep) -> bool:
    if keep == "labelled":
        return state in (State.GOOD, State.BAD)
    return keep == "all" or state is not State.IMMATURE


def _batches(rows: Iterable[Told]) -> Iterator[list[Told]]:
    held: list[Told] = []
    for row in rows:
        held.append(row)
        if len(held) >= _BATCH_ROWS:
            yield held
            held = []
    if held:
        yield held


def _schema(pa: Any, columns: Sequence[Column], question: Question) -> Any:
    types = {
        "text": pa.dictionary(pa.int32(), pa.string()),
        "float": pa.float64(),
        "integer": pa.int64(),
        "flag": pa.bool_(),
        "moment": pa.timestamp("us", "UTC"),
    }
    fields = []
    for one in columns:
        kind = pa.string() if one.role == "id" else types[one.type]
        entry = {key: value for key, value in one.entry().items() if value and key != "name"}
        fields.append(pa.field(one.name, kind, metadata=entry))
    about = {
        "engine_version": __version__,
        "as_of": question.as_of,
        "definition": {**asdict(question.definition), "text": str(question.definition)},
        "keep": question.keep,
        "target": question.target,
        "columns": [one.entry() for one in columns],
    }
    return pa.schema(fields, metadata={METADATA_KEY: json.dumps(about, ensure_ascii=False).encode()})


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DatasetError('Parquet needs pyarrow: pip install "assay-engine[load]"') from error
    return pa, pq
