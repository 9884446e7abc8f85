"""Turns a parsed table into a Python function.

The function is built as a syntax tree from parsed cells: sets of numbers, texts and booleans. No text of a table ever
becomes code. Null in a number column is read as NaN, which fails every comparison as null does in zen, and a null test
is `x != x`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import Any

from engine.policy.cell_test import REALS, CellTest, Interval
from engine.policy.document import Column, ParsedTable
from engine.policy.zen_runtime import equal_range

Evaluator = Callable[[Sequence[object]], tuple[Any, ...]]


def compile_rows(table: ParsedTable, hits: Sequence[object]) -> Evaluator:
    """Compile a table whose every cell is parsed. `hits` is what each row gives.

    The function takes the policy vector and gives a tuple of hits: of the first row that fires, or of all in order for
    a table that collects. Numbers in the vector are finite floats or ints (floats are faster), or None.
    """
    body: list[ast.stmt] = []
    tests = [tuple(_test_of(cell) for cell in row.cells) for row in table.rows]
    for n, column in enumerate(table.columns):
        if any(not row[n].any for row in tests):
            body += _load(n, column)
    if table.collect:
        body.append(ast.Assign([_name("hits", ast.Store())], ast.Tuple([], ast.Load())))
    rows = [(number, {n: test for n, test in enumerate(row) if not test.any}) for number, row in enumerate(tests)]
    body += _rows(table, rows)
    body.append(ast.Return(_name("hits") if table.collect else ast.Tuple([], ast.Load())))
    return _function(body, {f"row{n}": (hit,) for n, hit in enumerate(hits)})


def _rows(table: ParsedTable, rows: list[tuple[int, dict[int, CellTest]]]) -> list[ast.stmt]:
    """Statements for rows in order. Neighbours that share a test share one `if`: tables are written in such blocks."""
    statements: list[ast.stmt] = []
    while rows:
        number, tests = rows[0]
        run, shared = 1, -1
        for n, test in tests.items():
            alike = 1
            while alike < len(rows) and rows[alike][1].get(n) == test:
                alike += 1
            if alike > run:
                run, shared = alike, n
        if run > 1:
            inner = [(i, {n: t for n, t in others.items() if n != shared}) for i, others in rows[:run]]
            condition = _condition(shared, table.columns[shared], tests[shared])
            statements.append(ast.If(condition, _rows(table, inner), []))
        else:
            statements += _fire(table, number, [_condition(n, table.columns[n], test) for n, test in tests.items()])
        rows = rows[run:]
    return statements


def _fire(table: ParsedTable, number: int, conditions: list[ast.expr]) -> list[ast.stmt]:
    given = _name(f"row{number}")
    fire: ast.stmt = ast.AugAssign(_name("hits", ast.Store()), ast.Add(), given) if table.collect else ast.Return(given)
    return [ast.If(_all_of(conditions), [fire], [])] if conditions else [fire]


def _function(body: list[ast.stmt], names: dict[str, Any]) -> Evaluator:
    arguments = ast.arguments(
        posonlyargs=[], args=[ast.arg("vector")], kwonlyargs=[], kw_defaults=[], defaults=[], vararg=None, kwarg=None
    )
    function = ast.FunctionDef("evaluate", arguments, body, [])
    module = ast.fix_missing_locations(ast.Module([function], []))
    # A tree of our own making: see the module's docstring.
    space: dict[str, Any] = {"__builtins__": {}, "nan": math.nan, **names}
    exec(compile(module, "<decision table>", "exec"), space)
    made: Evaluator = space["evaluate"]
    return made


def _test_of(cell: CellTest | None) -> CellTest:
    if cell is None:
        raise ValueError("a cell that only zen can judge cannot be compiled")
    return cell


def _load(n: int, column: Column) -> list[ast.stmt]:
    x = f"x{n}"
    value = ast.Subscript(_name("vector"), ast.Constant(column.slot.index), ast.Load())
    statements: list[ast.stmt] = [ast.Assign([_name(x, ast.Store())], value)]
    if column.slot.kind == "number":
        absent = ast.Compare(_name(x), [ast.Is()], [ast.Constant(None)])
        statements.append(ast.If(absent, [ast.Assign([_name(x, ast.Store())], _name("nan"))], []))
    return statements


def _condition(n: int, column: Column, test: CellTest) -> ast.expr:
    x = f"x{n}"
    if column.slot.kind == "number":
        return _number_condition(x, test)
    if column.slot.kind == "boolean":
        passing = [*sorted(test.booleans), *([None] if test.null else [])]
        return _any_of([ast.Compare(_name(x), [ast.Is()], [ast.Constant(v)]) for v in passing])
    values = [*sorted(test.strings), *([None] if bool(test.null) != test.others else [])]
    members = ast.Set([ast.Constant(v) for v in values]) if values else ast.Tuple([], ast.Load())
    return ast.Compare(_name(x), [ast.NotIn() if test.others else ast.In()], [members])


def _number_condition(x: str, test: CellTest) -> ast.expr:
    is_null = ast.Compare(_name(x), [ast.NotEq()], [_name(x)])
    if test.numbers == (REALS,):
        return ast.Compare(_name(x), [ast.Eq()], [_name(x)])
    parts = [_within(x, interval) for interval in test.numbers]
    return _any_of([*parts, is_null] if test.null else parts)


def _within(x: str, i: Interval) -> ast.expr:
    """`x` within an interval, in doubles: see `equal_range`."""
    operators: list[ast.cmpop] = []
    terms: list[ast.expr] = []
    if math.isfinite(i.lower):
        least, greatest = equal_range(i.lower)
        terms += [ast.Constant(least if i.lower_closed else greatest), _name(x)]
        operators.append(ast.LtE() if i.lower_closed else ast.Lt())
    if math.isfinite(i.upper):
        least, greatest = equal_range(i.upper)
        terms = terms or [_name(x)]
        terms.append(ast.Constant(greatest if i.upper_closed else least))
        operators.append(ast.LtE() if i.upper_closed else ast.Lt())
    return ast.Compare(terms[0], operators, terms[1:])


def _name(name: str, context: ast.expr_context | None = None) -> ast.Name:
    return ast.Name(name, context or ast.Load())


def _all_of(conditions: list[ast.expr]) -> ast.expr:
    return conditions[0] if len(conditions) == 1 else ast.BoolOp(ast.And(), conditions)


def _any_of(conditions: list[ast.expr]) -> ast.expr:
    if not conditions:
        return ast.Constant(False)
    return conditions[0] if len(conditions) == 1 else ast.BoolOp(ast.Or(), conditions)
