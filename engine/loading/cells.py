"""What stands in the cells of a file, as the rules of writing take it: text, moments, whole numbers for yes and no."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from engine.features.row_schema import Kind
from engine.features.writing.outcome import Rejected, RejectReason

EpochUnit = Literal["s", "ms", "us"]

_PER_SECOND: dict[str, float] = {"s": 1.0, "ms": 1e3, "us": 1e6}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_is_integer = re.compile(r"[+-]?[0-9]{1,30}").fullmatch
_is_number = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?").fullmatch
_NOT_FINITE = {"nan", "inf", "infinity"}
TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class Cells:
    """How this file writes what can be written in several ways.

    epoch: what plain numbers count since 1970 UTC where a moment is wanted; None: they are no moments. assume_utc:
    whether moments without a time zone are in UTC; otherwise they are refused. nulls: texts that mean NULL, the empty
    one always among them.
    """

    epoch: EpochUnit | None = None
    assume_utc: bool = False
    nulls: frozenset[str] = frozenset({""})

    def moment(self, value: object) -> datetime:
        """A moment as text (RFC 3339), datetime, date or number. Raises Rejected."""
        if isinstance(value, str):
            return self._moment_of_text(value.strip())
        if isinstance(value, datetime):
            return self._zoned(value)
        if isinstance(value, date):
            return self._zoned(datetime(value.year, value.month, value.day))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._moment_of_number(value)
        raise Rejected(RejectReason.WRONG_TYPE, "must be a moment")

    def _moment_of_text(self, text: str) -> datetime:
        if self.epoch is not None and _is_number(text) is not None:
            return self._moment_of_number(int(text) if _is_integer(text) else float(text))
        try:
            return self._zoned(datetime.fromisoformat(text))
        except ValueError:
            hint = "" if _is_number(text) is None else "; say what numbers count with --epoch"
            raise Rejected(RejectReason.WRONG_TYPE, f"must be a moment as RFC 3339 has it{hint}") from None

    def _moment_of_number(self, number: int | float) -> datetime:
        if self.epoch is None:
            raise Rejected(
                RejectReason.WRONG_TYPE, "must be a moment as RFC 3339 has it; say what numbers count with --epoch"
            )
        per_second = _PER_SECOND[self.epoch]
        try:
            # Whole numbers stay whole on their way to microseconds.
            micros = number * int(1e6 / per_second) if isinstance(number, int) else round(number * (1e6 / per_second))
            return _EPOCH + timedelta(microseconds=micros)
        except (OverflowError, ValueError):
            raise Rejected(RejectReason.WRONG_TYPE, "is no moment of the years 1 to 9999") from None

    def _zoned(self, moment: datetime) -> datetime:
        if moment.tzinfo is not None:
            return moment
        if not self.assume_utc:
            raise Rejected(RejectReason.WRONG_TYPE, "must say its time zone; --assume-utc takes UTC where none is said")
        return moment.replace(tzinfo=UTC)

    def typed(self, value: object, kind: Kind) -> object:
        """A value of a typed file (JSON, Parquet) for a feature of this kind. Raises Rejected.

        Moments come as text or numbers, whole numbers stand for categories, and 0 and 1 for no and yes.
        """
        if value is None:
            return None
        if kind is Kind.TIMESTAMP:
            return self.moment(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if kind is Kind.BOOLEAN and value in (0, 1):
                return bool(value)
            if kind is Kind.CATEGORY:
                return str(value)
        return value

    def text(self, text: str, kind: Kind) -> object:
        """A text (CSV) for a feature of this kind; None for NULL. Raises Rejected."""
        stripped = text.strip()
        if stripped in self.nulls:
            return None
        if kind is Kind.CATEGORY:
            return stripped
        if kind is Kind.TIMESTAMP:
            return self._moment_of_text(stripped)
        if kind is Kind.BOOLEAN:
            truth = TRUTH.get(stripped.lower())
            if truth is None:
                raise Rejected(RejectReason.WRONG_TYPE, "must be true, false, yes, no, 1 or 0")
            return truth
        if _is_integer(stripped) is not None:
            return int(stripped)
        if _is_number(stripped) is not None:
            return float(stripped)
        if stripped.lower().lstrip("+-") in _NOT_FINITE:
            return math.nan
        raise Rejected(RejectReason.WRONG_TYPE, "must be a number")
