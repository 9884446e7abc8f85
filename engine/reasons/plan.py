"""The reason part of a flow's plan: which inputs of a model make one reason together, and what a reason is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import Component
from engine.domain.reason import AdverseReason

# Contributions by input in; the adverse reasons of the model out, the weightiest first.
Explain = Callable[[list[float]], tuple[AdverseReason, ...]]

# Sums of float32 contributions carry noise of this size; a loss below it is no loss. In points.
_NOISE = 1e-3
# Larger models are summed by numpy: code for so many inputs would be slow to compile.
_INPUTS_MAX = 512
# numpy sums up to so many numbers one after the other, and larger groups in a tree.
_GROUP_MAX = 8
# Code that is written out knows no names but those that it is given.
_GIVEN: dict[str, Any] = {
    "len": len, "tuple": tuple, "new": tuple.__new__, "AdverseReason": AdverseReason, "by_loss": itemgetter(0)
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReasonGroups:
    """The reasons of one explained model.

    order and starts: a permutation of the model's inputs and the place at which each group begins in it; codes and
    features: by group; points_per_raw: what one unit of the raw score costs in points, 1 for models without a scale.

    explain: the reasons of one application, compiled from all this. A group's loss is the very number that
    `np.add.reduceat` gives in double precision; reasons of equal losses come in the order of the groups. For some sixty
    inputs that costs a third of the same in numpy, and no more than numpy over a matrix of 32 applications.
    """

    component: Component
    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    codes: tuple[str, ...]
    features: tuple[tuple[str, ...], ...]
    points_per_raw: float
    explain: Explain = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compiles `explain`."""
        bounds = [*self.starts.tolist(), len(self.order)]
        groups = [self.order[start:end].tolist() for start, end in pairwise(bounds)]
        plain = len(self.order) <= _INPUTS_MAX and all(0 < len(group) <= _GROUP_MAX for group in groups)
        lines = _sums(groups) if plain else _BY_NUMPY
        text = _HEAD + lines + _TAIL
        space = _GIVEN | {
            "__builtins__": {},
            "component": self.component,
            "noise": _NOISE / self.points_per_raw,
            "per_raw": self.points_per_raw,
            "sums": self._sums_by_numpy,
            "told": tuple(zip(self.codes, self.features, strict=True)),
        }
        exec(compile(text, "<reason groups>", "exec"), space)
        object.__setattr__(self, "explain", space["explain"])

    def _sums_by_numpy(self, contributions: list[float]) -> list[tuple[float, tuple[str, tuple[str, ...]]]]:
        values = np.array(contributions).take(self.order)
        sums = np.add.reduceat(values, self.starts).tolist()
        return list(zip(sums, zip(self.codes, self.features, strict=True), strict=True))


_HEAD = """\
def explain(c):
    found = []
    add = found.append
"""
_BY_NUMPY = """\
    found = [one for one in sums(c) if one[0] > noise]
"""
# Sorting is stable in reverse too: of equal losses the one that the model lists first stays first.
_TAIL = """\
    if len(found) > 1:
        found.sort(key=by_loss, reverse=True)
    return tuple([new(AdverseReason, (code, component, x * per_raw, names, "")) for x, (code, names) in found])
"""


def _sums(groups: list[list[int]]) -> str:
    """Two lines for each group. They hold whole numbers alone, nothing of a bundle's words.

    The order of the additions is numpy's: what follows the first number of a group is summed first.
    """
    lines = []
    for number, (first, *others) in enumerate(groups):
        later = " + ".join(f"c[{place}]" for place in others)
        total = f"c[{first}]" if not others else f"c[{first}] + ({later})"
        lines.append(f"    x = {total}\n    if x > noise:\n        add((x, told[{number}]))\n")
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class ReasonText:
    """One code of the catalogue: texts by language, for the applicant and for staff, and what it is in law."""

    code: str
    component: Component
    applicant: Mapping[str, str]
    internal: Mapping[str, str]
    regulation_b: str
    gdpr: str
    pipl: str
    retired: str | None


@dataclass(frozen=True, slots=True)
class ReasonPlan:
    """What the reason stage needs: the groups of each model of the flow (None for unexplained ones), the catalogue,
    and how many reasons are principal. said: what `rank` has found out of rules that fire together."""

    groups: tuple[ReasonGroups | None, ...]
    catalogue: Mapping[str, ReasonText]
    principal_max: int
    said: dict[tuple[int, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
