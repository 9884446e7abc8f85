"""The figures of reports, held against scikit-learn, scipy, the definitions written out, and published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from engine.outcomes import metrics
from engine.outcomes.metrics import Floats

_SHAPES = ["plain", "many ties", "few bad", "two values"]


@pytest.fixture(params=_SHAPES)
def sample(request: pytest.FixtureRequest) -> tuple[Floats, Floats]:
    """Scores and labels."""
    rng = np.random.default_rng(_SHAPES.index(request.param))
    labels = (rng.random(3000) < (0.004 if request.param == "few bad" else 0.2)).astype(np.float64)
    scores = rng.normal(size=3000) + labels
    if request.param == "many ties":
        scores = scores.round()
    if request.param == "two values":
        scores = (scores > 0.5).astype(np.float64)
    return scores, labels


def test_the_auc_is_scikit_learns(sample: tuple[Floats, Floats]) -> None:
    scores, labels = sample
    found = metrics.auc(scores, labels)
    assert found is not None
    assert found.value == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert found.gini == pytest.approx(2 * sk.roc_auc_score(labels, scores) - 1, abs=1e-12)
    assert found.low is not None and found.high is not None
    assert 0 < found.low < found.value < found.high < 1


def test_the_interval_is_delongs_with_its_components_written_out(sample: tuple[Floats, Floats]) -> None:
    scores, labels = sample
    scores, labels = scores[:700], labels[:700]
    bad, good = scores[labels == 1][:, None], scores[labels == 0][None, :]
    wins = (bad > good) + 0.5 * (bad == good)
    value = wins.mean()
    variance = wins.mean(axis=1).var(ddof=1) / wins.shape[0] + wins.mean(axis=0).var(ddof=1) / wins.shape[1]
    half = 1.959963984540054 * math.sqrt(variance) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    found = metrics.auc(scores, labels)
    assert found is not None
    assert found.low == pytest.approx(1 / (1 + math.exp(half - centre)), abs=1e-9)
    assert found.high == pytest.approx(1 / (1 + math.exp(-half - centre)), abs=1e-9)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    truth = float(stats.norm.cdf(1 / math.sqrt(2)))
    covered = 0
    for _ in range(400):
        labels = np.repeat([1.0, 0.0], [40, 160])
        found = metrics.auc(rng.normal(size=200) + labels, labels)
        assert found is not None and found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_ks_is_scipys_and_parts_where_it_says(sample: tuple[Floats, Floats]) -> None:
    scores, labels = sample
    found = metrics.ks(scores, labels)
    assert found is not None
    bad, good = scores[labels == 1], scores[labels == 0]
    assert found.value == pytest.approx(stats.ks_2samp(bad, good).statistic, abs=1e-12)
    assert abs((bad <= found.at).mean() - (good <= found.at).mean()) == pytest.approx(found.value, abs=1e-12)
    fpr, tpr, _ = sk.roc_curve(labels, scores)
    assert found.value == pytest.approx(np.abs(tpr - fpr).max(), abs=1e-12)


def test_the_roc_curve_is_scikit_learns(sample: tuple[Floats, Floats]) -> None:
    scores, labels = sample
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    assert np.allclose(metrics.roc(scores, labels, 10**6), np.column_stack((fpr, tpr)), atol=1e-12)
    thin = metrics.roc(scores, labels, 50)
    assert len(thin) <= 50
    assert thin[0] == (0.0, 0.0) and thin[-1] == (1.0, 1.0)
    curves = metrics.ks_curves(scores, labels, 10**6)
    assert max(abs(bad - good) for _, bad, good in curves) == pytest.approx(metrics.ks(scores, labels).value)  # type: ignore[union-attr]


def test_brier_and_calibration_are_the_plain_sums() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.random(5000) ** 3
    labels = (rng.random(5000) < probabilities).astype(np.float64)
    assert metrics.brier(probabilities, labels) == pytest.approx(sk.brier_score_loss(labels, probabilities), abs=1e-12)
    bands = metrics.calibration(probabilities, labels)
    assert [one.count for one in bands] == [500] * 10
    assert sum(one.bads for one in bands) == labels.sum()
    order = np.argsort(probabilities)
    for place, one in enumerate(bands):
        inside = order[500 * place : 500 * (place + 1)]
        assert one.predicted == pytest.approx(probabilities[inside].mean())
        assert one.observed == pytest.approx(labels[inside].mean())
        assert one.low == probabilities[inside].min() and one.high == probabilities[inside].max()
        assert one.observed_low <= one.observed < one.observed_high
    covered = sum(one.observed_low <= one.predicted <= one.observed_high for one in bands)
    assert covered >= 8, "the probabilities are true, so the intervals hold most of them"
    error = metrics.calibration_error(bands)
    assert error == pytest.approx(np.mean([abs(one.predicted - one.observed) for one in bands]))


def test_equal_probabilities_share_a_band() -> None:
    probabilities = np.repeat([0.1, 0.2], [90, 10])
    bands = metrics.calibration(probabilities, np.zeros(100))
    assert [(one.low, one.high, one.count) for one in bands] == [(0.1, 0.1, 90), (0.2, 0.2, 10)]


@pytest.mark.parametrize(
    ("bads", "count", "low", "high"),
    [
        # scipy.stats.binomtest(...).proportion_ci(method="wilson"), and the ends.
        (1, 10, 0.017876213095072896, 0.40415002679523837),
        (81, 263, 0.25529056216937, 0.36618774278022),
        (0, 20, 0.0, 0.16113012549493322),
        (20, 20, 0.8388698745050667, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilsons_interval_is_the_known_one(bads: int, count: int, low: float, high: float) -> None:
    assert metrics.wilson(bads, count) == pytest.approx((low, high), abs=1e-4)
    if count:
        interval = stats.binomtest(bads, count).proportion_ci(method="wilson")
        assert metrics.wilson(bads, count) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_the_psi_of_known_shares_is_the_known_sum_and_chance_depends_on_the_sizes() -> None:
    base = np.repeat([1.0, 2.0, 3.0], [2000, 3000, 5000])
    now = np.repeat([1.0, 2.0, 3.0], [3000, 3000, 4000])
    expected = 0.1 * math.log(0.3 / 0.2) + -0.1 * math.log(0.4 / 0.5)
    found = metrics.psi(base, now)
    assert found is not None
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert metrics.psi(base, base) is not None and metrics.psi(base, base).value == pytest.approx(0.0)  # type: ignore[union-attr]
    gone = metrics.psi(base, np.full(100, 9.0))
    assert gone is not None and math.isfinite(gone.value) and gone.value > gone.chance
    rng = np.random.default_rng(2)
    below = 0
    for _ in range(400):
        one = metrics.psi(rng.normal(size=400), rng.normal(size=200))
        assert one is not None
        below += one.value <= one.chance
    assert 0.9 <= below / 400 <= 0.99


def test_the_quantile_of_chi_squared_is_about_right() -> None:
    for freedom in (1, 2, 5, 9, 19):
        assert metrics._chi_squared_95(freedom) == pytest.approx(stats.chi2.ppf(0.95, freedom), rel=0.03)


@pytest.mark.parametrize("labels", [[], [1.0], [1.0, 1.0], [0.0, 0.0, 0.0]])
def test_without_bad_and_good_there_is_no_figure(labels: list[float]) -> None:
    scores, flags = np.arange(float(len(labels))), np.array(labels)
    assert metrics.auc(scores, flags) is None
    assert metrics.ks(scores, flags) is None
    assert metrics.roc(scores, flags) == []
    assert metrics.ks_curves(scores, flags) == []
    assert (metrics.brier(scores, flags) is None) == (not labels)
    assert metrics.psi(scores, np.empty(0)) is None
    assert metrics.calibration_error([]) is None


def test_a_perfect_score_has_no_interval() -> None:
    assert metrics.auc(np.array([1.0, 2, 3, 4]), np.array([0.0, 0, 1, 1])) == metrics.Auc(1.0, None, None)
    assert metrics.auc(np.array([1.0, 2]), np.array([1.0, 0])) == metrics.Auc(0.0, None, None)
