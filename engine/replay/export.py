"""Writes recorded decisions to a Parquet file that can be replayed anywhere: each row holds all that it needs.

decision_id   string        decided_at   timestamp, microseconds, UTC
flow          string        erased       bool: its personal part is gone
verdict       string        bundle       string: the digest of the bundle that decided
catalogue     binary        environment  binary: what the record names by digest
record        binary: the serialised DecisionRecord
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from assay.decision.v1.decision_record_pb2 import DecisionRecord
from engine.errors import RecordError
from engine.record.read import parse_record
from engine.replay.compare import verdict_name
from engine.replay.items import Item

# What stands for an id that was taken out. It is a valid id, so that the record can be decided again.
WITHHELD = "withheld"
_ROWS = 1000


def export(
    items: Iterable[Item], path: Path, *, personal: bool, told: Callable[[int], None] = lambda _: None
) -> tuple[int, int]:
    """Writes records; gives how many, and how many bytes the file has. The file appears when it is whole.

    personal: whether the ids of subject, entities and request stay in. Without them a record can be replayed all the
    same: which entities were named is kept, by what id is not. told: is told how many are done so far. Raises
    RecordError.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise RecordError('Parquet needs pyarrow: pip install "assay-engine[load]"') from error
    kept = pa.dictionary(pa.int32(), pa.binary())
    schema = pa.schema(
        [
            ("decision_id", pa.string()),
            ("decided_at", pa.timestamp("us", tz="UTC")),
            ("flow", pa.string()),
            ("verdict", pa.string()),
            ("bundle", pa.string()),
            ("erased", pa.bool_()),
            ("catalogue", kept),
            ("environment", kept),
            ("record", pa.binary()),
        ]
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in _batches(items):
                rows = [_row(item, personal) for item in batch]
                columns = [pa.array([row[n] for row in rows], schema.field(n).type) for n in range(len(schema))]
                writer.write_batch(pa.record_batch(columns, schema=schema), row_group_size=_ROWS)
                count += len(rows)
                told(count)
        size = temporary.stat().st_size
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return count, size


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    held: list[Item] = []
    for item in items:
        held.append(item)
        if len(held) == _ROWS:
            yield held
            held = []
    if held:
        yield held


def _row(item: Item, personal: bool) -> tuple[Any, ...]:
    content, verdict, bundle = item.record, "", ""
    try:
        record = parse_record(content)
    except RecordError:
        # It stays in, for the replay to count; nothing can be taken out of what cannot be read.
        content = content if personal else b""
    else:
        verdict, bundle = verdict_name(record.decision.verdict), record.decision.bundle.digest
        content = content if personal else without_ids(record)
    return (
        item.decision_id,
        item.decided_us,
        item.flow,
        verdict,
        bundle,
        item.erased,
        item.catalogue,
        item.environment,
        content,
    )


def without_ids(record: DecisionRecord) -> bytes:
    """A record without the ids that lead to a person: subject, entities, request, trace, and the digest of the payload,
    by which a guess at them could be confirmed. The facts stay: they are what is replayed."""
    application = record.application
    if record.HasField("application"):
        application.subject.id = WITHHELD
        for entity in application.entities:
            entity.id = WITHHELD
    if record.decision.request_id:
        record.decision.request_id = WITHHELD
    record.decision.trace_id = ""
    record.payload_digest = b""
    record.tenant = ""
    return record.SerializeToString(deterministic=True)
