"""Scorecards and EBM-like sums as graphs: the bins, the missing bin, pairs, and centring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.export import WoeFeature, WoeScorecard
from engine.export.additive import AdditiveModel, Term
from engine.export.additive_trees import additive_ensemble
from engine.export.float32 import ceil_float32
from engine.export.read_woe import WoeSource
from tests.unit.export.export_cases import run

finite = st.floats(-3, 3)


@st.composite
def cards(draw: st.DrawFn) -> WoeScorecard:
    features = []
    for i in range(draw(st.integers(1, 3))):
        cuts = sorted(draw(st.sets(st.floats(-10, 10), max_size=5)))
        woe = draw(st.lists(finite, min_size=len(cuts) + 1, max_size=len(cuts) + 1))
        features.append(WoeFeature(f"f{i}", tuple(cuts), tuple(woe), draw(finite), draw(finite)))
    return WoeScorecard(tuple(features), draw(finite))


def near(cuts: list[float]) -> list[float]:
    at = np.array([*cuts, 0.0], np.float32)
    up, down = np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))
    return [*np.concatenate([at, up, down]).tolist(), float("nan"), -1e30, 1e30]


@settings(max_examples=100, deadline=None)
@given(cards(), st.data())
def test_a_scorecard_graph_is_the_scorecard(card: WoeScorecard, data: st.DataObject) -> None:
    cells = [st.sampled_from(near(list(f.cuts))) for f in card.features]
    x = np.array(data.draw(st.lists(st.tuples(*cells), min_size=1, max_size=20)), np.float32)
    reference = np.array(data.draw(st.lists(st.tuples(*cells), min_size=1, max_size=5)), np.float32)
    ensemble = additive_ensemble(WoeSource(card).read(), reference)
    answer = run(ensemble, x)
    np.testing.assert_allclose(answer.raw, card.raw(x), atol=1e-5)
    centred = card.contributions(x) - card.contributions(reference).mean(axis=0)
    np.testing.assert_allclose(answer.contributions, centred, atol=1e-5)
    assert ensemble.base == pytest.approx(card.raw(reference).mean(), abs=1e-9)


def test_the_woe_bins_are_as_documented() -> None:
    card = WoeScorecard((WoeFeature("income", (10.0, 20.0), (1.0, 2.0, 4.0), 8.0, 0.5),), 1.0)
    x = np.array([[9.99], [10.0], [19.99], [20.0], [np.nan], [np.inf]], np.float32)
    assert card.raw(x).tolist() == [1.5, 2.0, 2.0, 3.0, 5.0, 3.0]


def test_a_pair_is_shared_half_to_each_feature_and_keeps_its_missing_bins() -> None:
    scores = np.arange(12, dtype=np.float64).reshape(3, 4)  # (missing, <1, >=1) x (missing, <1, <2, >=2)
    term = Term((1, 0), (ceil_float32([1.0]), ceil_float32([1.0, 2.0])), scores)
    model = AdditiveModel(3, (term,), 0.25)
    # Columns: feature 0 is the second axis, feature 1 the first, feature 2 is unused.
    x = np.array([[np.nan, np.nan, 0], [0, 0, 0], [2, 1, 0], [1, np.nan, 0], [np.nan, 1, 0]], np.float32)
    wanted = np.array([0.0, 5.0, 11.0, 2.0, 8.0])
    reference = x[:1]  # worth nothing, so nothing is subtracted
    answer = run(additive_ensemble(model, reference), x)
    np.testing.assert_allclose(answer.raw, 0.25 + wanted)
    np.testing.assert_allclose(answer.contributions, np.column_stack([wanted / 2, wanted / 2, 0 * wanted]))


def test_a_scorecard_survives_its_json() -> None:
    card = WoeScorecard((WoeFeature("a", (0.1,), (1 / 3, -0.2), 0.0, -1.1),), 0.7)
    assert WoeScorecard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    "text", ["{}", '{"format": "other"}', "[]", '{"format": "assay.woe_scorecard/1", "features": 1}']
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"format|scorecard"):
        WoeScorecard.from_json(text)


@pytest.mark.parametrize(
    ("cuts", "woe"), [((1.0,), (1.0,)), ((2.0, 1.0), (1.0, 1.0, 1.0)), ((1.0,), (1.0, float("nan")))]
)
def test_a_scorecard_that_makes_no_sense_is_refused(cuts: tuple[float, ...], woe: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="f: "):
        WoeFeature("f", cuts, woe, 0.0, 1.0)


def test_a_value_that_moves_nothing_still_differs_from_the_reference() -> None:
    # The missing bins are worth exactly 0, so no leaf writes to these targets; the reference's mean must still count.
    card = WoeScorecard(
        (WoeFeature("a", (1.0,), (0.5, 2.0), 0.0, 1.0), WoeFeature("b", (1.0,), (0.25, 1.0), 0.0, 1.0)), 0.0
    )
    reference = np.array([[0, 0], [2, 2]], np.float32)
    answer = run(additive_ensemble(WoeSource(card).read(), reference), np.full((1, 2), np.nan, np.float32))
    np.testing.assert_allclose(answer.contributions, [[-1.25, -0.625]])
    np.testing.assert_allclose(answer.raw, [0.0], atol=1e-7)
