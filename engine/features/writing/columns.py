"""Cleans a column at a time: numbers that need no attention in one sweep, everything else one by one.

The sweep lets a value pass only where the rule for one value would give just this number and no other; whatever it
cannot tell goes to that rule, which therefore stays the only place that says what is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.domain.facts import FloatArray
from engine.features.row_schema import Kind
from engine.features.writing.feature_rule import EXACT_INT_MAX, FeatureRule
from engine.features.writing.outcome import CleaningRule, Rejected

BoolArray = NDArray[np.bool_]


class Column(Protocol):
    """One column of a file, for one feature."""

    def sweep(self, rule: FeatureRule) -> tuple[FloatArray, BoolArray]:
        """The numbers of all cells before any unit is converted, NaN for those to look at one by one; and which cells
        are NULL. Categories come as their codes, booleans as 0 and 1, moments as seconds."""

    def cell(self, index: int, rule: FeatureRule) -> object:
        """One cell as `FeatureRule.clean` takes it. Raises Rejected."""


def clean_column(
    rule: FeatureRule,
    column: Column,
    unit: str | None,
    out: FloatArray,
    reject: Callable[[int, Rejected], None],
) -> dict[CleaningRule, NDArray[np.int64]]:
    """Puts the numbers of a column into `out` (rows,), NaN for NULL and for what is rejected. Gives the rows that each
    cleaning rule was applied to.

    reject: told the row and the cause of every cell that cannot be taken. Raises Rejected when the unit itself is not
    known.
    """
    factor = None if unit is None else rule.factor(unit)
    numbers, null = column.sweep(rule)
    if factor is not None:
        numbers = numbers * factor
    good = (numbers >= rule.lower) & (numbers <= rule.upper)
    if rule.kind is Kind.INT64:
        good &= (numbers == np.floor(numbers)) & (np.abs(numbers) < EXACT_INT_MAX)
    good &= ~null
    out[:] = np.where(good, numbers, np.nan)
    applied: defaultdict[CleaningRule, list[int]] = defaultdict(list)
    for index in np.flatnonzero(~good & ~null).tolist():
        try:
            cleaned = rule.clean(column.cell(index, rule), unit)
        except Rejected as cause:
            reject(index, cause)
            continue
        out[index] = cleaned.number
        for one in cleaned.rules:
            applied[one].append(index)
    rows = {one: np.array(indices, dtype=np.int64) for one, indices in applied.items()}
    if factor is not None:
        one_by_one = rows.get(CleaningRule.UNIT_CONVERTED, np.empty(0, dtype=np.int64))
        rows[CleaningRule.UNIT_CONVERTED] = np.concatenate([np.flatnonzero(good), one_by_one])
    return rows
