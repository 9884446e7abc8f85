"""WOE scorecards: a typed description, its JSON form, and the reference implementation that the exported graph is
checked against.

raw = intercept + sum over features of coefficient * woe(bin of the value), in log-odds of the bad event.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WOE_FORMAT = "assay.woe_scorecard/1"


@dataclass(frozen=True, slots=True)
class WoeFeature:
    """One feature of a scorecard.

    cuts: ascending; bin i holds the values with cuts[i-1] <= x < cuts[i], so there are len(cuts) + 1 bins.
    woe: one value per bin, in the order of the bins. woe_missing: the bin of missing values (NaN).
    coefficient: the weight of the logistic regression on this feature's WOE.
    """

    name: str
    cuts: tuple[float, ...]
    woe: tuple[float, ...]
    woe_missing: float
    coefficient: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "cuts", tuple(float(c) for c in self.cuts))
        object.__setattr__(self, "woe", tuple(float(w) for w in self.woe))
        if len(self.woe) != len(self.cuts) + 1:
            raise ValueError(f"{self.name}: {len(self.cuts)} cuts make {len(self.cuts) + 1} bins, not {len(self.woe)}")
        if any(a >= b for a, b in zip(self.cuts, self.cuts[1:], strict=False)):
            raise ValueError(f"{self.name}: cuts must ascend")
        numbers = (*self.cuts, *self.woe, self.woe_missing, self.coefficient)
        if not np.isfinite(np.asarray(numbers, np.float64)).all():
            raise ValueError(f"{self.name}: every number must be finite")

    def term(self, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """coefficient * woe for each value; NaN takes the missing bin."""
        wide = values.astype(np.float64)
        bins = np.searchsorted(np.asarray(self.cuts, np.float64), wide, side="right")
        woe = np.asarray(self.woe, np.float64)[np.minimum(bins, len(self.cuts))]
        return self.coefficient * np.where(np.isnan(wide), self.woe_missing, woe)


@dataclass(frozen=True, slots=True)
class WoeScorecard:
    """A scorecard: features in the order of the input columns, and the intercept."""

    features: tuple[WoeFeature, ...]
    intercept: float

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("a scorecard needs at least one feature")
        if not np.isfinite(self.intercept):
            raise ValueError("the intercept must be finite")

    def contributions(self, rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """[n, features]: coefficient * woe of every feature, not centred."""
        return np.column_stack([f.term(rows[:, i]) for i, f in enumerate(self.features)])

    def raw(self, rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """[n]: log-odds of the bad event."""
        return self.intercept + np.asarray(self.contributions(rows).sum(axis=1), np.float64)

    def to_json(self) -> str:
        """The scorecard as one JSON document."""
        return json.dumps({"format": WOE_FORMAT, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> WoeScorecard:
        """Read what `to_json` wrote. Raises ValueError when it is something else."""
        try:
            doc = json.loads(text)
            if doc["format"] != WOE_FORMAT:
                raise ValueError(f"format is {doc['format']!r}, not {WOE_FORMAT!r}")
            return cls(tuple(WoeFeature(**f) for f in doc["features"]), float(doc["intercept"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a WOE scorecard: {error}") from error

    @classmethod
    def load(cls, path: Path) -> WoeScorecard:
        """Read a scorecard's JSON file."""
        return cls.from_json(path.read_text(encoding="utf-8"))
