"""Exactness, on rows that no one has chosen: contributions add up to the score, and reasons to points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.plan import FlowPlan
from engine.reasons.plan import ReasonGroups
from engine.reasons.rank import from_model
from engine.scoring.manifest import Manifest
from engine.scoring.model import Model
from engine.scoring.plan import ModelPlan
from tests.support.bundles import shipped

ROWS = 300


def explained() -> list[tuple[FlowPlan, ModelPlan, ReasonGroups]]:
    """Every explained model of every flow that ships."""
    found = []
    for flow in shipped().plan.flows.values():
        for plan, groups in zip(flow.models, flow.reasons.groups, strict=True):
            if groups is not None:
                found.append((flow, plan, groups))
    return found


CASES = explained()
NAMES = [f"{flow.name} {plan.role}" for flow, plan, _ in CASES]
MODELS = [m for m in shipped().models.values() if m.manifest is not None]


def manifest_of(model: Model) -> Manifest:
    assert model.manifest is not None
    return model.manifest


def random_rows(model: Model, seed: int, count: int = ROWS) -> NDArray[np.float64]:
    """Rows around the golden ones and far beyond them, with missing values where the model knows them."""
    manifest = manifest_of(model)
    source = np.random.default_rng(seed)
    golden = np.array([row.inputs for row in manifest.golden_rows], dtype=np.float64)
    rows = np.empty((count, len(manifest.features)))
    for column, feature in enumerate(manifest.features):
        seen = golden[:, column]
        seen = seen[~np.isnan(seen)]
        if feature.categories:
            rows[:, column] = source.integers(0, len(feature.categories), count)
            continue
        low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
        drawn = source.uniform(low - 0.1 * (high - low), high + 0.5 * (high - low) + 1.0, count)
        picked = source.choice(seen, count) if seen.size else drawn
        rows[:, column] = np.where(source.random(count) < 0.5, picked, drawn)
        if feature.type in ("integer", "boolean"):
            rows[:, column] = np.round(rows[:, column])
        if feature.type == "boolean":
            rows[:, column] = np.clip(rows[:, column], 0, 1)
        if feature.missing == "learned":
            rows[source.random(count) < 0.1, column] = np.nan
    return rows


@pytest.mark.parametrize("model", MODELS, ids=[m.id for m in MODELS])
def test_base_and_contributions_are_the_raw_score_on_random_rows(model: Model) -> None:
    base = manifest_of(model).attribution.base_value
    for score in model.run(random_rows(model, 1)):
        assert score.contributions is not None
        assert base + float(score.contributions.sum(dtype=np.float64)) == pytest.approx(score.raw, abs=1e-4)


@pytest.mark.parametrize("model", MODELS, ids=[m.id for m in MODELS])
def test_probability_and_points_follow_from_the_raw_score(model: Model) -> None:
    manifest = manifest_of(model)
    for score in model.run(random_rows(model, 2)):
        logit = manifest.calibration.slope * score.raw + manifest.calibration.intercept
        assert score.probability == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)
        scaling = manifest.scaling
        if scaling is None:
            assert score.points is None
            continue
        sign = 1.0 if scaling.higher_is == "safer" else -1.0
        points = scaling.anchor_points + sign * scaling.points_per_logit * (-logit - math.log(scaling.anchor_odds))
        assert score.points == pytest.approx(min(max(points, scaling.points_min), scaling.points_max), abs=0.51)


@pytest.mark.parametrize(("flow", "plan", "groups"), CASES, ids=NAMES)
def test_all_groups_together_are_the_distance_to_the_base_in_points(
    flow: FlowPlan, plan: ModelPlan, groups: ReasonGroups
) -> None:
    base = manifest_of(plan.model).attribution.base_value
    for score in plan.model.run(random_rows(plan.model, 3)):
        assert score.contributions is not None
        ordered = score.contributions.take(groups.order).astype(np.float64)
        by_group = np.add.reduceat(ordered, groups.starts) * groups.points_per_raw
        assert by_group.sum() == pytest.approx((score.raw - base) * groups.points_per_raw, abs=0.01)
        # Reasons are the groups that cost points, each with exactly what it cost.
        lost = {groups.codes[i]: v for i, v in enumerate(by_group) if v > 1e-3}
        assert {r.code: r.contribution for r in from_model(groups, score)} == pytest.approx(lost)


@pytest.mark.parametrize(("flow", "plan", "groups"), CASES, ids=NAMES)
def test_every_input_belongs_to_one_group(flow: FlowPlan, plan: ModelPlan, groups: ReasonGroups) -> None:
    assert sorted(groups.order.tolist()) == list(range(len(plan.model.inputs)))
    assert groups.starts[0] == 0
    assert set(groups.codes) <= set(flow.reasons.catalogue)


@pytest.mark.parametrize("model", MODELS, ids=[m.id for m in MODELS])
def test_a_monotone_input_never_moves_the_score_the_wrong_way(model: Model) -> None:
    manifest = manifest_of(model)
    monotone = [(i, f.monotone) for i, f in enumerate(manifest.features) if f.monotone]
    rows = random_rows(model, 4, 60)
    for column, direction in monotone:
        known = rows[~np.isnan(rows[:, column])]
        lower, higher = known.copy(), known.copy()
        higher[:, column] += np.random.default_rng(column).uniform(0.0, 1.0 + np.abs(known[:, column]))
        if manifest.features[column].type != "float":
            higher[:, column] = np.ceil(higher[:, column])
        pairs = zip(model.run(lower), model.run(higher), strict=True)
        worst = min(direction * (after.raw - before.raw) for before, after in pairs)
        assert worst >= -1e-5, f"{manifest.features[column].name} moves the score by {worst} the wrong way"


@pytest.mark.parametrize("model", MODELS, ids=[m.id for m in MODELS])
def test_a_monotone_input_never_counts_less_against_a_worse_value(model: Model) -> None:
    """A reason may not name what spoke for the applicant: the worse the value, the larger its own contribution."""
    manifest = manifest_of(model)
    rows = random_rows(model, 5, 60)
    for column, feature in enumerate(manifest.features):
        if not feature.monotone:
            continue
        known = rows[~np.isnan(rows[:, column])]
        higher = known.copy()
        higher[:, column] += 1.0 + np.abs(known[:, column])
        for before, after in zip(model.run(known), model.run(higher), strict=True):
            assert before.contributions is not None
            assert after.contributions is not None
            moved = feature.monotone * (float(after.contributions[column]) - float(before.contributions[column]))
            assert moved >= -1e-4, f"{feature.name}: {moved}"


def _bits(model: Model, rows: NDArray[np.float64]) -> list[Any]:
    return [
        (s.raw, s.probability, s.points, None if s.contributions is None else s.contributions.tobytes())
        for s in model.run(rows)
    ]


@pytest.mark.parametrize("model", MODELS, ids=[m.id for m in MODELS])
def test_the_same_row_gives_the_same_bits(model: Model) -> None:
    rows = random_rows(model, 6, 64)
    alone = [_bits(model, rows[i : i + 1])[0] for i in range(len(rows))]
    assert alone == [_bits(model, rows[i : i + 1])[0] for i in range(len(rows))]
    if model.batchable:
        for size in (2, 5, 33, 64):
            for start in range(0, len(rows), size):
                assert _bits(model, rows[start : start + size]) == alone[start : start + size]
