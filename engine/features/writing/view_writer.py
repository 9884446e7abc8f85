"""Makes rows of one view from what writers have. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.domain.facts import FloatArray
from engine.features.row_schema import RowSchema
from engine.features.store import Row
from engine.features.writing.columns import BoolArray, Column, clean_column
from engine.features.writing.feature_rule import FeatureRule
from engine.features.writing.outcome import CleaningRule, Fault, Rejected, RejectReason, value_path
from engine.features.writing.pack import RowPacker

# How often each rule was applied, by feature.
Repairs = Counter[tuple[str, CleaningRule]]


@dataclass(frozen=True, slots=True)
class CleanColumns:
    """Columns that went through the rules. numbers: (rows, features), NaN for NULL; faults: by row; applied: the rows
    that each rule was applied to, by feature."""

    numbers: FloatArray
    faults: dict[int, list[Fault]]
    applied: Mapping[tuple[str, CleaningRule], NDArray[np.int64]]

    def repairs(self, taken: BoolArray) -> Repairs:
        """How often each rule was applied to the rows that are taken."""
        counts = {key: int(np.count_nonzero(taken[rows])) for key, rows in self.applied.items()}
        return Counter({key: count for key, count in counts.items() if count})


@dataclass(frozen=True, slots=True)
class ViewWriter:
    """One view as writers see it. key: of an entity's row. Counted views have no writer: the engine keeps them."""

    name: str
    entity: str
    schema: RowSchema
    rules: tuple[FeatureRule, ...]
    key: Callable[[str], bytes]
    by_name: Mapping[str, FeatureRule] = field(init=False, repr=False)
    packer: RowPacker = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {rule.name: rule for rule in self.rules})
        object.__setattr__(self, "packer", RowPacker(self.schema))

    def clean(
        self, values: Mapping[str, object], units: Mapping[str, str], faults: list[Fault], repairs: Repairs
    ) -> list[float]:
        """The numbers of one row, in the order of the slots, NaN for NULL.

        values: by feature, as `FeatureRule.clean` takes them; one that is left out is NULL. units: by feature, where
        they are not its own. What is wrong is added to `faults`, and then the numbers are of no use.
        """
        for name in (*values, *(name for name in units if name not in values)):
            if name not in self.by_name:
                faults.append(Fault(value_path(name), RejectReason.UNKNOWN_FEATURE, "is no feature of this view"))
        numbers = []
        for rule in self.rules:
            number = math.nan
            if (value := values.get(rule.name)) is not None:
                try:
                    number, applied = rule.clean(value, units.get(rule.name))
                except Rejected as cause:
                    faults.append(cause.at(value_path(rule.name)))
                else:
                    repairs.update((rule.name, one) for one in applied)
            numbers.append(number)
        return numbers

    def clean_columns(
        self,
        columns: Mapping[str, Column],
        units: Mapping[str, str],
        rows: int,
        path_of: Callable[[str], str] = value_path,
    ) -> CleanColumns:
        """The same for many rows at once. columns: by feature; one that is left out is NULL in every row; path_of: how
        faults name the place of a feature.

        Raises Rejected for a unit that is not known; KeyError for a column that is no feature of this view.
        """
        numbers = np.full((rows, len(self.rules)), np.nan, order="F")
        faults: dict[int, list[Fault]] = {}
        applied: dict[tuple[str, CleaningRule], NDArray[np.int64]] = {}
        places = {rule.name: place for place, rule in enumerate(self.rules)}
        for name, column in columns.items():
            place, path = places[name], path_of(name)

            def reject(row: int, cause: Rejected, path: str = path) -> None:
                faults.setdefault(row, []).append(cause.at(path))

            found = clean_column(self.rules[place], column, units.get(name), numbers[:, place], reject)
            applied.update({(name, rule): indices for rule, indices in found.items()})
        return CleanColumns(numbers, faults, applied)

    def pack(self, ids: Sequence[str], event_times_us: NDArray[np.int64], numbers: FloatArray) -> list[Row]:
        """Rows for `FeatureStore.write`. ids must be ids; numbers: (rows, features), clean."""
        values = self.packer.pack(numbers, event_times_us)
        return list(map(Row, map(self.key, ids), values, event_times_us.tolist()))
