"""Small forests, drafts and brute-force Shapley values for the exporter's tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from engine.export.draft import ManifestDraft, ReferenceDraft
from engine.export.ensemble import Ensemble
from engine.export.graph import build_graph
from engine.export.session import Answer, GraphSession
from engine.export.trees import Condition, Forest, Tree, TreeBuilder
from engine.scoring.manifest import (
    Bins,
    Calibration,
    FeatureInput,
    PsiReference,
    ReasonGroup,
    Scaling,
    TrainingData,
)

FIXTURES = Path(__file__).parents[2] / "fixtures" / "models"
THRESHOLDS = [-1.5, 0.0, 0.1, 1.0, 3.0e8]


def german() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(float32 [1000, 14], 0/1 [1000], names): real German credit, with missing values."""
    file = FIXTURES / "german_credit.csv"
    names = file.read_text(encoding="utf-8").split("\n", 1)[0].split(",")[:-1]
    table = np.genfromtxt(file, delimiter=",", skip_header=1)
    return table[:, :-1].astype(np.float32), table[:, -1].astype(int), names


def draft(names: Sequence[str], **changes: Any) -> ManifestDraft:
    """A draft that fits models of these features."""
    parts: dict[str, Any] = {
        "id": "a_test",
        "version": "1.0.0",
        "component": "credit",
        "title": "A test",
        "target": "bad",
        "created": "2024-01-01",
        "features": [FeatureInput(name=n, type="float") for n in names],
        "reference": ReferenceDraft(name="all", description="all rows"),
        "calibration": Calibration(method="platt", slope=1.2, intercept=-0.3),
        "scaling": Scaling(anchor_points=600, anchor_odds=20, points_to_double=40, points_min=300, points_max=850),
        "reasons": [ReasonGroup(code=f"CR_TEST_{n.upper()}", features=(n,)) for n in names],
        "training": TrainingData(source="s", licence="l", sha256="0", rows=1, bad_rate=0.1, target="bad", window="w"),
        "metrics": {},
        "psi_reference": PsiReference(score=Bins(edges=(), shares=(1.0,)), features={}),
        "licence": "Apache-2.0",
        "intended_use": "tests",
        "limitations": "tests",
    }
    return ManifestDraft.model_validate(parts | changes)


def run(ensemble: Ensemble, rows: np.ndarray, *, wide: bool = False) -> Answer:
    """The ensemble's graph in ONNX Runtime, without calibration."""
    model = build_graph(ensemble, Calibration(method="none"), None, wide=wide)
    return GraphSession(model.SerializeToString()).run(rows)


@st.composite
def trees(draw: st.DrawFn, n_features: int, max_depth: int) -> Tree:
    """A tree with few distinct thresholds, so that paths repeat features, thresholds and contradictions."""
    builder = TreeBuilder()

    def grow(depth: int) -> tuple[int, float]:
        index = builder.add()
        if depth == max_depth or draw(st.integers(0, 4)) == 0:
            cover = draw(st.sampled_from([0.0, 1.0, 2.0, 7.0]))
            builder.leaf(index, draw(st.floats(-2, 2, width=32)), cover)
            return index, cover
        condition = Condition(
            draw(st.integers(0, n_features - 1)),
            float(np.float32(draw(st.sampled_from(THRESHOLDS)))),
            draw(st.booleans()),
        )
        (left, left_cover), (right, right_cover) = grow(depth + 1), grow(depth + 1)
        builder.split(index, condition, left, right, left_cover + right_cover)
        return index, left_cover + right_cover

    grow(0)
    return builder.build()


@st.composite
def forests(draw: st.DrawFn, max_trees: int = 3, max_depth: int = 4) -> Forest:
    """A forest of one to four features."""
    n_features = draw(st.integers(1, 4))
    grown = draw(st.lists(trees(n_features, max_depth), min_size=1, max_size=max_trees))
    return Forest(n_features, draw(st.sampled_from(["<=", "<"])), tuple(grown), draw(st.floats(-1, 1)))


def edge_values() -> list[float]:
    """Every threshold, its two float32 neighbours, values far out, and a missing one."""
    at = np.array(THRESHOLDS, np.float32)
    around = [at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]
    return [*np.concatenate(around).tolist(), -1e30, 1e30, float("nan")]


def rows(n_features: int, min_size: int = 1, max_size: int = 6) -> st.SearchStrategy[np.ndarray]:
    """Rows of edge values."""
    row = st.lists(st.sampled_from(edge_values()), min_size=n_features, max_size=n_features)
    return st.lists(row, min_size=min_size, max_size=max_size).map(lambda r: np.array(r, np.float32))


def walk(forest: Forest, tree: Tree, x: np.ndarray, node: int = 0) -> int:
    """The leaf a row falls into, one step at a time."""
    while not tree.is_leaf(node):
        value, threshold = float(x[tree.feature[node]]), float(tree.threshold[node])
        if math.isnan(value):
            left = bool(tree.nan_left[node])
        else:
            left = value <= threshold if forest.op == "<=" else value < threshold
        node = int(tree.left[node] if left else tree.right[node])
    return node


def shapley(worth: Callable[[frozenset[int]], float], players: int) -> np.ndarray:
    """The definition: the mean marginal worth over all orders of the players."""
    phi = np.zeros(players)
    for j in range(players):
        others = [p for p in range(players) if p != j]
        for size in range(players):
            weight = math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
            for subset in itertools.combinations(others, size):
                coalition = frozenset(subset)
                phi[j] += weight * (worth(coalition | {j}) - worth(coalition))
    return phi


def brute_interventional(forest: Forest, x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Every coalition, every reference row: the features of the coalition from x, the others from the row."""

    def worth(coalition: frozenset[int]) -> float:
        mixed = reference.copy()
        for feature in coalition:
            mixed[:, feature] = x[feature]
        return float(np.mean([sum(t.value[walk(forest, t, m)] for t in forest.trees) for m in mixed]))

    return shapley(worth, forest.n_features)


def brute_path_dependent(forest: Forest, x: np.ndarray) -> np.ndarray:
    """Every coalition by the recursion that defines path-dependent values: follow x where the feature is known, else
    take both ways by their share of training cover (Lundberg et al. 2020, algorithm 1)."""

    def expected(tree: Tree, node: int, coalition: frozenset[int]) -> float:
        if tree.is_leaf(node):
            return float(tree.value[node])
        left, right = int(tree.left[node]), int(tree.right[node])
        feature = int(tree.feature[node])
        if feature in coalition:
            value, threshold = float(x[feature]), float(tree.threshold[node])
            goes_left = value <= threshold if forest.op == "<=" else value < threshold
            goes_left = bool(tree.nan_left[node]) if math.isnan(value) else goes_left
            return expected(tree, left if goes_left else right, coalition)
        cover = float(tree.cover[node])
        if cover <= 0:
            return 0.0
        shares = float(tree.cover[left]) / cover, float(tree.cover[right]) / cover
        return shares[0] * expected(tree, left, coalition) + shares[1] * expected(tree, right, coalition)

    return shapley(lambda c: sum(expected(t, 0, c) for t in forest.trees), forest.n_features)
