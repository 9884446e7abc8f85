"""A bundle compiled to a plan: every name resolved to an index. Immutable; shared by all threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.features.plan import FeaturePlan
from engine.features.velocity.changes import Definitions
from engine.policy.evaluate import Policy
from engine.reasons.plan import ReasonPlan
from engine.scoring.plan import ModelPlan


@dataclass(frozen=True, slots=True)
class PolicyVector:
    """How the policy's vector is filled, in this order: two entries a model (points, probability), then numbers, flags
    and categories from the facts' vector. Categories come with their names by code."""

    numbers: tuple[int, ...]
    flags: tuple[int, ...]
    categories: tuple[tuple[int, tuple[str, ...]], ...]


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
