"""The feature part of a flow's plan: which rows to read, which slot each value goes to, what stands in for it.

Slots are laid out as

    [ view 1 | view 2 | ... | request fields | derived | built-ins | constants ]

The first three kinds are features and go into the record; built-ins (amount, term, now) and constants only serve as
arguments of derived features and as inputs of policy tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.domain.enums import Component, SubstitutionAction, ValueOrigin, Verdict
from engine.domain.facts import ByteArray, FloatArray
from engine.features.encoding import RowDecoder

BUILT_INS = ("application.amount", "application.term_months", "now")


@dataclass(frozen=True, slots=True)
class AbsenceRule:
    """What stands in for a feature under one status. `value` for DEFAULT; `verdict` and `reason` for VERDICT."""

    action: SubstitutionAction
    value: float = float("nan")
    verdict: Verdict | None = None
    reason: str = ""
    component: Component = Component.POLICY


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature, resolved.

    lower and upper: the range, infinite when open; max_age_us: None when it never ages; rules: by the number of the
    status; unnamed: the rule where the application names no such entity; subject: whether it is of the subject, whom
    every application names.
    """

    name: str
    kind: str
    unit: str
    description: str
    lower: float
    upper: float
    categories: tuple[str, ...]
    max_age_us: int | None
    origin: ValueOrigin
    view: str
    rules: tuple[AbsenceRule, ...]
    unnamed: AbsenceRule
    subject: bool
    purpose: str
    personal_data: str
    required: bool
    used: bool


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """One row to read. entity_index: 0 is the subject, then the plan's entities in order."""

    name: str
    entity: str
    entity_index: int
    key: Callable[[str], bytes]
    decoder: RowDecoder
    start: int
    count: int
    max_age_us: tuple[int | None, ...]
    max_age_us_min: int
    all_present: int


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """One field that a caller may send, and the slot it goes to: a request field, or a feature of a view that a caller
    may send. categories: the code of each name."""

    slot: int
    feature: Feature
    categories: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class DerivedPlan:
    """One derived feature: `call(*[vector[i] for i in arguments])` goes to `slot`."""

    slot: int
    call: Callable[..., float]
    arguments: tuple[int, ...]
    takes_missing: bool


# What the gathering of one row needs, unpacked in one go: its decoder, the byte that its values start at, the presence
# of a row without nulls, the age up to which nothing of it is stale, and the view.
Step = tuple[Callable[[bytes, memoryview, int], tuple[int, int]], int, int, int, ViewPlan]


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """Everything the feature stage needs, by index."""

    features: tuple[Feature, ...]
    slots: Mapping[str, int]
    entities: tuple[str, ...]
    entity_places: Mapping[str, int]
    views: tuple[ViewPlan, ...]
    steps: tuple[Step, ...]
    fields: Mapping[str, FieldPlan]
    required_fields: tuple[str, ...]
    request_start: int
    request_count: int
    derived_start: int
    derived: tuple[DerivedPlan, ...]
    constants: tuple[float, ...]
    values_template: FloatArray
    statuses_template: ByteArray
    origins_template: ByteArray
    lower: FloatArray
    upper: FloatArray
    used: tuple[bool, ...]
    catalogue_digest: str
    catalogue_json: bytes = field(repr=False)

    @property
    def count(self) -> int:
        """How many features there are."""
        return len(self.features)


def bounds(features: tuple[Feature, ...]) -> tuple[FloatArray, FloatArray]:
    """The ranges of all features as two vectors. An open end is the largest finite number, so that infinity is outside
    every range."""
    largest = np.finfo(np.float64).max
    lower = np.array([f.lower for f in features], dtype=np.float64)
    upper = np.array([f.upper for f in features], dtype=np.float64)
    return np.maximum(lower, -largest), np.minimum(upper, largest)
