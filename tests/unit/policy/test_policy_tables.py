"""Reading tables: what is refused, with place and fix."""

from __future__ import annotations

from typing import Any

import pytest

from engine.policy.slots import SlotSpec
from engine.policy.tables import compile_table
from tests.unit.policy.policy_documents import content, table

SLOTS = {
    "credit.points": SlotSpec(0, "number", 300.0, 850.0, nullable=True),
    "band": SlotSpec(1, "string", allowed=("A", "B")),
    "open": SlotSpec(2, "boolean"),
}


def said(document: dict[str, Any]) -> str:
    made, problems = compile_table(document, file="policy/t.json", slots=SLOTS)
    assert made is None
    assert problems
    assert all(p.file == "policy/t.json" and p.place and p.fix for p in problems)
    return "\n".join(map(str, problems))


@pytest.mark.parametrize(
    ("field", "cell", "words"),
    [
        ("credit.points", "'A'", "against a string, but credit.points is a number"),
        ("band", ">= 3", "against a number, but band is a string"),
        ("open", "'yes'", "against a string, but open is a boolean"),
        ("credit.points", "true", "against a boolean, but credit.points is a number"),
        ("band", "'C'", "names 'C', which band never is"),
        ("credit.points", "-", "the cell `-`"),
        ("credit.points", ">= ", "the cell `>= ` of credit.points cannot be read: Expected a literal"),
        ("credit.points", "> 1 && < 5", "cannot be read"),
        ("credit.points", "not(600)", "never passes"),
        ("credit.points", "not null", "never passes"),
        ("credit.pionts", ">= 600", "the column 'credit.pionts' is unknown"),
    ],
)
def test_a_bad_cell_is_named(field: str, cell: str, words: str) -> None:
    text = said(table([field], ["x"], [[cell, "1"]]))
    assert words in text


def test_every_mistake_is_said_at_once() -> None:
    document = table(["credit.points", "band"], ["x"], [["'A'", "3", "1"], ["> 5 >", "'Z'", "points * 2"]])
    text = said(document)
    for words in ("rule r1", "rule r2", "'Z'", "points * 2", "> 5 >"):
        assert words in text


def test_rule_ids_are_needed_and_unique() -> None:
    document = table(["credit.points"], ["x"], [["1", "1"], ["2", "2"], ["3", "3"]])
    content(document)["rules"][1]["_id"] = "r1"
    del content(document)["rules"][2]["_id"]
    text = said(document)
    assert "the rule id 'r1' stands twice" in text
    assert "rule 3 has no id" in text


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("hitPolicy", "unique", "hit policy is 'unique'"),
        ("executionMode", "loop", "loops or moves"),
        ("inputField", "applicant", "loops or moves"),
        ("outputPath", "result", "loops or moves"),
        ("rules", [], "has no rules"),
    ],
)
def test_a_table_of_another_kind_is_refused(key: str, value: object, words: str) -> None:
    document = table(["credit.points"], ["x"], [["1", "1"]])
    content(document)[key] = value
    assert words in said(document)


def test_a_graph_with_more_in_it_is_refused() -> None:
    document = table(["credit.points"], ["x"], [["1", "1"]])
    document["nodes"].append({"id": "f", "type": "functionNode", "name": "f", "content": {}})
    assert "functionNode" in said(document)


def test_a_table_off_the_path_is_refused() -> None:
    document = table(["credit.points"], ["x"], [["1", "1"]])
    document["edges"].pop()
    assert "edges" in said(document)


@pytest.mark.parametrize("document", [{}, {"nodes": None}, {"nodes": [1, "x"]}, {"nodes": [{"type": "inputNode"}]}])
def test_nonsense_is_refused_without_a_crash(document: dict[str, Any]) -> None:
    assert "one input, one decision table and one output" in said(document)


def test_outputs_are_constants_read_once() -> None:
    document = table(["credit.points"], ["n", "t", "b", "z"], [[">= 600", "9.90", "'x'", "true", ""]])
    made, problems = compile_table(document, file="f", slots=SLOTS)
    assert made is not None, problems
    (row,) = made.evaluate([600.0, "A", True])
    assert (row.table, row.rule, row.number) == ("tested", "r1", 0)
    assert dict(row.outputs) == {"n": 9.9, "t": "x", "b": True, "z": None}
    assert row.outputs_json == '{"n":9.9,"t":"x","b":true,"z":null}'


def test_no_text_of_a_cell_becomes_code() -> None:
    evil = "__import__('os')"
    made, problems = compile_table(
        table(["band"], ["x"], [[f'"{evil}"', "1"]]), file="f", slots={"band": SlotSpec(0, "string")}
    )
    assert made is not None, problems
    assert made.compiled
    assert "__import__" not in made.evaluate.__code__.co_names
    assert [row.rule for row in made.evaluate([evil])] == ["r1"]
