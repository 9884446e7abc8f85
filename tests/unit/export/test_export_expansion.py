"""The expanded trees, run in ONNX Runtime, give the Shapley values of the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.export.cells import Cells
from engine.export.expand import expand
from engine.export.pairwise import interventional_contributions
from engine.export.trees import Condition, Forest
from tests.unit.export.export_cases import (
    brute_interventional,
    brute_path_dependent,
    forests,
    rows,
    run,
    walk,
)

# Leaves are up to 2, three trees: float32 sums of a few such numbers.
CLOSE = 3e-6


@st.composite
def cases(draw: st.DrawFn) -> tuple[Forest, np.ndarray, np.ndarray]:
    forest = draw(forests())
    return forest, draw(rows(forest.n_features)), draw(rows(forest.n_features))


@settings(max_examples=120, deadline=None)
@given(cases())
def test_the_graph_gives_interventional_shapley_values(case: tuple[Forest, np.ndarray, np.ndarray]) -> None:
    forest, x, reference = case
    answer = run(expand(forest, reference, interventional=True), x)
    wanted = np.array([brute_interventional(forest, row, reference) for row in x])
    np.testing.assert_allclose(answer.contributions, wanted, atol=CLOSE)


@settings(max_examples=120, deadline=None)
@given(cases())
def test_the_graph_gives_path_dependent_values_less_their_reference_mean(
    case: tuple[Forest, np.ndarray, np.ndarray],
) -> None:
    forest, x, reference = case
    answer = run(expand(forest, reference, interventional=False), x)
    mean = np.mean([brute_path_dependent(forest, row) for row in reference], axis=0)
    wanted = np.array([brute_path_dependent(forest, row) for row in x]) - mean
    np.testing.assert_allclose(answer.contributions, wanted, atol=CLOSE)


@settings(max_examples=120, deadline=None)
@given(cases(), st.booleans())
def test_raw_is_the_walk_through_the_trees(case: tuple[Forest, np.ndarray, np.ndarray], wide: bool) -> None:
    forest, x, reference = case
    answer = run(expand(forest, reference, interventional=True), x, wide=wide)
    wanted = [forest.base + sum(t.value[walk(forest, t, row)] for t in forest.trees) for row in x]
    np.testing.assert_allclose(answer.raw, wanted, atol=CLOSE)
    np.testing.assert_allclose(forest.raw(x), wanted, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(cases(), st.booleans())
def test_base_is_the_mean_raw_of_the_reference_and_contributions_add_up(
    case: tuple[Forest, np.ndarray, np.ndarray], interventional: bool
) -> None:
    forest, x, reference = case
    # Path-dependent values add up only where training cover is known everywhere.
    if not interventional and any((t.cover <= 0).any() for t in forest.trees):
        return
    ensemble = expand(forest, reference, interventional=interventional)
    assert ensemble.base == pytest.approx(forest.raw(reference).mean(), abs=1e-9)
    answer = run(ensemble, x)
    np.testing.assert_allclose(ensemble.base + answer.contributions.sum(axis=1), forest.raw(x), atol=CLOSE)
    np.testing.assert_allclose(run(ensemble, reference).contributions.mean(axis=0), 0.0, atol=CLOSE)


@settings(max_examples=80, deadline=None)
@given(cases())
def test_the_second_algorithm_agrees_with_the_definition(case: tuple[Forest, np.ndarray, np.ndarray]) -> None:
    forest, x, reference = case
    wanted = np.array([brute_interventional(forest, row, reference) for row in x])
    np.testing.assert_allclose(interventional_contributions(forest, x, reference), wanted, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(forests(max_trees=1, max_depth=4), st.data())
def test_every_row_finds_the_cell_of_its_own_answers(forest: Forest, data: st.DataObject) -> None:
    conditions = list(dict.fromkeys(c for p in forest.trees[0].paths() for c, _, _ in p.steps))
    if not conditions:
        return
    cells = Cells(conditions)
    x = data.draw(rows(forest.n_features, min_size=8, max_size=8))
    met = np.column_stack([forest.answers(c, x) for c in conditions])
    known = {tuple(a) for a in cells.answers.tolist()}
    assert all(tuple(a) in known for a in met.tolist())


def test_cells_leave_out_what_cannot_happen() -> None:
    below_1, below_3 = Condition(0, 1.0, nan_left=False), Condition(0, 3.0, nan_left=False)
    assert sorted(Cells([below_3, below_1]).answers.tolist()) == [[False, False], [True, False], [True, True]]


def test_a_missing_value_keeps_a_cell_that_no_number_reaches() -> None:
    # NaN answers yes to x <= 1 and no to x <= 3, which no number does.
    below_1, below_3 = Condition(0, 1.0, nan_left=True), Condition(0, 3.0, nan_left=False)
    assert [True, False] in Cells([below_1, below_3]).answers.tolist()
