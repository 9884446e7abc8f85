"""How one row of one view becomes one value in a store, and back.

    offset  bytes    what
    0       4        "AsR" and the version of this layout (1)
    4       8        fingerprint of the row's schema
    12      4        length of the whole value
    16      8        event time, microseconds since 1970 UTC, signed
    24      8 * w    presence: bit i is slot i; w words of 64 slots
            8 * n    the numeric slots, IEEE 754 doubles, NaN where absent
            ...      the string slots that are present: length (4 bytes), UTF-8
    end-4   4        CRC-32 of all before it

All little-endian. Slots are the numeric fields in their order, then the strings in theirs. Putting the numbers in one
block lets the hot path copy them into a model's vector in one move; putting the checksum last lets it check a value
without slicing, because the CRC-32 of any bytes followed by their own CRC-32 is one constant.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from engine.errors import StoreError
from engine.features.store import StoreCorrupt

_MAGIC = b"AsR\x01"
_PREFIX_BYTES = 12
_FIXED = struct.Struct("<12sIq")
_STRING_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")
_CRC_BYTES = 4
# CRC-32 over (any bytes + their CRC-32, little-endian).
_CRC_RESIDUE = 0x2144DF1C
_NAN = math.nan
_MAX_EXACT_INT = 2**53
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class RowCorrupt(StoreCorrupt):
    """The bytes are no row: a bit flipped, bytes are missing or too many, or another program wrote them."""


class RowOtherSchema(StoreError):
    """The row is whole but of another schema: read it by name (`reader_for`) or not at all."""

    def __init__(self, fingerprint: bytes, message: str) -> None:
        self.fingerprint = fingerprint
        super().__init__(message)


class Kind(StrEnum):
    """What a field holds."""

    FLOAT64 = "float64"
    INT64 = "int64"  # up to 2**53 either way: exact as a double
    BOOLEAN = "boolean"
    CATEGORY = "category"  # kept as its place in `Field.categories`
    STRING = "string"
    TIMESTAMP = "timestamp"  # kept as seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a row. Unit and category list belong to the schema: a change of either changes the meaning."""

    name: str
    kind: Kind
    unit: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowSchema:
    """The fields of one view, in order. Raises ValueError for a name that stands twice or categories out of place."""

    view: str
    fields: tuple[Field, ...]

    @cached_property
    def canonical(self) -> bytes:
        """The one JSON form of this schema, from which the fingerprint is taken."""
        raise NotImplementedError

    @cached_property
    def fingerprint(self) -> bytes:
        """Eight bytes that no other schema has."""
        raise NotImplementedError

    @cached_property
    def numeric(self) -> tuple[Field, ...]:
        """The fields kept as doubles: slots 0 to len - 1."""
        raise NotImplementedError

    @cached_property
    def strings(self) -> tuple[Field, ...]:
        """The fields kept as text: the slots after the numeric ones."""
        raise NotImplementedError

    @classmethod
    def parse(cls, canonical: bytes) -> RowSchema:
        """A schema from its canonical form. Raises ValueError."""
        raise NotImplementedError


def encode(schema: RowSchema, values: Mapping[str, object | None], event_time_us: int) -> bytes:
    """One row. A field that `values` holds as None or not at all is written as absent (NULL).

    Raises ValueError, naming the field, for unknown fields, wrong types, NaN, infinities, integers beyond 2**53,
    unknown categories.
    """
    raise NotImplementedError


class RowDecoder:
    """Reads rows of one schema on the hot path."""

    def __init__(self, schema: RowSchema) -> None:
        self.schema = schema
        self.count = len(schema.numeric)
        # The presence of a row in which no field is NULL.
        self.all_present: int = (1 << len(schema.fields)) - 1

    def decode_into(self, row: bytes, out: NDArray[np.float64], offset: int) -> tuple[int, int]:
        """Check `row` and copy its numeric slots to `out[offset : offset + count]` (NaN where absent).

        Gives (event_time_us, presence): bit i of presence is slot i. Nothing is written when it raises.
        Raises RowCorrupt, RowOtherSchema.
        """
        raise NotImplementedError

    def decode_into_bytes(self, row: bytes, out: memoryview, offset: int) -> tuple[int, int]:
        """The same with `memoryview(vector).cast("B")`, made once, and a byte offset: half the price."""
        raise NotImplementedError
