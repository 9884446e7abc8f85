"""How large a model may be. Shapley tables grow with 2^conditions on a path; these bounds keep a file that loads and
answers in microseconds."""

from __future__ import annotations

from engine.errors import Problem
from engine.export.ensemble import Ensemble
from engine.export.source import problem
from engine.export.trees import Forest, oblivious

MAX_CONDITIONS = 6
MAX_OBLIVIOUS_CONDITIONS = 8
MAX_WEIGHTS = 4_000_000


def too_deep(forest: Forest) -> list[Problem]:
    """Trees whose paths ask too many distinct questions to be expanded."""
    worst, allowed = 0, MAX_CONDITIONS
    for tree in forest.trees:
        paths = list(tree.paths())
        longest = max(len({condition for condition, _, _ in path.steps}) for path in paths)
        limit = MAX_OBLIVIOUS_CONDITIONS if oblivious(paths) else MAX_CONDITIONS
        if longest > max(limit, worst):
            worst, allowed = longest, limit
    if not worst:
        return []
    return [
        problem(
            "depth",
            f"a path asks {worst} questions; at most {allowed} can be explained exactly in the graph",
            f"Train with a depth of {allowed} or less; 3 or 4 is usually as good.",
        )
    ]


def too_large(ensemble: Ensemble) -> list[Problem]:
    """An expansion that would make too large a file."""
    weights = ensemble.weights()
    if weights <= MAX_WEIGHTS:
        return []
    return [
        problem(
            "size",
            f"the explained graph needs {weights:,} numbers, above {MAX_WEIGHTS:,}",
            "Train fewer or shallower trees.",
        )
    ]
