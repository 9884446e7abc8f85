"""Finds gaps, dead rules and doubles in a table, over the whole domain of its columns.

Each column's domain is cut into the few pieces that its cells can tell apart (`engine.policy.regions`); a walk through
the columns carries the set of rules that still match. Walks that carry the same rules are walked once, so the work is
bounded by the number of different sets, not by the product of the columns; above `MAX_STATES` the table is refused
rather than half checked. The result is exact: for open and closed ends, and for null where a column can be null.

A cell that only zen can judge counts as never matching here: it closes no gap and hides no rule.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from engine.errors import Problem
from engine.policy.document import ParsedTable, Row
from engine.policy.regions import Value, representatives, shown

MAX_STATES = 200_000
MAX_WITNESSES = 5


@dataclass(slots=True)
class Walk:
    """What a walk found: the numbers of rules that match somewhere, those that are the first to match somewhere, a
    witness for each gap (values in column order, cut short where the rest is free), and whether it was cut off."""

    matches: set[int] = field(default_factory=set)
    first: set[int] = field(default_factory=set)
    gaps: list[tuple[Value, ...]] = field(default_factory=list)
    too_large: bool = False
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def through(self, pieces: Sequence[Sequence[tuple[Value, int]]], alive: int, path: tuple[Value, ...]) -> None:
        """Walk on from `path` with the rules in the bit set `alive`. pieces: for each column its values, each with the
        bit set of rules that accept it."""
        depth = len(path)
        if not alive:
            self.gaps.append(path)
        elif (depth, alive) in self._seen:
            return
        elif len(self._seen) >= MAX_STATES:
            self.too_large = True
        elif depth == len(pieces):
            self._seen.add((depth, alive))
            self.first.add((alive & -alive).bit_length() - 1)
            self.matches.update(i for i in range(alive.bit_length()) if alive >> i & 1)
        else:
            self._seen.add((depth, alive))
            for value, mask in pieces[depth]:
                self.through(pieces, alive & mask, (*path, value))


def walk(table: ParsedTable, only: Mapping[int, Value] | None = None) -> Walk:
    """Walk a table's domain; `only` holds columns (by number) to one value."""
    pieces: list[list[tuple[Value, int]]] = []
    for n, column in enumerate(table.columns):
        cells = [row.cells[n] for row in table.rows]
        values = (only[n],) if only and n in only else representatives(column.slot, cells)
        masks: dict[int, Value] = {}
        for value in values:
            mask = sum(1 << i for i, cell in enumerate(cells) if cell is not None and cell.accepts(value))
            masks.setdefault(mask, value)
        pieces.append([(value, mask) for mask, value in masks.items()])
    found = Walk()
    found.through(pieces, (1 << len(table.rows)) - 1, ())
    return found


def check_table(table: ParsedTable, *, complete: bool) -> list[Problem]:
    """Every gap (where `complete`), every rule that can never fire and every double of a table."""
    found = walk(table)
    if found.too_large:
        fix = "Split the table, or use fewer different bounds"
        return [Problem(table.file, table.place, "the table is too intricate to be checked for gaps", fix)]
    problems: list[Problem] = []
    if complete and found.gaps:
        for gap in found.gaps[:MAX_WITNESSES]:
            problems.append(
                Problem(
                    table.file,
                    table.place,
                    f"{witness(table, gap)} matches no row",
                    "Add a rule for it, widen the bounds of a neighbour, or end with a rule whose cells are empty",
                )
            )
        if len(found.gaps) > MAX_WITNESSES:
            more = f"and {len(found.gaps) - MAX_WITNESSES} more gaps"
            problems.append(Problem(table.file, table.place, more, "Mend the ones above first"))
    problems += _dead_rules(table, found)
    problems += _doubles(table)
    return problems


def witness(table: ParsedTable, values: tuple[Value, ...]) -> str:
    """Values of the columns as words: `credit.points = 600, credit.band = 'B'`."""
    pairs = zip(table.columns, values, strict=False)
    return ", ".join(f"{column.field} = {shown(value)}" for column, value in pairs) or "every application"


def _dead_rules(table: ParsedTable, found: Walk) -> list[Problem]:
    problems = []
    fires = found.matches if table.collect else found.first
    for number, row in enumerate(table.rows):
        if number in fires or None in row.cells or _guards_null(table, row):
            continue
        if number in found.matches:
            message = f"can never fire: {_above(table, row, number)}"
            fix = "Move it up, narrow the rules above, or remove it"
        else:
            message = "can never fire: no value in the columns' ranges passes all of its cells"
            fix = "Mend its cells, or remove it"
        problems.append(Problem(table.file, table.place_of(row), message, fix))
    return problems


def _guards_null(table: ParsedTable, row: Row) -> bool:
    """A test for null in a column that is never null is a harmless guard."""
    return any(
        not column.slot.nullable and cell is not None and "null" in cell.mentions
        for column, cell in zip(table.columns, row.cells, strict=True)
    )


def _above(table: ParsedTable, row: Row, number: int) -> str:
    """The rule above that takes every case of a dead rule, where one does so alone."""
    for other in table.rows[:number]:
        if all(
            cell is not None and all(cell.accepts(v) for v in values if own is not None and own.accepts(v))
            for cell, own, values in zip(
                other.cells,
                row.cells,
                (representatives(c.slot, [r.cells[n] for r in table.rows]) for n, c in enumerate(table.columns)),
                strict=True,
            )
        ):
            return f"rule {other.rule} above it takes every case"
    return "the rules above it together take every case"


def _doubles(table: ParsedTable) -> list[Problem]:
    """Rules of a collecting table with the same cells and outputs. In a `first` table the second is dead anyway."""
    if not table.collect:
        return []
    problems = []
    seen: dict[object, str] = {}
    for row in table.rows:
        sets = tuple((c.numbers, c.booleans, c.strings, c.others, c.null) if c else None for c in row.cells)
        key = (sets, row.texts if None in row.cells else (), tuple(row.outputs.items()))
        twin = seen.setdefault(key, row.rule)
        if twin != row.rule:
            message = f"says the same as rule {twin}"
            problems.append(Problem(table.file, table.place_of(row), message, "Remove one of the two"))
    return problems


def check_unknowns(table: ParsedTable, passing: Collection[int]) -> list[Problem]:
    """Rules that let an application pass although a value is unknown, without naming null.

    passing: the numbers of the rules that pass. A nullable column that the table tests must not be null when such a
    rule fires, unless the rule's own cell names null.
    """
    problems = []
    for n, column in enumerate(table.columns):
        if not column.slot.nullable:
            continue
        first = walk(table, {n: None}).first
        for number in sorted(first & set(passing)):
            row = table.rows[number]
            cell = row.cells[n]
            if cell is not None and "null" not in cell.mentions:
                problems.append(
                    Problem(
                        table.file,
                        table.place_of(row),
                        f"passes when {column.field} is unknown (null) without saying so",
                        f"Test {column.field} with `!= null` here, or add a rule for `null` above",
                    )
                )
    return problems


def check_silence(table: ParsedTable) -> list[Problem]:
    """Columns of a collecting table that can be null while no rule says what null means: it would pass in silence."""
    problems = []
    for n, column in enumerate(table.columns):
        if not column.slot.nullable:
            continue
        cells = [row.cells[n] for row in table.rows]
        if not any(cell is not None and "null" in cell.mentions and cell.null for cell in cells):
            problems.append(
                Problem(
                    table.file,
                    table.place,
                    f"{column.field} can be unknown (null), and no rule says what then",
                    "Add a rule with the cell `null`, such as one that refers",
                )
            )
    return problems
