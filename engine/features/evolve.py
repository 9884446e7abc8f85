"""Rows read by name, through the schema they were written with: for people, and for rows older than the bundle.

Slower than `RowDecoder`, and never wrong about what a number means: where a field changed its kind, unit or
categories in a way that cannot be followed, the row is refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.features.encoding import RowCorrupt, RowDecoder, RowOtherSchema, row_fingerprint
from engine.features.row_schema import Field, Kind, RowSchema, fingerprint_of
from engine.features.store import StoreCorrupt

# `FeatureStore.get_schema`, or anything like it.
SchemaLookup = Callable[[bytes], bytes | None]

_STRING_LENGTH = struct.Struct("<I")
# Kinds whose numbers mean the same: a whole number is a number.
_WIDENS = {(Kind.INT64, Kind.FLOAT64)}


@dataclass(frozen=True, slots=True)
class DescribedRow:
    """A row by name. None is NULL. Categories by name, timestamps in seconds since 1970 UTC."""

    schema: RowSchema
    event_time_us: int
    values: dict[str, float | int | bool | str | None]


def schema_of(row: bytes, lookup: SchemaLookup) -> RowSchema:
    """The schema that a row was written with.

    Raises RowCorrupt; RowOtherSchema when the schema is not recorded; StoreCorrupt when what is recorded is not it.
    """
    fingerprint = row_fingerprint(row)
    canonical = lookup(fingerprint)
    if canonical is None:
        raise RowOtherSchema(fingerprint, f"schema {fingerprint.hex()} is not recorded")
    try:
        if fingerprint_of(canonical) != fingerprint:
            raise ValueError("its fingerprint is another")
        return RowSchema.parse(canonical)
    except ValueError as e:
        raise StoreCorrupt(f"the recorded schema {fingerprint.hex()} cannot be used: {e}") from e


def describe(row: bytes, lookup: SchemaLookup) -> DescribedRow:
    """All of a row by name. Raises as `schema_of` does."""
    schema = schema_of(row, lookup)
    numbers = np.empty(len(schema.numeric))
    event_time_us, presence = RowDecoder(schema).decode_into(row, numbers, 0)
    by_name: dict[str, float | int | bool | str | None] = dict(strings_of(row, schema, presence))
    for i, (field, number) in enumerate(zip(schema.numeric, numbers.tolist(), strict=True)):
        by_name[field.name] = _value(field, number) if presence >> i & 1 else None
    return DescribedRow(schema, event_time_us, {f.name: by_name[f.name] for f in schema.fields})


def strings_of(row: bytes, schema: RowSchema, presence: int) -> dict[str, str | None]:
    """The text fields of a row that a RowDecoder of the same schema has read. Raises RowCorrupt."""
    words = (len(schema.fields) + 63) // 64
    at = 24 + 8 * words + 8 * len(schema.numeric)
    end = len(row) - 4
    found: dict[str, str | None] = {}
    for i, field in enumerate(schema.strings, start=len(schema.numeric)):
        if not presence >> i & 1:
            found[field.name] = None
            continue
        start = at + _STRING_LENGTH.size
        if start > end:
            raise RowCorrupt("a row ends before its text")
        at = start + _STRING_LENGTH.unpack_from(row, at)[0]
        if at > end:
            raise RowCorrupt("a text is longer than its row")
        try:
            found[field.name] = row[start:at].decode()
        except UnicodeDecodeError as e:
            raise RowCorrupt("a text is not UTF-8") from e
    if at != end:
        raise RowCorrupt("a row has bytes after its last field")
    return found


def _value(field: Field, number: float) -> float | int | bool | str:
    if math.isnan(number):
        raise RowCorrupt(f"{field.name} is said to be present and is not")
    if field.kind is Kind.INT64:
        return int(number)
    if field.kind is Kind.BOOLEAN:
        return number != 0.0
    if field.kind is Kind.CATEGORY:
        if not 0 <= number < len(field.categories):
            raise RowCorrupt(f"{field.name} holds a category that its schema does not list")
        return field.categories[int(number)]
    return number


class RowTranslator:
    """Reads rows of an older (or newer) schema as if they were of this bundle's, field by field by name."""

    def __init__(self, source: RowSchema, target: RowSchema) -> None:
        """Raises RowOtherSchema when a field of both is not the same thing: another kind (but for int64 read as
        float64) or another unit, or when the views differ."""
        self._decoder = RowDecoder(source)
        self._target = target
        if source.view != target.view:
            raise self._refuse(f"is of view {source.view}, not {target.view}")
        place = {f.name: i for i, f in enumerate(source.slots)}
        old = {f.name: f for f in source.fields}
        moves: list[tuple[int, int, tuple[float, ...] | None]] = []
        self._known = 0
        for i, field in enumerate(target.slots):
            was = old.get(field.name)
            if was is None:
                continue
            if was.kind is not field.kind and (was.kind, field.kind) not in _WIDENS:
                raise self._refuse(f"has {field.name} as {was.kind}, not {field.kind}")
            if was.unit != field.unit:
                raise self._refuse(f"has {field.name} in {was.unit!r}, not in {field.unit!r}")
            codes = None
            if was.categories != field.categories:
                new = {name: float(code) for code, name in enumerate(field.categories)}
                codes = tuple(new.get(name, math.nan) for name in was.categories)
            moves.append((place[field.name], i, codes))
            self._known |= 1 << i
        self._moves = moves
        self._numbers = len(target.numeric)

    def decode_into(self, row: bytes, out: NDArray[np.float64], offset: int) -> tuple[int, int, int]:
        """As `RowDecoder.decode_into`, and a third number: bit i says that the row's schema has slot i at all.

        A slot that is not known is NOT_FOUND, not NULL. Raises RowCorrupt, and RowOtherSchema for a row of yet
        another schema or with a category that the target does not list.
        """
        numbers = np.empty(self._decoder.count)
        event_time_us, was_present = self._decoder.decode_into(row, numbers, 0)
        values, presence = [math.nan] * self._numbers, 0
        for source, target, codes in self._moves:
            if not was_present >> source & 1:
                continue
            presence |= 1 << target
            if target >= self._numbers:
                continue
            value = float(numbers[source])
            if codes is not None:
                value = codes[int(value)] if 0 <= value < len(codes) else math.nan
                if math.isnan(value):
                    raise self._refuse(f"has a category of {self._target.slots[target].name} that is not listed")
            values[target] = value
        out[offset : offset + self._numbers] = values
        return event_time_us, presence, self._known

    def _refuse(self, what: str) -> RowOtherSchema:
        fingerprint = self._decoder.schema.fingerprint
        return RowOtherSchema(fingerprint, f"a row of schema {fingerprint.hex()} {what}")
