"""The feature part of a flow's plan: which rows to read, which slot each value goes to, what stands in for it.

Slots are laid out as

    [ view 1 | view 2 | ... | request fields | derived | built-ins | constants ]

The first three kinds are features and go into the record; built-ins (amount, term, now) and constants only serve as
arguments of derived features and as inputs of policy tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.domain.enums import Component, SubstitutionAction, ValueOrigin, Verdict
from engine.domain.facts import ByteArray, FloatArray, Substitution
from engine.domain.outcome import DegradedVerdict
from engine.features.block import Block, make_block
from engine.features.derive import compile_derived
from engine.features.encoding import RowDecoder
from engine.features.evolve import RowTranslator
from engine.features.store import keys_maker

BUILT_INS = ("application.amount", "application.term_months", "now")


@dataclass(frozen=True, slots=True)
class AbsenceRule:
    """What stands in for a feature under one status. `value` for DEFAULT; `verdict` and `reason` for VERDICT;
    `otherwise` for LAST_GOOD_VALUE, where no value was read before either."""

    action: SubstitutionAction
    value: float = float("nan")
    verdict: Verdict | None = None
    reason: str = ""
    component: Component = Component.POLICY
    otherwise: AbsenceRule | None = None


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
    """One row to read. entity_index: 0 is the subject, then the plan's entities in order.

    counters: for a view that the engine keeps itself: the values at a moment, from a state
    (`engine.features.velocity`); learn_columns: what makes states of other columns readable, given their schema; caps:
    the most that each counter may say, for more than its range is as bad as its end.
    translators: readers of rows of other schemas, by fingerprint; None for a schema that cannot be followed. The shell
    adds to it as it meets them.
    """

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
    counters: Callable[[bytes, int], Sequence[float]] | None = None
    learn_columns: Callable[[bytes], bool] | None = None
    caps: tuple[float, ...] = ()
    translators: dict[bytes, RowTranslator | None] = field(default_factory=dict, compare=False, repr=False)


class ExpiryPlan(NamedTuple):
    """The value in `slot` counts as `then` once `after_s` have passed since the moment in the slot `since`."""

    slot: int
    since: int
    after_s: float
    then: float
    view_index: int


class ConsentPlan(NamedTuple):
    """The view at `view_index` is WITHHELD unless the boolean in `slot` is true."""

    slot: int
    view_index: int


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


class StandIns(NamedTuple):
    """What stands in for all that is absent: the slots that get a value, and those; what is recorded of it; the
    verdicts that the catalogue names, and the slots for whose absence it does."""

    slots: NDArray[np.intp]
    values: FloatArray
    substitutions: tuple[Substitution, ...]
    degraded: tuple[DegradedVerdict, ...]
    blocked: frozenset[int]


class Law(NamedTuple):
    """Consents and expiries by column: the slots of the consents; the slots that expire, those of the moments since
    which that counts, and after how many seconds."""

    consents: NDArray[np.intp]
    expiring: NDArray[np.intp]
    since: NDArray[np.intp]
    after_s: FloatArray


# What the gathering of one row needs, unpacked in one go: its reader into the bytes of the values, the presence of a
# row without nulls, the age up to which nothing of it is stale, and the view.
Step = tuple[Callable[[bytes, memoryview], tuple[int, int]], int, int, ViewPlan]


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """Everything the feature stage needs, by index.

    block: how whole rows of several applications are read at once, None where that cannot be; derive_all: computes all
    derived features in place in a vector, and says which of them cannot be; law: consents and expiries again; keys:
    those of all rows, for the ids of a valid application; patterns: what stands in, by what is absent, as far as it
    was met.
    subjects: the entities that the subject is; event_amounts: what the counters sum, each the amount asked for (None)
    or a request field by its place; last_good: the views of which the last good row may stand in; counted: those that
    the engine counts itself.
    """

    features: tuple[Feature, ...]
    slots: Mapping[str, int]
    subjects: tuple[str, ...]
    entities: tuple[str, ...]
    event_amounts: tuple[tuple[str, int | None], ...]
    entity_places: Mapping[str, int]
    views: tuple[ViewPlan, ...]
    steps: tuple[Step, ...]
    expiries: tuple[ExpiryPlan, ...]
    consents: tuple[ConsentPlan, ...]
    last_good: tuple[int, ...]
    counted: tuple[int, ...]
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
    block: Block | None = field(init=False, compare=False, repr=False)
    derive_all: Callable[[list[float]], tuple[int, ...]] = field(init=False, compare=False, repr=False)
    law: Law = field(init=False, compare=False, repr=False)
    keys: Callable[[Sequence[str | None]], list[bytes | None]] = field(init=False, compare=False, repr=False)
    patterns: dict[object, StandIns] = field(init=False, compare=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        law = Law(
            np.array([consent.slot for consent in self.consents], np.intp),
            np.array([expiry.slot for expiry in self.expiries], np.intp),
            np.array([expiry.since for expiry in self.expiries], np.intp),
            np.array([expiry.after_s for expiry in self.expiries], np.float64),
        )
        object.__setattr__(self, "law", law)
        rows = [(view.entity_index, view.entity, view.name) for view in self.views]
        object.__setattr__(self, "keys", keys_maker(rows))
        object.__setattr__(self, "block", make_block(self.views))
        ranges = [(float(self.lower[d.slot]), float(self.upper[d.slot])) for d in self.derived]
        steps = [(d.slot, d.call, d.arguments, d.takes_missing) for d in self.derived]
        object.__setattr__(self, "derive_all", compile_derived(steps, ranges))

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
