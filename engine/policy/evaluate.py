"""The policy of one flow: decision tables by role, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from engine.domain.outcome import DegradedVerdict, PolicyOutcome, Terms
from engine.errors import Problem
from engine.policy.slots import FlowTerms, SlotSpec

Role = Literal["knock_outs", "fraud_gate", "cut_offs", "limit", "price"]


class Policy:
    """The compiled policy of one flow. Immutable; safe to share between threads."""

    def decide(self, vector: Sequence[object], request: Terms, degraded: Sequence[DegradedVerdict]) -> PolicyOutcome:
        """Judge one application. `vector` is the flow's policy vector; it is read, never written."""
        raise NotImplementedError


def compile_policy(
    tables: Mapping[Role, Mapping[str, Any]],
    *,
    files: Mapping[Role, str],
    slots: Mapping[str, SlotSpec],
    flow_terms: FlowTerms,
    reason_codes: Collection[str],
) -> tuple[Policy | None, list[Problem]]:
    """Compile the tables of a flow. Gives the policy, or None and every problem found."""
    raise NotImplementedError
