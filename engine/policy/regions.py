"""Cuts the domain of a column into the few pieces that its cells can tell apart.

Between two neighbouring bounds of a column's cells all values are judged alike, so one value stands for each piece: the
bounds themselves, one value in each gap, each text, and null. Whatever holds for these values holds for the whole
domain, which makes the checks for gaps and overlaps exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from engine.policy.cell_test import CellTest
from engine.policy.slots import SlotSpec

Value = float | bool | str | None
OTHER = "any other text"


def representatives(slot: SlotSpec, cells: Iterable[CellTest | None]) -> tuple[Value, ...]:
    """One value for each piece of a slot's domain, in ascending order, null last."""
    tests = [cell for cell in cells if cell is not None]
    values: list[Value] = []
    if slot.kind == "boolean":
        values += [False, True]
    elif slot.kind == "string":
        named = set().union(*(t.strings for t in tests)) if tests else set()
        values += list(slot.allowed) if slot.allowed else [*sorted(named), OTHER]
    elif slot.values:
        values += list(slot.values)
    else:
        values += _numbers(slot, frozenset().union(*(t.bounds() for t in tests)) if tests else frozenset())
    return (*values, None) if slot.nullable else tuple(values)


def _numbers(slot: SlotSpec, bounds: frozenset[float]) -> list[float]:
    lower = -math.inf if slot.lower is None else slot.lower
    upper = math.inf if slot.upper is None else slot.upper
    ends = {end for end in (lower, upper) if math.isfinite(end)}
    cuts = sorted({b for b in bounds if lower <= b <= upper} | ends)
    if not cuts:
        return [0.0]
    values: list[float] = []
    if lower == -math.inf:
        values.append(math.floor(cuts[0]) - 1.0)
    for left, right in zip(cuts, [*cuts[1:], None], strict=True):
        values.append(left)
        if right is not None:
            between = _between(left, right, slot.integer)
            values += [] if between is None else [between]
    if upper == math.inf:
        values.append(math.ceil(cuts[-1]) + 1.0)
    return [v for v in values if v == int(v)] if slot.integer else values


def _between(left: float, right: float, integer: bool) -> float | None:
    """A round number strictly between two bounds; None where only whole numbers count and there is none."""
    middle = (left + right) / 2
    for digits in range(-int(math.log10(right - left)) - 1, 17):
        rounded = round(middle, digits)
        if left < rounded < right:
            return rounded if not integer or rounded == int(rounded) else _whole(left, right)
    return middle


def _whole(left: float, right: float) -> float | None:
    whole = math.floor(left) + 1.0
    return whole if whole < right else None


def shown(value: Value) -> str:
    """A value as the reader of a problem sees it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'"
    return f"{value:.15g}"
