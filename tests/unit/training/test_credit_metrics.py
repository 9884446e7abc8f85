"""The measures against slow definitions of themselves."""

from __future__ import annotations

import numpy as np
import pytest

from engine.export import quantile_bins, sigmoid
from models.training import metrics


def _scored(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.normal(-1, 1, 400).round(1)  # rounded: many ties
    return (rng.random(400) < sigmoid(score)).astype(np.uint8), score


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs(seed: int) -> None:
    bad, score = _scored(seed)
    apart = score[bad == 1][:, None] - score[bad == 0][None, :]
    assert metrics.auc(bad, score) == pytest.approx(((apart > 0) + 0.5 * (apart == 0)).mean(), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_ks_is_the_largest_gap(seed: int) -> None:
    bad, score = _scored(seed)
    gaps = [abs((score[bad == 1] <= cut).mean() - (score[bad == 0] <= cut).mean()) for cut in score]
    assert metrics.ks(bad, score) == pytest.approx(max(gaps), abs=1e-12)


def test_ece_of_perfect_bands_is_none() -> None:
    probability = np.repeat([0.1, 0.3], 100)
    bad = np.concatenate([np.arange(100) < 10, np.arange(100) < 30]).astype(np.uint8)
    assert metrics.ece(bad, probability, 2) == pytest.approx(0.0)
    assert metrics.ece(bad, probability + 0.05, 2) == pytest.approx(0.05)


def test_psi_is_zero_on_training_and_grows_with_a_shift() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, 10_000)
    values[:500] = np.nan
    reference = quantile_bins(values)
    assert metrics.psi(reference, values) == pytest.approx(0.0, abs=1e-9)
    shifted = [metrics.psi(reference, values + shift) for shift in (0.1, 0.3, 0.6)]
    assert 0 < shifted[0] < shifted[1] < shifted[2]
    assert metrics.psi(reference, np.nan_to_num(values)) > 0.1


def test_platt_recovers_a_distortion() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(0, 2, 200_000)
    bad = (rng.random(len(raw)) < sigmoid(0.7 * raw - 1.2)).astype(np.uint8)
    assert metrics.platt(raw, bad) == pytest.approx((0.7, -1.2), abs=0.03)
