"""credit_ebm: the probability that a consumer defaults, by an explainable boosting machine.

Run as `python -m models.training.credit_ebm`. Deterministic: one process, seed 0.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.scoring.manifest import Calibration
from models.training import card, consumer
from models.training.data import CONSUMER_FEATURES, Table, load_consumers
from models.training.inputs import CONSUMER_INPUTS, SCALING
from models.training.metrics import Floats, Labels, Scorer, cross_validate, platt_ece
from models.training.publish import Release, publish, release
from models.training.woe import MIN_MISSING_ROWS

# Pairs of inputs without a constraint only: the library keeps no pair of a constrained input, as its surface would not
# keep to the sign. Ten free pairs and no constraints would raise the AUC to that of the boosted trees.
FREE = [at for at, one in enumerate(CONSUMER_INPUTS) if one.monotone == 0]
PAIRS = [(a, b) for a in FREE for b in FREE if a < b]

SPEC = consumer.spec(
    id="credit_ebm",
    title="Consumer credit: probability of default, explainable boosting machine",
    limitations=consumer.LIMITS
    + " Missing past-due counts were learned from 269 rows whose counts are unexplained codes, more than half of "
    "them bad, so that a missing count costs many points. A policy should refer an applicant without a credit file, "
    "not decline on this score.",
)


def ebm(rows: NDArray[np.float32], bad: Labels) -> Any:
    """One curve an input, three pairs, four bags."""
    from interpret.glassbox import ExplainableBoostingClassifier

    model = ExplainableBoostingClassifier(
        feature_names=list(CONSUMER_FEATURES),
        feature_types=["continuous"] * len(CONSUMER_FEATURES),
        interactions=PAIRS,
        monotone_constraints=[one.monotone for one in CONSUMER_INPUTS],
        max_bins=256,
        max_leaves=3,
        outer_bags=4,
        n_jobs=1,
        random_state=0,
    )
    with warnings.catch_warnings():
        # It warns that its own graphs leave missing values out; the card shows them.
        warnings.filterwarnings("ignore", message="Missing values detected")
        model.fit(rows, bad)
    # A missing value that hardly any row has is scored as an average one, not by what became of those few.
    for at, scores in enumerate(model.term_scores_[: rows.shape[1]]):
        if np.isnan(rows[:, at]).sum() < MIN_MISSING_ROWS:
            scores[0] = 0.0
    return model


def _trainer(rows: NDArray[np.float32], bad: Labels) -> Scorer:
    model = ebm(rows, bad)

    def score(held: NDArray[np.float32]) -> Floats:
        return np.asarray(model.decision_function(held), np.float64)

    return score


def main(run: Release | None = None, table: Table | None = None) -> None:
    """Train, export, draw and write the card."""
    run = run or release()
    table = table or load_consumers()
    print("credit_ebm: in cross-validation", flush=True)
    found = cross_validate(table.features, table.bad, _trainer, "EBM")
    after_platt = platt_ece(found, table.bad)
    model = ebm(table.features, table.bad)
    done = publish(model, SPEC, table, consumer.figures(found), run, calibration=Calibration(method="none"))
    folder = run.out / SPEC.id
    consumer.draw_all(done, SPEC, table, found, folder)
    pairs = ", ".join(f"`{CONSUMER_FEATURES[a]}` with `{CONSUMER_FEATURES[b]}`" for a, b in PAIRS)
    sections = [
        (
            "Terms",
            f"One curve an input, under the constraints above, and three pairs of unconstrained inputs ({pairs}). A "
            "pair's value is shared half to each of its inputs.\n\n" + _curves(model),
        ),
        (
            "Performance",
            card.cross_validation_table({"EBM": found}) + "\n\n![ROC](plots/roc.png) ![KS](plots/ks.png)",
        ),
        ("Calibration", consumer.calibration_text(found, after_platt)),
        ("Age", consumer.age_text(done, table)),
        ("Drift", consumer.DRIFT),
    ]
    card.write(done, SPEC, table, sections, folder / "card.md")


def _curves(model: Any) -> str:
    """The ends of every curve and the score of a missing value, in points."""
    lines = ["| input | lowest bin | highest bin | missing |", "|---|---|---|---|"]
    for name, scores in zip(CONSUMER_FEATURES, model.term_scores_, strict=False):
        missing, low, high = (-float(scores[at]) * SCALING.points_per_logit for at in (0, 1, -2))
        lines.append(f"| `{name}` | {low:+.0f} | {high:+.0f} | {missing:+.0f} |")
    return "Points that the curves add, at their ends and for a missing value:\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
