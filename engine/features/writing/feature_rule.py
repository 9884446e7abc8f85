"""What one feature takes, and how a writer's value becomes the number in its slot. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Literal, NamedTuple

import numpy as np

from engine.features.row_schema import Kind
from engine.features.writing.checks import microseconds_of
from engine.features.writing.outcome import CleaningRule, Rejected, RejectReason

# Whole numbers up to here are exact as doubles, and so are their neighbours.
EXACT_INT_MAX = 2.0**53
# The moments that can be written down: years 1 to 9999.
_MOMENT_MIN_S, _MOMENT_MAX_S = -62_135_596_800.0, 253_402_300_799.999_999
_LARGEST = float(np.finfo(np.float64).max)
# A whole number that was converted from another unit is still whole when it is this near, relatively.
_NEARLY = 1e-9


class Money(NamedTuple):
    """An amount in whole units of a currency (ISO 4217)."""

    amount: float
    currency: str


class Cleaned(NamedTuple):
    """The number in the slot (NaN: NULL), and what cleaning did to get there."""

    number: float
    rules: tuple[CleaningRule, ...] = ()


NULL = Cleaned(math.nan)


@dataclass(frozen=True, slots=True)
class FeatureRule:
    """One feature's type, range and cleaning, resolved.

    lower and upper: the range, finite; ranged: whether the catalogue states one; factors: by unit, what a value in it
    is multiplied with; codes: the number of each category; mapped: the number of each other name of a category.
    """

    name: str
    kind: Kind
    unit: str = ""
    lower: float = -_LARGEST
    upper: float = _LARGEST
    ranged: bool = False
    outside: Literal["reject", "drop", "clip"] = "reject"
    factors: Mapping[str, float] = field(default_factory=dict)
    codes: Mapping[str, float] = field(default_factory=dict)
    mapped: Mapping[str, float] = field(default_factory=dict)
    unknown: Literal["reject", "drop"] = "reject"

    @property
    def is_number(self) -> bool:
        """Whether it holds a number that may have a unit."""
        return self.kind in (Kind.FLOAT64, Kind.INT64)

    def factor(self, unit: str) -> float | None:
        """What values in this unit are multiplied with; None for the feature's own. Raises Rejected for others."""
        if unit == self.unit:
            return None
        if (factor := self.factors.get(unit)) is not None:
            return factor
        known = [name for name in (self.unit, *self.factors) if name]
        if not self.is_number or not known:
            raise Rejected(RejectReason.UNKNOWN_UNIT, "the feature has no unit")
        raise Rejected(RejectReason.UNKNOWN_UNIT, f"the unit is none of {', '.join(known)}")

    def clean(self, value: object, unit: str | None = None) -> Cleaned:
        """The number for a value: None, or as the kind asks: float64 a number or Money; int64 a whole one; boolean a
        bool; category a str; timestamp an aware datetime. unit: that the value is in; None for the feature's own.

        The number is in range, or NaN. Raises Rejected for all else.
        """
        if value is None:
            return NULL
        kind = self.kind
        if unit is not None and not self.is_number:
            self.factor(unit)
        if kind is Kind.BOOLEAN:
            if not isinstance(value, bool | np.bool_):
                raise Rejected(RejectReason.WRONG_TYPE, "must be true or false")
            return Cleaned(float(value))
        if kind is Kind.CATEGORY:
            return self._category(value)
        if kind is Kind.TIMESTAMP:
            if not isinstance(value, datetime):
                raise Rejected(RejectReason.WRONG_TYPE, "must be a moment")
            return self._within(microseconds_of(value) / 1e6, ())
        if isinstance(value, Money):
            unit = self._money_unit(value.currency, unit)
            value = value.amount
        factor = None if unit is None else self.factor(unit)
        number = _number(value)
        rules: tuple[CleaningRule, ...] = ()
        if factor is not None:
            number, rules = number * factor, (CleaningRule.UNIT_CONVERTED,)
        if kind is Kind.INT64:
            number = _whole(number, value, converted=factor is not None)
        return self._within(number, rules)

    def _category(self, value: object) -> Cleaned:
        if not isinstance(value, str):
            raise Rejected(RejectReason.WRONG_TYPE, "must be a category's name")
        code = self.codes.get(value)
        if code is not None:
            return Cleaned(code)
        code = self.mapped.get(value)
        if code is not None:
            return Cleaned(code, (CleaningRule.CATEGORY_MAPPED,))
        if self.unknown == "drop":
            return Cleaned(math.nan, (CleaningRule.CATEGORY_DROPPED,))
        listed = list(self.codes)
        more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
        raise Rejected(RejectReason.UNKNOWN_CATEGORY, f"must be one of {', '.join(listed[:20])}{more}")

    def _within(self, number: float, rules: tuple[CleaningRule, ...]) -> Cleaned:
        if self.lower <= number <= self.upper:
            return Cleaned(number, rules)
        if self.outside == "drop":
            return Cleaned(math.nan, (*rules, CleaningRule.OUT_OF_RANGE_DROPPED))
        if self.outside == "clip":
            nearest = self.lower if number < self.lower else self.upper
            return Cleaned(nearest, (*rules, CleaningRule.OUT_OF_RANGE_CLIPPED))
        if not self.ranged:
            raise Rejected(RejectReason.OUT_OF_RANGE, "is too large for its type")
        unit = f" {self.unit}" if self.unit else ""
        raise Rejected(RejectReason.OUT_OF_RANGE, f"must be between {self.lower:g} and {self.upper:g}{unit}")

    def _money_unit(self, currency: str, unit: str | None) -> str:
        """Money brings its unit along: the feature's own, with this currency in place of its own."""
        own, per = self.unit[:3], self.unit[3:]
        if not self.is_number or len(own) < 3 or not own.isupper() or (per and per[0] != "/"):
            raise Rejected(RejectReason.WRONG_TYPE, "is no amount of money; send a number")
        if unit is not None and unit != currency + per:
            raise Rejected(RejectReason.UNKNOWN_UNIT, "the currency is not that of the unit stated")
        return currency + per


def _number(value: object) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating | Decimal):
        raise Rejected(RejectReason.WRONG_TYPE, "must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf if value > 0 else -math.inf
    except ValueError:  # a decimal that is a signalling NaN
        number = math.nan
    if not math.isfinite(number) and not isinstance(value, int):
        raise Rejected(RejectReason.NOT_FINITE, "must be a finite number, not NaN or infinity")
    return number


def _whole(number: float, value: object, *, converted: bool) -> float:
    """The number if it is whole, as given or as converted. One that is too large to be exact becomes infinite, which
    is outside every range."""
    if isinstance(value, int | np.integer) and not converted and abs(int(value)) > EXACT_INT_MAX:
        return math.copysign(math.inf, number)
    if abs(number) > EXACT_INT_MAX:
        return math.copysign(math.inf, number)
    whole = float(round(number))
    if whole != number and not (converted and abs(whole - number) <= _NEARLY * max(1.0, abs(number))):
        raise Rejected(RejectReason.WRONG_TYPE, "must be a whole number")
    return whole


def range_of(kind: Kind, stated: tuple[float, float] | None) -> tuple[float, float]:
    """The range that holds for a feature: the one stated, inside what its kind can hold. For whole numbers its ends are
    whole, so that what is clipped stays whole; a range without a whole number comes out empty (lower > upper)."""
    lower, upper = stated or (-math.inf, math.inf)
    if kind is Kind.INT64:
        lower, upper = max(lower, -EXACT_INT_MAX), min(upper, EXACT_INT_MAX)
        return float(math.ceil(lower)), float(math.floor(upper))
    if kind is Kind.TIMESTAMP:
        return max(lower, _MOMENT_MIN_S), min(upper, _MOMENT_MAX_S)
    return max(lower, -_LARGEST), min(upper, _LARGEST)
