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

import math
import struct
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from engine.errors import StoreError
from engine.features.row_schema import Field, Kind, RowSchema
from engine.features.store import StoreCorrupt

__all__ = [
    "CRC_RESIDUE",
    "STATE_MAGIC",
    "Field",
    "Kind",
    "RowCorrupt",
    "RowDecoder",
    "RowEncoder",
    "RowError",
    "RowOtherSchema",
    "RowSchema",
    "encode",
    "is_whole",
    "row_fingerprint",
]

_MAGIC = b"AsR\x01"
# What a state of counters begins with (`engine.features.velocity`); the rest of its header is laid out alike.
STATE_MAGIC = b"AsV\x01"
_PREFIX_BYTES = 12
_FIXED = struct.Struct("<12sIq")
_STRING_LENGTH = struct.Struct("<I")
_CRC = struct.Struct("<I")
_CRC_BYTES = 4
# CRC-32 over (any bytes + their CRC-32, little-endian).
CRC_RESIDUE = 0x2144DF1C
_NAN = math.nan
_MAX_EXACT_INT = 2**53
_MAX_STRING_BYTES = 65_535
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


class RowError(StoreError):
    """What a store gave cannot be read as the row that was asked for."""


class RowCorrupt(RowError, StoreCorrupt):
    """The bytes are no row: a bit flipped, bytes are missing or too many, or another program wrote them."""


class RowOtherSchema(RowError):
    """The row is whole but of another schema: read it by name (`engine.features.evolve`) or not at all."""

    def __init__(self, fingerprint: bytes, message: str) -> None:
        self.fingerprint = fingerprint
        super().__init__(message)


class _Layout:
    """Where things stand in a row of one schema."""

    __slots__ = ("numbers", "prefix", "start", "stop", "words")

    def __init__(self, schema: RowSchema) -> None:
        self.prefix = _MAGIC + schema.fingerprint
        self.words = (len(schema.fields) + 63) // 64
        self.start = _FIXED.size + 8 * self.words
        self.stop = self.start + 8 * len(schema.numeric)
        self.numbers = struct.Struct(f"<{len(schema.numeric)}d")


class RowEncoder:
    """Writes rows of one schema."""

    def __init__(self, schema: RowSchema) -> None:
        self.schema = schema
        self._layout = _Layout(schema)
        self._names = frozenset(f.name for f in schema.fields)
        self._numeric = [(1 << i, f, _number_of(f)) for i, f in enumerate(schema.numeric)]
        self._strings = [(1 << i, f) for i, f in enumerate(schema.strings, start=len(schema.numeric))]

    def encode(self, values: Mapping[str, object | None], event_time_us: int) -> bytes:
        """One row. A field that `values` holds as None or not at all is written as absent (NULL).

        float64: finite number; int64: whole number up to 2**53 either way; boolean: bool; category: its name;
        string: str up to 65,535 bytes; timestamp: seconds since 1970 UTC or an aware datetime.
        Raises ValueError, naming view and field, for all else and for unknown fields.
        """
        if not values.keys() <= self._names:
            unknown = ", ".join(sorted(map(repr, values.keys() - self._names)))
            raise ValueError(f"{self.schema.view}: no such field: {unknown}")
        if not _INT64_MIN <= event_time_us <= _INT64_MAX:
            raise ValueError(f"{self.schema.view}: the event time is out of range")
        presence, numbers, texts = 0, [], []
        for bit, field, number in self._numeric:
            value = values.get(field.name)
            if value is None:
                numbers.append(_NAN)
                continue
            try:
                numbers.append(number(value))
            except (TypeError, ValueError, OverflowError) as e:
                raise ValueError(f"{self.schema.view}.{field.name}: {e}") from e
            presence |= bit
        for bit, field in self._strings:
            value = values.get(field.name)
            if value is None:
                continue
            texts.append(_text(f"{self.schema.view}.{field.name}", value))
            presence |= bit
        layout = self._layout
        tail = b"".join(texts)
        length = layout.stop + len(tail) + _CRC_BYTES
        body = b"".join((
            _FIXED.pack(layout.prefix, length, event_time_us),
            presence.to_bytes(8 * layout.words, "little"),
            layout.numbers.pack(*numbers),
            tail,
        ))  # fmt: skip
        return body + _CRC.pack(crc32(body))


def encode(schema: RowSchema, values: Mapping[str, object | None], event_time_us: int) -> bytes:
    """One row, as `RowEncoder.encode` makes it. Who writes many keeps a RowEncoder."""
    return RowEncoder(schema).encode(values, event_time_us)


class RowDecoder:
    """Reads rows of one schema on the hot path."""

    def __init__(self, schema: RowSchema) -> None:
        if sys.byteorder != "little":
            raise RuntimeError("rows are copied as they are, which needs a little-endian machine")
        self.schema = schema
        self.count = len(schema.numeric)
        # The presence of a row in which no field is NULL.
        self.all_present: int = (1 << len(schema.fields)) - 1
        layout = _Layout(schema)
        # What every row begins with but for the event time, and how it is laid out, for who reads many at once. A row
        # with texts has no length of its own.
        self.words = layout.words
        self.length = None if schema.strings else layout.stop + _CRC_BYTES
        self.head = layout.prefix + (self.length or 0).to_bytes(4, "little")
        self._prefix, self._start, self._stop = layout.prefix, layout.start, layout.stop
        self._bytes = layout.stop - layout.start
        self._smallest = layout.stop + _CRC_BYTES
        self._one_word = layout.words == 1
        self._unpack = struct.Struct("<12sIqQ").unpack_from

    def decode_into(self, row: bytes, out: NDArray[np.float64], offset: int) -> tuple[int, int]:
        """Check `row` and copy its numeric slots to `out[offset : offset + count]` (NaN where absent).

        out: one-dimensional, contiguous. Gives (event_time_us, presence): bit i of presence is slot i. Nothing is
        written when it raises. Raises RowCorrupt, RowOtherSchema.
        """
        view = out.data
        if view.format != "d":
            raise TypeError("rows are decoded into float64")
        return self.decode_into_bytes(row, view.cast("B"), 8 * offset)

    def decode_into_bytes(self, row: bytes, out: memoryview, offset: int) -> tuple[int, int]:
        """The same with `memoryview(vector).cast("B")`, made once, and an offset in bytes."""
        return self.reader(offset)(row, out)

    def reader(self, offset: int) -> Callable[[bytes, memoryview], tuple[int, int]]:
        """`decode_into_bytes` with the offset fixed: what does not differ from row to row is worked out once."""
        prefix, smallest = self._prefix, self._smallest
        source, target = slice(self._start, self._stop), slice(offset, offset + self._bytes)
        words = None if self._one_word else slice(_FIXED.size, self._start)
        unpack, check, residue = self._unpack, crc32, CRC_RESIDUE

        def read(row: bytes, out: memoryview) -> tuple[int, int]:
            if check(row) != residue or len(row) < smallest:
                raise _refusal(row, prefix)
            found, length, event_time_us, presence = unpack(row)
            if found != prefix or length != len(row):
                raise _refusal(row, prefix)
            out[target] = row[source]
            if words is None:
                return event_time_us, presence
            return event_time_us, int.from_bytes(row[words], "little")

        return read


def is_whole(value: bytes) -> bool:
    """Whether a value's checksum holds."""
    return crc32(value) == CRC_RESIDUE


def row_fingerprint(row: bytes) -> bytes:
    """The fingerprint of the schema that a row was written with. Raises RowCorrupt unless the row is whole."""
    _check(row)
    return row[len(_MAGIC) : _PREFIX_BYTES]


def _check(row: bytes) -> None:
    if len(row) < _FIXED.size + 8 + _CRC_BYTES or crc32(row) != CRC_RESIDUE:
        raise RowCorrupt(f"a row of {len(row)} bytes fails its checksum")
    if row[: len(_MAGIC)] != _MAGIC:
        raise RowCorrupt("bytes with a good checksum are no row, or a row of a newer layout")
    if _FIXED.unpack_from(row)[1] != len(row):
        raise RowCorrupt("a row is not as long as it says")


def _refusal(row: bytes, prefix: bytes) -> RowError:
    try:
        found = row_fingerprint(row)
    except RowCorrupt as e:
        return e
    if found != prefix[len(_MAGIC) :]:
        return RowOtherSchema(found, f"a row of schema {found.hex()} where {prefix[len(_MAGIC) :].hex()} was expected")
    return RowCorrupt("a row is shorter than its schema")


def _number_of(field: Field) -> Callable[[Any], float]:
    if field.kind is Kind.CATEGORY:
        codes = {name: float(i) for i, name in enumerate(field.categories)}

        def code(value: Any) -> float:
            if not isinstance(value, str) or value not in codes:
                raise ValueError("not one of the categories")
            return codes[value]

        return code
    return {Kind.FLOAT64: _finite, Kind.INT64: _whole, Kind.BOOLEAN: _truth, Kind.TIMESTAMP: _seconds}[field.kind]


def _finite(value: Any) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError("must be a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("must be finite")
    return number


def _whole(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError("must be a whole number")
    if not -_MAX_EXACT_INT <= value <= _MAX_EXACT_INT:
        raise ValueError("must be between -2**53 and 2**53")
    return float(value)


def _truth(value: Any) -> float:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError("must be true or false")
    return float(value)


def _seconds(value: Any) -> float:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("must say its time zone")
        return value.timestamp()
    return _finite(value)


def _text(where: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{where}: must be text")
    try:
        raw = value.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"{where}: must be text that UTF-8 can hold") from e
    if len(raw) > _MAX_STRING_BYTES:
        raise ValueError(f"{where}: must have at most {_MAX_STRING_BYTES} bytes")
    return _STRING_LENGTH.pack(len(raw)) + raw
