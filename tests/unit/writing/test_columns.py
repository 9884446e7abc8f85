"""A column gives what its cells give one by one: the sweep is only a faster way to the same answer."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bundle.write_plan import make_write_plan
from engine.features.writing.columns import Column
from engine.features.writing.feature_rule import FeatureRule
from engine.features.writing.outcome import CleaningRule, Rejected, RejectReason
from engine.features.writing.view_writer import ViewWriter
from engine.loading.cells import Cells
from engine.loading.columns import NumberColumn, TextColumn, ValueColumn
from tests.support.catalogue import GOOD, catalogue_in

CELLS = Cells(epoch="s", nulls=frozenset({"", "NA"}))
UNITS: dict[str, list[str | None]] = {
    "income": [None, "EUR/year"],
    "utilisation": [None, "percent"],
    "accounts": [None, "dozens"],
}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> ViewWriter:
    """The writer of the view `file`."""
    return make_write_plan(catalogue_in(tmp_path_factory.mktemp("bundle"))).views["file"]


def _one_by_one(
    rule: FeatureRule, column: Column, rows: int, unit: str | None
) -> tuple[list[float], dict[int, RejectReason], Counter[CleaningRule]]:
    numbers, faults = [], {}
    applied: Counter[CleaningRule] = Counter()
    for index in range(rows):
        number = math.nan
        try:
            number, rules = rule.clean(column.cell(index, rule), unit)
            applied.update(rules)
        except Rejected as rejected:
            faults[index] = rejected.reason
        numbers.append(number)
    return numbers, faults, applied


def _check(writer: ViewWriter, feature: str, column: Column, rows: int, unit: str | None) -> None:
    rule = writer.by_name[feature]
    numbers, faults, applied = _one_by_one(rule, column, rows, unit)
    cleaned = writer.clean_columns({feature: column}, {feature: unit} if unit is not None else {}, rows)
    place = writer.rules.index(rule)
    np.testing.assert_array_equal(cleaned.numbers[:, place], np.array(numbers, dtype=np.float64))
    assert {row: [f.reason for f in found] for row, found in cleaned.faults.items()} == {
        row: [reason] for row, reason in faults.items()
    }
    everything = np.ones(rows, dtype=np.bool_)
    repairs = {rule_: count for (_, rule_), count in cleaned.repairs(everything).items()}
    assert repairs == dict(applied)


_TEXTS = (
    "|NA|0|1|-1|+1|1.|.5|1e3|1E-2|1e400|1e00001|nan|NaN|inf|-Infinity|1_000| 12 |12 |0x10|1,5|٣|１２|true|False"
    "|YES|no|TRUE|single|M|S|north|west| north|2020-01-01|2020-01-01T00:00:00Z|2020-01-01 10:00:00+02:00"
    "|9007199254740992|9007199254740993|9007199254740991|-9007199254740993|99999999999999999999|1700000000"
    "|1700000000.25|0.1|100000|100000.0001|501|499.5|2.0000001"
)
texts = st.one_of(
    st.sampled_from([*_TEXTS.split("|"), "1" + "0" * 400]),
    st.floats().map(str),
    st.integers(-(2**60), 2**60).map(str),
    st.text(max_size=6),
)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.integers(-600, 600),
    st.floats(),
    st.floats(-3, 700),
    st.sampled_from(["single", "M", "S", "north", "west", "1", "", "2020-01-01T00:00:00Z", 10**400]),
    st.lists(st.integers(), max_size=1),
    st.dictionaries(st.text(max_size=1), st.none(), max_size=1),
)
features = st.sampled_from(sorted(GOOD))


@given(feature=features, cells=st.lists(texts, min_size=1, max_size=12), data=st.data())
def test_text_cells(writer: ViewWriter, feature: str, cells: list[str], data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(UNITS.get(feature, [None])))
    _check(writer, feature, TextColumn(cells, CELLS), len(cells), unit)


@given(feature=features, cells=st.lists(values, min_size=1, max_size=12), data=st.data())
def test_python_values(writer: ViewWriter, feature: str, cells: list[object], data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from(UNITS.get(feature, [None])))
    _check(writer, feature, ValueColumn(cells, CELLS), len(cells), unit)


def _arrow(cells: Sequence[Any], kind: str) -> Column:
    pa = pytest.importorskip("pyarrow")
    from engine.loading.parquet_file import _column

    types = {
        "float": pa.float64(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "text": pa.string(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
        "moment": pa.timestamp("us", "Europe/Berlin"),
        "naive": pa.timestamp("ns"),
        "nothing": pa.null(),
    }
    return _column(pa.array(cells, types[kind]), CELLS)


arrow_cells = st.one_of(
    st.tuples(st.just("float"), st.lists(st.none() | st.floats() | st.floats(0, 600), min_size=1, max_size=12)),
    st.tuples(st.just("int"), st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2), min_size=1)),
    st.tuples(st.just("bool"), st.lists(st.none() | st.booleans(), min_size=1, max_size=12)),
    st.tuples(st.just("text"), st.lists(st.none() | st.sampled_from(["single", "M", "x", "1"]), min_size=1)),
    st.tuples(st.just("dictionary"), st.lists(st.none() | st.sampled_from(["single", "M", "x"]), min_size=1)),
    st.tuples(st.just("moment"), st.lists(st.none() | st.integers(-(2**50), 2**52), min_size=1, max_size=12)),
    st.tuples(st.just("naive"), st.lists(st.none() | st.integers(0, 2**60), min_size=1, max_size=12)),
    st.tuples(st.just("nothing"), st.lists(st.none(), min_size=1, max_size=3)),
)


@given(feature=features, cells=arrow_cells, data=st.data())
def test_arrow_columns(writer: ViewWriter, feature: str, cells: tuple[str, list[Any]], data: st.DataObject) -> None:
    kind, found = cells
    unit = data.draw(st.sampled_from(UNITS.get(feature, [None])))
    _check(writer, feature, _arrow(found, kind), len(found), unit)


@pytest.mark.parametrize("feature", sorted(GOOD))
@pytest.mark.parametrize("text", [*_TEXTS.split("|"), "1" + "0" * 400])
def test_every_odd_text_by_itself(writer: ViewWriter, feature: str, text: str) -> None:
    for unit in UNITS.get(feature, [None]):
        _check(writer, feature, TextColumn([text], CELLS), 1, unit)


_EDGES = [2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 2.0**53, 2.0**53 + 2, 0.5, True, "1", None, 10**400, -0.0, math.nan]


@pytest.mark.parametrize("feature", sorted(GOOD))
@pytest.mark.parametrize("value", _EDGES, ids=lambda value: str(value)[:20])
def test_every_odd_value_by_itself(writer: ViewWriter, feature: str, value: object) -> None:
    for unit in UNITS.get(feature, [None]):
        _check(writer, feature, ValueColumn([value], CELLS), 1, unit)
        _check(writer, feature, ValueColumn([value, 1, None], CELLS), 3, unit)


def test_a_number_column_of_another_kind_is_looked_at_cell_by_cell(writer: ViewWriter) -> None:
    _check(writer, "status", _arrow([1, None, 7], "int"), 3, None)
    _check(writer, "employed", _arrow([1, 0, 2, None], "int"), 4, None)
    cleaned = writer.clean_columns({"employed": _arrow([1, 0, 2, None], "int")}, {}, 4)
    place = writer.rules.index(writer.by_name["employed"])
    np.testing.assert_array_equal(cleaned.numbers[:, place], [1.0, 0.0, math.nan, math.nan])
    assert isinstance(_arrow([1.0], "float"), NumberColumn)


def test_repairs_are_those_of_the_rows_that_are_taken(writer: ViewWriter) -> None:
    column = ValueColumn([40, 400, None, 10], CELLS)
    cleaned = writer.clean_columns({"utilisation": column}, {"utilisation": "percent"}, 4)
    assert cleaned.repairs(np.array([True, True, True, False])) == {
        ("utilisation", CleaningRule.UNIT_CONVERTED): 2,
        ("utilisation", CleaningRule.OUT_OF_RANGE_CLIPPED): 1,
    }
    assert cleaned.repairs(np.zeros(4, dtype=np.bool_)) == {}


def test_an_unknown_unit_is_refused_as_a_whole(writer: ViewWriter) -> None:
    with pytest.raises(Rejected):
        writer.clean_columns({"income": ValueColumn([1], CELLS)}, {"income": "EUR/week"}, 1)


def test_json_values_of_a_good_row_are_taken(writer: ViewWriter) -> None:
    row = json.loads(json.dumps(GOOD))
    cleaned = writer.clean_columns({name: ValueColumn([value], CELLS) for name, value in row.items()}, {}, 1)
    assert not cleaned.faults
    assert not np.isnan(cleaned.numbers).any()
