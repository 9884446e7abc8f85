"""Is the exported graph the model? The comparison of a graph's answers with the training library's, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import Problem
from engine.export.bins import calibrated_logit, scaled_points, sigmoid
from engine.export.float32 import Float64Array
from engine.export.session import Answer
from engine.export.trees import BoolArray, IntArray
from engine.scoring.manifest import Calibration, ExportCheck, Scaling

TOP = 4


@dataclass(frozen=True)
class Truth:
    """What must come out, in float64. contributions [k, F] belong to the rows `contribution_rows` [k]."""

    raw: Float64Array
    contributions: Float64Array
    contribution_rows: IntArray
    base: float


@dataclass(frozen=True)
class Verification:
    """Largest absolute differences, and how often the four main reasons agree.

    rows: compared in raw, probability, points and additivity. contribution_rows: compared in every contribution.
    additivity_max_abs: of base + sum of contributions against the library's raw score, over all rows.
    top4_agreement: share of `contribution_rows` whose four largest adverse contributions are the same features in the
    same order; top4_ties: the part of it where the order differs among values that are equal within the tolerance.
    points_max_abs: in points, reported and bounded by what the tolerance on raw allows.
    """

    rows: int
    contribution_rows: int
    raw_max_abs: float
    probability_max_abs: float
    points_max_abs: float
    contribution_max_abs: float
    additivity_max_abs: float
    top4_agreement: float
    top4_ties: float
    tolerance: float

    def problems(self, file: str) -> list[Problem]:
        """One problem for each difference above the tolerance, and for reasons that differ."""
        found = []
        for name in ("raw", "probability", "contribution", "additivity"):
            worst = getattr(self, f"{name}_max_abs")
            if not worst <= self.tolerance:
                found.append(
                    Problem(
                        file,
                        name,
                        f"differs from the training library by {worst:.3g}, above {self.tolerance:g}",
                        "Train on float32 values, or fewer trees; then export again.",
                    )
                )
        if self.top4_agreement < 1.0:
            found.append(
                Problem(
                    file,
                    "reasons",
                    f"the four main contributions agree on {self.top4_agreement:.4%} of rows only",
                    "Report this: contributions within the tolerance cannot change their order by more than a tie.",
                )
            )
        return found

    def check(self) -> ExportCheck:
        """The part that the manifest carries."""
        return ExportCheck(
            rows=self.rows,
            contribution_rows=self.contribution_rows,
            raw_max_abs=self.raw_max_abs,
            probability_max_abs=self.probability_max_abs,
            contribution_max_abs=self.contribution_max_abs,
            top4_agreement=self.top4_agreement,
            tolerance=self.tolerance,
        )


def compare(
    answer: Answer, truth: Truth, calibration: Calibration, scaling: Scaling | None, tolerance: float
) -> Verification:
    """Measure an answer against the truth."""
    logit = calibrated_logit(truth.raw, calibration)
    phi = answer.contributions.astype(np.float64)
    ordered = phi[truth.contribution_rows]
    same, tied = top_agreement(ordered, truth.contributions, tolerance)
    points = 0.0
    if scaling is not None and answer.points is not None:
        points = _worst(answer.points, scaled_points(logit, scaling))
    return Verification(
        rows=len(truth.raw),
        contribution_rows=len(truth.contribution_rows),
        raw_max_abs=_worst(answer.raw, truth.raw),
        probability_max_abs=_worst(answer.probability, sigmoid(logit)),
        points_max_abs=points,
        contribution_max_abs=_worst(ordered, truth.contributions),
        additivity_max_abs=_worst(truth.base + phi.sum(axis=1), truth.raw),
        top4_agreement=float((same | tied).mean()),
        top4_ties=float((tied & ~same).mean()),
        tolerance=tolerance,
    )


def _worst(got: np.ndarray, wanted: Float64Array) -> float:
    """The largest absolute difference; a NaN anywhere makes it NaN, which is above every tolerance."""
    return float(np.max(np.abs(got.astype(np.float64) - wanted), initial=0.0))


def top_agreement(got: Float64Array, wanted: Float64Array, tolerance: float) -> tuple[BoolArray, BoolArray]:
    """([n] same, [n] tied): do the ordered lists of the four largest positive contributions agree?

    Contributions that are not positive are no reasons and are left out of both lists. `tied` says that wherever the
    lists differ, the true contributions of the two features are within twice the tolerance.
    """
    top = min(TOP, got.shape[1])
    mine = np.argsort(-got, axis=1, kind="stable")[:, :top]
    theirs = np.argsort(-wanted, axis=1, kind="stable")[:, :top]
    got_adverse = np.take_along_axis(got, mine, axis=1) > 0
    wanted_adverse = np.take_along_axis(wanted, theirs, axis=1) > 0
    same = ((mine == theirs) & (got_adverse == wanted_adverse)) | (~got_adverse & ~wanted_adverse)
    value_of_mine = np.maximum(np.take_along_axis(wanted, mine, axis=1), 0.0)
    value_of_theirs = np.maximum(np.take_along_axis(wanted, theirs, axis=1), 0.0)
    close = np.abs(value_of_mine - value_of_theirs) <= 2 * tolerance
    return same.all(axis=1), (same | close).all(axis=1)
