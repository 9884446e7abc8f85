"""Trains a small credit model on made-up rows and writes what `assay model export` needs. Needs `make setup-dev`.

    .venv/bin/python examples/train_and_export.py            # into build/my_model
    .venv/bin/python examples/train_and_export.py DIRECTORY

It prints the export command. The inputs have the names, types and units of the shipped feature catalogue, and the
reasons are codes of the shipped reasons.yaml, so the model fits a copy of the shipped bundle: docs/models.md goes on
from here.
"""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import lightgbm
import numpy as np

FEATURES = ["revolving_utilization", "past_due_90_count", "debt_ratio", "monthly_income"]

DRAFT = Template("""\
id: my_model                       # the name of the model in bundle.yaml
version: 1.0.0
component: credit                  # or fraud
title: A first model of my own
target: 90 days or more past due within two years
created: "$created"
features:                          # the columns, in the order of training
  - {name: revolving_utilization, type: float, unit: ratio, monotone: 1}
  - {name: past_due_90_count, type: integer, unit: count, monotone: 1}
  - {name: debt_ratio, type: float, unit: ratio, monotone: 1}
  - {name: monthly_income, type: float, unit: USD/month, monotone: -1}
reference: {name: all_applicants, description: The first 1000 training rows}
scaling: {anchor_points: 660, anchor_odds: 30, points_to_double: 40, points_min: 300, points_max: 850}
reasons:                           # codes of the bundle's reasons.yaml
  - {code: CR_UTILIZATION, features: [revolving_utilization]}
  - {code: CR_DELINQUENCY, features: [past_due_90_count]}
  - {code: CR_DEBT_BURDEN, features: [debt_ratio]}
  - {code: CR_INCOME, features: [monthly_income]}
training:
  source: made-up rows
  licence: Apache-2.0
  sha256: $sha256
  rows: $rows
  bad_rate: $bad_rate
  target: 90 days or more past due within two years
  window: none, the rows are made up
metrics: {auc: $auc}               # whatever you measured, by name
licence: Apache-2.0
intended_use: To show the way from training to a bundle
limitations: Made-up rows, no evidence of anything
""")


def applicants(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [count, 4], bad 0 or 1 [count]). The kind of rows that training data has: skewed, with gaps."""
    random = np.random.default_rng(seed)
    utilization = random.beta(0.8, 1.6, count)
    past_due = random.poisson(0.15, count)
    debt_ratio = random.gamma(2.0, 0.18, count)
    income = random.lognormal(8.6, 0.5, count)
    logit = -3.6 + 2.2 * utilization + 1.1 * past_due + 1.3 * debt_ratio - 0.5 * np.log(income / 5400)
    bad = random.random(count) < 1 / (1 + np.exp(-logit))
    unknown = random.random(count) < 0.1
    debt_ratio[unknown] = income[unknown] = np.nan
    # Served values are float32: train on the same, and no row can land on the other side of a threshold.
    return np.column_stack([utilization, past_due, debt_ratio, income]).astype(np.float32), bad.astype(int)


def area_under_curve(score: np.ndarray, bad: np.ndarray) -> float:
    """The share of pairs of a bad and a good row that the score puts in the right order."""
    higher, lower = score[bad == 1][:, None], score[bad == 0][None, :]
    return float((higher > lower).mean() + 0.5 * (higher == lower).mean())


def main() -> None:
    """Trains, writes four files, prints the command."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/my_model")
    folder.mkdir(parents=True, exist_ok=True)
    rows, bad = applicants(8_000, seed=1)
    parameters = {
        "objective": "binary",
        "max_depth": 3,
        "learning_rate": 0.1,
        "min_data_in_leaf": 50,
        "monotone_constraints": [1, 1, 1, -1],
        "num_threads": 1,
        "seed": 1,
        "verbose": -1,
    }
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, bad, feature_name=FEATURES), 60)
    unseen, outcome = applicants(4_000, seed=2)

    booster.save_model(folder / "model.txt")
    np.save(folder / "rows.npy", rows)
    np.save(folder / "reference.npy", rows[:1_000])
    draft = DRAFT.substitute(
        created=datetime.now(UTC).date().isoformat(),
        sha256=hashlib.sha256((folder / "rows.npy").read_bytes()).hexdigest(),
        rows=len(rows),
        bad_rate=round(float(bad.mean()), 4),
        auc=round(area_under_curve(np.asarray(booster.predict(unseen)), outcome), 4),
    )
    (folder / "draft.yaml").write_text(draft, encoding="utf-8")
    print(
        f".venv/bin/assay model export {folder}/model.txt --draft {folder}/draft.yaml "
        f"--reference {folder}/reference.npy --rows {folder}/rows.npy --out {folder}/model.onnx"
    )


if __name__ == "__main__":
    main()
