"""A row comes back as it went in, and anything else is refused."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.encoding import (
    Field,
    Kind,
    RowCorrupt,
    RowDecoder,
    RowEncoder,
    RowOtherSchema,
    RowSchema,
    encode,
    row_fingerprint,
)
from engine.features.evolve import describe
from engine.features.store import event_time_of

GRADES = ("A", "B", "C")
EVERY_KIND = RowSchema(
    "bureau",
    (
        Field("utilisation", Kind.FLOAT64, "ratio"),
        Field("employer", Kind.STRING),
        Field("open_lines", Kind.INT64, "count"),
        Field("homeowner", Kind.BOOLEAN),
        Field("grade", Kind.CATEGORY, categories=GRADES),
        Field("opened_at", Kind.TIMESTAMP, "s"),
        Field("note", Kind.STRING),
    ),
)
EXAMPLE = {
    "utilisation": 0.25,
    "employer": "Müller & Söhne",
    "open_lines": 7,
    "homeowner": False,
    "grade": "C",
    "opened_at": 1_600_000_000.5,
    "note": "",
}
EVENT_TIME_US = 1_700_000_000_123_456

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES = {
    Kind.FLOAT64: finite,
    Kind.INT64: st.integers(-(2**53), 2**53),
    Kind.BOOLEAN: st.booleans(),
    Kind.STRING: text,
    Kind.TIMESTAMP: st.floats(-1e11, 1e11),
}


@st.composite
def schemas_and_values(draw: st.DrawFn) -> tuple[RowSchema, dict[str, object]]:
    fields, values = [], {}
    for i in range(draw(st.integers(1, 140))):
        kind = draw(st.sampled_from(list(Kind)))
        categories = tuple(draw(st.lists(text, min_size=1, max_size=4, unique=True))) if kind is Kind.CATEGORY else ()
        fields.append(Field(f"f{i}", kind, draw(st.sampled_from(("", "EUR", "d"))), categories))
        value = draw(st.none() | (st.sampled_from(categories) if categories else VALUES[kind]))
        if value is not None or draw(st.booleans()):
            values[f"f{i}"] = value
    return RowSchema("view", tuple(fields)), values


def canonical_of(schema: RowSchema) -> Callable[[bytes], bytes | None]:
    return lambda fingerprint: schema.canonical if fingerprint == schema.fingerprint else None


def decode(schema: RowSchema, row: bytes) -> tuple[int, int, np.ndarray]:
    decoder = RowDecoder(schema)
    out = np.full(decoder.count + 4, 77.0)
    event_time_us, presence = decoder.decode_into(row, out, 2)
    assert out[:2].tolist() == [77.0] * 2
    assert out[-2:].tolist() == [77.0] * 2
    return event_time_us, presence, out[2:-2]


@given(schemas_and_values(), st.integers(-(2**63), 2**63 - 1))
def test_a_row_comes_back_as_it_went_in(case: tuple[RowSchema, dict[str, object]], event_time_us: int) -> None:
    schema, values = case
    row = encode(schema, values, event_time_us)
    described = describe(row, canonical_of(schema))
    assert described.schema == schema
    assert described.event_time_us == event_time_of(row) == event_time_us
    assert described.values == {f.name: values.get(f.name) for f in schema.fields}
    assert [type(v) for v in described.values.values()] == [type(values.get(f.name)) for f in schema.fields]

    found_time, presence, numbers = decode(schema, row)
    assert found_time == event_time_us
    for i, field in enumerate(schema.slots):
        assert (presence >> i & 1) == (values.get(field.name) is not None)
        if i < len(schema.numeric):
            value = values.get(field.name)
            if value is None:
                assert math.isnan(numbers[i])
            else:
                expected = field.categories.index(value) if field.categories else value
                assert numbers[i] == expected


def test_numbers_go_to_the_vector_in_slot_order_and_strings_stay_out() -> None:
    row = encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US)
    event_time_us, presence, numbers = decode(EVERY_KIND, row)
    assert event_time_us == EVENT_TIME_US
    assert numbers.tolist() == [0.25, 7.0, 0.0, 2.0, 1_600_000_000.5]
    assert presence == RowDecoder(EVERY_KIND).all_present


def test_both_ways_to_decode_agree() -> None:
    row = encode(EVERY_KIND, {**EXAMPLE, "grade": None}, EVENT_TIME_US)
    decoder = RowDecoder(EVERY_KIND)
    one, other = np.zeros(9), np.zeros(9)
    assert decoder.decode_into(row, one, 3) == decoder.decode_into_bytes(row, memoryview(other.data).cast("B"), 24)
    np.testing.assert_array_equal(one, other)


@given(st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    row = encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US)
    at = data.draw(st.integers(0, len(row) - 1))
    changed = bytearray(row)
    changed[at] ^= data.draw(st.integers(1, 255))
    out = np.full(5, 77.0)
    with pytest.raises(RowCorrupt):
        RowDecoder(EVERY_KIND).decode_into(bytes(changed), out, 0)
    assert out.tolist() == [77.0] * 5
    with pytest.raises(RowCorrupt):
        describe(bytes(changed), canonical_of(EVERY_KIND))


def test_any_missing_end_is_found() -> None:
    row = encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US)
    for length in range(len(row)):
        with pytest.raises(RowCorrupt):
            decode(EVERY_KIND, row[:length])


@given(st.binary(min_size=1, max_size=40))
def test_bytes_too_many_are_found(tail: bytes) -> None:
    with pytest.raises(RowCorrupt):
        decode(EVERY_KIND, encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US) + tail)


def with_checksum(body: bytes) -> bytes:
    return body + struct.pack("<I", crc32(body))


@given(st.binary(max_size=200))
def test_foreign_bytes_with_a_good_checksum_are_refused(body: bytes) -> None:
    for row in (body, with_checksum(body)):
        with pytest.raises(RowCorrupt):
            decode(EVERY_KIND, row)
        with pytest.raises(RowCorrupt):
            row_fingerprint(row)


@pytest.mark.parametrize(("start", "end"), [(12, 16), (24, 32)], ids=["length", "presence"])
def test_a_forged_header_never_crashes(start: int, end: int) -> None:
    row = bytearray(encode(EVERY_KIND, {**EXAMPLE, "employer": None}, EVENT_TIME_US)[:-4])
    row[start:end] = b"\xff" * (end - start)
    with pytest.raises(RowCorrupt):
        describe(with_checksum(bytes(row)), canonical_of(EVERY_KIND))


def test_a_row_that_lies_about_its_length_is_refused() -> None:
    row = bytearray(encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US)[:-4])
    row[12] ^= 1
    with pytest.raises(RowCorrupt, match="as long as it says"):
        decode(EVERY_KIND, with_checksum(bytes(row)))


def test_a_layout_of_the_future_is_refused() -> None:
    row = bytearray(encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US)[:-4])
    row[3] = 2
    with pytest.raises(RowCorrupt, match="newer layout"):
        decode(EVERY_KIND, with_checksum(bytes(row)))


def test_a_row_of_another_schema_says_which() -> None:
    other = RowSchema("bureau", EVERY_KIND.fields[:-1])
    for values in ({}, EXAMPLE):
        row = encode(other, {k: v for k, v in values.items() if k != "note"}, EVENT_TIME_US)
        with pytest.raises(RowOtherSchema) as caught:
            decode(EVERY_KIND, row)
        assert caught.value.fingerprint == other.fingerprint == row_fingerprint(row)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("utilisation", math.nan, "finite"),
        ("utilisation", math.inf, "finite"),
        ("utilisation", -math.inf, "finite"),
        ("utilisation", "0.5", "number"),
        ("utilisation", True, "number"),
        ("utilisation", 10**400, "too large"),
        ("open_lines", 2**53 + 1, "2\\*\\*53"),
        ("open_lines", -(2**53) - 1, "2\\*\\*53"),
        ("open_lines", 1.0, "whole number"),
        ("open_lines", True, "whole number"),
        ("homeowner", 1, "true or false"),
        ("grade", "D", "categories"),
        ("grade", 0, "categories"),
        ("opened_at", math.inf, "finite"),
        ("opened_at", datetime(2026, 1, 1), "time zone"),
        ("note", 5, "text"),
        ("note", "\ud800", "UTF-8"),
        ("note", "x" * 65_536, "65535"),
        ("nope", 1, "no such field"),
    ],
)
def test_what_a_field_cannot_hold_is_refused_by_name(field: str, value: object, why: str) -> None:
    with pytest.raises(ValueError, match=f"bureau.*{field}.*{why}|bureau.*{why}.*{field}"):
        encode(EVERY_KIND, {field: value}, EVENT_TIME_US)


def test_refusals_do_not_tell_the_value() -> None:
    with pytest.raises(ValueError, match="grade") as caught:
        encode(EVERY_KIND, {"grade": "planted-value"}, EVENT_TIME_US)
    assert "planted-value" not in str(caught.value)


def test_numpy_numbers_and_aware_times_are_taken() -> None:
    values = {
        "utilisation": np.float32(0.5),
        "open_lines": np.int16(3),
        "homeowner": np.bool_(True),
        "opened_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    described = describe(encode(EVERY_KIND, values, 0), canonical_of(EVERY_KIND))
    assert described.values == {
        **dict.fromkeys(EXAMPLE),
        "utilisation": 0.5,
        "open_lines": 3,
        "homeowner": True,
        "opened_at": 1_767_225_600.0,
    }


@pytest.mark.parametrize("event_time_us", [2**63, -(2**63) - 1])
def test_an_event_time_out_of_range_is_refused(event_time_us: int) -> None:
    with pytest.raises(ValueError, match="event time"):
        encode(EVERY_KIND, {}, event_time_us)


@pytest.mark.parametrize("wrong", [np.zeros(9, np.float32), np.zeros(9, np.int64)])
def test_only_vectors_of_doubles_are_written_to(wrong: np.ndarray) -> None:
    row = encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US)
    with pytest.raises(TypeError):
        RowDecoder(EVERY_KIND).decode_into(row, wrong, 0)
    assert not wrong.any()


def test_a_vector_too_short_is_not_written_to() -> None:
    out = np.zeros(6)
    with pytest.raises(ValueError, match="different structures"):
        RowDecoder(EVERY_KIND).decode_into(encode(EVERY_KIND, EXAMPLE, EVENT_TIME_US), out, 2)
    assert not out.any()


def test_the_layout_does_not_change_unnoticed() -> None:
    """Rows outlive releases. Should this fail, the version byte must change with the layout."""
    schema = RowSchema("v", (Field("a", Kind.FLOAT64, "EUR"), Field("s", Kind.STRING)))
    assert schema.canonical == b'{"fields":[["a","float64","EUR",[]],["s","string","",[]]],"layout":1,"view":"v"}'
    row = RowEncoder(schema).encode({"a": 1.5, "s": "é"}, 1)
    assert row[:4] == b"AsR\x01"
    assert row[4:12] == schema.fingerprint
    assert row[12:-4].hex() == "3200000001000000000000000300000000000000000000000000f83f02000000c3a9"
    assert row[-4:] == struct.pack("<I", crc32(row[:-4]))
