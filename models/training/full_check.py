"""The contributions of an exported graph against a second algorithm, on every training row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.export.families import open_source
from engine.export.pairwise import interventional_contributions
from engine.export.trees import Forest, Tree
from engine.export.verify import top_agreement
from engine.scoring.manifest import Manifest
from models.training.data import Matrix
from models.training.metrics import Floats


@dataclass(frozen=True, slots=True)
class FullCheck:
    """rows: how many were compared; contribution_max_abs: the largest difference; top4_agreement: the share of rows
    whose four largest adverse contributions are the same, in the same order but for ties within the tolerance."""

    rows: int
    contribution_max_abs: float
    top4_agreement: float


def full_check(native: Any, manifest: Manifest, got: NDArray[np.float32], rows: Matrix, reference: Matrix) -> FullCheck:
    """Compare `got`, the graph's contributions for `rows`, with the two-row formula of interventional SHAP.

    Additive models were compared with their library on every row when they were exported: that result is given back.
    """
    exported = manifest.export_check
    assert exported is not None
    structure = open_source(native).read()
    if not isinstance(structure, Forest):
        return FullCheck(exported.rows, exported.contribution_max_abs, exported.top4_agreement)
    wanted = contributions_of_all(structure, rows, reference)
    mine = got.astype(np.float64)
    same, tied = top_agreement(mine, wanted, exported.tolerance)
    return FullCheck(len(rows), float(np.abs(mine - wanted).max()), float((same | tied).mean()))


def contributions_of_all(forest: Forest, rows: Matrix, reference: Matrix) -> Floats:
    """[n, features]: interventional contributions. Rows that answer all questions of a tree alike share its
    contributions, so a tree is worked out once for each set of answers: a few dozen, not a hundred thousand."""
    phi = np.zeros((len(rows), forest.n_features), np.float64)
    for tree in forest.trees:
        _, first, which = np.unique(_answers(forest, tree, rows), return_index=True, return_inverse=True)
        alone = replace(forest, trees=(tree,), base=0.0)
        phi += interventional_contributions(alone, rows[first], reference)[which]
    return phi


def _answers(forest: Forest, tree: Tree, rows: Matrix) -> NDArray[np.int64]:
    """For every row, the answers to all distinct questions of a tree, a bit each."""
    questions = {tree.condition(node) for node in range(len(tree.feature)) if not tree.is_leaf(node)}
    assert len(questions) < 63, "more questions than bits"
    answers = np.zeros(len(rows), np.int64)
    for bit, question in enumerate(sorted(questions, key=lambda q: (q.feature, q.threshold))):
        column = rows[:, question.feature].astype(np.float64)
        yes = column <= question.threshold if forest.op == "<=" else column < question.threshold
        yes |= np.isnan(column) & question.nan_left
        answers |= yes.astype(np.int64) << bit
    return answers
