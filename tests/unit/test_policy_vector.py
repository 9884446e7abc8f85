"""What the policy sees of facts and scores."""

from __future__ import annotations

import math

from engine.domain.score import ModelScore, ScoreStatus, no_score
from engine.plan import PolicyVector

VECTOR = PolicyVector(models=2, numbers=(3, 0), flags=(1, 4), categories=((2, ("rent", "own")), (5, ("a", "b"))))


def test_codes_become_what_tables_are_written_in() -> None:
    scored = ModelScore(ScoreStatus.OK, -1.0, 0.25, 700, None)
    given = VECTOR.fill([1.5, 1.0, 1.0, -2.0, 0.0, 0.0], [scored, scored._replace(points=None)])
    assert given == [700.0, 0.25, None, 0.25, -2.0, 1.5, True, False, "own", "a"]
    assert [type(entry) for entry in given] == [float, float, type(None), float, float, float, bool, bool, str, str]


def test_what_is_missing_is_null() -> None:
    given = VECTOR.fill([math.nan] * 6, [no_score(ScoreStatus.FAILED)] * 2)
    assert given == [None] * 10


def test_a_flow_without_models_or_features_has_an_empty_vector() -> None:
    assert PolicyVector(0, (), (), ()).fill([1.0], []) == []
