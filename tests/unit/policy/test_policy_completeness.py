"""Gaps, dead rules and doubles, against looking at every case."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.policy.completeness import check_table, walk
from engine.policy.document import ParsedTable, read_table
from engine.policy.regions import representatives
from engine.policy.slots import SlotSpec
from tests.unit.policy.policy_documents import table

SLOTS = {
    "points": SlotSpec(0, "number", 0.0, 6.0, nullable=True),
    "band": SlotSpec(1, "string", allowed=("A", "B")),
    "count": SlotSpec(2, "number", 0.0, 4.0, integer=True),
    "term": SlotSpec(3, "number", values=(6.0, 12.0)),
}


def parsed(document: dict[str, Any]) -> ParsedTable:
    made, problems = read_table(document, file="f.json", slots=SLOTS)
    assert made is not None
    assert not problems
    return made


def said(inputs: list[str], cells: list[list[str]], *, complete: bool = True, hit: str = "first") -> str:
    document = table(inputs, ["x"], [[*row, str(n)] for n, row in enumerate(cells)], hit=hit)
    return "\n".join(map(str, check_table(parsed(document), complete=complete)))


@pytest.mark.parametrize(
    ("cells", "witness"),
    [
        ([["null"], ["< 3"], ["> 3"]], "points = 3 matches no row"),
        ([["null"], ["[0..3)"], ["(3..6]"]], "points = 3 matches no row"),
        ([["null"], ["[0..3]"], ["[4..6]"]], "points = 3.5 matches no row"),
        ([["null"], ["[0..6)"]], "points = 6 matches no row"),
        ([["null"], ["(0..6]"]], "points = 0 matches no row"),
        ([["< 3"], [">= 3"]], "points = null matches no row"),
        ([[">= 3, null"], ["< 3"]], "points = null matches no row"),
    ],
)
def test_a_gap_has_a_witness(cells: list[list[str]], witness: str) -> None:
    assert witness in said(["points"], cells)


@pytest.mark.parametrize(
    "cells", [[["null"], ["< 3"], [">= 3"]], [[""]], [["!= null"], ["null"]], [["null, [0..3]"], ["(3..6]"]]]
)
def test_a_full_table_is_quiet(cells: list[list[str]]) -> None:
    assert said(["points"], cells) == ""


def test_whole_numbers_have_no_gap_between_neighbours() -> None:
    assert said(["count"], [["[0..1]"], ["[2..4]"]]) == ""
    assert "count = 2 matches no row" in said(["count"], [["[0..1]"], ["[3..4]"]])


def test_only_values_that_occur_need_a_row() -> None:
    assert said(["term"], [["6"], ["12"]]) == ""


def test_the_witness_names_all_columns() -> None:
    text = said(["points", "band"], [["null", ""], [">= 3", ""], ["< 3", "'A'"]])
    assert "points = 0, band = 'B' matches no row" in text


def test_a_shadowed_rule_names_what_takes_it() -> None:
    text = said(["points"], [["null"], ["<= 5"], ["[2..4]"], ["> 1"]])
    assert "rule r3" in text
    assert "rule r2 above it takes every case" in text
    assert "rule r4" not in text


def test_a_rule_shadowed_by_several_is_found() -> None:
    text = said(["points"], [["null"], ["<= 3"], ["> 3"], ["[2..4]"]])
    assert "rule r4: can never fire: the rules above it together take every case" in text


def test_a_rule_outside_the_range_is_found() -> None:
    assert "rule r2: can never fire: no value" in said(["points"], [[""], ["> 7"]], hit="collect", complete=False)


def test_equal_rules_of_a_collecting_table_are_doubles() -> None:
    document = table(["points"], ["x"], [["> 3", "1"], ["(3..6]", "2"], ["> 3", "1"]], hit="collect")
    found = [str(p) for p in check_table(parsed(document), complete=False)]
    assert len(found) == 1
    assert "rule r3: says the same as rule r1" in found[0]


def test_many_gaps_are_summed_up() -> None:
    cells = [[f"{n}", "'A'"] for n in range(7)]
    text = said(["points", "band"], cells)
    assert text.count("matches no row") == 5
    assert "and 3 more gaps" in text


def test_a_table_too_intricate_is_refused_rather_than_half_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.policy.completeness.MAX_STATES", 3)
    assert "too intricate" in said(["points", "band"], [["null", ""], [">= 3", "'A'"], ["", ""]])


_cell = st.one_of(
    st.sampled_from(["", "null", "!= null"]),
    st.builds(lambda op, a: f"{op} {a}", st.sampled_from([">=", "<=", ">", "<", "!="]), st.integers(0, 6)),
    st.builds(
        lambda o, a, b, c: f"{o}{a}..{b}{c}", st.sampled_from("[("), st.integers(0, 6), st.integers(0, 6),
        st.sampled_from("])"),
    ),
)  # fmt: skip
_whole = st.one_of(st.just(""), st.builds(lambda op, a: f"{op} {a}", st.sampled_from([">=", "<"]), st.integers(0, 4)))
_row = st.tuples(_cell, st.sampled_from(["", "'A'", "'B'", "!= 'A'"]), _whole)

# Every case that matters on bounds 0..6: the bounds, the halves between them, and null; every band; every count.
_CASES = list(itertools.product([None, *(x / 2 for x in range(13))], ["A", "B"], [0.0, 1.0, 2.0, 3.0, 4.0]))


@settings(max_examples=300, deadline=None)
@given(st.lists(_row, min_size=1, max_size=6))
def test_the_walk_finds_what_looking_at_every_case_finds(rows: list[tuple[str, str, str]]) -> None:
    made = parsed(table(["points", "band", "count"], ["x"], [[*row, "1"] for row in rows]))
    matching = [
        [
            n
            for n, row in enumerate(made.rows)
            if all(cell is not None and cell.accepts(v) for cell, v in zip(row.cells, case, strict=True))
        ]
        for case in _CASES
    ]
    found = walk(made)
    assert bool(found.gaps) == any(not hits for hits in matching)
    assert found.first == {hits[0] for hits in matching if hits}
    assert found.matches == {n for hits in matching for n in hits}
    for gap in found.gaps:
        assert all(
            any(cell is not None and not cell.accepts(v) for cell, v in zip(row.cells, gap, strict=False))
            for row in made.rows
        )


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.lists(_cell, max_size=4))
def test_representatives_lie_in_the_range(lower: float, width: float, cells: list[str]) -> None:
    slot = SlotSpec(0, "number", lower, lower + width)
    made = parsed(table(["points"], ["x"], [[c, "1"] for c in cells or [""]]))
    values = representatives(slot, [row.cells[0] for row in made.rows])
    assert values
    assert all(isinstance(v, float) and lower <= v <= lower + width for v in values)
    assert len(set(values)) == len(values)
