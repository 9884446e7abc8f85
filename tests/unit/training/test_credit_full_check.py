"""The check of contributions on all rows gives what the row-by-row algorithm gives."""

from __future__ import annotations

import numpy as np

from engine.export.families import open_source
from engine.export.pairwise import interventional_contributions
from engine.export.trees import Forest
from models.training.full_check import contributions_of_all


def test_shared_answers_change_nothing() -> None:
    import lightgbm

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3_000, 5)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    bad = (np.nan_to_num(rows[:, 0]) + rng.normal(size=len(rows)) > 0.5).astype(np.uint8)
    model = lightgbm.LGBMClassifier(n_estimators=12, max_depth=4, n_jobs=1, verbose=-1, random_state=0).fit(rows, bad)
    forest = open_source(model).read()
    assert isinstance(forest, Forest)
    reference = rows[:200]
    direct = interventional_contributions(forest, rows, reference)
    assert np.abs(contributions_of_all(forest, rows, reference) - direct).max() < 1e-12
    assert np.abs(direct).max() > 0.01
