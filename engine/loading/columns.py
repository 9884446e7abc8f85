"""The columns of files: text cells (CSV), Python values (JSON lines) and numbers (Parquet)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import NoneType

import numpy as np

from engine.domain.facts import FloatArray
from engine.features.row_schema import Kind
from engine.features.writing.columns import BoolArray, Column
from engine.features.writing.feature_rule import FeatureRule
from engine.loading.cells import TRUTH, Cells

__all__ = ["Column", "NumberColumn", "TextColumn", "ValueColumn"]

_NAN = math.nan
# As programs write it; other spellings are looked at one by one.
_TRUTH = {form: float(truth) for text, truth in TRUTH.items() for form in (text, text.upper(), text.capitalize())}
_NUMBERS = (Kind.FLOAT64, Kind.INT64)
_PLAIN = {float, int, NoneType}


class TextColumn:
    """Cells of text, as CSV has them."""

    __slots__ = ("_cells", "_texts")

    def __init__(self, texts: Sequence[str], cells: Cells) -> None:
        self._texts, self._cells = texts, cells

    def sweep(self, rule: FeatureRule) -> tuple[FloatArray, BoolArray]:
        """See `Column.sweep`."""
        texts, nulls = self._texts, self._cells.nulls
        null = np.zeros(len(texts), dtype=np.bool_)
        if any(text in texts for text in nulls):
            null[:] = [text in nulls for text in texts]
        if rule.kind in _NUMBERS:
            return _numbers_of(texts, null), null
        if rule.kind is Kind.CATEGORY:
            return np.array([rule.codes.get(text, _NAN) for text in texts]), null
        if rule.kind is Kind.BOOLEAN:
            return np.array([_TRUTH.get(text, _NAN) for text in texts]), null
        return np.full(len(texts), np.nan), null

    def cell(self, index: int, rule: FeatureRule) -> object:
        """See `Column.cell`."""
        return self._cells.text(self._texts[index], rule.kind)


def _numbers_of(texts: Sequence[str], null: BoolArray) -> FloatArray:
    """The numbers in texts; NaN for what `float` takes and is no number to us (1_000, digits of other scripts)."""
    joined = "".join(texts)
    if not joined.isascii() or "_" in joined:
        return np.full(len(texts), np.nan)
    try:
        if null.any():
            return np.array(
                [_NAN if absent else float(text) for text, absent in zip(texts, null.tolist(), strict=True)]
            )
        return np.array(list(map(float, texts)))
    except ValueError:
        return np.array([_float(text) for text in texts])


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return _NAN


class ValueColumn:
    """Cells that are Python values, as JSON and Arrow give them."""

    __slots__ = ("_cells", "_values")

    def __init__(self, values: Sequence[object], cells: Cells) -> None:
        self._values, self._cells = values, cells

    def sweep(self, rule: FeatureRule) -> tuple[FloatArray, BoolArray]:
        """See `Column.sweep`. Types are compared exactly: True is no number, and 1 is not True."""
        values = self._values
        types = set(map(type, values))
        null = np.zeros(len(values), dtype=np.bool_)
        if NoneType in types:
            null[:] = [value is None for value in values]
        if rule.kind in _NUMBERS:
            if types <= _PLAIN:
                with suppress(OverflowError):
                    return np.array(values, dtype=np.float64), null  # None becomes NaN
            return np.array([_plain_number(value) for value in values]), null
        if rule.kind is Kind.CATEGORY:
            codes = rule.codes
            return np.array([codes.get(value, _NAN) if type(value) is str else _NAN for value in values]), null
        if rule.kind is Kind.BOOLEAN:
            return np.array([float(value) if type(value) is bool else _NAN for value in values]), null
        return np.full(len(values), np.nan), null

    def cell(self, index: int, rule: FeatureRule) -> object:
        """See `Column.cell`."""
        return self._cells.typed(self._values[index], rule.kind)


def _plain_number(value: object) -> float:
    if type(value) is float:
        return value
    # Beyond this a whole number is not exact as a double, and the rule for one value must look at it.
    if type(value) is int and -(2**53) < value < 2**53:
        return float(value)
    return _NAN


class NumberColumn:
    """Cells that came as numbers. kinds: of the features whose values they can be as they stand; for others, and for
    what is out of the ordinary, `value` gives one cell as a Python value."""

    __slots__ = ("_cells", "_kinds", "_null", "_numbers", "_value")

    def __init__(
        self,
        numbers: FloatArray,
        null: BoolArray,
        kinds: frozenset[Kind],
        value: Callable[[int], object],
        cells: Cells,
    ) -> None:
        self._numbers, self._null, self._kinds, self._value, self._cells = numbers, null, kinds, value, cells

    def sweep(self, rule: FeatureRule) -> tuple[FloatArray, BoolArray]:
        """See `Column.sweep`."""
        if rule.kind in self._kinds:
            return self._numbers, self._null
        return np.full(len(self._null), np.nan), self._null

    def cell(self, index: int, rule: FeatureRule) -> object:
        """See `Column.cell`."""
        return self._cells.typed(self._value(index), rule.kind)
