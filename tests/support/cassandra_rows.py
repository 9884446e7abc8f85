"""Rows and changes for the tests of the Cassandra store."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.errors import StoreError
from engine.features.encoding import Field, Kind, RowEncoder, RowSchema
from engine.features.evolve import describe
from engine.features.store import Row, event_time_of, row_key

SCHEMA = RowSchema("bureau", (Field("score", Kind.FLOAT64), Field("note", Kind.STRING)))
ENCODER = RowEncoder(SCHEMA)
KEYSPACE = "store_tests"


def value(score: float, event_time_us: int, note: str | None = None) -> bytes:
    return ENCODER.encode({"score": score, "note": note}, event_time_us)


def row(entity_id: str, score: float, event_time_us: int, view: str = "bureau", note: str | None = None) -> Row:
    return Row(row_key("subject", entity_id, view), value(score, event_time_us, note), event_time_us)


def score_of(held: bytes | None) -> float:
    return 0.0 if held is None else float(describe(held, lambda _: SCHEMA.canonical).values["score"] or 0.0)


def set_to(new: bytes, _: bytes | None) -> bytes:
    return new


def one_more(held: bytes | None) -> bytes:
    return value(score_of(held) + 1.0, 1 + (0 if held is None else event_time_of(held)))


def eventually(work: Callable[[], object], within_s: float) -> float:
    """Repeat until it raises no StoreError. Gives the seconds that took."""
    began = time.monotonic()
    while True:
        try:
            work()
        except StoreError:
            if time.monotonic() - began > within_s:
                raise
            time.sleep(0.05)
        else:
            return time.monotonic() - began
