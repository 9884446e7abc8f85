"""credit_pd: the probability that a consumer defaults, by boosted symmetric trees under monotone constraints.

Run as `python -m models.training.credit_pd`. Deterministic: one thread, seed 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.scoring.manifest import Calibration
from models.training import card, consumer
from models.training.data import Table, load_consumers
from models.training.inputs import CONSUMER_INPUTS
from models.training.metrics import CrossValidation, Floats, Labels, Scorer, cross_validate, platt_ece
from models.training.publish import Release, publish, release

MONOTONE = [one.monotone for one in CONSUMER_INPUTS]


def catboost(rows: NDArray[np.float32], bad: Labels) -> Any:
    """The model that ships: 300 symmetric trees of depth 6. A missing value stands at the end of the scale that
    `Input.missing_is` names, because CatBoost's constraints hold over missing values too."""
    from catboost import CatBoostClassifier

    highest = [f"{at}:nan_mode=Max" for at, one in enumerate(CONSUMER_INPUTS) if one.missing_is == "high"]
    return CatBoostClassifier(
        iterations=300,
        depth=6,
        learning_rate=0.1,
        l2_leaf_reg=3,
        monotone_constraints=MONOTONE,
        per_float_feature_quantization=highest,
        thread_count=1,
        random_seed=0,
        verbose=0,
        allow_writing_files=False,
    ).fit(rows, bad)


def lightgbm(rows: NDArray[np.float32], bad: Labels) -> Any:
    """The other candidate: 300 trees of depth 4, the same constraints."""
    from lightgbm import LGBMClassifier

    return LGBMClassifier(
        n_estimators=300,
        max_depth=4,
        num_leaves=16,
        learning_rate=0.05,
        min_child_samples=50,
        reg_lambda=5.0,
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.8,
        monotone_constraints=MONOTONE,
        monotone_constraints_method="advanced",
        deterministic=True,
        force_row_wise=True,
        n_jobs=1,
        random_state=0,
        verbose=-1,
    ).fit(rows, bad)


def _catboost_trainer(rows: NDArray[np.float32], bad: Labels) -> Scorer:
    model = catboost(rows, bad)

    def score(held: NDArray[np.float32]) -> Floats:
        return np.asarray(model.predict(held, prediction_type="RawFormulaVal", thread_count=1), np.float64)

    return score


def _lightgbm_trainer(rows: NDArray[np.float32], bad: Labels) -> Scorer:
    model = lightgbm(rows, bad)

    def score(held: NDArray[np.float32]) -> Floats:
        return np.asarray(model.booster_.predict(held, raw_score=True, num_threads=1), np.float64)

    return score


SPEC = consumer.spec(
    id="credit_pd",
    title="Consumer credit: probability of default, boosted trees",
    limitations=consumer.LIMITS
    + " Missing past-due counts were learned from 269 rows whose counts are unexplained codes, more than half of "
    "them bad: a missing count stands for the worst one. A policy should refer an applicant without a credit "
    "file, not decline on this score.",
)


MISSING = (
    "CatBoost's constraints hold over missing values too, so each stands at one end of its scale. Past-due counts: the "
    "highest, as the rows that lack them were bad more often than not. Income and age: the highest, as rows without "
    "an income were bad less often than average, and as an unknown age is not held against anybody. Everything else: "
    "the lowest. So leaving out an income never costs points: a policy must ask for what it needs."
)


def main(run: Release | None = None, table: Table | None = None) -> None:
    """Train, export, draw and write the card."""
    run = run or release()
    table = table or load_consumers()
    print("credit_pd: CatBoost and LightGBM in cross-validation", flush=True)
    chosen = cross_validate(table.features, table.bad, _catboost_trainer, "CatBoost")
    other = cross_validate(table.features, table.bad, _lightgbm_trainer, "LightGBM")
    after_platt = platt_ece(chosen, table.bad)
    model = catboost(table.features, table.bad)
    done = publish(model, SPEC, table, consumer.figures(chosen), run, calibration=Calibration(method="none"))
    folder = run.out / SPEC.id
    consumer.draw_all(done, SPEC, table, chosen, folder)
    sections = [
        ("Performance", _performance(chosen, other)),
        ("Calibration", consumer.calibration_text(chosen, after_platt)),
        ("Missing values", MISSING),
        ("Age", consumer.age_text(done, table)),
        ("Drift", consumer.DRIFT),
    ]
    card.write(done, SPEC, table, sections, folder / "card.md")


def _performance(chosen: CrossValidation, other: CrossValidation) -> str:
    table = card.cross_validation_table(
        {"CatBoost, 300 symmetric trees of depth 6": chosen, "LightGBM, 300 trees of depth 4": other}
    )
    return (
        f"{table}\n\nBoth under the same constraints. They separate alike; CatBoost ships because its symmetric trees "
        "carry their exact contributions at no more nodes than the score itself needs, so that score and reasons "
        "together cost about half of what they cost with LightGBM (`python -m models.training.compare` measures "
        "both).\n\n![ROC](plots/roc.png) ![KS](plots/ks.png)"
    )


if __name__ == "__main__":
    main()
