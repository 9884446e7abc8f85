"""Rows of two applicants, old and new, and how the tests of the tiers make a store."""

from __future__ import annotations

import threading
from collections.abc import Callable

from engine.features.encoding import Field, Kind, RowEncoder, RowSchema
from engine.features.store import Row, row_key
from engine.features.stores.tiered import TieredStore

ENCODER = RowEncoder(RowSchema("bureau", (Field("score", Kind.FLOAT64),)))

# Makes a store of the two that the test has, with these settings.
Make = Callable[..., TieredStore]


def row(entity_id: str, score: float, event_time_us: int, view: str = "bureau") -> Row:
    """One row of a subject."""
    value = ENCODER.encode({"score": score}, event_time_us)
    return Row(row_key("subject", entity_id, view), value, event_time_us)


OLD, NEW = row("1", 1.0, 100), row("1", 2.0, 200)
OTHER, THIRD = row("2", 3.0, 100), row("3", 4.0, 100)
KEYS = [OLD.key, OTHER.key]


def keepers() -> int:
    """How many keepers' threads there are."""
    return sum(t.name == "assay-tier-keeper" for t in threading.enumerate())
