"""Why: one adverse reason."""

from __future__ import annotations

from typing import NamedTuple

from engine.domain.enums import Component


class AdverseReason(NamedTuple):
    """One reason that counts against the application.

    contribution: points lost against the reference population (log-odds for models without a scale), more than zero;
    None for policy reasons. features: the inputs behind it; rule: table and rule id, "" for reasons from a model.
    """

    code: str
    component: Component
    contribution: float | None
    features: tuple[str, ...]
    rule: str


class Reasons(NamedTuple):
    """All adverse reasons of a decision: the principal ones by component, and every one there is, in order."""

    credit: tuple[AdverseReason, ...]
    fraud: tuple[AdverseReason, ...]
    policy: tuple[AdverseReason, ...]
    every: tuple[AdverseReason, ...]
