"""One decision table, compiled at load.

Tables stay what analysts edit: JDM documents, whose reference executor is zen. zen costs a decision too much of its
time: with three columns a call took 17-21 us of CPU for 20 rules and 17-36 us for 40, the most where the last rule
fires or none (CPython 3.11, zen-engine 2.1.3 through a static loader, one busy core), and threads gain nothing, for it
holds the interpreter. So the cells are parsed into sets of values and compiled into one Python function: 0.3-0.9 us and
0.3-1.4 us for the same tables on the same core. Its answers are zen's: at load each rule is tried against zen on every
bound of its cells, the ends of what zen takes as equal to it, the doubles next to those, and null (`_disagreement`);
property tests do the same with random tables. A table with a cell beyond the parsed subset, or with any disagreement,
runs in zen itself, which `note` then says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from engine.errors import Problem
from engine.policy.cell_test import CellTest
from engine.policy.codegen import compile_rows
from engine.policy.document import Constant, ParsedTable, read_table
from engine.policy.regions import Value, representatives
from engine.policy.slots import SlotSpec
from engine.policy.zen_runtime import ZenTable, equal_range

_Hit = TypeVar("_Hit")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One rule of a table: its number from 0, its id, its output constants by field and the same as a JSON object."""

    table: str
    number: int
    rule: str
    outputs: Mapping[str, Constant]
    outputs_json: str


@dataclass(frozen=True, slots=True)
class DecisionTable:
    """A table ready to run.

    evaluate: takes the policy vector and gives the rows that fire: at most one for hit policy `first`, all in order for
    `collect`. Numbers in the vector are finite, or None. Pure and thread-safe. rows: all rows; parsed: what was read;
    compiled: whether `evaluate` is our own function; note: why not, else "".
    """

    name: str
    rows: tuple[TableRow, ...]
    evaluate: Callable[[Sequence[object]], tuple[TableRow, ...]]
    parsed: ParsedTable
    compiled: bool
    note: str

    def constants(self, field: str) -> frozenset[Constant]:
        """Every value that an output column gives, such as every reason code."""
        return frozenset(row.outputs[field] for row in self.rows if row.outputs.get(field) is not None)

    def giving(self, hits: Sequence[_Hit]) -> Callable[[Sequence[object]], tuple[_Hit, ...]]:
        """`evaluate` with something else in the place of each row: what a row means to who asks."""
        if self.compiled:
            return compile_rows(self.parsed, hits)
        evaluate = self.evaluate
        return lambda vector: tuple([hits[row.number] for row in evaluate(vector)])


def compile_table(
    document: Mapping[str, Any], *, file: str, slots: Mapping[str, SlotSpec]
) -> tuple[DecisionTable | None, list[Problem]]:
    """Compile a JDM document. Gives the table, or None and every problem found.

    slots: what a column may test, by dotted name. Gaps and roles are not looked at here.
    """
    parsed, problems = read_table(document, file=file, slots=slots)
    if parsed is None or problems:
        return None, problems
    rows = tuple(
        TableRow(parsed.name, number, row.rule, MappingProxyType(dict(row.outputs)), _json(row.outputs))
        for number, row in enumerate(parsed.rows)
    )
    reference = ZenTable(parsed.content, {column.field: column.slot.index for column in parsed.columns})

    def in_zen(vector: Sequence[object]) -> tuple[TableRow, ...]:
        return tuple(rows[number] for number in reference.rows(vector))

    beyond = _beyond(parsed)
    if beyond:
        return DecisionTable(parsed.name, rows, in_zen, parsed, False, beyond), []
    evaluate = compile_rows(parsed, rows)
    doubt = _disagreement(parsed, evaluate, reference)
    if doubt:
        return DecisionTable(parsed.name, rows, in_zen, parsed, False, doubt), []
    return DecisionTable(parsed.name, rows, evaluate, parsed, True, ""), []


def _beyond(table: ParsedTable) -> str:
    cells = [
        f"`{row.texts[n]}` (rule {row.rule})" for row in table.rows for n, cell in enumerate(row.cells) if cell is None
    ]
    return f"runs in zen, slower, because of {', '.join(cells[:3])}" if cells else ""


def _disagreement(
    table: ParsedTable, evaluate: Callable[[Sequence[object]], tuple[TableRow, ...]], reference: ZenTable
) -> str:
    """Where our function and zen differ on the table's own bounds; "" where they do not."""
    for vector in probes(table):
        ours = tuple(row.number for row in evaluate(vector))
        if ours != reference.rows(vector):
            values = {column.field: vector[column.slot.index] for column in table.columns}
            return f"runs in zen, slower, because our own evaluation differs at {values}"
    return ""


def probes(table: ParsedTable) -> Iterator[list[object]]:
    """Policy vectors that try every rule on its bounds: for each rule, a vector that it accepts (where there is one),
    then each column in turn moved to null and to every bound of the rule's cell, the ends of what zen takes as equal to
    that bound and the doubles next to those, every text and both booleans."""
    size = 1 + max((column.slot.index for column in table.columns), default=-1)
    domains = [representatives(c.slot, [row.cells[n] for row in table.rows]) for n, c in enumerate(table.columns)]
    for row in table.rows:
        base: list[object] = [None] * size
        for column, cell, domain in zip(table.columns, row.cells, domains, strict=True):
            accepted = (v for v in domain if cell is not None and cell.accepts(v))
            base[column.slot.index] = next(accepted, domain[0] if domain else None)
        yield list(base)
        for column, cell, domain in zip(table.columns, row.cells, domains, strict=True):
            moved = list(base)
            for value in _tries(cell, domain):
                moved[column.slot.index] = value
                yield list(moved)


def _tries(cell: CellTest | None, domain: tuple[Value, ...]) -> list[Value]:
    tries: set[float] = set()
    for bound in cell.bounds() if cell is not None else ():
        least, greatest = equal_range(bound)
        tries |= {bound, least, greatest, math.nextafter(least, -math.inf), math.nextafter(greatest, math.inf)}
    return [*sorted(tries), *(v for v in domain if isinstance(v, str | bool)), None]


def _json(outputs: Mapping[str, Constant]) -> str:
    return json.dumps(dict(outputs), ensure_ascii=False, separators=(",", ":"))
