"""The set of values that pass a cell of a decision table, and what can be done with such sets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Numbers from lower to upper; each end belongs to it or not. Infinite ends are open."""

    lower: float
    lower_closed: bool
    upper: float
    upper_closed: bool

    def contains(self, x: float) -> bool:
        """Whether x lies inside."""
        above = x > self.lower or (self.lower_closed and x == self.lower)
        return above and (x < self.upper or (self.upper_closed and x == self.upper))

    @property
    def empty(self) -> bool:
        """Whether no number lies inside."""
        return self.lower > self.upper or (self.lower == self.upper and not (self.lower_closed and self.upper_closed))


REALS = Interval(-math.inf, False, math.inf, False)


def _union(intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for part in sorted((i for i in intervals if not i.empty), key=lambda i: (i.lower, not i.lower_closed)):
        last = merged[-1] if merged else None
        if last is not None and (
            part.lower < last.upper or (part.lower == last.upper and (part.lower_closed or last.upper_closed))
        ):
            if (part.upper, part.upper_closed) > (last.upper, last.upper_closed):
                merged[-1] = replace(last, upper=part.upper, upper_closed=part.upper_closed)
        else:
            merged.append(part)
    return tuple(merged)


def _complement(intervals: tuple[Interval, ...]) -> tuple[Interval, ...]:
    gaps: list[Interval] = []
    lower, closed = -math.inf, False
    for part in intervals:
        gaps.append(Interval(lower, closed, part.lower, not part.lower_closed and part.lower != -math.inf))
        lower, closed = part.upper, not part.upper_closed and part.upper != math.inf
    gaps.append(Interval(lower, closed, math.inf, False))
    return tuple(g for g in gaps if not g.empty)


@dataclass(frozen=True, slots=True)
class CellTest:
    """The values that pass one cell.

    numbers: disjoint intervals, ascending; booleans; strings: those that pass, or with `others` those that do not;
    null: whether null passes, None while parsing for zen's error; mentions: the kinds of literals in the cell
    ("number", "boolean", "string", "null"), by which a clash with the column's type is found.
    """

    numbers: tuple[Interval, ...] = ()
    booleans: frozenset[bool] = frozenset()
    strings: frozenset[str] = frozenset()
    others: bool = False
    null: bool | None = False
    mentions: frozenset[str] = frozenset()

    def accepts(self, value: object) -> bool:
        """Whether a value (None, bool, int, float or str) passes. Numbers are compared exactly."""
        if value is None:
            return bool(self.null)
        if isinstance(value, bool):
            return value in self.booleans
        if isinstance(value, str):
            return (value in self.strings) != self.others
        assert isinstance(value, int | float)
        return any(i.contains(value) for i in self.numbers)

    @property
    def any(self) -> bool:
        """Whether every value passes."""
        return self == replace(ANY, mentions=self.mentions)

    def bounds(self) -> frozenset[float]:
        """The finite ends of its intervals."""
        return frozenset(b for i in self.numbers for b in (i.lower, i.upper) if math.isfinite(b))


ANY = CellTest((REALS,), frozenset((True, False)), frozenset(), True, True)


def negate(test: CellTest) -> CellTest:
    """The values that do not pass. An error met by null stays one."""
    return CellTest(
        _complement(test.numbers),
        frozenset((True, False)) - test.booleans,
        test.strings,
        not test.others,
        None if test.null is None else not test.null,
        test.mentions,
    )


def either(a: CellTest, b: CellTest) -> CellTest:
    """The values that pass one or the other, tried in this order: null passes b only where a is sure to reject it."""
    if a.others and b.others:
        strings, others = a.strings & b.strings, True
    elif a.others or b.others:
        strings, others = (a.strings - b.strings, True) if a.others else (b.strings - a.strings, True)
    else:
        strings, others = a.strings | b.strings, False
    return CellTest(
        _union(a.numbers + b.numbers),
        a.booleans | b.booleans,
        strings,
        others,
        b.null if a.null is False else a.null,
        a.mentions | b.mentions,
    )


def both(a: CellTest, b: CellTest) -> CellTest:
    """The values that pass both, tried in this order."""
    met = negate(either(negate(a), negate(b)))
    return replace(met, null=b.null if a.null is True else a.null)


def equal(value: object) -> CellTest:
    """The one value itself: None, a bool, a str or a float."""
    if value is None:
        return CellTest(null=True, mentions=frozenset(("null",)))
    if isinstance(value, bool):
        return CellTest(booleans=frozenset((value,)), mentions=frozenset(("boolean",)))
    if isinstance(value, str):
        return CellTest(strings=frozenset((value,)), mentions=frozenset(("string",)))
    assert isinstance(value, float)
    return CellTest((Interval(value, True, value, True),), mentions=frozenset(("number",)))


def within(interval: Interval) -> CellTest:
    """The numbers of an interval; null is an error."""
    return CellTest(_union((interval,)), null=None, mentions=frozenset(("number",)))
