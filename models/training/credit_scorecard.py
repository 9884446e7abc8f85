"""credit_scorecard: the probability that a consumer defaults, by a weight-of-evidence scorecard.

Run as `python -m models.training.credit_scorecard`. Deterministic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.export import WoeScorecard
from engine.scoring.manifest import Calibration
from models.training import card, consumer, woe
from models.training.data import CONSUMER_FEATURES, Table, load_consumers
from models.training.inputs import CONSUMER_INPUTS, SCALING
from models.training.metrics import Labels, Scorer, cross_validate, platt_ece
from models.training.publish import Release, publish, release

MONOTONE = [one.monotone for one in CONSUMER_INPUTS]

SPEC = consumer.spec(
    id="credit_scorecard",
    title="Consumer credit: probability of default, scorecard",
    limitations=consumer.LIMITS
    + " Missing past-due counts were learned from 269 rows whose counts are unexplained codes, more than half of "
    "them bad, so that a missing count costs many points. A policy should refer an applicant without a credit file, "
    "not decline on this score.",
)


def scorecard(rows: NDArray[np.float32], bad: Labels) -> WoeScorecard:
    """The scorecard of these rows."""
    return woe.train(rows, bad, CONSUMER_FEATURES, MONOTONE)


def _trainer(rows: NDArray[np.float32], bad: Labels) -> Scorer:
    return scorecard(rows, bad).raw


def main(run: Release | None = None, table: Table | None = None) -> None:
    """Train, export, draw and write the card."""
    run = run or release()
    table = table or load_consumers()
    print("credit_scorecard: in cross-validation", flush=True)
    found = cross_validate(table.features, table.bad, _trainer, "scorecard")
    after_platt = platt_ece(found, table.bad)
    model = scorecard(table.features, table.bad)
    done = publish(model, SPEC, table, consumer.figures(found), run, calibration=Calibration(method="none"))
    folder = run.out / SPEC.id
    consumer.draw_all(done, SPEC, table, found, folder)
    sections = [
        ("Scorecard", _bins(model)),
        (
            "Performance",
            card.cross_validation_table({"scorecard": found}) + "\n\n![ROC](plots/roc.png) ![KS](plots/ks.png)",
        ),
        ("Calibration", consumer.calibration_text(found, after_platt)),
        ("Age", consumer.age_text(done, table)),
        ("Drift", consumer.DRIFT),
    ]
    card.write(done, SPEC, table, sections, folder / "card.md")


def _bins(model: WoeScorecard) -> str:
    """Every bin with its WOE and what it costs or gives in points, as an analyst reads a scorecard."""
    lines = ["| input | bin | WOE (positive is riskier) | points |", "|---|---|---|---|"]
    for feature in model.features:
        edges = ["", *(f"{cut:.6g}" for cut in feature.cuts), ""]
        for at, weight in enumerate(feature.woe):
            low, high = edges[at], edges[at + 1]
            name = f"{low} to below {high}" if low and high else f"below {high}" if high else f"{low} and more"
            lines.append(_line(feature.name, name if low or high else "any", weight, feature.coefficient))
        lines.append(_line(feature.name, "missing", feature.woe_missing, feature.coefficient))
    return (
        "Bins start as quantiles and are merged until each keeps to the sign of its input, holds 1 % of the rows or "
        "2,000, and differs from its neighbours by more than chance; a logistic regression weighs them. Points are "
        "those that a bin adds to an average applicant's.\n\n" + "\n".join(lines)
    )


def _line(feature: str, name: str, weight: float, coefficient: float) -> str:
    return f"| `{feature}` | {name} | {weight:+.3f} | {-weight * coefficient * SCALING.points_per_logit:+.0f} |"


if __name__ == "__main__":
    main()
