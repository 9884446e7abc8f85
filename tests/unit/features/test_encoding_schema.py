"""Schemas have one canonical form, and rows of another schema are read by name or refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.encoding import Field, Kind, RowCorrupt, RowOtherSchema, RowSchema, encode
from engine.features.evolve import RowTranslator, describe, schema_of
from engine.features.store import StoreCorrupt

OLD = RowSchema(
    "bureau",
    (
        Field("lines", Kind.INT64, "count"),
        Field("balance", Kind.FLOAT64, "EUR"),
        Field("grade", Kind.CATEGORY, categories=("A", "B", "C")),
        Field("employer", Kind.STRING),
    ),
)
ROW = encode(OLD, {"lines": 4, "balance": 12.5, "grade": "C", "employer": "x"}, 99)


def translate(target: RowSchema, row: bytes = ROW, source: RowSchema = OLD) -> tuple[int, int, int, list[float]]:
    out = np.full(len(target.numeric) + 1, 77.0)
    event_time_us, presence, known = RowTranslator(source, target).decode_into(row, out, 1)
    assert out[0] == 77.0
    return event_time_us, presence, known, out[1:].tolist()


def test_every_part_of_a_schema_is_in_its_fingerprint() -> None:
    lines, balance, grade, employer = OLD.fields
    others = [
        RowSchema("bureau2", OLD.fields),
        RowSchema("bureau", (balance, lines, grade, employer)),
        RowSchema("bureau", (lines, balance, grade)),
        RowSchema("bureau", (replace(lines, name="line"), balance, grade, employer)),
        RowSchema("bureau", (replace(lines, kind=Kind.FLOAT64), balance, grade, employer)),
        RowSchema("bureau", (lines, replace(balance, unit="USD"), grade, employer)),
        RowSchema("bureau", (lines, balance, replace(grade, categories=("B", "A", "C")), employer)),
    ]
    assert len({schema.fingerprint for schema in (OLD, *others)}) == 8
    assert RowSchema("bureau", OLD.fields).fingerprint == OLD.fingerprint


def test_a_schema_comes_back_from_its_canonical_form() -> None:
    assert RowSchema.parse(OLD.canonical) == OLD


@given(
    st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"layout":2}', b'{"layout":1,"fields":[1],"view":""}'])
)
def test_a_form_that_is_none_is_refused(canonical: bytes) -> None:
    with pytest.raises(ValueError):
        RowSchema.parse(canonical)


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (Field("a", Kind.FLOAT64), Field("a", Kind.STRING)),
        (Field("a", Kind.CATEGORY),),
        (Field("a", Kind.CATEGORY, categories=("x", "x")),),
        (Field("a", Kind.FLOAT64, categories=("x",)),),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(fields: tuple[Field, ...]) -> None:
    with pytest.raises(ValueError, match="v"):
        RowSchema("v", fields)


def test_fields_are_found_by_name() -> None:
    target = RowSchema(
        "bureau",
        (
            Field("income", Kind.FLOAT64, "EUR"),
            Field("balance", Kind.FLOAT64, "EUR"),
            Field("lines", Kind.FLOAT64, "count"),  # a whole number is a number
            Field("grade", Kind.CATEGORY, categories=("C", "B", "A", "S")),
        ),
    )
    event_time_us, presence, known, numbers = translate(target)
    assert event_time_us == 99
    assert math.isnan(numbers[0])
    assert numbers[1:] == [12.5, 4.0, 0.0]
    assert presence == known == 0b1110


def test_null_and_not_known_are_told_apart() -> None:
    target = RowSchema("bureau", (Field("income", Kind.FLOAT64, "EUR"), *OLD.fields))
    row = encode(OLD, {"lines": 1}, 5)
    _, presence, known, numbers = translate(target, row)
    assert known == 0b11110
    assert presence == 0b00010
    assert [math.isnan(n) for n in numbers] == [True, False, True, True]


@pytest.mark.parametrize(
    "target",
    [
        RowSchema("bureau", (Field("balance", Kind.FLOAT64, "USD"),)),
        RowSchema("bureau", (Field("balance", Kind.INT64, "EUR"),)),
        RowSchema("bureau", (Field("lines", Kind.BOOLEAN, "count"),)),
        RowSchema("bureau", (Field("employer", Kind.CATEGORY, categories=("x",)),)),
        RowSchema("bureau", (Field("grade", Kind.CATEGORY, categories=("A", "B")),)),
        RowSchema("phone", OLD.fields),
    ],
    ids=["unit", "kind", "kind to boolean", "text to category", "category gone", "view"],
)
def test_a_field_that_changed_its_meaning_is_refused(target: RowSchema) -> None:
    with pytest.raises(RowOtherSchema) as caught:
        translate(target)
    assert caught.value.fingerprint == OLD.fingerprint


def test_a_translator_refuses_rows_of_a_third_schema_and_damage() -> None:
    with pytest.raises(RowOtherSchema):
        translate(OLD, encode(RowSchema("bureau", OLD.fields[:2]), {}, 5))
    with pytest.raises(RowCorrupt):
        translate(OLD, ROW[:-1])


def test_a_schema_is_looked_up_and_checked() -> None:
    assert schema_of(ROW, {OLD.fingerprint: OLD.canonical}.get) == OLD
    with pytest.raises(RowOtherSchema, match="not recorded"):
        describe(ROW, lambda _: None)
    other = RowSchema("bureau", OLD.fields[:2])
    with pytest.raises(StoreCorrupt, match="another"):
        describe(ROW, {OLD.fingerprint: other.canonical}.get)
