"""What the three consumer models share: their data, their limits, and the texts of their cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.export import calibrated_logit, sigmoid
from models.training.data import Table
from models.training.inputs import CONSUMER_INPUTS, SCALING
from models.training.metrics import CrossValidation
from models.training.publish import Published, Spec, draw
from models.training.reasons import CONSUMER_REASONS

CUT_OFF = 620.0
BAND = (CUT_OFF, 640.0)

LIMITS = (
    "A demonstration on public data, not a model to lend with: a lender that is not named, no rejected applicants, no "
    "dates (so no test out of time), no loan terms, and no bureau data beyond ten columns. Validate it on your own "
    "applicants, and have counsel check it, before it decides anything."
)

DRIFT = (
    "The data has no dates, so drift cannot be shown on it. The manifest carries the shares of the points and of "
    "every input at training, missing values among them, for drift monitoring: the reference against which live "
    "traffic can be compared."
)


def spec(*, id: str, title: str, limitations: str) -> Spec:
    """A consumer model's description: everything but name and limits is the same for all three."""
    return Spec(
        id=id,
        version="1.0.0",
        title=title,
        target="90 days or more past due on any obligation within two years of the snapshot",
        window="2-year outcomes; published 2011, dates of the rows unknown",
        intended_use="Ranking consumers who apply for credit by their risk of default, and giving the exact reasons, "
        "in a demonstration of a lending decision engine.",
        limitations=limitations,
        excluded=("sex", "marital status", "race and national origin", "residence (none is in the data)"),
        inputs=CONSUMER_INPUTS,
        reasons=CONSUMER_REASONS,
        band=BAND,
    )


def figures(found: CrossValidation) -> dict[str, float]:
    """For the manifest."""
    out = {}
    for metric in ("auc", "ks", "ece20", "brier"):
        out[f"cv_{metric}_mean"] = found.mean(metric)
        out[f"cv_{metric}_sd"] = found.sd(metric)
    return out


def draw_all(done: Published, spec: Spec, table: Table, found: CrossValidation, folder: Path) -> None:
    """The plots, on scores of rows that each fold's model did not see."""
    probability = sigmoid(calibrated_logit(found.raw, done.manifest.calibration))
    draw(done, spec, table, folder / "plots", (table.bad, found.raw), "out of fold", probability)


def calibration_text(found: CrossValidation, after_platt: float) -> str:
    """Whether Platt scaling would help."""
    return (
        f"Trained on the logarithmic loss, the model is calibrated as it stands: ECE over 20 bands of equal size "
        f"{found.text('ece20')} out of fold, {after_platt:.4f} after Platt scaling, so none is applied.\n\n"
        "![Calibration](plots/calibration.png)"
    )


def age_text(done: Published, table: Table) -> str:
    """The stance on age, with what the contributions of the elderly come to."""
    at = table.names.index("age_years")
    elderly = table.features[:, at] >= 62
    points = done.contributions[elderly, at].astype(np.float64) * SCALING.points_per_logit
    return (
        "Age is an input, under the constraint that a higher age never raises the risk. Regulation B, 12 CFR "
        "1002.6(b)(2), allows age in an empirically derived, demonstrably and statistically sound system as long as "
        "the age of an elderly applicant (62 or older) is not given a negative factor or value. Under the constraint "
        "the score of an applicant never falls with age, all else equal. Measured against the reference, the "
        f"contribution of age for the {int(elderly.sum()):,} training rows of 62 or older takes away at most "
        f"{max(float(points.max()), 0.0):.1f} points and gives {-float(points.mean()):.1f} on average, so it does "
        "not become one of their reasons. Where age is a reason for a younger applicant, the notice must say so. A "
        "lender that may not use age (a state's law, another country's) must train without it, and test whether "
        "the inputs that remain stand in for it. Sex, marital status, race and residence are not in the data, so no "
        "test of outcomes by those groups could be made here: make one on your own applicants."
    )
