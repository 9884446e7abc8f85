"""The scorecard trainer: bins that keep their sign, weights that are not negative, and values that mean something."""

from __future__ import annotations

import numpy as np
import pytest

from engine.export import sigmoid
from models.training import woe


def _rows(seed: int, rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """A column that raises the risk in steps and noise, one that is U-shaped, one with missing values."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.gamma(2, 1, rows), rng.normal(0, 1, rows), rng.poisson(0.3, rows)]).astype(np.float32)
    x[rng.random(rows) < 0.1, 2] = np.nan
    logit = -2 + 0.5 * x[:, 0] + 0.6 * x[:, 1] ** 2 + np.where(np.isnan(x[:, 2]), 1.0, 0.4 * np.nan_to_num(x[:, 2]))
    return x, (rng.random(rows) < sigmoid(logit)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_constrained_bins_keep_their_sign(seed: int) -> None:
    rows, bad = _rows(seed)
    card = woe.train(rows, bad, ("up", "free", "count"), (1, 0, 1))
    for feature in (card.features[0], card.features[2]):
        assert len(feature.woe) > 1
        assert np.all(np.diff(feature.woe) >= 0)


def test_free_bins_may_turn() -> None:
    rows, bad = _rows(0)
    free = woe.train(rows, bad, ("up", "free", "count"), (1, 0, 1)).features[1]
    steps = np.diff(free.woe)
    assert steps.min() < 0 < steps.max()


def test_a_sign_against_the_data_leaves_one_bin() -> None:
    rows, bad = _rows(0)
    against = woe.train(rows[:, :1], bad, ("up",), (-1,)).features[0]
    assert len(against.woe) == 1


def test_missing_is_riskier_where_it_was() -> None:
    rows, bad = _rows(0)
    count = woe.train(rows, bad, ("up", "free", "count"), (1, 0, 1)).features[2]
    assert count.woe_missing > count.woe[0]


def test_few_missing_rows_say_nothing() -> None:
    rows, bad = _rows(0)
    rows[:, 2] = np.nan_to_num(rows[:, 2])
    rows[:10, 2], bad[:10] = np.nan, 1
    assert woe.train(rows, bad, ("up", "free", "count"), (1, 0, 1)).features[2].woe_missing == 0.0


def test_mean_probability_is_the_bad_rate() -> None:
    rows, bad = _rows(1)
    card = woe.train(rows, bad, ("up", "free", "count"), (1, 0, 1))
    assert sigmoid(card.raw(rows)).mean() == pytest.approx(bad.mean(), abs=1e-6)
