"""Reads one JDM document into a table of parsed cells, and says all that is wrong with it.

The shape asked for: one graph with an input, one decision table and an output, as the format's editor saves it. A graph
with more in it (expressions, functions, switches, several tables) is refused: a lender must be able to read the whole
rule in one place, and so must the check for gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import Problem
from engine.policy.cell_test import ANY, CellTest
from engine.policy.slots import SlotKind, SlotSpec
from engine.policy.unary import parse_cell, parse_literal
from engine.policy.zen_runtime import fault_of

Constant = float | bool | str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One input column: its field, the slot it reads, and the id of its cells."""

    field: str
    slot: SlotSpec
    cell_id: str


@dataclass(frozen=True, slots=True)
class Row:
    """One rule: its id, what its author says of it, a test for each column (None: only zen can judge it), and its
    output constants by field."""

    rule: str
    description: str
    cells: tuple[CellTest | None, ...]
    texts: tuple[str, ...]
    outputs: Mapping[str, Constant]


@dataclass(frozen=True, slots=True)
class ParsedTable:
    """One decision table. `content` is the node's own content, for zen."""

    file: str
    name: str
    collect: bool
    columns: tuple[Column, ...]
    outputs: tuple[str, ...]
    rows: tuple[Row, ...]
    content: Mapping[str, Any]

    @property
    def place(self) -> str:
        """The table's place for problems."""
        return f"table {self.name}"

    def place_of(self, row: Row) -> str:
        """A rule's place for problems."""
        return f"table {self.name}, rule {row.rule}"


class _Reader:
    def __init__(self, file: str, slots: Mapping[str, SlotSpec]) -> None:
        self.file = file
        self.slots = slots
        self.problems: list[Problem] = []

    def say(self, place: str, message: str, fix: str) -> None:
        self.problems.append(Problem(self.file, place, message, fix))

    def table_node(self, document: Mapping[str, Any]) -> Mapping[str, Any] | None:
        nodes = _dicts(document.get("nodes"))
        by_type: dict[object, list[Mapping[str, Any]]] = {}
        for node in nodes:
            by_type.setdefault(node.get("type"), []).append(node)
        wanted = ("inputNode", "decisionTableNode", "outputNode")
        counts = {kind: len(by_type.get(kind, ())) for kind in wanted}
        if set(by_type) - set(wanted) or any(n != 1 for n in counts.values()):
            found = ", ".join(sorted(str(node.get("type")) for node in nodes)) or "no nodes"
            self.say(
                "nodes",
                f"a policy file holds one input, one decision table and one output; this one holds {found}",
                "Draw one table between an input and an output; put other tables into files of their own",
            )
            return None
        ids = [str(by_type[kind][0].get("id")) for kind in wanted]
        joined = {(str(e.get("sourceId")), str(e.get("targetId"))) for e in _dicts(document.get("edges"))}
        if joined != {(ids[0], ids[1]), (ids[1], ids[2])}:
            self.say("edges", "the edges do not lead from the input through the table to the output", "Draw both edges")
        return by_type["decisionTableNode"][0]

    def columns(self, place: str, inputs: list[Mapping[str, Any]]) -> tuple[Column, ...]:
        columns: list[Column] = []
        for entry in inputs:
            field, cell_id = entry.get("field"), entry.get("id")
            if not isinstance(cell_id, str) or not cell_id:
                self.say(place, f"the column {field!r} has no id", "Save the table from the editor again")
                continue
            if not isinstance(field, str) or not field.strip():
                self.say(
                    place,
                    f"the column {entry.get('name')!r} names no field",
                    "Give the column the field it tests; a free expression cannot be checked for gaps",
                )
                continue
            slot = self.slots.get(field)
            if slot is None:
                known = ", ".join(sorted(self.slots))
                self.say(place, f"the column {field!r} is unknown here", f"Use one of: {known}")
                continue
            if any(c.field == field for c in columns):
                self.say(place, f"the column {field!r} stands twice", "Join both columns' cells with `and`")
                continue
            columns.append(Column(field, slot, cell_id))
        return tuple(columns)

    def cell(self, place: str, column: Column, text: object) -> CellTest | None:
        if not isinstance(text, str):
            self.say(place, f"the cell of {column.field} is not text", "Save the table from the editor again")
            return ANY
        test = parse_cell(text)
        if test is None:
            fault = fault_of(text)
            if text.strip() == "-":
                self.say(
                    place,
                    f"the cell `-` of {column.field} is no test: the format passes over the row in silence",
                    "Leave the cell empty for any value",
                )
            elif fault is not None:
                self.say(
                    place,
                    f"the cell `{text}` of {column.field} cannot be read: {fault}",
                    "Mend the test, or leave the cell empty for any value",
                )
            elif text.split("(")[0].split()[0] == "not":
                self.say(
                    place,
                    f"the cell `{text}` of {column.field} never passes: `not` turns round no test here",
                    "Write `!= value`, `not in [a, b]` or `not in [a..b]`",
                )
            return None
        return test if self._fits(place, column, test, text) else ANY

    def _fits(self, place: str, column: Column, test: CellTest, text: str) -> bool:
        slot = column.slot
        for kind in sorted(test.mentions - {"null", slot.kind}):
            self.say(
                place,
                f"the cell `{text}` tests {column.field} against a {kind}, but {column.field} is a {slot.kind}",
                f"Test it against a {slot.kind}{_example(slot.kind)}",
            )
            return False
        for word in sorted(test.strings - set(slot.allowed)) if slot.allowed else ():
            self.say(
                place,
                f"the cell `{text}` names '{word}', which {column.field} never is",
                f"Use one of: {', '.join(slot.allowed)}",
            )
        return True

    def output(self, place: str, field: str, text: object) -> Constant:
        known, value = parse_literal(text) if isinstance(text, str) else (False, None)
        if not known:
            self.say(
                place,
                f"the output {field} is `{text}`, not a constant",
                "Write a number, a text in quotes, true, false or null; what is computed belongs to a derived feature",
            )
        return value


def read_table(
    document: Mapping[str, Any], *, file: str, slots: Mapping[str, SlotSpec]
) -> tuple[ParsedTable | None, list[Problem]]:
    """Read a JDM document. Gives the parsed table (None where its shape is wrong) and every problem found.

    `slots` names what a column may test.
    """
    reader = _Reader(file, slots)
    node = reader.table_node(document)
    if node is None:
        return None, reader.problems
    name = str(node.get("name") or "")
    place = f"table {name}"
    if not name:
        reader.say("nodes", "the decision table has no name", "Name the table's node")
    raw = node.get("content")
    content: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    policy = content.get("hitPolicy")
    if policy not in ("first", "collect"):
        reader.say(place, f"the hit policy is {policy!r}", "Choose `first` or `collect`")
    if content.get("executionMode", "single") != "single" or content.get("inputField") or content.get("outputPath"):
        reader.say(place, "the table loops or moves its input or output", "Use single execution and no paths")
    columns = reader.columns(place, _dicts(content.get("inputs")))
    outputs = _output_columns(reader, place, content)
    rows = _rows(reader, place, content, columns, outputs)
    if not rows:
        reader.say(place, "the table has no rules", "Add a rule")
    if policy not in ("first", "collect") or not rows:
        return None, reader.problems
    fields = tuple(field for field, _ in outputs)
    return ParsedTable(file, name, policy == "collect", columns, fields, rows, content), reader.problems


def _output_columns(reader: _Reader, place: str, content: Mapping[str, Any]) -> list[tuple[str, str]]:
    outputs: list[tuple[str, str]] = []
    for entry in _dicts(content.get("outputs")):
        field, cell_id = entry.get("field"), entry.get("id")
        if not isinstance(field, str) or not field or not isinstance(cell_id, str) or not cell_id:
            reader.say(place, f"the output column {entry.get('name')!r} lacks a field or id", "Give it a field")
        elif any(field == known for known, _ in outputs):
            reader.say(place, f"the output {field!r} stands twice", "Keep one of the columns")
        else:
            outputs.append((field, cell_id))
    return outputs


def _rows(
    reader: _Reader,
    place: str,
    content: Mapping[str, Any],
    columns: tuple[Column, ...],
    outputs: list[tuple[str, str]],
) -> tuple[Row, ...]:
    rows: list[Row] = []
    seen: set[str] = set()
    for number, rule in enumerate(_dicts(content.get("rules")), start=1):
        rule_id = rule.get("_id")
        if not isinstance(rule_id, str) or not rule_id:
            reader.say(place, f"rule {number} has no id", "Give it an `_id`")
            rule_id = f"#{number}"
        elif rule_id in seen:
            reader.say(place, f"the rule id {rule_id!r} stands twice", "Give every rule an id of its own")
        seen.add(rule_id)
        at = f"{place}, rule {rule_id}"
        texts = tuple(str(rule.get(column.cell_id, "")) for column in columns)
        cells = tuple(reader.cell(at, column, rule.get(column.cell_id, "")) for column in columns)
        values = {field: reader.output(at, field, rule.get(cell_id, "")) for field, cell_id in outputs}
        rows.append(Row(rule_id, str(rule.get("_description", "")), cells, texts, values))
    return tuple(rows)


def _example(kind: SlotKind) -> str:
    examples = {"number": ", such as `>= 600`", "boolean": ": `true` or `false`", "string": " in quotes, such as `'A'`"}
    return examples[kind]


def _dicts(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
