"""A bundle compiled to a plan: every name resolved to an index. Immutable; shared by all threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.domain.score import ModelScore
from engine.features.plan import FeaturePlan
from engine.features.velocity.changes import Definitions
from engine.policy.evaluate import Policy
from engine.reasons.plan import ReasonPlan
from engine.scoring.plan import ModelPlan


@dataclass(frozen=True, slots=True)
class PolicyVector:
    """How the policy's vector is filled, in this order: two entries a model (points, probability), then numbers, flags
    and categories from the facts' vector. Categories come with their names by code.

    fill: the policy's vector from the facts' vector and the score of each model. The policy speaks of null, true and
    names where facts are NaN, 1.0 and codes.
    """

    models: int
    numbers: tuple[int, ...]
    flags: tuple[int, ...]
    categories: tuple[tuple[int, tuple[str, ...]], ...]
    fill: Callable[[Sequence[float], Sequence[ModelScore]], list[object]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fill", _compile(self))


def _compile(plan: PolicyVector) -> Callable[[Sequence[float], Sequence[ModelScore]], list[object]]:
    """One function without a loop. It is written from numbers alone: no text of a bundle becomes code."""
    entries: list[str] = []
    for model in range(plan.models):
        # Floats: tables compare with floats, and an int is compared several times as slowly.
        entries += [f"None if (x := scores[{model}].points) is None else float(x)", f"scores[{model}].probability"]
    entries += [f"None if (x := values[{int(slot)}]) != x else x" for slot in plan.numbers]
    entries += [f"None if (x := values[{int(slot)}]) != x else x != 0.0" for slot in plan.flags]
    for place, (slot, _) in enumerate(plan.categories):
        entries.append(f"None if (x := values[{int(slot)}]) != x else names{place}[int(x)]")
    space: dict[str, Any] = {f"names{place}": names for place, (_, names) in enumerate(plan.categories)}
    space["__builtins__"] = {"float": float, "int": int}
    exec(compile(f"def fill(values, scores): return [{', '.join(entries)}]", "<policy vector>", "exec"), space)
    made: Callable[[Sequence[float], Sequence[ModelScore]], list[object]] = space["fill"]
    return made


@dataclass(frozen=True, slots=True)
class FlowPlan:
    """One flow, ready to decide."""

    name: str
    product: str
    moment: str
    description: str
    subject_kind: int  # of the proto's SubjectKind
    currency: str
    minor_per_major: int
    amount_min_minor: int
    amount_max_minor: int
    terms_months: tuple[int, ...]
    features: FeaturePlan
    models: tuple[ModelPlan, ...]
    policy: Policy
    policy_vector: PolicyVector
    reasons: ReasonPlan
    records_events: bool
    # "sha256:" and the digest of tables and terms, for who asks whether two decisions were judged alike.
    policy_digest: str


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """One bundle, ready to serve. languages: the default first; counters: what is counted of every application."""

    name: str
    version: str
    digest: str
    languages: tuple[str, ...]
    flows: Mapping[str, FlowPlan]
    counters: Definitions
