"""The reason part of a flow's plan: which inputs of a model make one reason together, and what a reason is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import Component


@dataclass(frozen=True, slots=True)
class ReasonGroups:
    """The reasons of one explained model.

    order and starts: a permutation of the model's inputs and the place at which each group begins in it; codes and
    features: by group; points_per_raw: what one unit of the raw score costs in points, 1 for models without a scale.
    """

    component: Component
    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    codes: tuple[str, ...]
    features: tuple[tuple[str, ...], ...]
    points_per_raw: float


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
    and how many reasons are principal."""

    groups: tuple[ReasonGroups | None, ...]
    catalogue: Mapping[str, ReasonText]
    principal_max: int
