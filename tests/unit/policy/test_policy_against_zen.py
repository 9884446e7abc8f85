"""Our compiled tables give what zen gives: on a list of cells, and on random tables and values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import zen
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.policy.slots import SlotSpec
from engine.policy.tables import DecisionTable, compile_table
from engine.policy.unary import parse_cell
from engine.policy.zen_runtime import equal_range
from tests.unit.policy.policy_documents import table

SLOTS = {
    "credit.points": SlotSpec(0, "number", nullable=True),
    "ratio": SlotSpec(1, "number", nullable=True),
    "job.kind": SlotSpec(2, "string", nullable=True),
    "open": SlotSpec(3, "boolean", nullable=True),
}


def in_zen(document: dict[str, Any], vector: list[object]) -> list[str]:
    """The `which` outputs of the rules that fire, straight from zen's own reading of the document."""
    engine = zen.ZenEngine({"loader": {"type": "static", "content": {"t": document}}})
    context = {
        "credit": {"points": vector[0]},
        "ratio": vector[1],
        "job": {"kind": vector[2]},
        "open": vector[3],
    }
    result: Any = engine.evaluate("t", context)["result"]
    rows = result if isinstance(result, list) else [result]
    return [row["which"] for row in rows if "which" in row]


def compiled(document: dict[str, Any]) -> DecisionTable:
    made, problems = compile_table(document, file="t.json", slots=SLOTS)
    assert made is not None, problems
    return made


def ours(made: DecisionTable, vector: list[object]) -> list[object]:
    return [row.outputs["which"] for row in made.evaluate(vector)]


NUMBER_CELLS = [
    ">= 600", "> 600", "<= 600", "< 600", "600", "== 600", "!= 600", "[600..700)", "(600..700]", "(600..700)", "[5..5]",
    "[7..5]", "1, 600", "[1, 600]", "in [1, 600]", "not in [1, 600]", "in [600..700]", "not in [600..700]",
    "not in (600..700)", "null", "== null", "!= null", "null, [600..700]", "[600..700], null", "null, 600",
    "not in [1, null]", "!= null and > 5", "> 5 and != null", "> 5 or null", "null or > 5", "!= null or > 5",
    "> 600 or < 1 or 5", "> 1 and < 7 and != 5", "[1..5] and > 0", "< 0.1", "<= 0.3", "-5", "> -5", "[-5..0.5]",
    "", "  ", "!= -0.25",
]  # fmt: skip
TEXT_CELLS = ["'a'", '"a"', "'a', 'b'", "in ['a', \"b\"]", "not in ['a']", "!= 'a'", "== 'a'", "null, 'a'", "'a', null",
              "!= null", "''", "'x y'", "!= 'a' and != 'b'", "'a' or 'b'"]  # fmt: skip
TRUTH_CELLS = ["true", "false", "!= true", "== false", "null", "!= null", "true, null", "true, false", "null or false"]

NUMBERS = [None, -5.0, -0.25, 0.0, 0.1, 0.3, 0.1 + 0.2, 0.5, 1.0, 5.0, 6.0, 600.0, 650.0, 700.0, 1e6, 7, 600,
           math.nextafter(600.0, 0.0), math.nextafter(700.0, 1e9)]  # fmt: skip
TEXTS = [None, "a", "b", "", "x y", "A", "null"]


@pytest.mark.parametrize("cell", NUMBER_CELLS)
def test_a_number_cell_means_what_it_means_in_zen(cell: str) -> None:
    document = table(["credit.points"], ["which"], [[cell, "'hit'"]])
    made = compiled(document)
    assert made.compiled, made.note
    for value in NUMBERS:
        assert ours(made, [value]) == in_zen(document, [value, None, None, None]), (cell, value)


@pytest.mark.parametrize("cell", TEXT_CELLS)
def test_a_text_cell_means_what_it_means_in_zen(cell: str) -> None:
    document = table(["job.kind"], ["which"], [[cell, "'hit'"]])
    made = compiled(document)
    assert made.compiled, made.note
    for value in TEXTS:
        assert ours(made, [None, None, value]) == in_zen(document, [None, None, value, None]), (cell, value)


@pytest.mark.parametrize("cell", TRUTH_CELLS)
def test_a_boolean_cell_means_what_it_means_in_zen(cell: str) -> None:
    document = table(["open"], ["which"], [[cell, "'hit'"]])
    made = compiled(document)
    assert made.compiled, made.note
    for value in (None, True, False):
        vector: list[object] = [None, None, None, value]
        assert ours(made, vector) == in_zen(document, vector), (cell, value)


@pytest.mark.parametrize(
    ("cell", "value", "hit"),
    [
        ("contains($, 'oa')", "loan", True),
        ("contains($, 'oa')", "lease", False),
        ("$ == 'loan'", "loan", True),
        ("startsWith($, 'le')", "lease", True),
    ],
)
def test_a_cell_beyond_the_subset_runs_in_zen(cell: str, value: str, hit: bool) -> None:
    made = compiled(table(["job.kind"], ["which"], [[cell, "'hit'"]]))
    assert not made.compiled
    assert cell in made.note
    assert ours(made, [None, None, value]) == (["hit"] if hit else [])


@pytest.mark.parametrize(
    "cell",
    ["1, > 2 and < 3", "> 600 or < 1 and != 0", "`a`", "$ > 1", "+5", "1_000", "6e2", "0.1234567890123456", "'a\\n'"],
)
def test_what_is_not_understood_to_the_last_is_left_to_zen(cell: str) -> None:
    assert parse_cell(cell) is None


_figure = st.sampled_from(["-5", "-0.25", "0", "0.05", "0.1", "0.3", "1", "5", "33.3", "600", "620.5", "123456.78"])


def _number_cell() -> st.SearchStrategy[str]:
    interval = st.builds(
        lambda o, a, b, c: f"{o}{a}..{b}{c}", st.sampled_from("[("), _figure, _figure, st.sampled_from("])")
    )
    simple = st.builds(lambda op, a: f"{op} {a}", st.sampled_from([">=", "<=", ">", "<", "==", "!="]), _figure)
    listed = st.lists(_figure, min_size=1, max_size=3).map(lambda v: f"[{', '.join(v)}]")
    negated = st.one_of(interval, listed).map(lambda c: f"not in {c}")
    atom = st.one_of(interval, simple, listed, negated, _figure, st.sampled_from(["null", "!= null", "== null"]))
    commas = st.lists(atom, min_size=1, max_size=3).map(", ".join)
    joined = st.builds(
        lambda word, parts: f" {word} ".join(parts),
        st.sampled_from(["and", "or"]),
        st.lists(atom, min_size=2, max_size=3),
    )
    return st.one_of(st.just(""), atom, commas, joined)


def _word_cell(literals: list[str]) -> st.SearchStrategy[str]:
    literal = st.sampled_from(literals)
    listed = st.lists(literal, min_size=1, max_size=3)
    return st.one_of(
        st.just(""),
        literal,
        literal.map(lambda v: f"!= {v}"),
        listed.map(", ".join),
        listed.map(lambda v: f"[{', '.join(v)}]"),
        listed.map(lambda v: f"not in [{', '.join(v)}]"),
        st.builds(lambda a, w, b: f"!= {a} {w} {b}", literal, st.sampled_from(["and", "or"]), literal),
    )


_row = st.tuples(
    _number_cell(), _number_cell(), _word_cell(["'a'", "'b'", '"c"', "null"]), _word_cell(["true", "false", "null"])
)


def _near(figures: list[float]) -> st.SearchStrategy[float]:
    ends = [x for f in figures for x in equal_range(f)]
    close = [y for e in ends for y in (e, math.nextafter(e, -math.inf), math.nextafter(e, math.inf))]
    return st.sampled_from(close)


_FIGURES = [-5.0, -0.25, 0.05, 0.1, 0.3, 1.0, 5.0, 33.3, 600.0, 620.5, 123456.78]
_value = st.one_of(
    st.none(),
    st.sampled_from(_FIGURES),
    _near(_FIGURES),
    st.integers(-1000, 1000),
    st.floats(-1e6, 1e6, allow_subnormal=False),
)
_vector = st.tuples(_value, _value, st.sampled_from([None, "a", "b", "c", "d"]), st.sampled_from([None, True, False]))


@settings(max_examples=400, deadline=None)
@given(st.lists(_row, min_size=1, max_size=12), st.booleans(), st.lists(_vector, min_size=1, max_size=8))
def test_random_tables_agree_with_zen(
    rows: list[tuple[str, str, str, str]], collect: bool, vectors: list[tuple[object, ...]]
) -> None:
    rules = [[*row, json.dumps(str(number))] for number, row in enumerate(rows)]
    document = table(list(SLOTS), ["which"], rules, hit="collect" if collect else "first")
    made = compiled(document)
    assert made.compiled, made.note
    for vector in vectors:
        assert ours(made, list(vector)) == in_zen(document, list(vector))


@settings(max_examples=200, deadline=None)
@given(st.decimals(-999999, 999999, places=3).map(float))
def test_the_doubles_that_equal_a_figure_are_zens(figure: float) -> None:
    least, greatest = equal_range(figure)
    test = zen.compile_unary_expression(f"== {figure:.3f}")
    assert least <= figure <= greatest
    assert test.evaluate({"$": least})
    assert test.evaluate({"$": greatest})
    assert not test.evaluate({"$": math.nextafter(least, -math.inf)})
    assert not test.evaluate({"$": math.nextafter(greatest, math.inf)})
