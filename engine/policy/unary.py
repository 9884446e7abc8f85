"""The cell language of decision tables, read into sets of values.

A cell of a JDM table holds a unary test of its column: `>= 600`, `[600..700)`, `'A', 'B'`, `!= null`, empty for any.
`parse_cell` reads the part of that language that analysts write nearly always (comparisons, intervals, lists, equality
of numbers, texts and booleans, null, joined by commas, `and`, `or`, `in`, `not in`) into a `CellTest`: the set of
values that pass. Sets can be joined, compared and compiled; nothing of the cell's text survives. Cells beyond it
(functions, arithmetic, `$`) give None and are left to zen.

The meaning is zen's, including null: a comparison or interval met by null is an error, which fails the row unless an
earlier part of the cell has already passed. Hence `null, [1..5]` accepts null and `[1..5], null` does not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from engine.policy.cell_test import ANY, CellTest, Interval, both, either, equal, negate, within

# zen holds numbers as decimals and rounds doubles to about 16 digits. A literal of at most 15 digits and ordinary
# size is exactly one decimal and is met by its nearest double; others go to zen.
MAX_DIGITS = 15
MAX_SIZE = 1e15
MIN_SIZE = 1e-9

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:0|[1-9]\d*)(?:\.\d+)?(?=\.\.|[\s,\])]|$))
        |'(?P<single>[^'\\\n]*)'|"(?P<double>[^"\\\n]*)"
        |(?P<word>null|true|false|and|or|in|not)\b(?!\()
        |(?P<mark>>=|<=|==|!=|>|<|\.\.|\[|\]|\(|\)|,))""",
    re.VERBOSE,
)


def _compared(op: str, value: object) -> CellTest:
    if op in ("==", "!="):
        return equal(value) if op == "==" else negate(equal(value))
    if not isinstance(value, float):
        raise _Beyond
    if op in (">", ">="):
        return within(Interval(value, op == ">=", math.inf, False))
    return within(Interval(-math.inf, False, value, op == "<="))


class _Beyond(Exception):
    """The cell is outside the subset."""


def parse_literal(text: str) -> tuple[bool, float | bool | str | None]:
    """Read a constant: a number, a quoted text, true, false, null or nothing. Gives (True, value), or (False, None)
    where the text is not a constant."""
    try:
        tokens = _tokens(text)
    except _Beyond:
        return False, None
    if not tokens:
        return True, None
    if len(tokens) == 1 and tokens[0][0] == "value":
        value = tokens[0][1]
        assert value is None or isinstance(value, float | bool | str)
        return True, value
    return False, None


def _number(text: str) -> float:
    digits = text.lstrip("-").replace(".", "").lstrip("0")
    value = float(text)
    if len(digits) > MAX_DIGITS or not (value == 0 or MIN_SIZE <= abs(value) < MAX_SIZE):
        raise _Beyond
    return value + 0.0


def _tokens(text: str) -> list[tuple[str, object]]:
    tokens: list[tuple[str, object]] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at, end)
        if found is None:
            raise _Beyond
        at = found.end()
        kind = found.lastgroup
        word = found[kind] if kind else ""
        if kind == "number":
            tokens.append(("value", _number(word)))
        elif kind in ("single", "double"):
            tokens.append(("value", word))
        elif word in ("null", "true", "false"):
            tokens.append(("value", {"null": None, "true": True, "false": False}[word]))
        else:
            tokens.append(("mark", word))
    return tokens


_Join = Callable[[CellTest, CellTest], CellTest]


class _Parser:
    def __init__(self, tokens: list[tuple[str, object]]) -> None:
        self._tokens = tokens
        self._at = 0

    def _peek(self) -> tuple[str, object]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _take(self, *marks: str) -> str:
        kind, word = self._peek()
        if kind == "mark" and word in marks:
            self._at += 1
            return str(word)
        return ""

    def _need(self, *marks: str) -> str:
        got = self._take(*marks)
        if not got:
            raise _Beyond
        return got

    def _value(self) -> object:
        kind, value = self._peek()
        if kind != "value":
            raise _Beyond
        self._at += 1
        return value

    def _joined(self, part: Callable[[], CellTest], mark: str, join: _Join) -> CellTest:
        test = part()
        while self._take(mark):
            test = join(test, part())
        return test

    def cell(self) -> CellTest:
        # zen binds commas, `and` and `or` in an order of its own that few readers would guess; who mixes them in one
        # cell gets zen's answer.
        if len(self._joints()) > 1:
            raise _Beyond
        test = self._joined(self._or, ",", either)
        if self._at != len(self._tokens):
            raise _Beyond
        return test

    def _joints(self) -> set[object]:
        depth = 0
        joints: set[object] = set()
        for kind, word in self._tokens:
            if kind == "mark":
                depth += (word in ("[", "(")) - (word in ("]", ")"))
                if word in ("and", "or") or (word == "," and depth == 0):
                    joints.add(word)
        return joints

    def _or(self) -> CellTest:
        return self._joined(self._and, "or", either)

    def _and(self) -> CellTest:
        return self._joined(self._atom, "and", both)

    def _atom(self) -> CellTest:
        if self._take("not"):
            self._need("in")
            return negate(self._collection())
        if self._take("in"):
            return self._collection()
        op = self._take(">=", "<=", ">", "<", "==", "!=")
        if not op:
            kind, word = self._peek()
            return self._collection() if kind == "mark" and word in ("[", "(") else equal(self._value())
        return _compared(op, self._value())

    def _collection(self) -> CellTest:
        opening = self._need("[", "(")
        first = self._value()
        if self._take(".."):
            last = self._value()
            closing = self._need("]", ")")
            if not isinstance(first, float) or not isinstance(last, float):
                raise _Beyond
            return within(Interval(first, opening == "[", last, closing == "]"))
        if opening == "(":
            raise _Beyond
        test = equal(first)
        while self._take(","):
            test = either(test, equal(self._value()))
        self._need("]")
        return test


def parse_cell(text: str) -> CellTest | None:
    """Read one cell. Gives the set of values that pass, or None where the cell is beyond the subset (which says nothing
    of whether zen understands it)."""
    try:
        tokens = _tokens(text)
        if not tokens:
            return ANY
        test = _Parser(tokens).cell()
    except _Beyond:
        return None
    return replace(test, null=bool(test.null))
