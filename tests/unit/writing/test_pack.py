"""Many rows packed at once are the bytes that the encoder writes one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.features.encoding import Field, Kind, RowDecoder, RowEncoder, RowSchema
from engine.features.writing.pack import RowPacker


def _schema(count: int) -> RowSchema:
    return RowSchema("v", tuple(Field(f"f{n}", Kind.FLOAT64) for n in range(count)))


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    fields=st.sampled_from([1, 7, 8, 9, 63, 64, 65, 130]),
    times=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    data=st.data(),
)
def test_the_bytes_are_those_of_the_encoder(fields: int, times: list[int], data: st.DataObject) -> None:
    schema = _schema(fields)
    row = st.lists(st.none() | numbers, min_size=fields, max_size=fields)
    rows = data.draw(st.lists(row, min_size=len(times), max_size=len(times)))
    matrix = np.array([[math.nan if x is None else x for x in one] for one in rows])
    packed = RowPacker(schema).pack(matrix, np.array(times, dtype=np.int64))
    encoder = RowEncoder(schema)
    names = [field.name for field in schema.fields]
    assert packed == [encoder.encode(dict(zip(names, one, strict=True)), t) for one, t in zip(rows, times, strict=True)]


def test_every_nan_is_the_same_nan() -> None:
    schema = _schema(2)
    odd = np.frombuffer(b"\x01\x00\x00\x00\x00\x00\xf8\xff", dtype="<f8")[0]
    (row,) = RowPacker(schema).pack(np.array([[odd, 1.0]]), np.array([5]))
    assert row == RowEncoder(schema).encode({"f1": 1.0}, 5)
    out = np.zeros(2)
    assert RowDecoder(schema).decode_into(row, out, 0) == (5, 0b10)


def test_no_rows_are_no_bytes() -> None:
    assert RowPacker(_schema(3)).pack(np.empty((0, 3)), np.empty(0, dtype=np.int64)) == []


def test_text_is_not_packed() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        RowPacker(RowSchema("v", (Field("t", Kind.STRING),)))
