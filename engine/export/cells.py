"""The cells that a few conditions cut the space of inputs into, as a decision tree without impossible branches.

With k conditions there are 2^k combinations of answers, but fewer that can happen: x <= 3 settles x <= 5. The tree asks
the conditions in order and leaves out what the answers so far have settled. A missing value is followed separately,
because it may be sent to either side by each condition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from engine.export.ensemble import Leaf, Node, Split, join
from engine.export.trees import BoolArray, Condition


class _Possible(NamedTuple):
    """What may still be true of one feature: it lies in the ranges low..high between its thresholds, or is NaN."""

    low: int
    high: int
    nan: bool

    def answered(self, rank: int, yes: bool, nan_yes: bool) -> _Possible | None:
        """What remains after the answer to `x <= threshold number rank`; None when it cannot be the answer."""
        low, high = (self.low, min(self.high, rank)) if yes else (max(self.low, rank + 1), self.high)
        nan = self.nan and nan_yes == yes
        return _Possible(low, high, nan) if low <= high or nan else None


class Cells:
    """All possible combinations of answers to `conditions`.

    answers: [cells, conditions], in the order in which `tree` meets its leaves.
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self.conditions = tuple(conditions)
        thresholds: dict[int, list[float]] = {}
        for condition in conditions:
            thresholds.setdefault(condition.feature, []).append(condition.threshold)
        ordered = {feature: sorted(set(values)) for feature, values in thresholds.items()}
        self._ranks = [ordered[c.feature].index(c.threshold) for c in conditions]
        self._start = {feature: _Possible(0, len(values), True) for feature, values in ordered.items()}
        found: list[tuple[bool, ...]] = []

        def note(answers: tuple[bool, ...]) -> Leaf:
            found.append(answers)
            return Leaf(())

        self._walk(0, (), self._start, note)
        self.answers: BoolArray = np.array(found, np.bool_).reshape(len(found), len(self.conditions))

    def tree(self, leaves: Sequence[Leaf]) -> Node:
        """The decision tree over the conditions with these leaves, one a cell."""
        following = iter(leaves)
        return self._walk(0, (), self._start, lambda _: next(following))

    def _walk(
        self,
        depth: int,
        answers: tuple[bool, ...],
        possible: dict[int, _Possible],
        leaf: Callable[[tuple[bool, ...]], Leaf],
    ) -> Node:
        if depth == len(self.conditions):
            return leaf(answers)
        condition, rank = self.conditions[depth], self._ranks[depth]
        now = possible[condition.feature]

        def branch(yes: bool) -> Node | None:
            after = now.answered(rank, yes, condition.nan_left)
            if after is None:
                return None
            return self._walk(depth + 1, (*answers, yes), {**possible, condition.feature: after}, leaf)

        yes_branch, no_branch = branch(True), branch(False)
        if yes_branch is not None and no_branch is not None:
            return join(Split(condition.feature, condition.threshold, condition.nan_left, yes_branch, no_branch))
        only = yes_branch if yes_branch is not None else no_branch
        assert only is not None, "one answer is always possible"
        return only
